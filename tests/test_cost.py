"""Cost of ownership: planted break-evens are found, noise decides nothing, and every wrong input has its message."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pytest

from decide_fakes import arms, folder, pair, plain
from report_fakes import join, outcome
from segwise.cli import app as program
from segwise.decide import choice, cost_page, for_report, ownership, scenario, workflow_page
from segwise.decide.effort import effort
from segwise.decide.verdict import verdict
from segwise.errors import PlanError, RunError, SpecError


def _found(run, site):
    general, special = arms(run)
    costs = [ownership.cost(arm, site) for arm in (general, special)]
    return costs, ownership.break_even(*costs, horizon=site.horizon)


def test_a_planted_break_even_is_recovered():
    """Ten cases drawn once, 0.6 each, against 0.1 a case for one click: equal after 60 cases."""
    costs, found = _found(pair(12), plain(training_cases=10))
    assert costs[0].fixed == 0 and costs[1].fixed == pytest.approx(6.0)
    assert costs[0].case == pytest.approx(np.full(12, 0.1)) and costs[1].case == pytest.approx(np.zeros(12))
    assert found.verdict == "crosses" and found.at == pytest.approx(60)
    assert (found.low, found.high) == (pytest.approx(60), pytest.approx(60)) and found.within == 1.0


def test_a_break_even_under_noise_has_an_interval_that_holds_it():
    """Half of the subjects need a second click: 0.15 a case, equal after 40; the interval holds it."""
    runs = []
    for i in range(40):
        dsc = (0.9,) if i % 2 else (0.5, 0.9)
        runs.append(outcome("general", "clicks(n=5)", case=f"c{i:02}", dsc=dsc, seconds=0))
        runs.append(outcome("special", "name", case=f"c{i:02}", dsc=(0.9,), n_interactions=0, seconds=0))
    _, found = _found(join(*runs), plain(training_cases=10))
    assert found.verdict == "crosses" and found.at == pytest.approx(40)
    assert 34 < found.low < 40 < found.high < 47


def test_noise_cannot_decide():
    """Both often end below and are mended by hand: the difference of a case has no sure sign."""
    run = pair(12, dsc=(0.8,), special=0.8, noise=0.2, seed=3)
    site = plain(training_cases=1, repair_minutes=10, hand_minutes=10)
    costs, found = _found(run, site)
    assert found.verdict == "cannot decide" and math.isnan(found.low) and np.ptp(costs[0].case) > 0
    headline, sentences, decided = verdict(choice.sides(arms(run)), site)
    assert "cannot decide" in headline and not decided and "varies too much" in sentences[0]


def test_noise_is_rarely_taken_for_a_break_even():
    site, wrong = plain(training_cases=1, repair_minutes=10, hand_minutes=10), 0
    for seed in range(30):
        _, found = _found(pair(12, dsc=(0.8,), special=0.8, noise=0.2, seed=seed), site)
        wrong += found.verdict != "cannot decide"
    assert wrong <= 4  # 5 % of 30 is 1.5


def test_few_subjects_cannot_decide_however_clear():
    _, found = _found(pair(5), plain(training_cases=10))
    assert found.verdict == "cannot decide" and found.at == pytest.approx(60)
    assert "5 subjects cannot decide it, 6" in verdict(choice.sides(arms(pair(5))), plain(training_cases=10))[1][0]


def test_curves_that_do_not_cross_name_no_number():
    """Nothing is paid once and every click costs: the specialist is cheaper from the first case on."""
    _, found = _found(pair(12), plain())
    assert found.verdict == "second" and math.isnan(found.at)
    headline, sentences, _ = verdict(choice.sides(arms(pair(12))), plain())
    assert headline == "No break-even: the curves do not cross" and "no number of cases can be named" in sentences[0]


def test_pretraining_turns_the_lines_round():
    """The generalist's pre-training costs 6 once, the specialist's mending 0.6 a case: equal after 12."""
    runs = []
    for i in range(12):
        runs.append(outcome("general", "clicks(n=5)", case=f"c{i:02}", dsc=(0.9,), seconds=0))
        runs.append(outcome("special", "name", case=f"c{i:02}", dsc=(0.5,), n_interactions=0, seconds=0))
    _, found = _found(join(*runs), plain(pretraining_price=6, pretraining_share=1))
    assert found.verdict == "crosses back" and found.at == pytest.approx(6 / (0.6 - 0.1))


def test_the_crossing_by_hand():
    assert ownership.crossing(6, -0.1) == pytest.approx(60)
    assert math.isnan(ownership.crossing(6, 0.1)) and math.isnan(ownership.crossing(0, -0.1))


def test_what_a_target_takes():
    """Three rounds of which the second is good enough; 2 s of machine a round, waited for, at twice the speed."""
    general, _ = arms(pair(6, dsc=(0.5, 0.85, 0.95), seconds=2.0))
    spent = effort(general.plays[0], general, plain(review_s=3, wait_share=0.5, speed_factor=2))
    assert (spent.n_rounds, spent.reached, spent.marks_s, spent.review_s) == (2, True, 20, 6)
    machine = 2 * (0.1 + 2.0 * 0.7 + 2.0 * 0.2) / 2
    assert spent.machine_s == pytest.approx(machine) and spent.wait_s == pytest.approx(machine / 2)
    below = effort(general.plays[0], general, plain(accept_dsc=0.99))
    assert (below.n_rounds, below.reached, below.repair_s) == (3, False, 60)


def test_the_last_round_counts_never_the_best():
    general, _ = arms(pair(6, dsc=(0.75, 0.3)))
    assert general.mean == pytest.approx(0.3)


def test_a_failure_is_drawn_by_hand():
    run = join(outcome("general", "clicks(n=5)"), outcome("general", "clicks(n=5)", case="b", status="failed"))
    from segwise.decide.measured import measured

    arm = measured(*run)[0]
    assert ownership.cost(arm, plain(hand_minutes=2)).parts["mending"] == pytest.approx((0 + 1.2) / 2)
    assert arm.mean == pytest.approx(0.4)


@pytest.mark.parametrize("page", [cost_page.page, workflow_page.page])
def test_what_nobody_scored_is_left_out_and_said(tmp_path, page):
    """Ten subjects of 0.9; the last three answers of the specialist have no score: its mean stays 0.9."""
    records, scores = pair(10, special=0.9)
    late = {(r.task, r.target) for r in records if r.model == "special" and r.case in ("c07", "c08", "c09")}
    run = records, [score for score in scores if (score.task, score.target) not in late]
    generalist, specialist = arms(run)
    assert (specialist.mean, len(specialist.plays), specialist.n_unscored) == (pytest.approx(0.9), 7, 3)
    assert generalist.n_unscored == 0
    html = page(folder(tmp_path / "run", run), plain())
    assert "3 answers of 1 way are not scored yet and left out; type <code>segwise score RUN</code>" in html
    assert "not scored" not in page(folder(tmp_path / "whole", (records, scores)), plain())
    none = records, [score for score in scores if score.task not in {r.task for r in records if r.model == "special"}]
    assert "10 answers of 1 way are not scored yet" in page(folder(tmp_path / "none", none), plain())


def test_what_a_trained_model_tells_of_its_training_replaces_the_assumption():
    learned = {"title": "Own", "family": "specialist", "learned": {"model": "unet", "subjects": 4, "seconds": 7200}}
    runs = [outcome("special", "name", case=f"c{i}", n_interactions=0, card=learned) for i in range(6)]
    from segwise.decide.measured import measured

    once = ownership.cost(measured(*join(*runs))[0], plain(training_cases=99, power_w=1000, energy_price_kwh=1)).once
    assert once["cases drawn to learn from"] == pytest.approx(4 * 0.6) and once["energy of learning"] == pytest.approx(
        2
    )


def test_the_sensitivity_moves_every_assumption_alone():
    site = plain(training_cases={"value": 10, "low": 5, "high": 200})
    general, special = arms(pair(12))
    moved = ownership.sensitivity(general, special, site)
    assert {one.key for one in moved} == set(scenario.KINDS)
    first = moved[0]
    assert first.key == "training_cases" and first.turns
    assert first.at == (pytest.approx(30), pytest.approx(1200))
    assert first.saved == (pytest.approx(10 - 3), pytest.approx(10 - 120))
    assert all(one.swing == 0 for one in moved[1:])


def test_an_assumption_whose_ends_agree_may_turn_the_order_between_them():
    one = ownership.Moved(key="a", low=0, high=2, saved=(5, 8), usual=-3, a_case=(1, 1), at=(1, 1))
    assert one.turns and one.swing == 11
    assert not replace(one, usual=6.0).turns and replace(one, usual=6.0).swing == 3


@pytest.mark.parametrize("name", scenario.shipped())
def test_a_shipped_scenario_says_where_every_number_comes_from(name):
    found = scenario.read(name)
    assert set(found.assumptions) == set(scenario.KINDS)
    for one in found.assumptions.values():
        assumed = one.source.startswith("assumption of the Segwise authors, 2026-11, no published source")
        assert assumed != ("; seen 2026-11" in one.source) and one.low <= one.value <= one.high
    assert "seen 2026-11" in found.assumptions["energy_price_kwh"].source


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "hardware_price = -5",
            "mine.toml: hardware_price.value: -5 is not a number of at least 0 (price of the machine",
        ),
        ("hardwar_price = 5", 'mine.toml: hardwar_price: no such assumption; did you mean "hardware_price"?'),
        ("readers = 1.5", "is not a whole number of at least 1"),
        ("click_s = { value = 3, high = 2 }", "click_s: 3 to 2 does not hold its value 3"),
        ("click_s = { value = 3, loww = 2 }", "click_s.loww: no such field"),
        ("arrivals_per_hour = 500", "500 is not a number of at least 0.01 and at most 200"),
        ('wage_hour = "much"', "wage_hour.value: 'much' is not a number"),
    ],
)
def test_a_wrong_assumption_has_one_message(tmp_path, text, said):
    path = tmp_path / "mine.toml"
    path.write_text(f'base = "small-hospital"\n[assumptions]\n{text}\n')
    with pytest.raises(PlanError) as error:
        scenario.read(path)
    assert said in str(error.value)


def test_other_wrong_scenarios():
    with pytest.raises(PlanError, match='no scenario "small-hospitl"; did you mean "small-hospital"'):
        scenario.read("small-hospitl")
    with pytest.raises(PlanError, match=r"mine: years, .* missing"):
        scenario.build({"assumptions": {}}, name="mine", source="mine")
    with pytest.raises(PlanError, match="mine: colour: no such field"):
        scenario.build({"colour": 1}, name="mine", source="mine")


def test_a_run_without_a_finished_task_is_refused(tmp_path):
    run = folder(tmp_path / "run", outcome(status="failed", reason="broke"))
    with pytest.raises(RunError, match="holds no finished task"):
        cost_page.page(run, plain())
    with pytest.raises(RunError, match="not a run folder"):
        cost_page.page(tmp_path, plain())
    records, _ = outcome()
    with pytest.raises(RunError, match="segwise score"):
        cost_page.page(folder(tmp_path / "unscored", (records, [])), plain())


def test_a_model_that_is_not_in_the_run_is_named(tmp_path):
    run = folder(tmp_path / "run", pair(6))
    with pytest.raises(SpecError, match=r'--specialist "unet": no such model in this run; there are general; special'):
        cost_page.page(run, plain(), specialist="unet")


def test_a_model_is_called_by_its_spec_name_label_or_folder(tmp_path):
    from segwise.decide.called import places

    folder = tmp_path / "runs" / "net-100-s0"
    folder.mkdir(parents=True)
    there = [(f"unet(checkpoint={folder})", "unet, 3 subjects · name"), ("sam(size=nano)", "sam(size=nano) · box2d")]
    for wanted in (str(folder), f"{folder}/", "unet", "unet, 3 subjects", "unet, 3 subjects · name"):
        assert places(there, wanted, "specialist") == [0]
    assert places(there, "sam(size=nano)", "generalist") == places(there, "sam", "generalist") == [1]
    pooled = [("lit+lora(checkpoint=/x/l-draws)", "lit+lora · box2d", f"lit+lora(checkpoint={folder})", "b")]
    assert places(pooled, str(folder), "generalist") == places(pooled, "b", "generalist") == [0]
    many = [(f"net{i}(size=big)", f"net{i}(size=big) · name") for i in range(20)]
    with pytest.raises(SpecError, match=r"there are net19\(size=big\); .* and 14 more, which its report names"):
        places(many, "net19(size=bif)", "model")


def test_names_that_are_exchanged_are_refused(tmp_path):
    run = folder(tmp_path / "run", pair(6))
    with pytest.raises(SpecError, match="--generalist special is a specialist and --specialist general is none"):
        cost_page.page(run, scenario.read("small-hospital"), generalist="special", specialist="general")


def test_a_report_keeps_the_scenario_of_its_plan(tmp_path, monkeypatch):
    """So that it can be written again elsewhere, and after the file has gone."""
    file = tmp_path / "mine.toml"
    file.write_text('base = "small-hospital"\n[assumptions]\nwage_hour = 123\n')
    run = folder(tmp_path / "run", pair(6), scenario=str(file))
    for_report.keep(run, "small-hospital")
    assert not (run / for_report.KEPT).exists()
    for_report.keep(run, str(file))
    file.unlink()
    monkeypatch.chdir("/")
    (_, _, html), _ = for_report.sections(run)
    assert "123" in html and "base = &quot;small-hospital&quot;" in html
    (run / for_report.KEPT).unlink()
    ((anchor, _, html),) = for_report.sections(run)
    assert anchor == "cost" and "no longer there: segwise cost" in html


def test_the_page_by_the_command(tmp_path, monkeypatch):
    run = folder(tmp_path / "run", pair(12, dsc=(0.6, 0.9), seconds=1.0))
    out = tmp_path / "cost.html"
    monkeypatch.setattr(sys, "argv", ["segwise", "cost", str(run), "--scenario", "trial-core-lab", "-o", str(out)])
    with pytest.raises(SystemExit) as left:
        program.main()
    assert not left.value.code
    from test_report import _Checker

    text, html = _Checker(out.read_text(encoding="utf-8")), out.read_text(encoding="utf-8")
    assert len(html) < 5_000_000 and all(a.startswith(("#", "data:")) for a in text.addresses)
    assert "assumption of the Segwise authors" in text.text and "hardware_price" in text.text
    assert "general · clicks(n=5)" in text.text and "by hand" in text.text
    assert not any(word in f" {text.text} " for word in (" nan ", " inf ", " None "))


def test_a_plan_with_an_unknown_scenario_is_refused_before_anything_runs(tmp_path):
    from types import SimpleNamespace

    from segwise import api
    from segwise.records.types import Plan

    with pytest.raises(PlanError, match='no scenario "small-hospitl"'):
        api.run(SimpleNamespace(plan=Plan(name="p", scenario="small-hospitl")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def _crowd(n: int = 15):
    """So many generalists that are better than the one specialist."""
    runs = [
        outcome(f"general(size={k})", "clicks(n=5)", case=f"c{i}", dsc=(0.9 - k / 100,))
        for k in range(n)
        for i in range(6)
    ]
    return join(*runs, *(outcome("special", "name", case=f"c{i}", dsc=(0.3,), n_interactions=0) for i in range(6)))


def test_the_two_that_are_compared_are_never_cut_from_a_table(tmp_path):
    run = folder(tmp_path / "run", _crowd())
    text = cost_page.page(run, scenario.read("small-hospital"))
    parts = text.split('id="parts"')[1].split('id="assumed"')[0]
    assert "special · name" in parts and "general(size=10) · clicks(n=5)" in parts
    assert "general(size=11)" not in parts
    assert "4 of the 16 ways of this run are not shown: the last by mean DSC (what is compared is always" in parts
    named = cost_page.page(run, scenario.read("small-hospital"), generalist="general(size=14)")
    assert "general(size=14) · clicks(n=5)" in named.split('id="parts"')[1] and "4 of the 16 ways" in named


def test_nothing_is_said_of_cutting_where_nothing_was_cut(tmp_path):
    assert "not shown" not in cost_page.page(folder(tmp_path / "run", pair(6)), plain())
