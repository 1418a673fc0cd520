"""The report's section on compute at inference finds a planted knee, and says when it cannot decide."""

from __future__ import annotations

import numpy as np
import pytest

from report_fakes import join, outcome
from segwise.report import page, scaling
from segwise.report.gather import gather
from segwise.report.turning import knee

PASSES = (1, 2, 4, 8, 16)
PEOPLE = [f"p{i}" for i in range(12)]
SATURATES = {1: 0.70, 2: 0.76, 4: 0.80, 8: 0.80, 16: 0.80}


def run(curve, *, noise=0.01, people=PEOPLE, seed=0):
    """Records of one model asked 1 to 16 times; seconds grow with the passes."""
    rng = np.random.default_rng(seed)
    runs = []
    for person in people:
        own = rng.normal(0, 0.03)
        for n in PASSES:
            spec = "general" if n == 1 else f"general+jitter(n={n})"
            value = float(np.clip(curve[n] + own + rng.normal(0, noise), 0, 1))
            card = {"title": "general", "family": "generalist"}
            runs.append(outcome(spec, "box3d", case=person, subject=person, dsc=(value,), seconds=0.5 * n, card=card))
    return join(*runs)


def test_a_planted_knee_at_four_passes_is_found():
    (curve,) = scaling.curves(gather(*run(SATURATES)))
    assert curve.costs == pytest.approx(PASSES)
    found = knee(curve.values)
    assert found.verdict == "knee" and curve.costs[found.place] == pytest.approx(4)
    assert found.low <= 2 <= found.high and found.high - found.low <= 1
    words = scaling.answer(curve, "DSC")
    assert "the knee is at <b>jitter(n=4) (4.0× the cost)" in words
    assert "that ends at jitter(n=4)" in words


def test_noise_cannot_decide():
    (curve,) = scaling.curves(gather(*run(dict.fromkeys(PASSES, 0.7), noise=0.15, seed=3)))
    assert knee(curve.values).verdict == "cannot decide"
    assert "cannot decide" in scaling.answer(curve, "DSC")


def test_noise_is_seldom_taken_for_a_knee():
    found = [
        knee(scaling.curves(gather(*run(dict.fromkeys(PASSES, 0.7), noise=0.1, seed=k)))[0].values) for k in range(40)
    ]
    assert sum(one.verdict == "knee" for one in found) <= 4


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_persons_cannot_decide(n):
    (curve,) = scaling.curves(gather(*run(SATURATES, people=PEOPLE[:n])))
    assert knee(curve.values).verdict == "cannot decide"


def test_what_adds_nothing_is_said_to_add_nothing():
    (curve,) = scaling.curves(gather(*run(dict.fromkeys(PASSES, 0.7), noise=0.001)))
    assert knee(curve.values).verdict == "no gain"
    assert "that ends at the model alone" in scaling.answer(curve, "DSC")


def test_a_curve_that_still_rises_has_its_knee_at_the_end():
    (curve,) = scaling.curves(gather(*run({n: 0.6 + 0.05 * i for i, n in enumerate(PASSES)})))
    found = knee(curve.values)
    assert found.verdict == "knee" and found.place == len(PASSES) - 1


def test_the_page_says_it_in_words_a_table_and_a_figure():
    html = page(*run(SATURATES))
    assert "Compute at inference" in html and "the knee is at" in html
    assert "inference, times the seconds of the model alone" in html
    assert "Gain a doubling" in html


def test_a_run_without_wrappers_has_no_such_section():
    assert scaling.section(gather(*outcome())) == ""
    only = gather(*outcome("general+jitter(n=2)"))
    assert scaling.section(only) == "", "nothing to measure gains from"
