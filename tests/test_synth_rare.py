"""Persons of rare anatomy: what is gone is gone from image and labels, what is doubled has two parts, metal shines."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage

from segwise import api, persons
from segwise.cli.study import generated
from segwise.geometry import Channel, Grid, Volume
from segwise.records import plan as plans
from segwise.synth import rare
from segwise.synth.imaging import Scan, ct
from segwise.synth.phantom import Phantom
from segwise.synth.torso import torso

SPACING = (3.0, 5.5, 5.5)


@pytest.fixture(scope="module")
def made():
    """The first of each kind: (seed, the scan, the same person with usual anatomy)."""
    found = {}
    for kind, seed in zip(rare.KINDS, range(3900, 3904), strict=True):
        usual = ct(torso(seed, spacing_mm=2.2), seed, spacing_mm=SPACING)
        found[kind] = (seed, rare.rare_torso(seed, spacing_mm=SPACING), usual)
    return found


def mask(scan: Scan, name: str):
    return np.isin(scan.labels, [label for label, own in scan.names.items() if own == name])


def parts_ml(scan: Scan, name: str):
    parts, n = ndimage.label(mask(scan, name), np.ones((3, 3, 3)))
    return sorted(float((parts == i).sum()) * np.prod(SPACING) / 1000 for i in range(1, n + 1))


def test_a_removed_kidney_is_gone_from_the_labels_and_from_the_image(made):
    _, scan, usual = made["kidney removed"]
    side = scan.anatomy.removesuffix(" removed")
    assert side in ("left kidney", "right kidney") and side not in scan.names.values()
    other = {"left kidney": "right kidney", "right kidney": "left kidney"}[side]
    assert (mask(scan, other) == mask(usual, other)).all() and mask(scan, other).any()
    inside = ndimage.binary_erosion(mask(usual, side))  # its cortex takes up contrast; fat and muscle do not
    assert usual.volume.array[0][inside].mean() > 120 and scan.volume.array[0][inside].mean() < 75


def test_an_accessory_spleen_lies_beside_the_spleen_under_its_name_and_looks_like_it(made):
    _, scan, usual = made["accessory spleen"]
    small, large = parts_ml(scan, "spleen")
    assert 0.8 < small < 5 < 40 < large and parts_ml(usual, "spleen") == pytest.approx([large], rel=0.02)
    new = mask(scan, "spleen") & ~mask(usual, "spleen")
    values = scan.volume.array[0][ndimage.binary_erosion(new) if ndimage.binary_erosion(new).any() else new]
    assert abs(values.mean() - scan.volume.array[0][ndimage.binary_erosion(mask(usual, "spleen"))].mean()) < 60


def test_a_transplanted_kidney_is_the_left_kidneys_second_part_in_the_front(made):
    _, scan, usual = made["transplanted kidney"]
    small, large = parts_ml(scan, "left kidney")
    assert 25 < small < large < 300 and len(parts_ml(usual, "left kidney")) == 1
    new, own = (np.argwhere(part)[:, 1].mean() for part in (
        mask(scan, "left kidney") & ~mask(usual, "left kidney"), mask(usual, "left kidney")
    ))  # fmt: skip
    assert new < own - 5  # rows go to the back
    for name in set(usual.names.values()) - {"left kidney"}:
        assert (mask(scan, name) == mask(usual, name)).all(), name  # nothing that has a name is painted over


def test_metal_is_brighter_than_anything_else_and_its_streaks_lie_around_it(made):
    _, scan, usual = made["metal rods at the spine"]
    image, before = (one.volume.array[0].astype(float) for one in (scan, usual))
    metal = image > rare.METAL_HU
    assert before.max() < 2000 < rare.METAL_HU < image.max() and 5 < metal.sum() * np.prod(SPACING) / 1000 < 60
    assert (scan.labels == usual.labels).all() and scan.names == usual.names  # metal is no structure
    away = ndimage.distance_transform_edt(~metal, SPACING)
    added = np.abs(image - before)
    near, far = (added[(away > a) & (away < b)].mean() for a, b in ((8, 30), (90, 120)))
    assert near > 3 * far and np.percentile(added[(away > 8) & (away < 30)], 99) > 60


def test_the_seed_decides_everything_and_the_kinds_take_turns(made):
    seed, scan, _ = made["accessory spleen"]
    again = rare.rare_torso(seed, spacing_mm=SPACING)
    assert (again.volume.array == scan.volume.array).all() and (again.labels == scan.labels).all()
    assert [one.anatomy for _, one, _ in made.values()][1:] == list(rare.KINDS[1:])


def test_a_scan_without_metal_has_no_streaks():
    volume = Volume.of(np.full((4, 5, 6), 900, np.int16), Grid((4, 5, 6), np.eye(4)), (Channel("CT"),))
    scan = Scan(volume, np.zeros((4, 5, 6), np.uint8), {})
    assert rare.streaked(scan, np.random.default_rng(0), depth_hu=300.0) is scan


def test_rare_persons_lie_in_the_data_set_of_the_usual_ones(tmp_path, monkeypatch):
    """As a data set of their own they would be taken for another scanner."""
    monkeypatch.setattr(persons, "torso", _coarse)
    monkeypatch.setattr(rare, "torso", _coarse)
    families = [{"family": "torso", "n": 2}, {"family": "rare-torso", "n": 2}]
    plan = plans.build({"models": ["box-fill"], "persons": families}, name="mine", source="mine.toml")
    (root,) = generated(plan, tmp_path / "run")
    cases = api.read_cases(root)
    told = {case.id: case.facts["anatomy"] for case in cases}
    assert {case.dataset for case in cases} == {"torso"} and len({case.subject for case in cases}) == 4
    assert told["torso_000"] == "usual" and told["rare-torso_000"].endswith("kidney removed")
    about = json.loads((root / "rare-torso_001" / "case.json").read_text())
    assert about["anatomy"] == "accessory spleen" and about["subject"] == "imaginary_3901"


def _coarse(seed: int, *, spacing_mm: float) -> Phantom:
    return torso(seed, spacing_mm=4.4)
