"""The report's section on prompts finds a planted loss per mm and per point, and says when it cannot decide."""

from __future__ import annotations

import numpy as np
import pytest

from report_fakes import join, outcome
from segwise.report import page, prompts
from segwise.report.gather import gather

PEOPLE = [f"p{i}" for i in range(10)]
BOXES = {0: "box3d", 2: "box3d(jitter_mm=2)", 5: "box3d(jitter_mm=5)", 10: "box3d(jitter_mm=10)"}
POINTS = {1: "points(n=1)", 3: "points(n=3)", 5: "points"}  # 5 is the default


def run(lost_mm, lost_point, *, noise=0.005, people=PEOPLE, seed=0):
    rng = np.random.default_rng(seed)
    runs = []
    for person in people:
        for target, base in (("liver", 0.9), ("pancreas", 0.7)):
            said = {"case": person, "subject": person, "target": target}
            for mm, spec in BOXES.items():
                value = float(np.clip(base - lost_mm * mm + rng.normal(0, noise), 0, 1))
                runs.append(outcome("general", spec, dsc=(value,), n_interactions=1, **said))
            for n, spec in POINTS.items():
                low = 0.0 if target == "liver" else 0.2
                value = float(np.clip(base - low - lost_point * (5 - n) + rng.normal(0, noise), 0, 1))
                runs.append(outcome("general", spec, dsc=(value,), n_interactions=n, **said))
    return join(*runs)


def found(planted):
    return {curve.argument: curve for curve in prompts.curves(gather(*planted))}


def test_planted_losses_are_found():
    curves = found(run(0.02, 0.03))
    assert curves["jitter_mm"].places == (0, 2, 5, 10) and curves["n"].places == (1, 3, 5)
    assert curves["jitter_mm"].lost.mean() == pytest.approx(0.02, abs=0.002)
    assert curves["n"].lost.mean() == pytest.approx(0.03, abs=0.003)
    words = prompts.answer(curves["jitter_mm"], "DSC")
    assert words.startswith("<b>general · box3d</b> loses <b>0.0") and "a mm of jitter</b> between 0 and 10 mm" in words
    assert "a missing point</b> between 1 and 5 (" in prompts.answer(curves["n"], "DSC")


def test_noise_cannot_decide():
    curves = found(run(0.0, 0.0, noise=0.15, seed=2))
    for curve in curves.values():
        assert "cannot decide what a" in prompts.answer(curve, "DSC")


def test_few_persons_cannot_decide():
    for curve in found(run(0.02, 0.03, people=PEOPLE[:5])).values():
        assert "on 5 persons" in prompts.answer(curve, "DSC")


def test_organs_need_different_prompts():
    """Points are as good as a box on the liver; on the pancreas the box is needed."""
    told = prompts.needs(gather(*run(0.02, 0.0, noise=0.0)))
    assert told["liver", "general"].split(" ")[0] in ("box3d", "points(n=1)")
    assert told["pancreas", "general"].startswith("box3d (0.700)")


def test_the_page_says_it_in_words_tables_and_figures():
    html = page(*run(0.02, 0.03))
    assert "What is said" in html and "error of the prompt, mm" in html and "points or clicks" in html
    assert "Which organ needs which prompt" in html and "Lost a mm, or a point less" in html


def test_runs_without_varied_prompts_have_no_such_section():
    assert prompts.section(gather(*outcome())) == ""
