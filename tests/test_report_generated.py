"""The report's section on generated data: it tells a planted worth, and says when it cannot decide."""

from __future__ import annotations

import numpy as np
import pytest

from report_fakes import join, outcome
from segwise.report import generated, labels, page
from segwise.report.gather import gather

PEOPLE = [f"p{i}" for i in range(10)]


def run(*, both, alone=0.5, noise=0.01, people=PEOPLE):
    """Records of one net: trained on six real subjects (.7), on generated persons, on both."""
    rng = np.random.default_rng(0)
    runs = []
    for kind, level, subjects, made in (("r", 0.7, 6, 0), ("g", alone, 0, 20), ("b", both, 6, 20)):
        learned = {"model": "unet", "subjects": subjects, "seconds": 60.0} | ({"generated": made} if made else {})
        card = {"title": "unet", "family": "specialist", "learned": learned}
        for person in people:
            value = float(np.clip(level + rng.normal(0, noise), 0, 1))
            runs.append(
                outcome(f"unet(checkpoint=/x/{kind})", "name", case=person, dsc=(value,), card=card, subject=person)
            )
    return join(*runs)


@pytest.mark.parametrize(
    ("both", "words"),
    [
        (0.8, "generated persons beside the real cases are better than the real cases alone"),
        (0.6, "generated persons beside the real cases are worse"),
        (0.7, "cannot decide whether generated persons beside the real cases"),
    ],
)
def test_what_was_planted_is_told(both, words):
    text = generated.section(gather(*run(both=both, noise=0.01 if both != 0.7 else 0.1)))
    assert words in text
    assert "generated persons alone are worse than the real cases alone" in text
    assert "20" in text and "real subjects" in text


def test_two_persons_decide_nothing():
    text = generated.section(gather(*run(both=0.9, people=PEOPLE[:2])))
    assert text.count("cannot decide") == 2


def test_trainings_on_generated_persons_are_no_labelled_subjects():
    found, _ = labels.curves(gather(*run(both=0.8)))
    assert [(curve.model, curve.subjects) for curve in found] == [("unet", (6,))]


def test_the_page_has_the_section_only_where_it_says_something():
    assert "Generated data" in page(*run(both=0.8))
    plain = join(*(outcome("box-fill", "box2d", case=p, subject=p, dsc=(0.5,)) for p in PEOPLE))
    assert "Generated data" not in page(*plain)
