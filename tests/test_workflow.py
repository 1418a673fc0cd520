"""The workflow: what queueing theory says is found, planted latencies and deadlines hold, and the page tells them."""

from __future__ import annotations

from statistics import fmean

import pytest

from decide_fakes import arms, folder, pair, plain
from report_fakes import join, outcome
from segwise.decide import for_report, workflow_page
from segwise.decide.measured import measured
from segwise.decide.shift import simulate
from segwise.decide.workflow import expected
from segwise.errors import RunError, SpecError
from segwise.records.run import Run


def test_one_reader_waits_as_queueing_theory_says():
    """M/D/1 (Poisson arrivals, constant service): mean wait = rho / (2 mu (1 - rho)) = 0.5 min at rho 0.5."""
    site = plain(arrivals_per_hour=30, hand_minutes=1, shift_hours=24, targets_per_case=1)
    shifts = [simulate(None, site, wanted=0.8, seed=i) for i in range(20)]
    waits = [wait for one in shifts for wait in one.waits_s]
    assert fmean(waits) == pytest.approx(30, rel=0.1)
    assert fmean(one.reader_s / (3600 * 24) for one in shifts) == pytest.approx(0.5, rel=0.05)
    assert {round(m, 6) for one in shifts for m in one.minutes} == {1.0}


def test_minutes_are_what_was_planted():
    """Two rounds of 10 s of marking, 1 s of machine and 4 s of looking each: half a minute a case."""
    general, _ = arms(pair(6, dsc=(0.5, 0.9), seconds=1.0))
    found = expected(general, plain(review_s=4, arrivals_per_hour=10), n=3)
    machine = 0.1 + 0.7 + 0.2
    assert found.minutes.mean == pytest.approx(2 * (10 + 4 + machine) / 60)
    assert found.latency_p50_s.mean == pytest.approx(machine) == found.latency_p95_s.mean
    assert found.reached[0.8].mean == 1 and found.to_level[0.85].mean == pytest.approx(found.minutes.mean)
    assert found.capacity_per_hour.mean == pytest.approx(60 / found.minutes.mean)


def test_what_is_not_reached_is_mended():
    general, _ = arms(pair(6, dsc=(0.5, 0.87)))
    found = expected(general, plain(repair_minutes=5, hand_minutes=5), n=2)
    assert found.reached[0.85].mean == 1 and found.reached[0.9].mean == 0
    assert found.to_level[0.9].mean == pytest.approx(found.to_level[0.85].mean + 5)


def test_under_a_deadline_the_last_answer_in_time_counts_and_never_the_best():
    """The first round takes 1 s with its encoding, later ones 0.2 s: at 0.3 s nothing came in time."""
    rounds = join(*(outcome("general", "clicks(n=5)", case=f"c{i}", dsc=(0.6, 0.4), seconds=1.0) for i in range(6)))
    arm = measured(*rounds)[0]
    ahead = expected(arm, plain(ahead_share=1, arrivals_per_hour=2, readers=9, machines=9), n=2)
    none = expected(arm, plain(ahead_share=0, arrivals_per_hour=2), n=2)
    assert none.in_time[0.3].mean == 0 and none.in_time[3.0].mean == pytest.approx(0.4)
    assert ahead.in_time[0.3].mean == pytest.approx(0.4)  # 0.4 is worse than 0.6, and it is what is there in the end


def test_two_readers_at_one_machine_wait_longer_than_at_two():
    general, _ = arms(pair(6, dsc=(0.5, 0.6, 0.9), seconds=30.0))
    one = expected(general, plain(readers=2, machines=1, arrivals_per_hour=60), n=2)
    two = expected(general, plain(readers=2, machines=2, arrivals_per_hour=60), n=2)
    assert two.latency_p95_s.mean == pytest.approx(30.0 * 0.9 + 0.1)
    assert one.latency_p95_s.mean > 1.3 * two.latency_p95_s.mean
    assert one.machine_busy.mean > two.machine_busy.mean


def test_nobody_waits_for_what_runs_before_the_reader_comes():
    _, special = arms(pair(6, seconds=20.0))
    found = expected(special, plain(review_s=6, arrivals_per_hour=10), n=2)
    assert found.latency_p50_s.mean != found.latency_p50_s.mean  # nan: nobody waits
    assert found.minutes.mean == pytest.approx(0.1) and found.machine_busy.mean > 0


def test_the_same_seed_gives_the_same_shift():
    general, _ = arms(pair(6, dsc=(0.5, 0.9), seconds=1.0))
    site = plain(variation=0.4, judgement_sd=0.05, review_s=2)
    first, again = (simulate(general, site, wanted=0.8, seed=5) for _ in range(2))
    assert first.minutes == again.minutes and len(first.minutes) > 10
    assert simulate(general, site, wanted=0.8, seed=6).minutes != first.minutes


def test_the_page(tmp_path):
    run = folder(tmp_path / "run", pair(12, dsc=(0.6, 0.9), seconds=1.0))
    text = workflow_page.page(run, plain(review_s=2, hand_minutes=5))
    from test_report import _Checker

    assert "saves" in text and "by hand" in text and "cannot decide" not in text
    said = _Checker(text).text
    assert "DSC if 0.3 s are waited" in said and "Readers busy" in said
    with pytest.raises(SpecError, match='--model "unet": no such model in this run'):
        workflow_page.page(run, plain(), models=("unet",))
    mixed = join(*(outcome("general", "clicks(n=5)", case=f"c{i}", dsc=(0.9,)) for i in range(8)))
    one = outcome("special", "name", case="c0", dsc=(0.95,), n_interactions=0)
    text = workflow_page.page(folder(tmp_path / "mixed", join(mixed, one)), plain(hand_minutes=5))
    assert "general · clicks(n=5) saves" in text  # the special one is faster, on a single subject
    few = folder(tmp_path / "few", pair(3))
    assert "cannot decide whether a model saves time" in workflow_page.page(few, plain(hand_minutes=5))
    with pytest.raises(RunError, match="no finished task"):
        workflow_page.page(folder(tmp_path / "none", outcome(status="failed")), plain())


def test_the_best_generalist_and_specialist_are_never_cut(tmp_path):
    runs = [outcome(f"general(size={k})", case=f"c{i}", dsc=(0.95,)) for k in range(12) for i in range(6)]
    runs += [outcome("special", "name", case=f"c{i}", dsc=(0.1,), n_interactions=0) for i in range(6)]
    text = workflow_page.page(folder(tmp_path / "run", join(*runs)), plain(hand_minutes=5))
    assert "special · name" in text and "3 of the 13 ways of this run are not shown: the last by a reader" in text


def test_a_run_with_one_way_says_so_and_what_is_not_decided(tmp_path):
    few = join(*(outcome("general", case=f"c{i}", dsc=(0.9,), seconds=0) for i in range(3)))
    text = workflow_page.page(folder(tmp_path / "few", few), plain(hand_minutes=5, arrivals_per_hour=1))
    assert "Not decided is whether that saves time: 3 subjects cannot decide it, 6 would be the fewest." in text
    assert "It is the only way of this run" in text and "1 case an hour for 8 hours, 1 structure a case" in text


def test_generalist_and_specialist_are_told_where_others_are_faster(tmp_path):
    runs = [outcome("floor", case=f"c{i}", dsc=(0.95,), n_interactions=0, seconds=0) for i in range(6)]
    runs += [outcome("floor(b=1)", "name", case=f"c{i}", dsc=(0.95,), n_interactions=0, seconds=0) for i in range(6)]
    runs += [outcome("general", case=f"c{i}", dsc=(0.9,), seconds=0) for i in range(6)]
    runs += [outcome("special", "name", case=f"c{i}", dsc=(0.1,), n_interactions=0, seconds=0) for i in range(6)]
    site = plain(hand_minutes=5, box_s=6, redo_below=0.5)
    headline, sentences, decided = workflow_page.verdict(
        workflow_page.fastest_first(measured(*join(*runs)), site), site
    )
    assert decided and headline == "floor · box2d saves 5.0 minutes a case"
    said = "on 6 targets that both were asked for, 0.1 minutes of <b>general · box2d</b> against 5.0 of <b>special"
    assert "Best generalist and specialist by DSC: " in sentences[-1] and said in sentences[-1]


def test_the_report_has_both_sections_where_the_plan_names_a_scenario(tmp_path):
    run = folder(tmp_path / "run", pair(6))
    assert for_report.sections(run) == []
    with Run.write(run) as store:
        store.describe({"plan": {"name": "planted", "metrics": ["overlap"], "scenario": "small-hospital"}})
    from segwise import api

    page = api.report(run).read_text(encoding="utf-8")
    assert "<h2>Cost of ownership</h2>" in page and "<h2>Workflow</h2>" in page and len(page) < 5_000_000
