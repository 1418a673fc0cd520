"""The report's section on labelled subjects finds a crossover that was planted, and says when it cannot decide."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from report_fakes import join, outcome
from segwise.report import labels, page
from segwise.report.gather import gather

NUMBERS = (2, 4, 8, 16, 32)
PEOPLE = [f"p{i}" for i in range(10)]


def run(generalist, specialist, *, noise=0.01, numbers=NUMBERS, people=PEOPLE, seed=0):
    """Records of two trained models: DSC by number of subjects, persons apart by noise."""
    rng = np.random.default_rng(seed)
    runs = []
    for name, family, curve in (("general+lora", "generalist", generalist), ("special", "specialist", specialist)):
        for n in numbers:
            card = {
                "title": name,
                "family": family,
                "learned": {"model": name, "subjects": n, "parameters": 1000, "seconds": 60.0, "seed": 0},
            }
            for person in people:
                value = float(np.clip(curve(n) + rng.normal(0, noise), 0, 1))
                base, _, plus = name.partition("+")
                spec = f"{base}+{plus}(checkpoint=/x/{n})" if plus else f"{base}(checkpoint=/x/{n})"
                runs.append(outcome(spec, "box2d", case=person, subject=person, dsc=(value,), card=card))
    came = {"title": "general", "family": "generalist"}
    runs += [outcome("general", "box2d", case=p, subject=p, dsc=(0.6,), card=came) for p in people]
    return join(*runs)


def crossing_of(planted):
    found, _ = labels.curves(gather(*planted))
    general, special = found
    return labels.crossing(general, special)


def at(n):
    """0 at that number of subjects, over the logarithm."""
    return lambda x: 0.1 * math.log(x / n)


def test_a_planted_crossover_at_12_subjects_is_found():
    found = crossing_of(run(lambda n: 0.75, lambda n: 0.75 + at(12)(n)))
    assert found.verdict == "crosses"
    assert found.low <= 12 <= found.high
    assert found.at == pytest.approx(12, rel=0.1)
    assert found.high - found.low < 6


@pytest.mark.parametrize(
    ("general", "special", "verdict"),
    [
        (lambda n: 0.8, lambda n: 0.6, "behind"),
        (lambda n: 0.6, lambda n: 0.8, "ahead"),
    ],
)
def test_no_crossover_within_the_data(general, special, verdict):
    found = crossing_of(run(general, special))
    assert found.verdict == verdict and math.isnan(found.at)


def test_noise_cannot_decide():
    found = crossing_of(run(lambda n: 0.7, lambda n: 0.7, noise=0.15, seed=4))
    assert found.verdict == "cannot decide"


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_persons_cannot_decide(n):
    for special in (lambda n: 0.75 + at(12)(n), lambda n: 0.9, lambda n: 0.1):
        planted = run(lambda n: 0.75, special, people=PEOPLE[:n])
        assert crossing_of(planted).verdict == "cannot decide"
    assert "and fewer than 6 decide nothing" in page(*planted)


def test_a_curve_that_falls_back_has_not_crossed_before_its_end():
    """Ahead at 4 and behind at 8: what counts is from where on it stays ahead."""
    special = {2: 0.7, 4: 0.8, 8: 0.7, 16: 0.8, 32: 0.85}
    found = crossing_of(run(lambda n: 0.75, lambda n: special[n]))
    assert found.verdict == "crosses" and 8 < found.at < 16


def test_the_page_says_it_in_words_a_table_and_a_figure():
    records, scores = run(lambda n: 0.75, lambda n: 0.75 + at(12)(n))
    html = page(records, scores)
    assert "Labelled subjects" in html
    assert "overtakes" in html and "labelled subjects</b>" in html
    assert "labelled subjects that were trained on" in html
    assert "As they came: general 0.600" in html
    assert "special, 32 subjects" in html


def test_who_is_behind_in_the_end_is_not_said_to_have_always_been():
    special = {2: 0.85, 4: 0.7, 8: 0.6, 16: 0.6, 32: 0.6}
    html = page(*run(lambda n: 0.75, lambda n: special[n]))
    assert (
        "with 32 labelled subjects <b>special</b> is behind <b>general+lora</b>, though its mean is higher with 2."
        in html
    )
    assert "is behind <b>general+lora</b>, and so it is with fewer." in page(*run(lambda n: 0.75, lambda n: 0.5))


def test_gains_are_told_per_subject_parameter_and_hour():
    records, scores = run(lambda n: 0.76, lambda n: 0.5, noise=0.0)
    row = re.search(r"general\+lora</th>(.*?)</tr>", labels.section(gather(records, scores)))[1]
    cells = re.findall(r"<td>(.*?)</td>", row)
    # .16 above .6 with 32 subjects, 1,000 parameters, 60 seconds
    assert cells[len(NUMBERS) :] == ["+0.160", "+0.0050", "1,000", "+160.000", "+9.600"]


def test_runs_without_trainings_have_no_such_section():
    records, scores = outcome()
    assert labels.section(gather(records, scores)) == ""
    assert "Labelled subjects" not in page(records, scores)


def test_seeds_and_folds_are_averaged():
    runs = []
    for n, seed, value in ((4, 0, 0.6), (4, 1, 0.8), (8, 0, 0.9)):
        card = {"family": "specialist", "learned": {"model": "special", "subjects": n, "seed": seed}}
        for person in ("p0", "p1"):
            spec = f"special(checkpoint=/x/{n}-{seed})"
            runs.append(outcome(spec, "name", case=person, subject=person, dsc=(value,), card=card))
    (curve,), persons = labels.curves(gather(*join(*runs)))
    assert len(persons) == 2 and curve.subjects == (4, 8)
    np.testing.assert_allclose(curve.values, [[0.7, 0.7], [0.9, 0.9]])
