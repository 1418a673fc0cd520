"""Damaged cases: said before anything runs where listing finds it, recorded as failed where reading does."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import dataset_trees as trees
from segwise.cli.app import app
from segwise.errors import DatasetError, PlanError
from segwise.evaluate import compare, references
from segwise.evaluate.inventory import find
from segwise.records.run import Run
from segwise.report import build

MODELS, PROMPTERS = ["box-fill", "threshold"], ["box3d"]


def _tree(root: Path) -> Path:
    """Three cases; the labels of "b" and the image of "c" are not what their names say."""
    for name in "abc":
        trees.save(root / "images" / f"{name}.nii.gz", trees.image())
        trees.save(root / "labels" / f"{name}.nii.gz", trees.labels(1, 2))
    (root / "labels" / "b.nii.gz").write_bytes(b"torn")
    (root / "images" / "c.nii.gz").write_bytes((root / "images" / "c.nii.gz").read_bytes()[:-40])
    return root


def _states(out: Path) -> dict[tuple[str, str, str], str]:
    return {(r.model, r.case, r.target): r.status for r in Run.read(out).records()}


def test_damage_is_said_before_and_recorded_after(tmp_path):
    data, out = _tree(tmp_path / "data"), tmp_path / "run"
    found = compare.compare(data, MODELS, PROMPTERS, out=out, metrics=["overlap"])
    assert {(t.model, t.case) for t in found.tasks} == {(m, c) for m in MODELS for c in "ac"}
    (said, times), *others = found.left_out.items()
    assert said.startswith("b cannot be read: ") and "b.nii.gz" in said and times == 1 and not others
    rows = list(compare.export_rows(out))
    for model in MODELS:
        own = [row for row in rows if row["model"] == model]
        assert [(r["status"], r["target"], r["reason"]) for r in own if r["case"] == "b"] == [("skipped", "", said)]
        failed = [row for row in own if row["case"] == "c"]
        assert len(failed) == 2 and all(r["status"] == "failed" and "c.nii.gz" in r["reason"] for r in failed)
        assert {row["status"] for row in own if row["case"] == "a"} == {"done"}
    assert "b cannot be read" in build(out).read_text(encoding="utf-8")


def test_the_preview_prints_it(tmp_path):
    words = ["compare", str(_tree(tmp_path / "data")), "-m", "box-fill", "-p", "box3d", "-o", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*words, "--dry-run"])
    assert result.exit_code == 0 and "2 tasks over 2 cases" in result.output
    assert "left out: b cannot be read: " in result.output and not (tmp_path / "run").exists()


def test_a_repaired_case_is_run_and_no_longer_left_out(tmp_path):
    data, out = _tree(tmp_path / "data"), tmp_path / "run"
    compare.compare(data, ["box-fill"], PROMPTERS, out=out, metrics=["overlap"])
    trees.save(data / "labels" / "b.nii.gz", trees.labels(1, 2))
    trees.save(data / "images" / "c.nii.gz", trees.image())
    compare.compare(data, ["box-fill"], PROMPTERS, out=out, metrics=["overlap"])
    assert set(_states(out).values()) == {"done"} and len(_states(out)) == 6


def test_a_case_damaged_later_keeps_what_was_found(tmp_path):
    data, out = tmp_path / "data", tmp_path / "run"
    for name in "ab":
        trees.save(data / "images" / f"{name}.nii.gz", trees.image())
        trees.save(data / "labels" / f"{name}.nii.gz", trees.labels(1, 2))
    compare.compare(data, ["box-fill"], PROMPTERS, out=out, metrics=["overlap"])
    (data / "labels" / "b.nii.gz").write_bytes(b"torn")
    found = compare.preview(compare.plan_of(["box-fill"], PROMPTERS), data)
    assert any(reason.startswith("b cannot be read") for reason in found.left_out)
    with pytest.raises(DatasetError, match=r"case b has no label 1: .*b\.nii\.gz"):
        compare.run(found, out)
    assert sum(state == "done" for state in _states(out).values()) == 4


def test_asked_for_by_name_a_damaged_case_says_what_is_wrong(tmp_path):
    data = _tree(tmp_path / "data")
    with pytest.raises(PlanError, match="box-fill has nothing to do: b cannot be read: "):
        compare.preview(compare.plan_of(["box-fill"], PROMPTERS, cases=["b"]), data)
    broken = next(case for case in find(data)[1] if case.id == "b")
    assert broken.broken and not broken.structures
    with pytest.raises(DatasetError, match="case b has no liver: "):
        references.masks(broken, ["liver"])


def test_the_run_knows_how_many_tasks_it_was_asked_for(tmp_path):
    data, out = _tree(tmp_path / "data"), tmp_path / "run"

    def stop(done: int, total: int, what: str) -> None:
        if done:
            raise KeyboardInterrupt

    found = compare.preview(compare.plan_of(["box-fill"], PROMPTERS, metrics=["overlap"]), data)
    with pytest.raises(KeyboardInterrupt):
        compare.run(found, out, progress=stop)
    assert Run.read(out).about()["n_tasks"] == 2
    assert "not finished: 1 of 2 tasks done" in build(out).read_text(encoding="utf-8")
    compare.run(found, out)
    assert "not finished" not in build(out).read_text(encoding="utf-8")
    more = compare.preview(compare.plan_of(["threshold"], PROMPTERS, metrics=["overlap"]), data)
    compare.run(more, out)
    assert Run.read(out).about()["n_tasks"] == 4
    assert "not finished" not in build(out).read_text(encoding="utf-8")
