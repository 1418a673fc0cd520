"""Mending costs what is wrong: planted minutes, and that a worse mask is never cheaper, for cost and shifts alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decide_fakes import arms, folder, pair, plain
from report_fakes import join, outcome
from segwise.decide import cost_page, ownership, scenario, workflow_page
from segwise.decide.effort import effort
from segwise.decide.measured import Measured, Play, Round, measured
from segwise.decide.mending import in_words, mending_s
from segwise.decide.workflow import expected

SITE = {"accept_dsc": 0.85, "redo_below": 0.5, "repair_minutes": 3, "hand_minutes": 8}
dsc = st.floats(0, 1)


@pytest.mark.parametrize(
    ("value", "minutes"), [(0.85, 3), (0.675, 5.5), (0.78, 4), (0.5, 8), (0.084, 8), (0.0, 8), (None, 8), (0.95, 3)]
)
def test_minutes_by_hand(value, minutes):
    """3 minutes just below good enough, 8 at and below 0.5, a seventh of the way for every 0.05 between."""
    assert mending_s(value, plain(**SITE)) == pytest.approx(60 * minutes)


def test_what_is_wanted_can_be_another():
    """Wanted 0.9: 0.7 lies half of the way down to 0.5."""
    assert mending_s(0.7, plain(**SITE), wanted=0.9) == pytest.approx(60 * 5.5)


def test_nobody_mends_for_longer_than_drawing_takes():
    site = plain(**{**SITE, "repair_minutes": 20})
    assert {mending_s(value, site) for value in (0.84, 0.6, 0.2)} == {480.0}


def test_where_a_person_starts_anew_above_good_enough_nothing_is_mended():
    site = plain(**{**SITE, "redo_below": 0.9})
    assert "is not mended but drawn anew, 8 minutes" in in_words(site)
    assert mending_s(0.84, site) == mending_s(0.1, site) == 480


@settings(max_examples=300, deadline=None)
@given(
    first=st.lists(dsc, min_size=1, max_size=4),
    fall=st.lists(dsc, min_size=4, max_size=4),
    accept=st.floats(0.01, 1),
    redo=dsc,
    repair=st.floats(0, 30),
    hand=st.floats(0.1, 30),
)
def test_a_worse_mask_is_never_cheaper(first, fall, accept, redo, repair, hand):
    """The same rounds with every DSC as good or worse take as long or longer."""
    site = plain(accept_dsc=accept, redo_below=redo, repair_minutes=repair, hand_minutes=hand, review_s=4)
    general, _ = arms(pair(6))
    worse = [max(0.0, value - less) for value, less in zip(first, fall, strict=False)]
    better, other = (effort(_play(general, values), general, site) for values in (first, worse))
    assert other.person_s >= better.person_s - 1e-9


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.floats(0, 0.5), min_size=1, max_size=4), key=st.sampled_from(scenario.shipped()))
def test_useless_masks_cost_more_than_the_hand(values, key):
    """Drawing anew, and the look and the marks before it: for every target, in every shipped scenario."""
    site = scenario.read(key)
    for arm in arms(pair(6)):
        spent = effort(_play(arm, values), arm, site)
        assert spent.anew and spent.person_s > 60 * site["hand_minutes"]


@pytest.mark.parametrize("key", scenario.shipped())
def test_no_useless_model_is_cheaper_than_the_hand(key):
    """For the whole cost too: nothing of the machine is paid for by masks that are thrown away."""
    site = scenario.read(key)
    hand = ownership.by_hand(site)
    for arm in arms(pair(12, dsc=(0.4, 0.3), special=0.08)):
        found = ownership.cost(arm, site)
        assert (found.case > hand.case).all() and found.total(site.horizon) > hand.total(site.horizon)
        assert found.anew == 1.0 and found.reached == 0.0


def test_a_useless_specialist_is_no_saving(tmp_path):
    """It was: 3 minutes of mending against 8 by hand, however bad the mask."""
    runs = [outcome("special", "name", case=f"c{i}", dsc=(0.08,), n_interactions=0) for i in range(12)]
    text = workflow_page.page(folder(tmp_path / "run", join(*runs)), scenario.read("small-hospital"))
    assert "Drawing by hand is the fastest" in text and "saves" not in text.split("</header>")[0]


def test_shift_and_cost_mend_by_the_same_formula():
    """Without spread, misjudgement and queue the shift's minutes are those of the cost."""
    site = plain(**SITE, review_s=4, wait_share=1, arrivals_per_hour=2, readers=99, machines=99)
    runs = [outcome("general", "clicks(n=5)", case=f"c{i}", dsc=(0.7, 0.675), seconds=0) for i in range(6)]
    arm = measured(*join(*runs))[0]
    by_shift, by_cost = expected(arm, site, n=2).minutes.mean, ownership.cost(arm, site).minutes
    assert by_shift == pytest.approx(by_cost) == pytest.approx((2 * 10 + 2 * 4) / 60 + 5.5, rel=0.001)


def test_a_shift_mends_up_to_the_dsc_that_it_plays_for():
    """0.7 is half of the way from 0.9 to 0.5."""
    general, _ = arms(pair(6, dsc=(0.7,)))
    found = expected(general, plain(**SITE), n=2)
    assert found.to_level[0.9].mean == pytest.approx(10 / 60 + 5.5, rel=0.001)


def test_nothing_where_nothing_is_takes_a_look_alone():
    """An empty answer for an absent structure has no DSC, and there is nothing to mend."""
    records, scores = outcome("general", "name", n_interactions=0, dsc=(None,))
    there, known = outcome("general", "name", n_interactions=0, case="b", dsc=(0.9,))
    spent = {}
    for reason in ("both empty", "no reference"):
        arm = measured([*records, *there], [*(replace(score, reason=reason) for score in scores), *known])[0]
        spent[reason] = [effort(play, arm, plain(**SITE, review_s=4)).person_s for play in arm.plays]
    assert spent == {"both empty": [4, 4], "no reference": [484, 4]}


def test_the_sensitivity_tries_where_a_person_starts_anew():
    general, special = arms(pair(12, dsc=(0.6,), special=0.9))
    site = plain(**{**SITE, "redo_below": {"value": 0.5, "low": 0.3, "high": 0.7}})
    moved = next(one for one in ownership.sensitivity(general, special, site) if one.key == "redo_below")
    low = 3 + 5 * (0.85 - 0.6) / (0.85 - 0.3)
    assert moved.saved == (pytest.approx(100 * (0.1 + 0.6 * low)), pytest.approx(100 * (0.1 + 0.6 * 8)))


def test_the_pages_say_how_mending_is_counted(tmp_path):
    run, site = folder(tmp_path / "run", pair(6)), scenario.read("small-hospital")
    words = "mending takes 3 minutes just below good enough and rises linearly to drawing anew, 8 minutes, at DSC 0.5"
    assert in_words(site).startswith(words)
    for text in (cost_page.page(run, site), workflow_page.page(run, site)):
        assert words in text and "redo_below" in text
    assert "Drawn anew" in cost_page.page(run, site)


def _play(arm: Measured, values: list[float]) -> Play:
    rounds = tuple(
        Round(n_interactions=0 if arm.unattended else i + 1, dsc=value, ahead_s=0.0, answer_s=0.0)
        for i, value in enumerate(values)
    )
    return replace(arm.plays[0], rounds=rounds)
