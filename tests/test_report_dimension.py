"""2D against 3D: the kinds, a planted lead, and what cannot be decided; continuity of slices as a measure."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from report_fakes import join, outcome
from segwise.geometry import Grid
from segwise.metrics.continuity import score
from segwise.pair import Pair
from segwise.records.types import Score
from segwise.report import dimension, page
from segwise.report.gather import gather

PEOPLE = [f"p{i}" for i in range(10)]
CARDS = {"flat": {"title": "flat", "family": "generalist", "dims": 2}, "deep": {"title": "deep", "dims": 3}}


def run(flat, lifted, deep, *, noise=0.01, people=PEOPLE, seed=0):
    rng = np.random.default_rng(seed)
    runs = []
    for person in people:
        own = rng.normal(0, 0.03)
        for spec, lift, base in (("flat", "slices", flat), ("flat(lift=memory)", "memory", lifted), ("deep", "", deep)):
            value = float(np.clip(base + own + rng.normal(0, noise), 0, 1))
            card = CARDS[spec.split("(")[0]]
            resolved = {"lift": lift} if lift else {}
            made = outcome(spec, "box3d", case=person, subject=person, dsc=(value,), card=card, resolved=resolved)
            extra = [
                Score(task=s.task, target=s.target, round=s.round, measure="continuity_lost", metric="continuity",
                      value=0.1 if lift == "slices" else 0.01)
                for s in made[1] if s.measure == "DSC"
            ]  # fmt: skip
            runs.append((made[0], made[1] + extra))
    return join(*runs)


def test_kinds_come_from_dims_and_lift():
    kinds = {arm.key[0]: dimension.kind_of(arm) for arm in gather(*run(0.7, 0.7, 0.7)).arms}
    assert kinds == {"flat": "slice-wise", "flat(lift=memory)": "lifted", "deep": "native 3D"}


def test_a_planted_lead_of_3d_is_found():
    html = dimension.section(gather(*run(0.7, 0.74, 0.8)))
    assert "<b>native 3D</b> is ahead by 0.06" in html and "beyond chance" in html
    assert "0.100 less continuous than the reference" in html


def test_noise_cannot_decide():
    html = dimension.section(gather(*run(0.7, 0.7, 0.7, noise=0.1)))
    assert "Cannot decide between" in html and "on 10 persons" in html


def test_all_of_it_is_about_one_set_of_targets():
    """One arm answered three persons only: it is left out, and words, figure and table are about all ten."""
    records, scores = run(0.7, 0.74, 0.8)
    second, more = run(0.6, 0.9, 0.7)
    weak = [dataclasses.replace(r, model="flat(lift=tta)", task=f"t{r.task}") for r in second if r.model == "flat"]
    weak = [r for r in weak if r.case in PEOPLE[:3]]
    extra = [dataclasses.replace(s, task=f"t{s.task}") for s in more]
    html = dimension.section(gather([*records, *weak], [*scores, *extra]))
    assert (
        "about the 10 targets of 10 persons that these 3 arms answered. Left out, as they answered fewer: flat(" in html
    )
    assert "<b>native 3D</b> is ahead" in html


def test_the_best_of_many_by_luck_is_rarely_beyond_chance():
    """Twelve arms of each kind, all alike: the best pair of one study differs by chance alone."""
    rng, found = np.random.default_rng(1), 0
    for _ in range(20):
        runs = []
        for spec, kinds in (("flat", "slices"), ("deep", "")):
            for a in range(12):
                for person in PEOPLE[:8]:
                    resolved = {"lift": kinds} if kinds else {}
                    value = (float(np.clip(0.7 + rng.normal(0, 0.05), 0, 1)),)
                    runs.append(
                        outcome(f"{spec}(a={a})", "box3d", case=person, dsc=value, card=CARDS[spec], resolved=resolved)
                    )
        found += "beyond chance" in dimension.section(gather(*join(*runs)))
    assert found <= 3


def test_one_kind_alone_has_no_section():
    assert dimension.section(gather(*outcome("flat", card=CARDS["flat"]))) == ""
    assert "Slices or volumes" not in page(*outcome("flat", card=CARDS["flat"]))
    assert "Slices or volumes" in page(*run(0.7, 0.7, 0.8))


def test_continuity_of_masks_a_person_can_check():
    grid = Grid((6, 4, 5), np.array([[0, 0, 1.5, 0], [0, 2.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]]))
    reference = np.zeros(grid.shape, dtype=bool)
    reference[1:5, 1:3, 1:3] = True  # 4 equal slices of 4 voxels
    jumping = reference.copy()
    jumping[2] = False
    jumping[2, 1:3, 2:4] = True  # shifted by one of two columns: DSC .5 with both neighbours
    gap = reference.copy()
    gap[2] = False
    assert score(Pair(reference, reference, grid)) == {"continuity": 1.0, "continuity_lost": 0.0}
    assert score(Pair(reference, jumping, grid))["continuity_lost"] == pytest.approx(1 - (0.5 + 0.5 + 1) / 3)
    assert score(Pair(reference, gap, grid))["continuity"] == pytest.approx(1 / 3)
    one = np.zeros(grid.shape, dtype=bool)
    one[3, 1, 1] = True
    assert np.isnan(score(Pair(reference, one, grid))["continuity"])
    turned = dataclasses.replace(grid, shape=(5, 4, 6), affine=grid.affine[:, [2, 1, 0, 3]])
    assert score(Pair(reference.T, jumping.T, turned)) == score(Pair(reference, jumping, grid))
