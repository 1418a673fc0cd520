"""Chosen on A, tested on B: a planted loss is found, noise cannot decide; shift, zero-shot and labels are told."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from report_fakes import join, outcome
from segwise.evaluate import descriptors
from segwise.geometry import Channel, Grid, Volume
from segwise.report import page, transfer
from segwise.report.gather import gather

CARDS = {
    "one": {"title": "one", "family": "generalist", "licence_weights": "x", "training_sets": ["Aset"]},
    "two": {"title": "two", "family": "generalist", "licence_weights": "x", "training_sets": ["Other"]},
    "three": {"title": "three", "family": "generalist", "licence_weights": "x", "training_sets": []},
    "floor": {"title": "floor", "family": "floor"},
}


def run(means, *, noise=0.01, n=10, seed=0):
    """Means by data set and model; persons differ from set to set."""
    rng = np.random.default_rng(seed)
    runs = []
    for dataset, by_model in means.items():
        for i in range(n):
            for model, base in by_model.items():
                for target, shift in (("liver", 0.0), ("pancreas", -0.1)):
                    value = float(np.clip(base + shift + rng.normal(0, noise), 0, 1))
                    said = {"case": f"{dataset}{i}", "subject": f"{dataset}{i}", "target": target, "dataset": dataset}
                    records, scores = outcome(model, "box3d", dsc=(value,), card=CARDS[model], **said)
                    image = {"modality": "CT" if dataset == "Aset" else "MR", "spacing_mm": [3.0, 1.0, 1.0],
                             "intensity": [-100.0, 40.0, 200.0]}  # fmt: skip
                    more = {"image": image, "label": f"{target}_{dataset}"}
                    records = [dataclasses.replace(r, provenance={**r.provenance, **more}) for r in records]
                    runs.append((records, scores))
    return join(*runs)


PLANTED = {"Aset": {"one": 0.9, "two": 0.8}, "Bset": {"one": 0.7, "two": 0.8}}


def cells(planted):
    arms = list(gather(*planted).arms)
    return {(one.chosen_on, one.tested_on): one for one in transfer.matrix(arms, lambda item: item[0])}


def test_a_planted_loss_is_found():
    found = cells(run(PLANTED))
    crossed = found["Aset", "Bset"]
    assert (crossed.arm, crossed.best) == ("one · box3d", "two · box3d")
    assert crossed.lost.mean() == pytest.approx(0.1, abs=0.01) and crossed.sure
    assert "behind two · box3d, beyond chance" in transfer.answer(crossed, "DSC")
    assert found["Aset", "Aset"].arm == found["Aset", "Aset"].best
    assert found["Bset", "Aset"].value == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("planted", [run({"Aset": {"one": 0.71, "two": 0.7}, "Bset": {"one": 0.7, "two": 0.71}},
                                         noise=0.15, seed=3), run(PLANTED, n=5)])  # fmt: skip
def test_noise_and_few_persons_cannot_decide(planted):
    assert not any(one.sure for one in cells(planted).values())
    told = [transfer.answer(one, "DSC") for one in cells(planted).values() if one.arm != one.best]
    assert told and all("cannot decide" in words for words in told)


def test_a_held_out_anatomy_that_wants_another_model_is_found():
    rng = np.random.default_rng(0)
    means = {("one", "liver"): 0.9, ("one", "spleen"): 0.9, ("one", "pancreas"): 0.5}
    means |= {("two", name): 0.7 for name in ("liver", "spleen", "pancreas")}
    runs = [
        outcome(model, "box3d", case=f"p{i}", subject=f"p{i}", target=target, card=CARDS[model],
                dsc=(float(base + rng.normal(0, 0.01)),))
        for i in range(10) for (model, target), base in means.items()
    ]  # fmt: skip
    found = {one.tested_on: one for one in transfer.held_out(list(gather(*join(*runs)).arms))}
    assert found["pancreas"].arm == "one · box3d" and found["pancreas"].best == "two · box3d"
    assert found["pancreas"].sure and found["liver"].arm == found["liver"].best


@pytest.mark.parametrize(
    ("model", "dataset", "said"),
    [("one", "Aset", "no"), ("one", "Bset", "yes"), ("three", "Aset", "unknown"), ("floor", "Aset", "yes")],
)
def test_zero_shot_is_yes_no_or_unknown(model, dataset, said):
    assert transfer.zero_shot(CARDS[model], [dataset]) == said


def test_other_persons_of_a_data_set_that_was_trained_on_are_no_zero_shot():
    card = {"learned": {"data": "Aset", "people": ["p1"]}, "training_sets": ["Aset"], "licence_weights": "x"}
    assert transfer.zero_shot(card, ["Aset"], frozenset({"p9"})) == "no"


def test_the_page_says_all_of_it():
    html = page(*run(PLANTED))
    for words in ("From data set to data set", "Generalisation matrix", "Domain shift", "Zero-shot", "liver_Bset",
                  "3 × 1 × 1", "Held-out anatomies"):  # fmt: skip
        assert words in html, words


def test_one_data_set_has_no_such_section():
    assert transfer.section(gather(*outcome())) == ""


def test_a_descriptor_that_a_person_can_check():
    array = np.zeros((2, 3, 100), dtype=np.float32)
    array[1] = np.arange(300).reshape(3, 100) + 1
    grid = Grid((2, 3, 100), np.diag([3.0, 2.0, 1.0, 1.0]))
    found = descriptors.of(Volume.of(array, grid, (Channel("MR"),)))
    assert found["modality"] == "MR" and found["spacing_mm"] == [3.0, 2.0, 1.0] and found["shape"] == [2, 3, 100]
    assert found["intensity"] == pytest.approx([15.95, 150.5, 285.05])


def test_sets_that_share_no_arm_are_said_to_share_none():
    runs = join(outcome("one", dataset="Aset", card=CARDS["one"]), outcome("two", dataset="Bset", card=CARDS["two"]))
    assert "share arms with values" in transfer.section(gather(*runs))
