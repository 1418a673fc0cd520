"""The quality score without a reference: masks of one target against each other, from what a run has stored."""

from __future__ import annotations

import numpy as np
import pytest

import members
import toys
from segwise.evaluate import agreement, compare
from segwise.records.run import Run


@pytest.fixture
def data(tmp_path):
    with members.installed(tmp_path / "pkg", members.THREE):
        yield toys.make(tmp_path / "data")


def told(out):
    scores = [s for s in Run.read(out).scores() if s.metric == agreement.METRIC]
    return {(s.task, s.target, s.measure): s.value for s in scores}


def test_draws_and_models_agree_by_their_masks(data, tmp_path):
    out = tmp_path / "run"
    compare.compare(data, ["posterior", "threshold"], ["box-points(n=2)"], out=out, metrics=["overlap"], seeds=2)
    run = Run.read(out)
    masks = agreement.Masks.of(run)
    records = [r for r in run.records() if r.status == "done" and r.case == "c0" and r.target == "liver"]
    found = told(out)
    own = [r for r in records if r.model == "threshold"]
    a, b = (masks.get(r.mask)[0] for r in own)
    assert found[own[0].task, "liver", agreement.SEEDS] == pytest.approx(agreement.dice(a, b))
    others = [masks.get(r.mask)[0] for r in records if r.model == "posterior"]
    expected = np.mean([agreement.dice(a, other) for other in others])
    assert found[own[0].task, "liver", agreement.MODELS] == pytest.approx(float(expected))
    assert compare.score(out) == 0, "nothing is compared twice"


def test_one_mask_alone_has_no_agreement(data, tmp_path):
    out = tmp_path / "run"
    compare.compare(data, ["box-fill"], ["box3d"], out=out, metrics=["overlap"])
    assert told(out) == {}
    compare.compare(data, ["threshold"], ["box3d"], out=out, metrics=["overlap"])
    assert {measure for _, _, measure in told(out)} == {agreement.MODELS}


def test_two_empty_masks_agree():
    empty, full = np.zeros((2, 3, 4), dtype=bool), np.ones((2, 3, 4), dtype=bool)
    assert agreement.dice(empty, empty) == 1 and agreement.dice(empty, full) == 0
