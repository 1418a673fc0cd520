"""The section on failures: what it says is what was stored, and the quality scores' curves by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from report_fakes import crop, join, outcome
from segwise import catalog
from segwise.report import quality, where
from segwise.report.document import page
from segwise.report.gather import gather
from segwise.report.overlay import pictures
from segwise.spec import Spec

FLAG = {
    **{"signature": "leak", "component": "beyond", "value": 0.31, "severity": 4.2},
    **{"axis": 0, "slice": 17, "low": [15, 3, 4], "high": [20, 30, 40]},
}
CLEAN = {"reference": {"leak": 0.2}, "blind": {"leak": 0.3}, "flags": [], "blind_flags": []}
LEAKS = {"reference": {"leak": 4.2}, "blind": {"leak": 2.0}, "flags": [FLAG], "blind_flags": []}
BLIND = CLEAN | {"blind_flags": [FLAG | {"signature": "decay", "component": "lost", "severity": 1.5}]}


def stored(by_case):
    """Crops with failures by case."""
    runs = [outcome(model, case=case, dsc=(0.4,)) for model in ("general", "special") for case in by_case]
    records, scores = join(*runs)
    cases = {record.key: record.case for record in records}

    def crops(key):
        return crop() | {"failures": np.array(json.dumps(by_case[cases[key]]))}

    return records, scores, crops


def section(by_case):
    records, scores, crops = stored(by_case)
    html = page(records, scores, crops=crops)
    start = html.find('<section id="failures">')
    return "" if start < 0 else html[start : html.index("</section>", start)]


def test_it_counts_what_was_flagged_and_says_where_to_look():
    text = section({"a": LEAKS, "b": CLEAN, "c": CLEAN, "d": BLIND})
    assert "leak in 1 (25%); 3 of 4 targets of 4 persons without any flag" in text
    assert "slice d = 17" in text and "d 15–20, h 3–30, w 4–40" in text
    assert "31% of it beside the box" in text and "leak × 4.2" in text
    assert "decay × 1.5" in text and text.count("without the reference only") == 2


def test_draws_of_a_target_are_one_and_persons_weigh_the_same():
    """Person a: one target, flagged in two of three draws; b: three targets without a flag."""
    runs = [outcome(case="a", seed=seed, dsc=(0.4,)) for seed in range(3)]
    runs += [outcome(case="b", target=target, seed=seed) for target in ("liver", "spleen", "colon") for seed in (0, 1)]
    records, scores = join(*runs)
    leaks = {record.key for record in records if record.case == "a" and record.seed < 2}
    html = page(records, scores, crops=lambda key: {"failures": np.array(json.dumps(LEAKS if key in leaks else CLEAN))})
    assert "leak in 1 (33%); 3 of 4 targets of 2 persons without any flag" in html  # (2/3 + 0) / 2
    assert '<td>2</td><td>4</td><td>3</td><td class="heat" style="--v:0.33">1<br><small>0 without' in html


def test_the_figure_has_a_bar_for_each_model_and_signature():
    text = section({"a": LEAKS, "b": CLEAN})
    assert text.count('stroke="var(--line)"') == 2 * 5 and text.count(">50%</text>") == 2


@pytest.mark.parametrize(
    "odd", [{}, [], {"flags": [{}], "blind_flags": [], "blind": {"leak": 1}}, CLEAN | {"blind": {}}]
)
def test_what_was_stored_otherwise_is_passed_over(odd):
    assert section({"a": odd}) == ""


def test_names_from_outside_are_escaped():
    evil = FLAG | {"signature": "<b>x", "component": "<i>{0.__class__}"}
    text = section({"a": LEAKS | {"flags": [evil]}})
    assert "<b>x" not in text and "&lt;i&gt;0.__class__ 0.31" in text


def test_how_often_it_is_wrong_stands_in_one_place():
    said = catalog.card("metrics", Spec("failures")).measured
    assert re.search(r"\d+ to \d+ % with the reference and \d+ to \d+ % without", said)
    assert said in section({"a": LEAKS})
    assert said in (Path(__file__).parents[1] / "docs/results.md").read_text(encoding="utf-8").replace("\n", " ")


def test_aurc_by_hand():
    assert quality.aurc([3, 2, 1], [0.0, 0.3, 0.6]) == pytest.approx((0 + 0.15 + 0.3) / 3)
    assert quality.aurc([1, 2, 3], [0.0, 0.3, 0.6]) == pytest.approx((0.6 + 0.45 + 0.3) / 3)
    assert quality.aurc([1, 1, 1], [0.0, 0.3, 0.6]) == pytest.approx(0.3)
    assert np.isnan(quality.aurc([], []))


def test_a_score_that_knows_is_as_good_as_perfect_knowledge():
    by_case = {f"c{i}": CLEAN | {"blind": {"leak": i / 10}} for i in range(12)}
    runs = [outcome(case=case, dsc=(1 - i / 20,)) for i, case in enumerate(by_case)]
    records, scores = join(*runs)
    cases = {record.key: record.case for record in records}
    html = page(records, scores, crops=lambda key: {"failures": np.array(json.dumps(by_case[cases[key]]))})
    row = html[html.index("no failure signature") :][:400]
    told = [float(cell) for cell in re.findall(r">(\d\.\d+)<", row)]
    assert told[0] == told[1] < told[2]


def _judged(planted):
    """Quality of outcomes given as (structure, person, seed, DSC, severity)."""
    runs, severe = [], {}
    for structure, person, seed, dsc, gravest in planted:
        records, scores = outcome(case=person, target=structure, seed=seed, dsc=(dsc,))
        severe[records[0].key] = gravest
        runs.append((records, scores))
    outcomes = gather(*join(*runs)).outcomes
    return quality.judged(outcomes, "DSC", lambda o: {"decay": severe[o.last.key]})


def test_each_structure_has_its_own_curve_where_there_are_enough_targets():
    """Of the liver the severity knows all, of the spleen the opposite; the colon has nine targets only."""
    dsc = [1 - i / 20 for i in range(12)]
    planted = [("liver", f"p{i}", 0, d, 1 - d) for i, d in enumerate(dsc)]
    planted += [("spleen", f"p{i}", 0, d, d) for i, d in enumerate(dsc)]
    planted += [("colon", f"p{i}", 0, d, d) for i, d in enumerate(dsc[:9])]
    found = {one.structure: one for one in _judged(planted)}
    assert sorted(found) == ["", "liver", "spleen"] and found[""].n == 33 and found["liver"].n_persons == 12
    assert found["liver"].aurc == pytest.approx(found["liver"].best) and found["liver"].sure
    assert found["liver"].aurc < found["liver"].chance < found["spleen"].aurc and not found["spleen"].sure
    assert found["liver"].low <= found["liver"].aurc <= found["liver"].high


def test_the_leak_counts_by_itself_beside_the_gravest_signature():
    """The leak knows all; another signature, graver always, knows nothing."""
    runs = [outcome(case=f"p{i}", dsc=(1 - i / 20,)) for i in range(12)]
    outcomes = gather(*join(*runs)).outcomes
    found = quality.judged(outcomes, "DSC", lambda o: {"leak": int(o.last.case[1:]) / 20, "overrun": 5.0})
    gravest, leak = found
    assert "gravest" in gravest.title and "leak" in leak.title
    assert leak.aurc == pytest.approx(leak.best) and gravest.aurc == pytest.approx(gravest.chance)


def test_draws_of_a_target_are_one_point_of_the_curve():
    once = [("liver", f"p{i}", 0, 0.5 + i / 40, 0.5 - i / 40) for i in range(12)]
    (one,) = _judged(once)
    (three,) = _judged([(s, p, seed, d, g) for s, p, _, d, g in once for seed in range(3)])
    assert three.n == one.n == 12 and three.aurc == pytest.approx(one.aurc)
    assert not _judged([("liver", "p", seed, 0.5, 0.1) for seed in range(30)])  # one target, thirty draws


def test_the_table_by_structure_is_in_the_section():
    by_case = {f"c{i}": CLEAN | {"blind": {"leak": i / 10}} for i in range(12)}
    runs = [outcome(case=case, target=name, dsc=(1 - i / 20,)) for i, case in enumerate(by_case) for name in ("a", "b")]
    records, scores = join(*runs)
    cases = {record.key: record.case for record in records}
    html = page(records, scores, crops=lambda key: {"failures": np.array(json.dumps(by_case[cases[key]]))})
    table = html[html.index('aria-label="Quality scores by structure"') :].split("</table>")[0]
    assert table.count("<tr>") == 3 and "<b>0." in table


def test_few_persons_cannot_decide_what_a_score_is_worth():
    planted = [(f"s{i}", f"p{i % 5}", 0, 1 - i / 20, i / 20) for i in range(15)]
    (one,) = _judged(planted)
    assert one.aurc == pytest.approx(one.best) and one.n_persons == 5 and not one.sure


def _cases_of(planted, flag=LEAKS, **fields):
    """The part case by case, of (case, person, seed, DSC)."""
    runs = [outcome(case=c, subject=p, seed=s, dsc=(d,), **fields) for c, p, s, d in planted]
    records, scores = join(*runs)
    html = page(records, scores, crops=lambda key: crop() | {"failures": np.array(json.dumps(flag))})
    return html[html.index("Where to look, case by case") : html.index('<section id="worst">')]


def test_cases_come_worst_first_and_those_of_a_person_together():
    text = _cases_of([("a1", "a", 0, 0.3), ("b1", "b", 0, 0.5), ("a2", "a", 0, 0.7), ("c1", "c", 0, 0.9)])
    told = re.findall(r"<summary><b>(\w+)</b>, (\w): mean DSC ([\d.]+); 1 of 1 target", text)
    assert told == [("a1", "a", "0.30"), ("a2", "a", "0.70"), ("b1", "b", "0.50"), ("c1", "c", "0.90")]
    assert text.count("<details open>") == 2 and text.count("slice d = 17") == 4


def test_of_several_draws_the_gravest_is_shown_once_with_its_picture():
    text = _cases_of([("a", "a", seed, 0.4) for seed in range(3)])
    assert text.count("<article") == 1 and text.count('<div class="planes">') == 1
    assert "mean DSC 0.40; 1 of 1 target of all models flagged (leak 1)" in text


def test_pictures_keep_to_their_budget_and_entries_without_one_stay(monkeypatch):
    planted = [(f"c{i}", f"c{i}", 0, i / 10) for i in range(6)]
    one = len(pictures(crop(), "liver of c0"))
    monkeypatch.setattr(where, "PICTURE_BYTES", 3 * one)
    text = _cases_of(planted)
    assert text.count('<div class="planes">') == 3 and text.count("slice d = 17") == 6


def test_a_full_run_stays_small():
    """Sixty cases of twenty targets, all flagged, all with pictures."""
    planted = [(f"c{i:02}", f"c{i:02}", 0, 0.5) for i in range(60)]
    runs = [outcome(case=c, target=f"t{k}", dsc=(d,)) for c, _, _, d in planted for k in range(20)]
    records, scores = join(*runs)
    html = page(records, scores, crops=lambda key: crop() | {"failures": np.array(json.dumps(LEAKS))})
    assert len(html.encode()) < 5_000_000
    assert html.count("of all models flagged") == where.CASES_UP_TO and "Flagged as well" in html


def test_names_of_cases_are_escaped():
    text = _cases_of([("<i>c", "<b>p", 0, 0.4)])
    assert "<i>c" not in text and "<b>p" not in text and "&lt;i&gt;c" in text
