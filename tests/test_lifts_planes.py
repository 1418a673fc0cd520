"""The lifts of 2D nets, with a net whose answer a person can foretell and with a tiny random SAM."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segwise.errors import PromptError, SpecError
from segwise.geometry import Channel, Grid, Volume, regrid
from segwise.lifts.propagate import Propagate
from segwise.lifts.slices import Slices
from segwise.models.litemedsam import LiteFrame
from segwise.nets.contract import Decoded, PromptNet
from segwise.nets.sam import MaskDecoder, PromptEncoder, SamNet, TwoWayTransformer
from segwise.nets.tiny_vit import TinyViT
from segwise.prompt import Box, Points, Prompt, Text
from segwise.segmenter import OUTSIDE, Ask, Parts, watched
from segwise.store import FeatureStore


class Bright(PromptNet):
    """Foreground is what is brighter than half within the box; the quality is the box's share that is."""

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor(0.5))

    def encode(self, image):
        return image[:, :1]

    def decode(self, features, marks):
        image = features[marks.image, :, 0]  # [Q, 1, H, W]
        rows, columns = torch.arange(image.shape[2])[:, None], torch.arange(image.shape[3])
        low, high = marks.boxes[:, 0, 1:, None, None], marks.boxes[:, 1, 1:, None, None]
        inside = (rows >= low[:, 0]) & (rows <= high[:, 0]) & (columns >= low[:, 1]) & (columns <= high[:, 1])
        inside = inside[:, None]
        logits = torch.where(inside, image - self.bias, torch.tensor(-1.0))
        share = ((logits > 0).sum((2, 3)) / inside.sum((2, 3))).float()
        return Decoded(logits[:, :, None], share)


def tiny_sam(seed=0):
    torch.manual_seed(seed)
    encoder = TinyViT(
        widths=(4, 8, 8, 16), depths=(1, 1, 1, 1), heads=(1, 2, 2, 2), windows=(7, 7, 14, 7), embedding=16
    )
    prompts = PromptEncoder(width=16, grid=(64, 64), size=(256, 256))
    decoder = MaskDecoder(
        width=16, transformer=TwoWayTransformer(depth=1, width=16, heads=2, hidden=32), head_hidden=16
    )
    net = SamNet(encoder, prompts, decoder)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


def axial(shape, spacing=(3.0, 0.9, 1.2)):
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, -spacing[2]], [0, -spacing[1], 0], [spacing[0], 0, 0]])
    affine[:3, 3] = (40, 30, -20)
    return Grid(shape, affine)


SHAPE = (9, 16, 32)  # a slice becomes 128 x 256: 8 pixels a voxel


def scene(boxes, shape=SHAPE):
    """Bright boxes (low, high) in the dark, and their mask."""
    mask = np.zeros(shape, dtype=bool)
    for low, high in boxes:
        mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    values = np.where(mask, 200, 20).astype(np.int16)
    return Volume.of(values, axial(shape), (Channel("MR"),)), mask


def bright(lift=Slices, **kwargs):
    return lift(Parts(Bright(), LiteFrame(), None, "random"), **kwargs)


def answer(segmenter, volume, *boxes, store=None):
    state = segmenter.encode(volume, store=store or FeatureStore())
    prompt = Prompt(tuple(Box.of(volume.grid, low, high) for low, high in boxes))
    return segmenter.segment(state, [Ask(prompt)])[0]


def test_a_3d_box_is_repeated_on_its_slices_and_only_there():
    volume, mask = scene([((2, 4, 8), (7, 10, 20))])
    prediction = answer(bright(), volume, ((3, 3, 6), (6, 12, 24)))
    expected = mask.copy()
    expected[:3], expected[6:] = False, False
    assert np.array_equal(prediction.mask(volume.grid), expected)
    assert prediction.grid.shape[0] == 3
    logits = regrid(prediction.logits[0], prediction.grid, volume.grid, order=1, outside=OUTSIDE)
    assert (logits[:3] == OUTSIDE).all()


def test_unprompted_slices_between_boxes_are_outside():
    volume, mask = scene([((1, 4, 8), (8, 10, 20))])
    prediction = answer(bright(), volume, ((2, 3, 6), (3, 12, 24)), ((5, 3, 6), (6, 12, 24)))
    found = prediction.mask(volume.grid)
    assert [int(d) for d in np.flatnonzero(found.any(axis=(1, 2)))] == [2, 5]
    assert np.array_equal(found[[2, 5]], mask[[2, 5]])
    assert (prediction.logits[0, 1:3] == OUTSIDE).all()


def test_two_boxes_on_one_slice_enclose_the_target_together():
    volume, mask = scene([((4, 2, 2), (5, 6, 8)), ((4, 9, 20), (5, 14, 28)), ((4, 2, 20), (5, 6, 28))])
    found = answer(bright(), volume, ((4, 1, 1), (5, 7, 9)), ((4, 8, 18), (5, 15, 30))).mask(volume.grid)
    expected = mask.copy()
    expected[4, 2:6, 20:28] = False  # in neither box
    assert np.array_equal(found, expected)


def test_a_faint_target_gives_no_mask_and_a_finite_prediction():
    volume, _ = scene([((4, 2, 2), (5, 6, 8))])
    prediction = answer(bright(), volume, ((4, 9, 12), (5, 14, 20)))
    assert not prediction.mask(volume.grid).any()
    assert np.isfinite(prediction.logits).all()


def turned(volume, axes):
    grid = volume.grid.toward(axes)
    return Volume.of(regrid(volume.array, volume.grid, grid, order=0, outside=0), grid, volume.channels)


@pytest.mark.parametrize("axes", ["SPL", "IAR", "RPI", "ALS", "PSR", "LIA"])
@pytest.mark.parametrize("lift", [Slices, Propagate])
def test_the_files_axes_do_not_matter(axes, lift):
    volume, mask = scene([((2, 4, 8), (7, 10, 20))])
    file = turned(volume, axes)
    segmenter = bright(lift)
    state = segmenter.encode(file, store=FeatureStore())
    prompt = Prompt((Box.of(volume.grid, (2, 3, 6), (7, 12, 24)),))
    (prediction,) = segmenter.segment(state, [Ask(prompt)])
    found = prediction.mask(file.grid)
    assert np.array_equal(regrid(found, file.grid, volume.grid, order=0, outside=0), mask)
    assert prediction.grid.axes == file.grid.axes
    corner = file.grid.index(prediction.grid.mm((0, 0, 0)))
    assert np.abs(corner - np.rint(corner)).max() < 1e-9


@pytest.mark.parametrize(("plane", "axis"), [("axial", 0), ("coronal", 1), ("sagittal", 2)])
def test_the_plane_decides_what_a_slice_is(plane, axis):
    volume, _ = scene([((2, 4, 8), (7, 10, 20))])
    segmenter = Slices(Parts(Bright(), LiteFrame(plane=plane), None, "random"))
    state = segmenter.encode(volume, store=FeatureStore())
    assert state.volume.grid.shape[0] == SHAPE[axis]
    low, high = [2, 4, 8], [7, 10, 20]
    low[axis] += 1
    high[axis] = low[axis] + 1
    (prediction,) = segmenter.segment(state, [Ask(Prompt((Box.of(volume.grid, low, high),)))])
    found = prediction.mask(volume.grid)
    other = tuple(a for a in range(3) if a != axis)
    assert [int(i) for i in np.flatnonzero(found.any(axis=other))] == [low[axis]]


def test_a_sheared_grid_comes_back_on_itself():
    volume, _ = scene([((2, 4, 8), (7, 10, 20))])
    affine = volume.grid.affine.copy()
    affine[1, 0] += 0.6  # the gantry leans: 0.6 mm to the front a slice
    sheared = Volume.of(volume.array, Grid(SHAPE, affine), volume.channels)
    segmenter = bright()
    state = segmenter.encode(sheared, store=FeatureStore())
    assert state.volume.grid.skew < 1e-6
    prompt = Prompt((Box.of(sheared.grid, (2, 3, 6), (7, 12, 24)),))
    found = segmenter.segment(state, [Ask(prompt)])[0].mask(sheared.grid)
    reference = volume.array[0] > 100
    assert 2 * (found & reference).sum() / (found.sum() + reference.sum()) > 0.75


@pytest.mark.parametrize("lift", [Slices, Propagate])
def test_a_prompt_that_says_nothing_is_refused(lift):
    volume, _ = scene([((2, 4, 8), (7, 10, 20))])
    segmenter = bright(lift)
    state = segmenter.encode(volume, store=FeatureStore())
    outside = Prompt((Box.of(volume.grid, (20, 3, 6), (22, 12, 24)),))
    point = Prompt((Points(volume.grid.mm((4, 5, 9)), np.array([True])),))
    for prompt, word in ((outside, "came box"), (point, "came points"), (Prompt((Text("liver"),)), "came text")):
        with pytest.raises(PromptError, match=word):
            segmenter.segment(state, [Ask(prompt)])


# ---- propagation


FINE = (9, 128, 256)  # a voxel is a pixel of the view


def test_propagation_follows_what_a_repeated_box_would_lose():
    volume, mask = scene([((d, 40, 20 + 2 * d), (d + 1, 60, 40 + 2 * d)) for d in range(9)], FINE)  # moves to the left
    box = ((0, 40, 28), (9, 60, 48))  # around the square of slice 4
    assert np.array_equal(answer(bright(Propagate), volume, box).mask(volume.grid), mask)
    repeated = answer(bright(), volume, box).mask(volume.grid)
    assert (repeated[0] & mask[0]).sum() == 20 * 12


class Noted(Propagate):
    def __init__(self, parts, **kwargs):
        super().__init__(parts, **kwargs)
        self.order = []

    def _step(self, state, place, marks):
        step = super()._step(state, place, marks)
        self.order.append(place)
        return step


def noted(**kwargs):
    return Noted(Parts(Bright(), LiteFrame(), None, "random"), **kwargs)


def test_the_official_order_is_middle_up_then_down():
    volume, _ = scene([((0, 4, 8), (9, 10, 20))])
    segmenter = noted()
    answer(segmenter, volume, ((1, 3, 6), (7, 12, 24)))  # slices 1..6, middle int((6 - 1) / 2 + 1) = 3
    assert segmenter.order == [3, 4, 5, 6, 2, 1]


def test_every_slice_follows_the_nearest_prompted_one():
    volume, mask = scene([((0, 4, 8), (9, 10, 20))])
    segmenter = noted()
    found = answer(segmenter, volume, ((1, 3, 6), (2, 12, 24)), ((7, 3, 6), (8, 12, 24))).mask(volume.grid)
    assert segmenter.order == [1, 2, 3, 4, 7, 6, 5]  # slice 4 is as near to both: the lower one has it
    assert np.array_equal(found[1:8], mask[1:8])
    assert not found[0].any()
    assert not found[8].any()


def test_an_empty_slice_inside_the_range_asks_the_prompt_again():
    volume, mask = scene([((0, 4, 8), (3, 10, 20)), ((4, 4, 8), (7, 10, 20))])  # slice 3 is dark
    found = answer(bright(Propagate), volume, ((0, 3, 6), (7, 12, 24))).mask(volume.grid)
    assert np.array_equal(found[:3], mask[:3])  # the middle is slice 3: nothing to follow, the box again


@pytest.mark.parametrize("stop", ["empty", "quality", "area"])
def test_without_a_range_an_empty_mask_ends_it(stop):
    volume, mask = scene([((2, 4, 8), (7, 10, 20)), ((8, 4, 8), (9, 10, 20))])
    prediction = answer(bright(Propagate, stop=stop), volume, ((4, 3, 6), (5, 12, 24)))
    expected = mask.copy()
    expected[8] = False
    if stop != "quality":
        assert np.array_equal(prediction.mask(volume.grid), expected)
    assert not prediction.mask(volume.grid)[7:].any()


def test_an_area_that_jumps_ends_it_where_the_rule_says_so():
    volume, mask = scene([((0, 50, 50), (5, 60, 60)), ((5, 20, 20), (9, 90, 90))], FINE)
    box = ((2, 50, 50), (3, 60, 60))
    wide = answer(bright(Propagate, stop="empty"), volume, box).mask(volume.grid)
    tight = answer(bright(Propagate, stop="area"), volume, box).mask(volume.grid)
    assert int(wide[5].sum()) == 16 * 16  # three more pixels on each side, all bright
    assert not tight[5:].any()
    assert np.array_equal(tight[:5], mask[:5])


def test_low_quality_ends_it_where_the_rule_says_so():
    volume, _ = scene([((0, 4, 8), (5, 10, 20)), ((5, 4, 8), (9, 6, 11))])
    prediction = answer(bright(Propagate, stop="quality"), volume, ((2, 4, 8), (3, 10, 20)))
    found = prediction.mask(volume.grid)
    assert found[2].any()
    assert not found[5:].any()


def test_an_unknown_stop_is_refused():
    with pytest.raises(SpecError, match='stop is "never"'):
        bright(Propagate, stop="never")


# ---- contracts


@pytest.fixture(scope="module")
def noise():
    rng = np.random.default_rng(5)
    return Volume.of(rng.integers(1, 400, (4, 20, 24)).astype(np.int16), axial((4, 20, 24)), (Channel("MR"),))


def asks_on(volume):
    boxes = [((0, 2, 3), (4, 15, 20)), ((1, 4, 5), (3, 9, 20)), ((2, 1, 1), (3, 19, 9)), ((0, 5, 5), (2, 12, 13))]
    return [Ask(Prompt((Box.of(volume.grid, low, high),))) for low, high in boxes]


@pytest.mark.parametrize("lift", [Slices, Propagate])
def test_segment_is_pure_and_batches_change_nothing(lift, noise):
    segmenter = lift(Parts(tiny_sam(), LiteFrame(), None, "random"))
    state = segmenter.encode(noise, store=FeatureStore())
    a, b, *more = asks_on(noise)
    first = segmenter.segment(state, [a])[0]
    segmenter.segment(state, [b])
    again = segmenter.segment(state, [a])[0]
    assert first.grid == again.grid
    assert np.array_equal(first.logits, again.logits)
    for ask, batched in zip([a, b, *more], segmenter.segment(state, [a, b, *more]), strict=True):
        single = segmenter.segment(segmenter.encode(noise, store=FeatureStore()), [ask])[0]
        assert np.array_equal(single.mask(noise.grid), batched.mask(noise.grid))
        assert np.abs(single.logits - batched.logits).max() < 1e-4
        assert single.quality == pytest.approx(batched.quality, abs=1e-5)


def test_each_slice_is_encoded_once_and_shared_by_the_lifts(noise):
    store, parts = FeatureStore(), Parts(tiny_sam(), LiteFrame(), None, "random")
    slices, propagate = Slices(parts), Propagate(parts)
    slices.segment(slices.encode(noise, store=store), asks_on(noise))
    assert store.misses == 4
    charged = store.charged_s
    propagate.segment(propagate.encode(noise, store=store), asks_on(noise))
    assert store.misses == 4
    assert store.charged_s > charged
    assert slices.encoder == propagate.encoder
    assert slices.digest != propagate.digest


def test_digests_tell_what_features_depend_on():
    base = Slices(Parts(tiny_sam(), LiteFrame(), None, "random"))
    decoder, encoder = tiny_sam(), tiny_sam()
    with torch.no_grad():
        decoder.mask_decoder.iou_token.weight += 1
        next(encoder.image_encoder.parameters()).add_(1)
    changed = base.rebuilt(replace(base.parts, net=decoder))
    assert changed.encoder == base.encoder
    assert changed.digest != base.digest
    assert base.rebuilt(replace(base.parts, net=encoder)).encoder != base.encoder
    assert base.rebuilt(replace(base.parts, frame=LiteFrame(plane="coronal"))).encoder != base.encoder
    assert base.rebuilt(base.parts).digest == base.digest


def test_rebuilt_keeps_the_lifts_settings():
    built = bright(Propagate, stop="quality")
    assert built.rebuilt(built.parts).stop == "quality"
    assert built.rebuilt(built.parts).digest == built.digest


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_view_and_marks_of_a_window_equal_that_crop_of_the_whole(noise, data):
    frame = LiteFrame()
    prepared = frame.prepare(noise)
    place = data.draw(st.integers(0, 3))
    window = frame.window(prepared.grid, (place, 3, 4))
    cut = Volume.of(regrid(prepared.array, prepared.grid, window, order=1, outside=0), window, prepared.channels)
    assert np.array_equal(frame.view(prepared, window), frame.view(cut, window))
    assert frame.view(prepared, window).shape == (3, *frame.shape)
    low = [data.draw(st.integers(0, n - 1)) for n in prepared.grid.shape]
    high = [data.draw(st.integers(a + 1, n)) for a, n in zip(low, prepared.grid.shape, strict=True)]
    whole, alone = Box.of(prepared.grid, low, high), Box.of(window, [0, *low[1:]], [1, *high[1:]])
    marks = frame.marks(Prompt((whole,)), window, None)
    assert len(marks.image) == (low[0] <= place < high[0])
    if len(marks.image):
        assert torch.equal(marks.boxes, frame.marks(Prompt((alone,)), window, None).boxes)


def test_inputs_are_not_written_to(noise):
    before = noise.array.copy()
    segmenter = Slices(Parts(tiny_sam(), LiteFrame(), None, "random"))
    segmenter.segment(segmenter.encode(noise, store=FeatureStore()), asks_on(noise))
    assert np.array_equal(noise.array, before)


def test_a_lift_says_how_far_it_is_and_answers_the_same():
    volume, _ = scene([((2, 4, 8), (7, 10, 20))])
    box = ((3, 3, 6), (6, 12, 24))
    silent, seen = answer(bright(), volume, box), []
    with watched(lambda *told: seen.append(told)):
        told = answer(bright(), volume, box)
    assert seen == [(1, 3, "slices"), (2, 3, "slices"), (3, 3, "slices")]
    assert np.array_equal(silent.logits, told.logits)


def test_points_beside_the_target_alone_are_said():
    volume, _ = scene([((2, 4, 8), (7, 10, 20))])
    segmenter = bright()
    beside = Prompt((Points(volume.grid.mm((4, 5, 9)), np.array([False])),))
    with pytest.raises(PromptError, match="points beside the target only"):
        segmenter.segment(segmenter.encode(volume, store=FeatureStore()), [Ask(beside)])


@pytest.mark.parametrize("window", [(40.0, 40.0), (200.0, -200.0)])
def test_a_window_without_width_is_refused(window):
    with pytest.raises(SpecError, match="expected more than 0"):
        LiteFrame(window_hu=window)
