"""LiteMedSAM's own rules: grey levels, sizes, boxes, and what its card says. No weights but in the last tests."""

from __future__ import annotations

import json

import numpy as np
import pytest

from segwise import catalog
from segwise.errors import SpecError, WeightsError
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts import grey
from segwise.lifts.grey import levels, limits
from segwise.models import litemedsam
from segwise.models.litemedsam import LiteFrame, resized, view_size
from segwise.prompt import Box, Prompt
from segwise.segmenter import Ask
from segwise.spec import parse
from segwise.store import FeatureStore


def lps(shape):
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 3, -0.9, -1.2, 1
    return Grid(shape, affine)


def test_the_card_is_read_from_the_source():
    card = catalog.card("models", "litemedsam")
    assert card.takes == ("box",)
    assert card.weights[0].file == "lite_medsam.pth"
    assert catalog.member("models", "litemedsam").arguments(parse("litemedsam(lift=propagate)"))["lift"] == (
        "propagate"
    )
    with pytest.raises(SpecError):
        catalog.member("models", "litemedsam").arguments(parse("litemedsam(lift=memory)"))


def test_ct_levels_are_the_window_cut_and_not_rounded():
    values = np.array([[[-1000, -160, -159, 0, 40, 239, 240, 3000]]], dtype=np.int16)
    assert limits(values, ct=True) == (-160, 240)
    assert levels(values, (-160, 240), zeros=False).ravel().tolist() == [0, 0, 0, 102, 127, 254, 255, 255]


def test_a_ct_that_does_not_fill_the_window_is_scaled_to_what_it_holds():
    values = np.array([[[0, 50, 100]]], dtype=np.int16)
    assert limits(values, ct=True) == (0, 100)
    assert levels(values, (0, 100), zeros=False).ravel().tolist() == [0, 127, 255]


def test_mr_levels_ignore_voxels_of_zero_and_below():
    values = np.concatenate([np.zeros(5000), -np.ones(300), np.arange(1, 1002)]).reshape(1, 1, -1)
    low, high = limits(values, ct=False)
    assert (low, high) == (6.0, 996.0)  # 0.5 and 99.5 percent of 1..1001, which reaches below and above
    found = levels(values, (low, high), zeros=True).ravel()
    assert not found[:5300].any()
    assert found[-1] == 255


@pytest.mark.parametrize("ct", [True, False])
@pytest.mark.parametrize(
    "values", [np.full((2, 3, 4), 7.0), np.zeros((2, 3, 4)), np.full((2, 3, 4), np.nan), np.full((2, 3, 4), -3000.0)]
)
def test_nothing_to_see_is_black(values, ct):
    assert not levels(values, limits(values, ct=ct), zeros=not ct).any()


def test_values_that_are_not_finite_are_black_and_change_no_limit():
    values = np.arange(1, 25, dtype=np.float32).reshape(2, 3, 4)
    broken = values.copy()
    broken[0, 0, :3] = np.nan, np.inf, -np.inf
    expected = levels(broken, limits(values[values > 3], ct=False), zeros=True)
    assert np.array_equal(levels(broken, limits(broken, ct=False), zeros=True), expected)
    assert not expected[0, 0, :3].any()


def test_z_scored_mr_is_lifted_above_zero():
    rng = np.random.default_rng(1)
    brain = rng.normal(size=(4, 10, 10)).astype(np.float32)
    volume = np.full((4, 30, 30), brain.min() - 1, dtype=np.float32)
    volume[:, 10:20, 10:20] = brain
    frame = LiteFrame(shift=True)
    seen = frame.prepare(Volume.of(volume, lps(volume.shape), (Channel("MR"),))).array[0]
    assert not seen[:, :10].any()
    assert (seen[:, 10:20, 10:20] > 0).mean() > 0.95  # the darker half of the brain is not lost


def test_z_scored_mr_with_a_background_of_zero_keeps_it_black():
    rng = np.random.default_rng(1)
    volume = np.zeros((4, 30, 30), dtype=np.float32)
    volume[:, 10:20, 10:20] = rng.normal(size=(4, 10, 10))
    seen = LiteFrame(shift=True).prepare(Volume.of(volume, lps(volume.shape), (Channel("MR"),))).array[0]
    assert not seen[:, :10].any()
    assert (seen[:, 10:20, 10:20] > 0).mean() > 0.95


def test_a_few_negative_voxels_are_no_z_score():
    values = np.arange(-10, 990).reshape(10, 10, 10).astype(np.int16)
    volume = Volume.of(values, lps(values.shape), (Channel("MR"),))
    seen = LiteFrame(shift=True).prepare(volume).array[0]
    assert np.array_equal(seen, levels(values, limits(values, ct=False), zeros=True))


def test_nothing_is_shifted_unless_asked_as_in_the_official_path():
    values = np.linspace(-3, 3, 1000).reshape(10, 10, 10)
    seen = LiteFrame().prepare(Volume.of(values, lps(values.shape), (Channel("MR"),))).array[0]
    assert not seen[values <= 0].any()
    assert litemedsam.LiteFrame(shift=True).digest != LiteFrame().digest


def test_a_volume_without_a_finite_value_is_black():
    values = np.full((2, 3, 4), np.nan)
    assert not LiteFrame(shift=True).prepare(Volume.of(values, lps(values.shape))).array.any()


@pytest.mark.parametrize(
    ("lowest", "modality", "ct"), [(-1000, "", True), (0, "", False), (-1000, "MR", False), (0, "CT", True)]
)
def test_the_modality_is_the_files_word_else_the_airs(lowest, modality, ct):
    values = np.linspace(lowest, 900, 1000).reshape(10, 10, 10)
    seen = LiteFrame().prepare(Volume.of(values, lps(values.shape), (Channel(modality),))).array[0]
    if ct:
        assert np.array_equal(seen, levels(values, limits(values, ct=True), zeros=False))
    else:
        assert not np.array_equal(seen, levels(values, limits(values, ct=True), zeros=False))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((101, 122), (212, 256)), ((512, 512), (256, 256)), ((300, 7), (256, 6)), ((1, 600), (1, 256))],
)
def test_the_longest_side_becomes_256(size, expected):
    assert view_size(*size) == expected
    assert resized(np.zeros(size, dtype=np.uint8)).shape == expected


def test_boxes_have_inclusive_corners_cut_to_whole_pixels():
    grid = lps((5, 101, 122))
    frame = LiteFrame()
    window = frame.window(grid, (2, 50, 60))
    marks = frame.marks(Prompt((Box.of(grid, (1, 20, 30), (4, 61, 92)),)), window, None)
    assert marks.boxes.tolist() == [[[0, 41, 62], [0, 125, 190]]]  # 20, 30 and 60, 91 times 256/122 = 2.098
    assert len(frame.marks(Prompt((Box.of(grid, (3, 20, 30), (4, 61, 92)),)), window, None).image) == 0


def test_the_next_box_is_the_masks_with_three_pixels_around_it():
    grid = lps((5, 128, 256))
    frame = LiteFrame()
    mask = np.zeros((1, 128, 256), dtype=bool)
    mask[0, 10:20, 1:255] = True
    assert frame.follow(mask, frame.window(grid, (2, 0, 0))).boxes.tolist() == [[[0, 7, 0], [0, 22, 256]]]
    assert len(frame.follow(np.zeros_like(mask), frame.window(grid, (2, 0, 0))).image) == 0


def test_a_speck_that_shrinking_loses_leaves_nothing_to_follow():
    mask = np.zeros((1, 1024, 1024), dtype=bool)
    mask[0, 500, 500] = True
    frame = LiteFrame()
    window = frame.window(lps((2, 1024, 1024)), (0, 0, 0))
    assert len(frame.follow(mask, window).image) == 0
    assert len(LiteFrame(number=9).follow(mask, window).image) == 1  # the official code's ninth object


def test_missing_weights_say_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path))
    with pytest.raises(WeightsError, match="segwise weights pull litemedsam"):
        litemedsam.load()


@pytest.mark.weights
def test_the_real_net_segments_a_bright_ball(weights_dir):
    place = np.stack(np.meshgrid(np.arange(3), np.arange(80), np.arange(96), indexing="ij"))
    mask = (place[1] - 40) ** 2 + (place[2] - 50) ** 2 < 15**2
    volume = Volume.of(np.where(mask, 120, -40).astype(np.int16), lps(mask.shape), (Channel("CT"),))
    segmenter = litemedsam.load()
    prompt = Prompt((Box.of(volume.grid, (1, 25, 35), (2, 56, 66)),))
    (prediction,) = segmenter.segment(segmenter.encode(volume, store=FeatureStore()), [Ask(prompt)])
    found = prediction.mask(volume.grid)
    assert not found[[0, 2]].any()
    assert 2 * (found[1] & mask[1]).sum() / (found[1].sum() + mask[1].sum()) > 0.95
    assert 0 < float(prediction.quality[0]) <= 1.05


def test_the_settings_are_the_official_ones(parity_dir):
    path = parity_dir / "litemedsam" / "config.json"
    if not path.exists():
        pytest.skip("no parity fixture of litemedsam")
    config = json.loads(path.read_text())
    assert litemedsam.CARD.weights[0].sha256 == config["weights"]["sha256"]
    assert config["image_size"] == litemedsam.SIZE
    assert config["propagation"]["box_shift_px_256"] == litemedsam.FOLLOW_PX
    assert list(grey.MR_PERCENTILES) == config["mr_percentiles"]
