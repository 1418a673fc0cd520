"""What training is fed: worlds and regions repeat by seed, their targets show, images have the asked grid."""

from __future__ import annotations

import numpy as np
import pytest

from segwise.errors import InputError
from segwise.synth.abdomen import abdomen
from segwise.synth.appearance import appear, shoot
from segwise.synth.corrupt import CORRUPTIONS, corrupted
from segwise.synth.fields import areas, smooth
from segwise.synth.imaging import ct, mr
from segwise.synth.limb import thigh
from segwise.synth.phantom import Tissue
from segwise.synth.regions import REGIONS, region
from segwise.synth.stage import Stage, as_world
from segwise.synth.torso import torso
from segwise.synth.worlds import LEAST_VOXELS, world

SIDE = 56
COARSE = 6.0


@pytest.fixture(scope="module")
def worlds():
    return [world(s, side=SIDE) for s in range(12)]


@pytest.fixture(scope="module")
def scan():
    return ct(torso(5, spacing_mm=COARSE), 5, spacing_mm=(8.0, COARSE, COARSE))


def check_targets(made, least):
    phantom = made.phantom
    assert made.targets
    assert set(np.unique(phantom.labels)) <= set(phantom.tissues)
    for kind, labels in made.targets:
        assert kind
        assert set(labels) <= set(phantom.names)
        assert np.isin(phantom.labels, labels).sum() >= least


def test_every_target_of_a_world_shows_and_is_named(worlds):
    for made in worlds:
        assert made.phantom.labels.shape == (SIDE,) * 3
        assert made.phantom.grid.axes == "SPL"
        check_targets(made, LEAST_VOXELS)


def test_a_world_repeats_by_seed_and_differs_between_seeds(worlds):
    again = world(3, side=SIDE)
    assert np.array_equal(again.phantom.labels, worlds[3].phantom.labels)
    assert again.targets == worlds[3].targets
    assert not np.array_equal(again.phantom.labels, worlds[4].phantom.labels)


def test_worlds_vary_in_kind_size_and_brightness_of_neighbours(worlds):
    assert len({kind for made in worlds for kind, _ in made.targets}) > 12
    sizes = [np.isin(w.phantom.labels, ids).sum() for w in worlds for _, ids in w.targets]
    assert max(sizes) > 30 * min(sizes)
    values = [[w.phantom.tissues[i].value for i in {ids[0] for _, ids in w.targets}] for w in worlds]
    assert any(len(set(one)) < len(one) for one in values)


@pytest.mark.parametrize("name", sorted(set(REGIONS) - {"head", "torso"}))
def test_every_region_repeats_and_its_targets_show(name):
    one, again = (REGIONS[name](7, spacing_mm=COARSE) for _ in range(2))
    assert np.array_equal(one.phantom.labels, again.phantom.labels)
    assert one.phantom.grid.spacing_mm == pytest.approx((COARSE,) * 3)
    check_targets(one, LEAST_VOXELS)
    assert len(one.targets) > 5


def test_the_sides_of_a_region_are_the_patients():
    made = REGIONS["abdomen"](7, spacing_mm=COARSE)
    ids = dict(made.targets)
    x = {n: made.phantom.grid.mm(np.argwhere(np.isin(made.phantom.labels, i)))[:, 0].mean() for n, i in ids.items()}
    assert x["liver"] > 0 > x["spleen"]
    assert x["right kidney"] > 0 > x["left kidney"]


def test_an_egg_and_a_pipe_lie_where_asked():
    stage = Stage.of((60, 50, 40), 1, 1, spacing_mm=1.0, warp_mm=0.0)
    stage.put(stage.egg((10, -5, 3), (12, 6, 4)), Tissue(1), "egg")
    stage.put(stage.pipe([(-20, -20, -15), (-20, 20, -15)], 3.0), Tissue(2), "pipe")
    made = stage.done()
    found = {n: made.phantom.grid.mm(np.argwhere(np.isin(made.phantom.labels, i))) for n, i in made.targets}
    assert found["egg"].mean(axis=0) == pytest.approx((10, -5, 3), abs=0.3)
    assert np.ptp(found["egg"], axis=0) == pytest.approx((24, 12, 8), abs=2)
    assert found["pipe"][:, [0, 2]].mean(axis=0) == pytest.approx((-20, -15), abs=0.3)
    assert np.ptp(found["pipe"], axis=0)[[0, 2]] == pytest.approx((6, 6), abs=1)


def test_a_sarcoma_is_one_target_of_several_tissues():
    made = [thigh(s, spacing_mm=COARSE) for s in range(4)]
    found = [ids for m in made for kind, ids in m.targets if kind == "sarcoma"]
    assert found
    assert max(map(len, found)) > 1


def test_an_old_phantom_is_a_world_of_its_names():
    phantom = torso(3, spacing_mm=COARSE)
    made = as_world(phantom)
    assert {n for n, _ in made.targets} <= set(phantom.names.values())
    assert len(dict(made.targets)["stomach"]) > 1


def test_smooth_noise_has_unit_spread_at_any_scale():
    for scale in (0.5, 3.0, (2.0, 9.0, 5.0)):
        values = smooth((40, 41, 42), np.random.default_rng(2), scale=scale)
        assert values.shape == (40, 41, 42)
        assert values.std() == pytest.approx(1, abs=0.35)
    assert abs(np.diff(smooth((40, 41, 42), np.random.default_rng(2), scale=9.0), axis=1)).mean() < 0.3


def test_areas_average_and_keep_the_middle():
    assert areas(6, 2) @ np.arange(6) == pytest.approx([0.5, 2.5, 4.5])
    assert areas(7, 2.5) @ np.ones(7) == pytest.approx([1, 1])
    assert (areas(7, 2.5) @ np.arange(7)).mean() == pytest.approx(3)
    assert areas(3, 5) @ np.array([1.0, 2, 3]) == pytest.approx([2])


@pytest.mark.parametrize("style", ["ct", "mr"])
def test_an_image_repeats_by_generator_and_is_float32(worlds, style):
    p = worlds[0].phantom
    crop = p.labels[:30, :35, :40]
    one, again = (appear(crop, (1, 1, 1), p.tissues, np.random.default_rng(4), style=style) for _ in range(2))
    assert np.array_equal(one, again)
    assert one.dtype == np.float32
    assert one.shape == crop.shape
    assert np.isfinite(one).all()


def test_thick_slices_average_the_target_as_the_image(worlds):
    p, (_, ids) = worlds[0].phantom, worlds[0].targets[0]
    shot = shoot(p.labels, (1, 1, 1), p.tissues, np.random.default_rng(4), factors=(4, 1.4, 1), targets=[ids])
    assert shot.image.shape == (14, 40, 56) == shot.masks.shape[1:]
    assert shot.spacing_mm == pytest.approx((4, 1.4, 1))
    assert shot.soft.sum() * 4 * 1.4 == pytest.approx(np.isin(p.labels, ids).sum(), rel=0.02)


def test_an_unknown_style_or_region_is_an_error(worlds):
    p = worlds[0].phantom
    with pytest.raises(InputError, match="expected one of ct, mr"):
        appear(p.labels, (1, 1, 1), p.tissues, np.random.default_rng(4), style="pet")
    with pytest.raises(InputError, match="expected one of abdomen"):
        region("tail", 1)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_repeats_grows_and_leaves_its_input(scan, name):
    before = scan.volume.digest
    one, again, worst = (corrupted(scan, name, level=n, seed=3) for n in (1, 1, 5))
    assert one.volume.digest == again.volume.digest != before == scan.volume.digest
    assert worst.labels.shape == worst.volume.grid.shape
    if name == "cut-view":
        assert worst.labels.size < one.labels.size < scan.labels.size
        return
    change = [np.abs(s.volume.array.astype(float) - scan.volume.array).sum() for s in (one, worst)]
    assert 0 < change[0] < change[1]
    if name == "missing":
        assert set(worst.names) < set(one.names) < set(scan.names)
        assert not set(scan.names) - set(worst.names) & set(np.unique(worst.labels).tolist())
    else:
        assert np.array_equal(worst.labels, scan.labels)


def test_mr_is_damaged_too_and_wrong_requests_are_errors(scan):
    made = mr(torso(5, spacing_mm=COARSE), 5, spacing_mm=(8.0, COARSE, COARSE))
    assert corrupted(made, "noise", level=5, seed=1).volume.array.min() >= 0
    assert corrupted(made, "bias", level=2, seed=1).volume.digest != made.volume.digest
    with pytest.raises(InputError, match="expected 1 to 5"):
        corrupted(scan, "noise", level=6, seed=1)
    with pytest.raises(InputError, match="expected one of noise"):
        corrupted(scan, "rust", level=1, seed=1)


def test_a_tube_that_rounding_takes_a_voxel_beyond_its_box_is_painted_all_the_same():
    """A person whose liver vessel ends so that a segment's reach was a voxel longer than the whole tube's."""
    found = abdomen(100357, spacing_mm=3.8969053171364694)
    assert {name for name, _ in found.targets} >= {"liver", "liver vessels"}
