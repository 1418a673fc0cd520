"""`Whole`: closed-label answers from one run a volume, on crops of the input's grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segwise.errors import GridError, NoSuchStructure, PromptError
from segwise.geometry import Grid, Volume, regrid
from segwise.lifts import whole
from segwise.lifts.whole import Whole
from segwise.nets.contract import ClosedNet, StreamedNet
from segwise.prompt import Points, Prompt, Text
from segwise.segmenter import OUTSIDE, Ask, Frame, Parts
from segwise.store import FeatureStore

AXES = "LIA"
AFFINE = np.array([[0, 0, 1.5, -4], [0, 2.0, 0, 3], [3.0, 0, 0, 7], [0, 0, 0, 1.0]])  # (d,h,w) -> z, y, x; 3, 2, 1.5 mm


class Toy(ClosedNet):
    """Four classes from one channel by a fixed linear map and a smoothing; counts its runs."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, classes, 3, padding=1)
        torch.manual_seed(classes)
        nn.init.normal_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)
        self.runs = 0

    def forward(self, image):
        self.runs += 1
        return [self.conv(image)]


class ToySlabs(StreamedNet):
    """The same, two planes at a time."""

    def __init__(self, net: Toy) -> None:
        super().__init__()
        self.net = net

    def forward(self, image):
        return self.net(image)

    def slabs(self, image):
        (logits,) = self.net(image)
        yield from logits.split(2, dim=2)


class Plain(Frame[tuple[str, ...]]):
    """float32, array axes towards "LIA", nothing else."""

    shape = (0, 0, 0)
    digest = "plain"

    def prepare(self, volume):
        return Volume.of(volume.array.astype(np.float32), volume.grid, volume.channels).on(volume.grid.toward(AXES))

    def window(self, grid, centre):
        return grid

    def view(self, prepared, window):
        return prepared.array

    def marks(self, prompt, window, seen):
        words = [m.words for m in prompt.marks if isinstance(m, Text)][-1]
        named = {"a": ("a",), "b": ("b",), "c": ("c",), "all": ("a", "b", "c"), "ab": ("a", "b")}
        if words not in named:
            raise NoSuchStructure(words)
        return named[words]

    def follow(self, mask, window):
        return ()


def text(*words: str) -> list[Ask]:
    return [Ask(Prompt((Text(w),))) for w in words]


def model(net: nn.Module | None = None, *, tidy: bool = False) -> Whole:
    return Whole(Parts((net or Toy()).eval(), Plain(), ("a", "b", "c"), "random"), tidy=tidy)


def volume(shape=(5, 6, 7), seed=0) -> Volume:
    return Volume.of(np.random.default_rng(seed).normal(size=shape).astype(np.float32), Grid(shape, AFFINE))


def logits_of(net: ClosedNet, v: Volume) -> np.ndarray:
    """The net's logits on the input's grid, [K, D, H, W]."""
    prepared = Plain().prepare(v)
    with torch.inference_mode():
        out = net(torch.from_numpy(np.array(prepared.array))[None])[0][0].numpy()
    return regrid(out, prepared.grid, v.grid, order=0, outside=0)


SETS = {"a": [1], "b": [2], "c": [3], "ab": [1, 2], "all": [1, 2, 3]}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_logit_is_the_best_of_the_target_minus_the_best_of_the_rest(streamed):
    net, v = Toy(), volume()
    m = model(ToySlabs(net) if streamed else net)
    expected = logits_of(net, v)
    state = m.encode(v, store=FeatureStore())
    for words, p in zip(SETS, m.segment(state, text(*SETS)), strict=True):
        rest = [k for k in range(4) if k not in SETS[words]]
        margin = expected[SETS[words]].max(0) - expected[rest].max(0)
        there = regrid(margin, v.grid, p.grid, order=0, outside=np.nan)
        np.testing.assert_allclose(p.logits[0], there, atol=1e-5)
        assert np.array_equal(p.mask(v.grid), np.isin(expected.argmax(0), SETS[words]))


def test_more_classes_than_ranks_keep_the_sign(monkeypatch):
    monkeypatch.setattr(whole, "RANKS", 2)
    net, v = Toy(), volume((6, 7, 8))
    expected = logits_of(net, v).argmax(0)
    m = model(net)
    for words, p in zip(SETS, m.segment(m.encode(v, store=FeatureStore()), text(*SETS)), strict=True):
        assert np.array_equal(p.mask(v.grid), np.isin(expected, SETS[words]))


def test_the_net_runs_once_and_answers_are_pure():
    net, v = Toy(), volume()
    m, store = model(net), FeatureStore()
    state = m.encode(v, store=store)
    assert net.runs == 0
    first, second, again = (m.segment(state, text(w))[0] for w in ("a", "b", "a"))
    batch = m.segment(state, text("a", "b"))
    assert net.runs == 1 and first.grid == again.grid
    assert np.array_equal(first.logits, again.logits)
    assert np.array_equal(batch[0].logits, first.logits) and np.array_equal(batch[1].logits, second.logits)
    assert m.segment(state, []) == []
    m.segment(m.encode(v, store=store), text("c"))
    assert net.runs == 1  # the same volume, model and store
    fresh = model(Toy())
    assert np.array_equal(fresh.segment(fresh.encode(v, store=FeatureStore()), text("a"))[0].logits, first.logits)


def test_a_prediction_is_a_crop_of_the_inputs_grid():
    array = np.zeros((20, 24, 40), dtype=np.float32)
    array[8:12, 10:14, 20:24] = 1
    v = Volume.of(array, Grid(array.shape, AFFINE))
    net = Toy(2)
    with torch.no_grad():
        net.conv.weight.zero_()
        net.conv.weight[1, 0, 1, 1, 1] = 2.0
        net.conv.bias.copy_(torch.tensor([1.0, 0.0]))
    m = Whole(Parts(net, Plain(), ("a",), "random"))
    (p,) = m.segment(m.encode(v, store=FeatureStore()), text("a"))
    assert np.array_equal(p.mask(v.grid), array > 0)
    place = v.grid.index(p.grid.mm([0, 0, 0]))[0]
    np.testing.assert_allclose(place, np.rint(place), atol=1e-9)
    assert p.grid.shape == (8, 8, 8)  # RIM voxels around what is not background bound the 10 mm of reach
    assert p.logits.min() == -1 and p.logits.max() == 1


@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_another_lattice_interpolates_the_logits(turn):
    """A ball on the net's 1 mm grid comes back on a coarser, turned and shifted grid with its volume."""

    class Millimetre(Plain):
        def prepare(self, volume):
            grid = volume.grid.canonical(AXES, spacing_mm=(1, 1, 1), shape=(40, 40, 40), aligned=True)
            return volume.on(grid, order=1)

    class Ball(ClosedNet):
        def forward(self, image):
            axes = torch.meshgrid(*[torch.arange(40.0) - 19.5] * 3, indexing="ij")
            away = torch.stack(axes).norm(dim=0)
            return [torch.stack([away - 9.0, torch.zeros_like(away)])[None]]

    c, s = np.cos(turn), np.sin(turn)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) * (1.7, 2.1, 1.3)
    v = Volume.of(np.zeros((24, 20, 32), dtype=np.float32), Grid((24, 20, 32), affine))
    m = Whole(Parts(Ball(), Millimetre(), ("a",), "random"))
    (p,) = m.segment(m.encode(v, store=FeatureStore()), text("a"))
    mask = p.mask(v.grid)
    away = np.linalg.norm(v.grid.mm(np.argwhere(np.ones(v.grid.shape))) - v.grid.centre_mm, axis=1)
    ideal = (away < 9).reshape(v.grid.shape)
    assert 2 * (mask & ideal).sum() / (mask.sum() + ideal.sum()) > 0.985
    assert np.prod(p.grid.shape) < np.prod(v.grid.shape)


def blobs() -> tuple[Volume, Whole, Whole]:
    """Two boxes that touch at no corner; class 1 where the image is > .5, 2 where it is > 1.5."""
    array = np.zeros((8, 9, 10), dtype=np.float32)
    array[1:4, 1:4, 1:4] = 1
    array[2, 2, 2] = 2
    array[6, 7, 8] = 2
    net = Toy(3)
    with torch.no_grad():
        net.conv.weight.zero_()
        net.conv.weight[:, 0, 1, 1, 1] = torch.tensor([0.0, 2.0, 4.0])
        net.conv.bias.copy_(torch.tensor([0.0, -1.0, -4.0]))
    parts = Parts(net, Plain(), ("a", "b"), "random")
    return Volume.of(array, Grid(array.shape, AFFINE)), Whole(parts), Whole(parts, tidy=True)


def test_tidy_keeps_the_largest_component_of_everything():
    v, loose, tidy = blobs()
    image = v.array[0]
    a, b = (p.mask(v.grid) for p in loose.segment(loose.encode(v, store=FeatureStore()), text("a", "b")))
    assert np.array_equal(a, image == 1) and np.array_equal(b, image == 2)
    a, b = (p.mask(v.grid) for p in tidy.segment(tidy.encode(v, store=FeatureStore()), text("a", "b")))
    assert np.array_equal(a, image == 1) and b.sum() == 1 and b[2, 2, 2]
    assert loose.encoder != tidy.encoder and loose.digest != tidy.digest


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_tidy_is_the_loose_answer_within_one_component(seed, ranks):
    import cc3d

    net, v = Toy(), volume((6, 7, 8), seed)
    with torch.no_grad():
        net.conv.bias[0] = 4.0
    expected = logits_of(net, v).argmax(0)
    if not expected.any():
        return
    kept = cc3d.largest_k(expected > 0, k=1, connectivity=26) > 0
    before, whole.RANKS = whole.RANKS, ranks
    try:
        m = model(net, tidy=True)
        answers = m.segment(m.encode(v, store=FeatureStore()), text("a", "b", "c"))
    finally:
        whole.RANKS = before
    found = sum((i + 1) * p.mask(v.grid) for i, p in enumerate(answers))
    if (cc3d.connected_components(expected > 0, connectivity=26) > 0).sum() != kept.sum():
        sizes = np.bincount(cc3d.connected_components(expected > 0, connectivity=26).ravel())[1:]
        if (sizes == sizes.max()).sum() > 1:
            return  # two of one size: either may stay
    assert np.array_equal(found, np.where(kept, expected, 0))


def test_nothing_found_is_an_empty_answer():
    net = Toy(2)
    with torch.no_grad():
        net.conv.weight.zero_()
        net.conv.bias.copy_(torch.tensor([1.0, 0.0]))
    v, m = volume(), Whole(Parts(net, Plain(), ("a",), "random"), tidy=True)
    (p,) = m.segment(m.encode(v, store=FeatureStore()), text("a"))
    assert p.logits.shape == (1, 1, 1, 1) and p.logits.max() == OUTSIDE and not p.mask(v.grid).any()


def test_an_absent_label_is_empty_beside_one_that_is_there():
    v, loose, _ = blobs()
    v = Volume.of(np.where(v.array > 1, 1, v.array), v.grid)
    state = loose.encode(v, store=FeatureStore())
    a, b = loose.segment(state, text("a", "b"))
    assert a.mask(v.grid).sum() == 28 and not b.mask(v.grid).any() and np.isfinite(b.logits).all()


def test_errors():
    m = model()
    state = m.encode(volume(), store=FeatureStore())
    with pytest.raises(NoSuchStructure, match="liver"):
        m.segment(state, text("a", "liver"))
    with pytest.raises(PromptError, match="as text; came: points"):
        m.segment(state, [Ask(Prompt((Points([[0, 0, 0]], [True]),)))])
    with pytest.raises(PromptError, match="came: nothing"):
        m.segment(state, [Ask(Prompt())])
    wrong = Whole(Parts(Toy(3), Plain(), ("a", "b", "c"), "random"))
    with pytest.raises(GridError, match="expected 4 classes"):
        wrong.segment(wrong.encode(volume(), store=FeatureStore()), text("a"))
    with pytest.raises(ValueError, match="closed list"):
        Whole(Parts(Toy(), Plain(), None, "random"))


def test_rebuilt_is_the_same_lift_around_other_parts():
    m = model(tidy=True)
    other = m.rebuilt(replace(m.parts, weights="other"))
    assert type(other) is Whole and other.tidy and other.encoder != m.encoder
    same = m.rebuilt(m.parts)
    assert same.encoder == m.encoder and same.digest == m.digest


def test_the_result_survives_a_folder(tmp_path):
    """What lies in the store is arrays and numbers: another process reads it."""
    net, v = Toy(), volume()
    m = model(net)
    first = m.segment(m.encode(v, store=FeatureStore(folder=tmp_path)), text("ab"))[0]
    again = m.segment(m.encode(v, store=FeatureStore(folder=tmp_path)), text("ab"))[0]
    assert net.runs == 1 and np.array_equal(first.logits, again.logits)
