"""All members on one scan by one command: every lift, every prompter that they take, with the fixtures' checkpoints.

Their weights are random: the masks mean nothing, the pipeline must hold, and nothing may be ranked.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import dataset_trees as trees
import small_checkpoints
from segwise import assemble, catalog
from segwise.cli import app as program
from segwise.errors import SpecError, WeightsError
from segwise.records.run import Run
from segwise.records.types import Record

PROMPTERS = (
    *("box2d", "box3d", "middle-box", "points(n=1)", "clicks(n=2)", "scribble", "name", "cvpr2025", "center-point"),
    *("seed-slice", "box3d+name"),
)
LOADED = [name for name in catalog.names("models") if "checkpoint" in catalog.member("models", name).parameters]
LIFTED = [name for name in catalog.names("models") if "lift" in catalog.member("models", name).parameters]
LIFTS = ("slices", "propagate", "memory", "sorted-memory", "orthogonal")
NAMED = ("sam", "medsam", "sam2", "sam-med3d")  # of the requirement
SHAPE = (10, 20, 24)
REFUSED = ("does not take", "does not know", "the reference is empty", "cannot be asked")


def _compare(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["segwise", "compare", *map(str, words)])
    try:
        program.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _asked(models: list[str]) -> list[str]:
    return [word for model in models for word in ("-m", model)] + [w for p in PROMPTERS for w in ("-p", p)]


def _with_every_lift(name: str) -> list[str]:
    """A model with its fixture's checkpoint, once for each lift; [] without a fixture."""
    parameters = catalog.member("models", name).parameters
    lifts = [{"lift": lift} for lift in parameters["lift"].choices] if "lift" in parameters else [{}]
    given = [{**small_checkpoints.SMALL.get(name, {}), **lift} for lift in lifts]
    specs = [spec for each in given if (spec := small_checkpoints.spec_of(name, **each))]
    return [spec for spec in specs if _fits(spec)]


def _fits(spec: str) -> bool:
    """Whether a lift can use the reduced weights; what cannot is refused before compute."""
    try:
        assemble.build(spec)
    except (SpecError, WeightsError):
        return False
    return True


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two bright blobs in noise, as one labelled CT."""
    image, labels = np.random.default_rng(0).normal(-20, 15, SHAPE), np.zeros(SHAPE, dtype=np.uint8)
    labels[2:8, 4:12, 4:12], labels[3:7, 12:18, 14:22] = 1, 2
    trees.save(tmp_path / "data" / "case" / "image.nii.gz", (image + 80 * labels).astype(np.float32))
    trees.save(tmp_path / "data" / "case" / "labels.nii.gz", labels)
    what = {"modality": "CT", "label_map": {"1": "liver", "2": "spleen"}}
    (tmp_path / "data" / "case" / "case.json").write_text(json.dumps(what))
    return tmp_path / "data"


def _holds(run: Path) -> list[Record]:
    """Nothing failed, what was refused says why, every answer has its cost, nothing is ranked."""
    records = Run.read(run).records()
    assert not [(r.model, r.prompter, r.reason) for r in records if r.status == "failed"]
    assert all(any(why in r.reason for why in REFUSED) for r in records if r.status == "skipped")
    done = [r for r in records if r.status == "done"]
    for record in done:
        assert {"read_s", "encode_s", "prompt_s", "decode_s", "write_s"} <= set(record.seconds)
        assert record.seconds["decode_s"] > 0 and (record.peak_bytes or 0) > 0
        assert record.doubt, "random weights are named as unknown"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "unknown weights: not ranked" in page
    return done


@pytest.mark.slow
def test_every_member_with_every_lift_and_prompter(tree, tmp_path, monkeypatch):
    models = [spec for name in LOADED for spec in _with_every_lift(name)]
    if not models:
        pytest.skip("no fixture with a checkpoint in the folder of parity fixtures")
    assert _compare(monkeypatch, tree, *_asked(models), "-o", tmp_path / "run") == 0
    done = _holds(tmp_path / "run")
    assert {r.model for r in done} == set(models), "each model answers"


@pytest.mark.slow
def test_four_members_on_a_real_scan(data, tmp_path, monkeypatch):
    models = [spec for name in NAMED for spec in _with_every_lift(name)]
    if not models:
        pytest.skip("no fixture with a checkpoint in the folder of parity fixtures")
    words = ["-t", "spleen", "--metric", "overlap", "-o", tmp_path / "run"]
    assert _compare(monkeypatch, data / "ct_abdomen_ts", *_asked(models), *words) == 0
    assert {r.model for r in _holds(tmp_path / "run")} == set(models)


@pytest.mark.parametrize("name", LIFTED)
def test_a_lift_that_a_net_cannot_carry_is_refused_before_compute(name, tree, monkeypatch, capsys):
    """With the list of those it can, and without its weights."""
    can = catalog.member("models", name).parameters["lift"].choices
    for lift in (*(lift for lift in LIFTS if lift not in can), "upside-down"):
        assert _compare(monkeypatch, tree, "-m", f"{name}(lift={lift})", "-p", "box3d", "--dry-run") == 2
        said = " ".join(capsys.readouterr().err.split())
        assert f"lift is '{lift}', expected lift: {'|'.join(map(str, can))}" in said


@pytest.mark.parametrize("name", [name for name in LOADED if name not in LIFTED])
def test_a_lift_for_a_model_without_is_refused_before_compute(name, tree, monkeypatch, capsys):
    assert _compare(monkeypatch, tree, "-m", f"{name}(lift=slices)", "-p", "box3d", "--dry-run") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f'{name} has no argument "lift"' in said and "it takes " in said and "checkpoint: str" in said
