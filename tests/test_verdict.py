"""What the page of cost decides and what not, in words, whatever the run holds: one way, no pair, no break-even."""

from __future__ import annotations

import math

import pytest

from decide_fakes import arms, folder, pair, plain
from report_fakes import join, outcome
from segwise.decide import cost_page, ownership, scenario
from segwise.decide.choice import sides
from segwise.decide.measured import measured
from segwise.decide.ownership import Moved
from segwise.decide.verdict import verdict, when
from segwise.errors import SpecError


def _only(model, n, dsc=0.9, target="liver"):
    prompter, n_clicks = ("name", 0) if model == "special" else ("clicks(n=5)", 1)
    own = {"dsc": (dsc,), "target": target, "n_interactions": n_clicks, "seconds": 0}
    return join(*(outcome(model, prompter, case=f"c{i}", **own) for i in range(n)))


def test_one_way_is_decided_against_the_hand(tmp_path):
    """6 once and 0.1 a case, against 0.6 by hand: equal after 12 cases."""
    site = plain(setup_hours=1, engineer_wage_hour=6)
    headline, sentences, decided = verdict(sides(measured(*_only("general", 12))), site)
    assert headline == "Break-even at about 12 cases, against drawing by hand" and decided
    assert "This run has no specialist to compare" in sentences[0]
    assert "<b>general · clicks(n=5)</b> is the cheaper one from about <b>12 cases</b> on" in sentences[1]
    text = cost_page.page(folder(tmp_path / "run", _only("general", 12)), site)
    assert all(f'id="{anchor}"' in text for anchor in ("break-even", "sensitivity", "parts"))
    assert "First: <b>by hand</b>, second: <b>general · clicks(n=5)</b>, by their means." in text
    assert "bands: bootstrap over 12 subjects. Dashed: where the means cross." in text


def test_one_way_on_few_subjects_decides_nothing_and_says_what_the_means_say():
    site = plain(setup_hours=1, engineer_wage_hour=6)
    headline, sentences, decided = verdict(sides(measured(*_only("special", 3))), site)
    assert headline == "The data cannot decide a break-even, against drawing by hand" and not decided
    assert "This run has no generalist to compare" in sentences[0]
    assert "3 subjects cannot decide it, 6 would be the fewest." in sentences[1]
    assert "by the means alone <b>special · name</b> would be the cheaper one from about 10 cases on" in sentences[1]


def test_a_useless_way_never_pays_against_the_hand():
    headline, sentences, decided = verdict(sides(measured(*_only("general", 12, 0.1))), plain(redo_below=0.5))
    assert headline == "No break-even: the curves do not cross, against drawing by hand" and decided
    assert "<b>drawing by hand</b> is cheaper than <b>general · clicks(n=5)</b> from the first case on" in sentences[1]


def test_why_there_is_no_pair():
    apart = join(_only("general", 6), _only("special", 6, target="spleen"))
    assert sides(measured(*apart)).why.startswith("No specialist of this run was asked for a target that a generalist")
    both = sides(measured(*join(_only("general", 6), _only("special", 6))))
    assert both.why == "" and both.labels == {"general · clicks(n=5)", "special · name"}
    named = sides(measured(*_only("general", 6)), generalist="general", specialist="general").why
    assert named.startswith("Of the ways that were named no two") and "the one that was named is set" in named
    with pytest.raises(SpecError, match='--generalist "sam"'):
        sides(measured(*_only("general", 6)), generalist="sam")


def test_the_way_against_the_hand_is_one_that_can_be_decided_or_that_was_named():
    many, one = _only("general", 6, 0.8), outcome("general(size=1)", "clicks(n=5)", case="c0", dsc=(0.99,))
    run = measured(*join(many, one))
    assert sides(run).second.model == "general"
    assert sides(run, generalist="general(size=1)").second.model == "general(size=1)"


def test_both_dearer_than_the_hand_is_said():
    run = pair(12, dsc=(0.1,), special=0.1)
    text = verdict(sides(arms(run)), plain(setup_hours=1, engineer_wage_hour=6, redo_below=0.5))[1][0]
    assert text.endswith("drawing by hand 60&nbsp;EUR, less than either.")
    dear = verdict(sides(arms(pair(12, special=0.1))), plain(redo_below=0.5, review_s=1))[1][0]
    assert dear.endswith("drawing by hand 60&nbsp;EUR, less than <b>special · name</b>.")


@pytest.mark.parametrize(
    ("saved", "a_case", "at", "said"),
    [
        (50, 0.5, 60, "from 60 on"),
        (-50, 0.5, 600, "from 600 on"),
        (50, -0.5, 600, "up to 600"),
        (-50, -0.5, 60, "up to 60"),
        (50, 0.5, math.nan, "always"),
        (-50, -0.5, math.nan, "never"),
        (0, 0, math.nan, "same"),
        (50, 0.5, 0.01, "always"),
        (-50, -0.5, 0.01, "never"),
    ],
)
def test_a_break_even_says_its_direction(saved, a_case, at, said):
    moved = Moved(key="box_s", low=1, high=2, saved=(saved, 0), usual=0.0, a_case=(a_case, 0), at=(at, math.nan))
    assert when(moved, 0) == said


def test_no_number_that_leads_to_a_break_even_is_said(tmp_path):
    """A specialist that is useless, in the shipped scenario with nothing paid once."""
    run = folder(tmp_path / "run", pair(12, special=0.1))
    text = cost_page.page(run, plain(redo_below=0.5))
    said = "None leads to a break-even either: <b>general · clicks(n=5)</b> is cheaper from the first case on."
    assert said in text and "The means of the two do not cross here." in text and "never" in text


def test_directions_agree_with_the_money():
    """At the planned number of cases: what is cheaper from a smaller number on saves."""
    site = scenario.read("small-hospital")
    for moved in ownership.sensitivity(*arms(pair(12, dsc=(0.7,), special=0.8)), site):
        for end in (0, 1):
            said, saves = when(moved, end), moved.saved[end] > 0
            assert said not in ("always", "never") or saves == (said == "always")


@pytest.mark.parametrize("n", [1, 2, 6])
@pytest.mark.parametrize("model", ["general", "special", "floor"])
def test_every_page_of_one_way_stands(tmp_path, model, n):
    from segwise.decide import workflow_page
    from test_report import _Checker

    run, site = folder(tmp_path / "run", _only(model, n)), scenario.read("small-hospital")
    for text in (cost_page.page(run, site), workflow_page.page(run, site)):
        told = f" {_Checker(text).text} "
        assert not any(word in told for word in (" nan ", " inf ", " None ", "nan%"))
        assert n >= 6 or "cannot decide" in told
