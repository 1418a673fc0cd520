"""What was trained: effort beside what it reached, and fusion early against late, planted and undecided."""

from __future__ import annotations

import numpy as np
import pytest

from report_fakes import join, outcome
from segwise.report import page, trained
from segwise.report.gather import gather
from segwise.training import memory

WAYS = {"unet": (0.8, 60.0, 1.0), "unet(fusion=features)": (0.7, 90.0, 1.2), "unet(fusion=late)": (0.6, 120.0, 1.5)}


def run(n, ways=WAYS, spread=0.01):
    """Persons with a tumour, each answered by every way of fusing."""
    rng = np.random.default_rng(0)
    runs = []
    for k, (model, (mean, seconds, peak)) in enumerate(ways.items()):
        learned = {"model": model, "subjects": 3, "data": "mine", "people": ("t1",), "seconds": seconds}
        learned |= {"peak_gb": peak, "parameters": 1000}
        card = {"title": "U-Net", "family": "specialist", "learned": learned}
        for p in range(n):
            value = float(mean + rng.normal(0, spread))
            spec = f"unet(checkpoint=/x/{k})"
            runs.append(outcome(spec, "name", case=f"p{p}", subject=f"p{p}", target="tumor", dsc=(value,), card=card))
    return join(*runs)


def test_early_is_found_ahead_of_late_with_its_minutes_and_memory():
    (told,) = trained.fusions(gather(*run(10)).arms, "DSC")
    assert "unet: mean DSC early 0.80" in told and "(1.0 min and 1.00 GB to train)" in told
    assert "late 0.60" in told and "(2.0 min and 1.50 GB to train)" in told
    assert "early is ahead of features beyond chance (+0.10" in told


def test_three_persons_cannot_decide():
    (told,) = trained.fusions(gather(*run(3)).arms, "DSC")
    assert "3 persons cannot decide whether early is better than features" in told


def test_one_way_is_no_question_and_nothing_trained_no_section():
    alone = {"unet": WAYS["unet"]}
    assert trained.fusions(gather(*run(4, alone)).arms, "DSC") == []
    html = page(*run(4, alone))
    assert "What was trained" in html and "1,000" in html and "1.00 GB" in html
    assert "What was trained" not in page(*outcome())


def test_other_persons_for_each_way_are_said():
    runs = []
    for k, (model, (mean, *_)) in enumerate(WAYS.items()):
        card = {"family": "specialist", "learned": {"model": model, "subjects": 3, "seconds": 1.0}}
        spec = f"unet(checkpoint=/x/{k})"
        runs.append(outcome(spec, "name", case=f"p{k}", subject=f"p{k}", dsc=(mean,), card=card))
    (told,) = trained.fusions(gather(*join(*runs)).arms, "DSC")
    assert "no person was tested with all of them" in told


@pytest.mark.skipif(not memory.RESET.exists(), reason="only Linux starts the peak of a process anew")
def test_the_peak_of_a_training_is_not_that_of_the_one_before():
    before = np.ones(60_000_000)  # 480 MB
    high = memory.memory_gb()
    del before
    memory.start_anew()
    assert memory.memory_gb() < high - 0.3
