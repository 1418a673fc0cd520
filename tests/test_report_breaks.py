"""The report's section on conditions finds a planted break, says when it cannot decide, and counts what is made up."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from report_fakes import join, outcome
from segwise.evaluate import conditions as words
from segwise.report import adapted, breaks, page
from segwise.report.conditions import Family, Line, families
from segwise.report.turning import broken

MM = (1, 2, 3, 5, 7, 10)
PEOPLE = [f"p{i}" for i in range(12)]


def under(condition, run):
    """The same records and scores under a condition."""
    axis = {"condition": words.axis_of(condition)}
    records, scores = run
    ids = {r.task: f"{r.task} {condition}" for r in records}
    records = [
        dataclasses.replace(r, task=ids[r.task], condition=condition, provenance={**r.provenance, **axis})
        for r in records
    ]
    return records, [dataclasses.replace(s, task=ids[s.task]) for s in scores]


def run(curve, *, noise=0.01, people=PEOPLE, seed=0, places=MM, spec="spacing(mm={})"):
    rng = np.random.default_rng(seed)
    runs = []
    for person in people:
        own = rng.normal(0, 0.03)
        for at in places:
            value = float(np.clip(curve(at) + own + rng.normal(0, noise), 0, 1))
            runs.append(under(spec.format(at), outcome("general", "box3d", case=person, subject=person, dsc=(value,))))
    return join(*runs)


def line_of(planted):
    _, (family,) = families(*planted)
    (line,) = family.accuracy
    return line, family


def gone_after(mm):
    return lambda at: 0.85 if at <= mm else 0.5


def test_a_planted_break_at_5_mm_is_found():
    line, family = line_of(run(gone_after(5)))
    found = broken(line.places, line.values)
    assert (found.verdict, found.holds, found.fails) == ("breaks", 5, 7)
    assert 5 <= found.low <= found.at <= found.high <= 5.6
    assert "holds to 5 and <b>breaks by 7 mm between slices</b>" in breaks.answer(line, family, "DSC")


def test_a_slow_fall_from_5_mm_is_found_where_005_is_lost():
    line, _ = line_of(run(lambda at: 0.85 - 0.05 * max(0.0, at - 4)))
    found = broken(line.places, line.values)
    assert found.verdict == "breaks" and found.at == pytest.approx(5, abs=0.3)


def test_a_model_that_stays_holds():
    line, family = line_of(run(lambda at: 0.85))
    assert broken(line.places, line.values).verdict == "holds"
    assert "holds to 10 mm between slices, the worst that was tried" in breaks.answer(line, family, "DSC")


def test_noise_cannot_decide():
    line, family = line_of(run(lambda at: 0.7, noise=0.2, seed=1))
    assert broken(line.places, line.values).verdict == "cannot decide"
    assert "cannot decide on 12 persons" in breaks.answer(line, family, "DSC")


def test_noise_is_seldom_taken_for_a_break():
    found = [broken(*_places_and_values(run(lambda at: 0.7, noise=0.15, seed=k))) for k in range(40)]
    assert sum(one.verdict == "breaks" for one in found) <= 3


def _places_and_values(planted):
    line, _ = line_of(planted)
    return line.places, line.values


@pytest.mark.parametrize("n", [1, 5])
def test_few_persons_cannot_decide(n):
    assert broken(*_places_and_values(run(gone_after(5), people=PEOPLE[:n]))).verdict == "cannot decide"


def test_a_dip_that_recovers_is_no_break():
    dips = {1: 0.85, 2: 0.85, 3: 0.6, 5: 0.85, 7: 0.85, 10: 0.84}
    assert broken(*_places_and_values(run(dips.__getitem__))).verdict == "cannot decide"


def test_cases_as_they_are_are_the_start_of_levels_and_alone_are_ranked():
    plain = [outcome("general", "box3d", case=p, subject=p, dsc=(0.9,)) for p in PEOPLE]
    planted = join(*plain, run(lambda at: 0.9 - 0.1 * at, places=(1, 3, 5), spec="noise(level={})"))
    line, family = line_of(planted)
    assert line.places == (0, 1, 3, 5) and family.kind == "noise"
    html = page(*planted)
    assert "Conditions and breaks" in html and "<b>breaks by level 1</b>" in html
    assert "mean DSC <b>0.900</b>" in html, "the ranking is of the cases as they are"


def test_what_is_made_up_is_counted_apart():
    """Spleens that are not there: left empty at level 1, painted from level 3 on."""
    first = "without(target=spleen)"
    runs = []
    for person in PEOPLE:
        for level in (0, 1, 3, 5):
            condition = f"{first}+noise(level={level})" if level else first
            said = {"case": person, "subject": person, "target": "spleen"}
            made, scores = outcome("general", "name", dsc=(0.0 if level >= 3 else None,), **said)
            scores = [
                dataclasses.replace(s, value=None, reason="reference empty") if s.measure == "sensitivity" else s
                for s in scores
            ]
            runs.append(under(condition, (made, scores)))
    _, (family,) = families(*join(*runs))
    assert family.before == first and not family.accuracy
    (line,) = family.silence
    assert line.places == (0, 1, 3, 5) and line.values.mean(axis=1).tolist() == [1, 1, 0, 0]
    told = breaks.made_up(line, family)
    assert "begins to make targets up by <b>level 3</b>" in told and "0% of 12 absent targets" in told


def test_runs_without_conditions_have_no_such_section():
    assert breaks.section(*outcome()) == ""


def adapted_run(falls, *, people=PEOPLE, seed=0):
    """One base with trained adapters: falls: (adapter, made for volumes, loss to 10 mm)."""
    rng = np.random.default_rng(seed)
    runs = []
    for name, volumes, loss in falls:
        learned = {"model": f"general{name}", "subjects": 5, **({"volumes": volumes} if name else {})}
        card = {"title": "g", "family": "generalist", **({"learned": learned} if name else {})}
        spec = f"general{name}(checkpoint=/x/{name[1:]})" if name else "general"
        for person in people:
            own = rng.normal(0, 0.03)
            for at in MM:
                value = float(np.clip(0.85 - loss * (at - 1) / 9 + own + rng.normal(0, 0.01), 0, 1))
                one = outcome(spec, "box3d", case=person, subject=person, dsc=(value,), card=card)
                runs.append(under(f"spacing(mm={at})", one))
    return join(*runs)


def test_an_adapter_made_for_volumes_that_flattens_the_fall_is_found_and_one_that_does_not_is_not():
    planted = adapted_run([("", 0, 0.30), ("+flat", 1, 0.15), ("+steep", 1, 0.30), ("+plane", 0, 0.30)])
    _, (family,) = families(*planted)
    text = adapted.section(family, "DSC")
    assert "With and without an adapter made for volumes</b> (general): 2 of 4 comparisons show a flatter fall" in text
    answers = re.findall("<li>(.*?)</li>", text)
    flat = [one for one in answers if one.startswith("<b>general+flat")]
    steep = [one for one in answers if one.startswith("<b>general+steep")]
    assert len(flat) == len(steep) == 2 and not any("plane</b> loses" in one for one in answers)
    assert all("beyond chance" in one and "loses 0.1" in one and " less; " in one for one in flat)
    assert not any("beyond chance" in one for one in steep)
    worse = adapted.section(families(*adapted_run([("", 0, 0.30), ("+flat", 1, 0.40)]))[1][0], "DSC")
    ends = re.search(r"([0-9.]+) more; 95 % of the difference (\S+) to (\S+), beyond chance", worse)
    assert ends and 0 < float(ends[2]) <= float(ends[1]) <= float(ends[3])  # more, and so is its interval


def test_few_persons_cannot_decide_whether_an_adapter_keeps_more():
    few = adapted_run([("", 0, 0.30), ("+flat", 1, 0.15)], people=PEOPLE[:4])
    _, (family,) = families(*few)
    text = adapted.section(family, "DSC")
    assert "none of them is shown to flatten the fall" in text and "4 persons cannot decide" in text
    assert "acts in the plane only" in text  # what it is on a net of single slices is said
    assert adapted._sees("sam(lift=chunks, size=nano)") == "" != adapted._sees("sam(size=nano)")


def test_nothing_is_said_of_adapters_where_none_is_made_for_volumes():
    _, (family,) = families(*adapted_run([("", 0, 0.30), ("+plane", 0, 0.15)]))
    assert adapted.section(family, "DSC") == ""


def test_an_adapter_is_compared_between_the_places_and_over_the_persons_that_both_arms_have():
    values = np.array([[0.9, 0.9, 0.9], [0.8, 0.8, 0.8], [0.6, 0.6, 0.6]])
    whole = Line("whole", (1.0, 3.0, 10.0), values, 3, ("a", "b", "c"))
    part = Line("part", (3.0, 10.0), values[:2, 1:], 2, ("b", "c"), volumes=True)
    found = adapted.kept(part, whole)
    assert (found.ends, found.n) == ((3.0, 10.0), 2)
    assert found.losses == pytest.approx((0.1, 0.2)) and found.mean == pytest.approx(0.1) and not found.sure
    nobody = Line("other", (3.0, 10.0), values[:2, :1], 1, ("z",))
    family = Family("spacing", "", "{} mm", (part, nobody), ())
    assert "cannot be compared" in adapted.answer(part, nobody, adapted.kept(part, nobody), family, "DSC")
