"""Trained on A, tested on B: a planted loss is found and said, noise cannot decide."""

from __future__ import annotations

import numpy as np
import pytest

from report_fakes import join, outcome
from segwise.report import elsewhere, transfer
from segwise.report.gather import gather

TRAINED = {"title": "net", "family": "specialist", "learned": {"model": "net", "subjects": 5, "data": "A"}}
CARDS = {"net": TRAINED, "asked": {"title": "asked", "family": "generalist"}}


def run(means, *, noise=0.01, n=12):
    """Means by data set and model; persons differ from set to set, and B has a structure of its own."""
    rng = np.random.default_rng(0)
    runs = []
    for dataset, by_model in means.items():
        for i in range(n):
            for model, base in by_model.items():
                for target in ("liver", "spleen")[: 1 if dataset == "A" else 2]:
                    value = float(np.clip(base + rng.normal(0, noise), 0, 1)) if target == "liver" else 0.0
                    said = {"case": f"{dataset}{i}", "subject": f"{dataset}{i}", "target": target, "dataset": dataset}
                    runs.append(outcome(model, "box3d", dsc=(value,), card=CARDS[model], **said))
    return gather(*join(*runs))


PLANTED = {"A": {"net": 0.9, "asked": 0.8}, "B": {"net": 0.6, "asked": 0.78}}


def test_a_planted_loss_is_found_on_the_structures_that_both_sets_have():
    found = {one.arm: one for one in elsewhere.losses(run(PLANTED).arms)}
    net, asked = found["net, 5 subjects · box3d"], found["asked · box3d"]
    assert net.trained and not asked.trained and (net.home, net.other) == ("A", "B")
    assert net.lost == pytest.approx(0.3, abs=0.01) and net.low < 0.3 < net.high and net.decided
    assert asked.lost == pytest.approx(0.02, abs=0.01)
    said = elsewhere.answer(net, list(found.values()), "DSC")
    assert "less, beyond chance" in said and "asked · box3d, trained on neither, goes from 0.80" in said


@pytest.mark.parametrize("how", [{"noise": 0.3}, {"n": 2}])
def test_noise_and_few_persons_cannot_decide(how):
    means = PLANTED if "n" in how else {"A": {"net": 0.7}, "B": {"net": 0.7}}
    (net,) = [one for one in elsewhere.losses(run(means, **how).arms) if one.trained]
    assert not net.decided and "cannot decide whether it loses" in elsewhere.answer(net, [], "DSC")


def test_it_stands_in_the_section_and_not_where_nothing_was_trained():
    html = transfer.section(run(PLANTED))
    assert "where it was trained" in html and "neither" in html
    assert elsewhere.section(run({"A": {"asked": 0.8}, "B": {"asked": 0.7}}).arms, "DSC") == ""
