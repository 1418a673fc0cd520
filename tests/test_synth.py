"""The procedural volumes: deterministic, different by seed, anatomically placed, with known structures."""

from __future__ import annotations

import numpy as np
import pytest

from segwise.geometry import Grid
from segwise.synth.head import head
from segwise.synth.imaging import ct, mr
from segwise.synth.shapes import Space, blob, cut, join, noise, tube
from segwise.synth.torso import torso

COARSE = 4.0


def flat(grid: Grid) -> Space:
    return Space.of(grid, np.random.default_rng(0), warp_mm=0.0, scale_mm=20)


@pytest.fixture
def grid() -> Grid:
    affine = np.diag([1.0, 1.0, 1.0, 1.0])[:, [2, 1, 0, 3]]  # d is z, h is y, w is x
    affine[:3, 3] = -20
    return Grid((41, 41, 41), affine)


def test_a_blob_is_an_ellipsoid_of_the_right_volume(grid):
    n = int((blob(flat(grid), (2.3, -3.2, 1.4), (12, 9, 6)) < 0).sum())
    assert n == pytest.approx(4 / 3 * np.pi * 12 * 9 * 6, rel=0.03)


def test_a_tube_has_its_radius_and_shapes_combine(grid):
    straight = tube(flat(grid), [(-30, 0.3, 0.4), (30, 0.3, 0.4)], [5, 5]) < 0
    assert straight[:, :, 20].sum() == pytest.approx(np.pi * 25, rel=0.05)
    ball, box = blob(flat(grid), (0, 0, 0), (8, 8, 8)), blob(flat(grid), (6, 0, 0), (8, 8, 8), power=8)
    assert ((join(ball, box) < 0) == ((ball < 0) | (box < 0))).all()
    assert ((cut(ball, box) < 0) == ((ball < 0) & (box > 0))).all()


def test_noise_is_smooth_with_unit_spread(grid):
    values = noise(grid, np.random.default_rng(1), scale_mm=10)
    assert 0.4 < values.std() < 1.6
    assert np.abs(np.diff(values, axis=0)).mean() < 0.3


@pytest.mark.parametrize(("make", "image"), [(torso, ct), (head, mr)])
def test_a_scan_repeats_by_seed_and_differs_between_seeds(make, image):
    spacing = (8.0, COARSE, COARSE)
    one, again, other = (image(make(s, spacing_mm=COARSE), s, spacing_mm=spacing) for s in (3, 3, 4))
    assert one.volume.digest == again.volume.digest
    assert np.array_equal(one.labels, again.labels)
    assert one.volume.digest != other.volume.digest
    assert one.volume.grid.axes == "SPL"
    assert one.volume.grid.spacing_mm == pytest.approx(spacing)
    assert one.labels.shape == one.volume.grid.shape


def test_the_torso_is_on_a_hounsfield_scale_and_sides_are_right():
    scan = ct(torso(5, spacing_mm=COARSE), 5, spacing_mm=(8.0, COARSE, COARSE))
    image, ids = scan.volume.array[0], {name: i for i, name in scan.names.items()}
    assert 60 < np.median(image[scan.labels == ids["liver"]]) < 150
    assert np.median(image[scan.labels == ids["left lung"]]) < -700
    x = {name: scan.volume.grid.mm(np.argwhere(scan.labels == ids[name]))[:, 0].mean() for name in ids}
    assert x["liver"] > 0 > x["spleen"]
    assert x["right kidney"] > 0 > x["left kidney"]


def test_some_people_have_a_lesion_and_some_lack_a_gallbladder():
    names = [set(torso(s, spacing_mm=6.0).names.values()) for s in range(12)]
    assert 0 < sum("liver tumor" in n for n in names) < 12
    assert 0 < sum("gallbladder" in n for n in names) < 12


def test_the_head_has_both_sides_and_t1_contrast():
    scan = mr(head(5, spacing_mm=2.5), 5, spacing_mm=(5.0, 2.5, 2.5), bias=0.0)
    image, ids = scan.volume.array[0], {name: i for i, name in scan.names.items()}
    grey, white, fluid = (
        np.median(image[scan.labels == ids[f"left {n}"]])
        for n in ("cerebral cortex", "cerebral white matter", "lateral ventricle")
    )
    assert fluid < grey < white
    assert {"right thalamus", "brain stem", "third ventricle"} <= set(ids)
