"""Windows: where they lie, how they are blended, in bounded memory; closed-label answers from them; resizing."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.transform import resize
from torch import nn

from segwise.errors import NoSuchStructure, PromptError
from segwise.geometry import Grid, Volume, regrid
from segwise.lifts import windows
from segwise.lifts.anisotropic import resized, straight, thick_axis
from segwise.lifts.tiles import Tiling, blended, mirrored
from segwise.lifts.windows import Painting, WindowFrame, Windows, linearly
from segwise.nets.contract import ClosedNet
from segwise.prompt import Points, Prompt, Text
from segwise.segmenter import OUTSIDE, Ask, Parts
from segwise.store import FeatureStore

NNUNET = Tiling.nnunet((4, 6, 5))
MONAI = Tiling.monai((4, 6, 5), overlap=0.5)


@pytest.mark.parametrize(
    ("tiling", "n", "starts"),
    [
        (Tiling.nnunet((64, 64, 64)), 110, [0, 23, 46]),
        (Tiling.nnunet((64, 64, 64)), 64, [0]),
        (Tiling.monai((64, 64, 64), overlap=0.5), 110, [0, 32, 46]),
        (Tiling.monai((64, 64, 64), overlap=0.625), 70, [0, 6]),
        (Tiling.nnunet((1, 64, 64)), 3, [0, 1, 2]),
    ],
)
def test_windows_cover_the_image(tiling, n, starts):
    assert tiling.starts((n, 64, 64))[0] == starts


@pytest.mark.parametrize("shape", [(9, 13, 11), (4, 6, 5), (3, 7, 5)])
@pytest.mark.parametrize("padding", ["constant", "replicate"])
def test_monai_gives_the_same(shape, padding):
    from monai.inferers.utils import sliding_window_inference

    torch.manual_seed(0)
    conv = nn.Conv3d(2, 3, 3, padding=1)
    image = torch.randn(1, 2, *shape)
    tiling = Tiling.monai((4, 6, 5), overlap=0.625, padding=padding)
    with torch.no_grad():
        expected = sliding_window_inference(image, (4, 6, 5), 1, conv, 0.625, "gaussian", padding_mode=padding)[0]
        found = torch.cat(list(blended(image[0], tiling, lambda window, _: conv(window)[0])), dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tiling", [replace(NNUNET, half=False), MONAI])
@pytest.mark.parametrize("shape", [(9, 13, 11), (4, 6, 5), (2, 7, 3)])
def test_a_net_that_copies_comes_back_as_it_was(tiling, shape):
    image = torch.randn(2, *shape)
    slabs = list(blended(image, tiling, lambda window, low: window[0].clone()))
    found = torch.cat(slabs, dim=1).float()
    assert all(slab.shape[1] <= tiling.patch[0] for slab in slabs)
    torch.testing.assert_close(found, image, rtol=0, atol=1e-5)


def test_a_window_knows_where_it_lies():
    image = torch.arange(3 * 13 * 11, dtype=torch.float32).reshape(1, 3, 13, 11)
    seen = []

    def answer(window, low):
        seen.append(low)
        d, h, w = (max(a, 0) for a in low)
        assert window[0, 0, d - low[0], h - low[1], w - low[2]] == image[0, d, h, w]
        return window[0]

    list(blended(image, NNUNET, answer))
    assert min(low[0] for low in seen) == 0
    list(blended(image[:, :2], NNUNET, answer))
    assert min(low[0] for low in seen) == -1


def test_weights_are_never_zero_and_greatest_in_the_middle():
    for tiling in (NNUNET, MONAI, Tiling.nnunet((1, 64, 64)), Tiling.nnunet((64, 16, 16))):
        weights = tiling.weights().float()
        assert tuple(weights.shape) == tiling.patch
        assert weights.min() > 0
        assert weights[tuple(n // 2 for n in tiling.patch)] == weights.max()


def test_mirrored_answers_are_averaged():
    conv = nn.Conv3d(1, 2, 3, padding=1)
    image = torch.randn(1, 1, 4, 5, 6)
    with torch.no_grad():
        found = mirrored(conv, (0, 2))(image)
        flips = [(), (2,), (4,), (2, 4)]
        expected = sum(torch.flip(conv(torch.flip(image, flip)), flip) for flip in flips) / 4
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(mirrored(conv, ())(image), conv(image))


@pytest.mark.parametrize("shape", [(7, 9, 20), (3, 18, 5), (5, 9, 11)])
def test_resizing_is_that_of_scikit_image(shape):
    values = np.random.default_rng(0).normal(size=(5, 9, 11)).astype(np.float32)
    for order in (1, 3):
        expected = resize(values.astype(np.float64), shape, order, mode="edge", anti_aliasing=False)
        np.testing.assert_allclose(resized(values, shape, order=order), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("apart", "order_apart"), [(None, 0), (0, 0), (1, 0), (2, 1)])
@pytest.mark.parametrize("shape", [(7, 12, 20), (3, 5, 8)])
def test_logits_come_back_as_they_would_be_resized_slab_by_slab(shape, apart, order_apart):
    logits = np.random.default_rng(0).normal(size=(2, 5, 9, 11)).astype(np.float32)
    have = Grid((5, 9, 11), np.diag([4.0, 2.0, 1.5, 1.0]))
    want = have.resized(shape)
    how = {"apart": apart, "order_apart": order_apart}
    expected = np.stack([resized(channel, shape, order=1, **how) for channel in logits])
    for a, b in ((0, shape[0]), (1, 3)):
        part = want.crop((a, 0, 0), (b, *shape[1:]))
        np.testing.assert_allclose(straight(logits, have, part, **how), expected[:, a:b], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("now", "then", "force", "axis"),
    [
        ((5.0, 1.0, 1.0), (5.0, 1.0, 1.0), None, 0),
        ((1.0, 1.0, 1.0), (1.0, 4.0, 1.0), None, 1),
        ((3.0, 1.0, 1.0), (1.0, 1.0, 1.0), None, None),
        ((0.2, 1.0, 1.0), (1.0, 1.0, 1.0), None, None),
        ((5.0, 1.0, 1.0), (5.0, 1.0, 1.0), False, None),
        ((1.0, 1.0, 2.0), (1.0, 1.0, 2.0), True, 2),
    ],
)
def test_thick_slices(now, then, force, axis):
    assert thick_axis(now, then, force=force) == axis


class Toy(ClosedNet):
    """A smoothing of one channel into some classes; counts its runs."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(classes)
        self.conv = nn.Conv3d(1, classes, 3, padding=1)
        self.runs = 0

    def forward(self, image):
        self.runs += 1
        return [self.conv(image)]


class Plain(WindowFrame):
    """Axes towards SPL, every second voxel of the first axis; nothing else."""

    shape = (4, 6, 5)
    digest = "plain"
    step = (1, 1, 1)

    def prepare(self, volume):
        grid = volume.grid.toward("SPL")
        grid = grid.resized([n // s for n, s in zip(grid.shape, self.step, strict=True)])
        return Volume.of(volume.array.astype(np.float32), volume.grid).on(grid)

    def window(self, grid, centre):
        return grid

    def view(self, prepared, window):
        return regrid(prepared.array, prepared.grid, window, order=0, outside=0.0)

    def marks(self, prompt, window, seen):
        words = [m.words for m in prompt.marks if isinstance(m, Text)][-1]
        if words not in ("a", "b", "c", "ab"):
            raise NoSuchStructure(words)
        return tuple(words)

    def follow(self, mask, window):
        return ()

    def restore(self, logits, have, want):
        return linearly(logits, have, want)


def text(*words: str) -> list[Ask]:
    return [Ask(Prompt((Text(w),))) for w in words]


def volume(axes="LSA", shape=(12, 14, 11)) -> Volume:
    grid = Grid(shape, np.diag([1.5, 2.0, 3.0, 1.0])).toward(axes)
    return Volume.of(np.random.default_rng(0).normal(size=grid.shape).astype(np.float32), grid)


def model(classes=4, *, paint=None, step=(1, 1, 1)) -> Windows:
    frame = Plain()
    frame.step = step
    return Windows(Parts(Toy(classes).eval(), frame, ("a", "b", "c"), "random"), NNUNET, paint=paint)


def whole_logits(m: Windows, v: Volume) -> np.ndarray:
    """[K, *v.grid.shape] float32 by one blending and one resampling."""
    prepared = m.parts.frame.prepare(v)
    logits = torch.cat(list(m.logits(prepared)), dim=1).float().numpy()
    return regrid(logits, prepared.grid, v.grid, order=1, outside=OUTSIDE)


@pytest.mark.parametrize("axes", ["LSA", "SPL", "IRP"])
@pytest.mark.parametrize("step", [(1, 1, 1), (2, 1, 2)])
def test_a_label_is_where_the_net_finds_it_best(axes, step):
    m, v = model(step=step), volume(axes)
    best = whole_logits(m, v).argmax(0)
    state = m.encode(v, store=FeatureStore())
    answers = m.segment(state, text("a", "b", "c", "ab"))
    for answer, classes in zip(answers, ((1,), (2,), (3,), (1, 2)), strict=True):
        assert (answer.mask(v.grid) != np.isin(best, classes)).sum() <= 3  # ties in half precision
        assert answer.logits.dtype == np.float32


def test_windows_run_once_and_are_kept():
    m, v, store = model(), volume(), FeatureStore()
    state = m.encode(v, store=store)
    first = m.segment(state, text("a"))[0]
    runs = m.parts.net.runs
    again = m.segment(m.encode(v, store=store), text("b", "a"))[1]
    assert m.parts.net.runs == runs > 0
    assert np.array_equal(first.logits, again.logits)
    assert m.rebuilt(m.parts).digest == m.digest != m.rebuilt(replace(m.parts, weights="others")).digest


def test_small_slabs_change_nothing(monkeypatch):
    m, v = model(step=(2, 1, 1)), volume()
    expected = m.segment(m.encode(v, store=FeatureStore()), text("ab"))[0]
    monkeypatch.setattr(windows, "SLAB_BYTES", 1)
    found = m.segment(m.encode(v, store=FeatureStore()), text("ab"))[0]
    assert np.array_equal(found.mask(v.grid), expected.mask(v.grid))


def test_only_text_is_understood():
    m, v = model(), volume()
    state = m.encode(v, store=FeatureStore())
    with pytest.raises(PromptError, match="takes the target's name as text; came: points"):
        m.segment(state, [Ask(Prompt((Points(np.zeros((1, 3)), np.array([True])),)))])
    with pytest.raises(NoSuchStructure):
        m.segment(state, text("a", "hat rack"))
    assert m.parts.net.runs == 0


def test_regions_are_painted_in_their_order():
    paint = Painting((1, 2, 3), (frozenset({1, 2, 3}), frozenset({2, 3}), frozenset({3})))
    m, v = model(3, paint=paint), volume()
    logits = whole_logits(m, v)
    painted = np.zeros(v.grid.shape, dtype=int)
    for channel, colour in enumerate(paint.colours):
        painted[logits[channel] > 0] = colour
    answers = m.segment(m.encode(v, store=FeatureStore()), text("a", "b", "c"))
    for answer, cover in zip(answers, paint.covers, strict=True):
        assert np.array_equal(answer.mask(v.grid), np.isin(painted, list(cover)))


def test_independent_channels_know_nothing_of_each_other():
    m, v = model(3, paint=Painting.apart(3)), volume()
    logits = whole_logits(m, v)
    answers = m.segment(m.encode(v, store=FeatureStore()), text("a", "b", "ab"))
    assert np.array_equal(answers[0].mask(v.grid), logits[0] > 0)
    assert np.array_equal(answers[1].mask(v.grid), logits[1] > 0)
    assert np.array_equal(answers[2].mask(v.grid), (logits[:2] > 0).any(axis=0))


def test_an_empty_answer_is_an_empty_mask():
    m, v = model(), volume()
    with torch.no_grad():
        m.parts.net.conv.bias[0] = 1000
    answer = m.segment(m.encode(v, store=FeatureStore()), text("a"))[0]
    assert not answer.mask(v.grid).any()
    m = model(3, paint=Painting.apart(3))
    with torch.no_grad():
        m.parts.net.conv.bias[:] = -1000
    assert not m.segment(m.encode(v, store=FeatureStore()), text("ab"))[0].mask(v.grid).any()


def test_slabs_come_back_on_an_oblique_grid_as_at_once():
    turn = np.eye(4)
    turn[:3, :3] = np.array([[0.98, -0.199, 0], [0.199, 0.98, 0], [0, 0, 1]]) @ np.diag([1.1, 0.9, 1.3])
    have, want = Grid((20, 9, 8), np.eye(4)), Grid((15, 8, 6), turn)
    logits = np.random.default_rng(0).normal(size=(2, *have.shape)).astype(np.float32)
    pieces = [torch.from_numpy(logits[:, a:b]) for a, b in itertools.pairwise((0, 3, 7, 12, 20))]
    found = np.concatenate([s.numpy() for s in windows.restored(iter(pieces), have, want, linearly)], axis=1)
    expected = linearly(logits, have, want)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
