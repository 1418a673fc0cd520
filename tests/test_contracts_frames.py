"""Rule 7 of the architecture over every model with a net: what a frame shows of a window is that crop of the whole.

Training cuts patches, inference goes through whole volumes; both must see the same bits. A frame is built without
weights where its class allows that (no arguments, or the card's labels), so nothing is skipped for want of a download.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import members
import small_checkpoints
from segwise import assemble, catalog
from segwise.errors import WeightsError
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts.slices import Slices
from segwise.lifts.whole import Whole
from segwise.nets.contract import ClosedNet, Decoded, Marks, PromptNet
from segwise.prompt import Box, Points, Prompt, Stroke, Text
from segwise.segmenter import Ask, Frame, Learned, Parts
from segwise.store import FeatureStore

SHAPE = (9, 20, 26)
AFFINE = np.array([[0, 0, -2.0, 30], [0, 2.5, 0, -20], [4.0, 0, 0, 7], [0, 0, 0, 1]])


def _volume(modality: str) -> Volume:
    image = np.random.default_rng(3).normal(60, 40, SHAPE).astype(np.float32)
    image[2:7, 5:14, 8:20] += 120
    return Volume.of(image if modality == "CT" else np.maximum(image, 0), Grid(SHAPE, AFFINE), (Channel(modality),))


@functools.cache
def _frames(name: str) -> tuple[Frame[Any], ...]:
    """The frames of a model, one a plane; () if it has no net. With a checkpoint in the spec that one's own frame."""
    if "(" in name:
        learned = assemble.build(name).segmenter
        return (learned.parts.frame,) if isinstance(learned, Learned) else ()
    module = catalog.member("models", name).load()
    own = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
    found = [c for c in own if issubclass(c, Frame) and not inspect.isabstract(c)]
    made = [frame for kind in found for frame in _made(name, kind)]
    if made:
        return tuple(made)
    built = assemble.build(name).segmenter
    return (built.parts.frame,) if isinstance(built, Learned) else ()


def _made(name: str, frame: type[Frame[Any]]) -> list[Frame[Any]]:
    """Instances of a class of frames without weights; [] if it wants what we cannot know."""
    wants = inspect.signature(frame).parameters
    given = {"labels": next(iter(catalog.card("models", name).labels.values()))} if "labels" in wants else {}
    if any(p.default is p.empty and p.name not in given for p in wants.values()):
        return []
    planes = [{"plane": plane} for plane in ("axial", "coronal", "sagittal")] if "plane" in wants else [{}]
    return [frame(**given, **plane) for plane in planes]


def _prepared(name: str) -> list[tuple[Frame[Any], Volume]]:
    try:
        frames = _frames(name)
    except WeightsError as error:
        pytest.skip(f"no weights, and its frame cannot be built without: {error}")
    if not frames:
        pytest.skip("a model without a net: there is nothing to train")
    return [(frame, _whole(name, i)) for i, frame in enumerate(frames)]


@functools.cache
def _whole(name: str, which: int) -> Volume:
    volume = _volume(assemble.model_info(name).card.modalities[0])
    prepared = _frames(name)[which].prepare(volume)
    prepared.array.setflags(write=False)
    return prepared


def _places(volume: Volume) -> list[tuple[int, int, int]]:
    """A corner, the middle and the last voxel."""
    shape = volume.grid.shape
    return [(0, 0, 0), tuple(n // 2 for n in shape), tuple(n - 1 for n in shape)]  # type: ignore[list-item]


def _crop(whole: Volume, window: Grid) -> tuple[slice, ...]:
    """Where a window lies in the whole, as far as the whole goes."""
    low = np.rint(whole.grid.index(window.mm((0, 0, 0)))[0]).astype(int)
    assert np.allclose(whole.grid.index(window.mm((0, 0, 0)))[0], low, atol=1e-6), "a window is no crop of the whole"
    high = np.minimum(low + window.shape, whole.grid.shape)
    return tuple(slice(max(0, int(a)), int(b)) for a, b in zip(low, high, strict=True))


def check_views(name: str) -> None:
    """`view` looks at nothing but its window, and copies it where it has the window's size."""
    for frame, whole in _prepared(name):
        for place in _places(whole):
            window = frame.window(whole.grid, place)
            view = frame.view(whole, window)
            assert view.dtype == np.float32 and all(
                n in (0, m) for n, m in zip(frame.shape, view.shape[1:], strict=True)
            )
            inside = _crop(whole, window)
            there = whole.grid.crop([s.start for s in inside], [s.stop for s in inside])
            cut = Volume.of(whole.array[(slice(None), *inside)], there, whole.channels)
            assert np.array_equal(frame.view(cut, window), view)
            if view.shape[1:] == window.shape and window.shape == whole.grid.shape:
                check_patches(frame, whole, view)
                return


def check_patches(frame: Frame[Any], whole: Volume, view: np.ndarray) -> None:
    """A frame whose view is the whole volume shows of a smaller window that crop of it."""
    size = tuple(min(8 + 3 * axis, n) for axis, n in enumerate(whole.grid.shape))
    for low in ((0, 0, 0), tuple((n - s) // 2 + 1 for n, s in zip(whole.grid.shape, size, strict=True))):
        window = whole.grid.crop(low, np.add(low, size).tolist())
        assert np.array_equal(frame.view(whole, window), view[(slice(None), *_crop(whole, window))])


def check_marks(name: str, low: tuple[float, ...], size: tuple[float, ...]) -> None:
    """Marks placed on the whole and cut to the window are the marks of the window, rounding included."""
    labels = assemble.model_info(name).labels
    for frame, whole in _prepared(name):
        grid = _volume("CT").grid
        scale = np.array(grid.shape)
        corner, edges = np.array(low) * scale, np.maximum(np.array(size) * scale, 0.3)
        box = Box(grid.mm(corner - 0.5)[0], grid.affine[:3, :3].T * edges[:, None])
        clicks = Points(grid.mm([corner + edges / 2, corner - 1]), np.array([True, False]))
        word = labels[0] if labels else "liver"
        prompt = Prompt((box, clicks, Stroke(grid.mm([corner, corner + edges])), Text(word)))
        for place in _places(whole):
            window = frame.window(whole.grid, place)
            around = _around(whole.grid, window)
            _same(frame.marks(prompt, window, None), frame.marks(_cut(prompt, around, window), window, None))


def _around(whole: Grid, window: Grid) -> Grid:
    """The whole with what a window shows beyond it."""
    low = np.rint(whole.index(window.mm((0, 0, 0)))[0]).astype(int)
    return whole.crop(np.minimum(low, 0).tolist(), np.maximum(low + window.shape, whole.shape).tolist())


def _cut(prompt: Prompt, whole: Grid, window: Grid) -> Prompt:
    """A prompt placed on the whole, then cut to a window of it, as marks again."""
    placed = prompt.on(whole)
    low = np.rint(whole.index(window.mm((0, 0, 0)))[0]).astype(int)
    high = low + window.shape
    marks: list[Any] = []
    for box in placed.boxes:
        first, last = np.maximum(box[0], low), np.minimum(box[1], high)
        if (first < last).all():
            marks.append(Box.of(whole, first, last))
    inside = ((placed.points >= low - 0.5) & (placed.points < high - 0.5)).all(axis=1)
    if inside.any():
        marks.append(Points(whole.mm(placed.points[inside]), placed.positive[inside]))
    return Prompt((*marks, *map(Text, placed.words)))


def _same(a: Any, b: Any) -> None:
    if isinstance(a, Marks):
        for field in ("image", "signs", "boxes", "low_res"):
            x, y = getattr(a, field), getattr(b, field)
            assert (x is None) == (y is None) and (x is None or torch.equal(x, y)), field
        assert (a.points is None) == (b.points is None)
        assert a.points is None or torch.allclose(a.points, b.points, rtol=0, atol=1e-4)  # mm and back
    else:
        assert a == b


SHARES = st.tuples(*[st.floats(0, 0.9)] * 3)
SIZES = st.tuples(*[st.floats(0, 0.6)] * 3)


@pytest.mark.parametrize("name", catalog.names("models"))
def test_a_view_is_that_crop_of_the_whole(name):
    check_views(name)


@pytest.mark.parametrize("name", catalog.names("models"))
@settings(max_examples=30, deadline=None)
@given(low=SHARES, size=SIZES)
def test_marks_of_a_window_are_those_of_the_whole(name, low, size):
    check_marks(name, low, size)


def _small(name: str) -> str:
    if (spec := small_checkpoints.spec_of(name, **small_checkpoints.SMALL.get(name, {}))) is None:
        pytest.skip(small_checkpoints.why_not(name))
    return spec


LOADED = [name for name in catalog.names("models") if "checkpoint" in catalog.member("models", name).parameters]


@pytest.mark.parametrize("name", LOADED)
def test_a_view_of_a_fixture_is_that_crop_of_the_whole(name):
    check_views(_small(name))


@pytest.mark.parametrize("name", LOADED)
@settings(max_examples=10, deadline=None)
@given(low=SHARES, size=SIZES)
def test_marks_of_a_window_of_a_fixture_are_those_of_the_whole(name, low, size):
    check_marks(_small(name), low, size)


class _Recorder(PromptNet):
    """Answers nothing; keeps what it was shown and asked."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[torch.Tensor] = []
        self.marks: list[Marks] = []

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        self.images.append(image)
        return image[:, :1, 0]

    def decode(self, features: Any, marks: Marks) -> Decoded:
        self.marks.append(marks)
        return Decoded(features[:, None].expand(len(marks.image), -1, -1, -1, -1) - 0.5)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_net_of_slices_is_shown_views_and_asked_marks_of_its_frame_only(plane):
    frame = next(f for f in _frames("litemedsam") if f.plane == plane)
    net, grid = _Recorder(), _volume("CT").grid
    lift = Slices(Parts(net, frame, None, "none"))
    state = lift.encode(_volume("CT"), store=FeatureStore())
    prompt = Prompt((Box.of(grid, (2, 5, 8), (5, 9, 12)),))
    lift.segment(state, [Ask(prompt)])
    low, high = (int(end) for end in prompt.on(state.volume.grid).boxes[0, :, 0])
    windows = [frame.window(state.volume.grid, (place, 0, 0)) for place in range(low, high)]
    assert len(windows) == len(net.images) == len(net.marks)
    for window, image, marks in zip(windows, net.images, net.marks, strict=True):
        assert np.array_equal(image[0].numpy(), frame.view(state.volume, window))
        _same(marks, frame.marks(prompt, window, None))


def test_a_net_of_wholes_is_shown_the_view_of_its_frame_only():
    class Seen(ClosedNet):
        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            self.image = image
            return [torch.cat([0.5 - image, image - 0.5], dim=1)]

    class Plain(Frame[tuple[str, ...]]):
        shape, digest = (0, 0, 0), "plain"

        def prepare(self, volume):
            return Volume.of(volume.array / np.float32(200), volume.grid, volume.channels)

        def window(self, grid, centre):
            return grid

        def view(self, prepared, window):
            return prepared.array + np.float32(0.25)

        def marks(self, prompt, window, seen):
            return ("liver",)

        def follow(self, mask, window):
            return ()

    net, frame = Seen(), Plain()
    lift = Whole(Parts(net, frame, ("liver",), "none"))
    state = lift.encode(_volume("CT"), store=FeatureStore())
    lift.segment(state, [Ask(Prompt((Text("liver"),)))])
    assert np.array_equal(net.image[0].numpy(), frame.view(state.volume, state.volume.grid))


BAD = '''
"""A frame that scales each view by the whole volume, and rounds marks before it cuts them."""

import numpy as np

from segwise.card import ModelCard
from segwise.segmenter import Frame

CARD = ModelCard(title="Bad", summary="Breaks rule 7.", family="floor", takes=("box",))


class BadFrame(Frame):
    shape, digest = (1, 0, 0), "bad"

    def prepare(self, volume):
        return volume

    def window(self, grid, centre):
        return grid.crop((centre[0], 0, 0), (centre[0] + 1, *grid.shape[1:]))

    def view(self, prepared, window):
        place = int(round(float(prepared.grid.index(window.mm((0, 0, 0)))[0, 0])))
        return (prepared.array[:, place : place + 1] / prepared.array.max()).astype(np.float32)

    def marks(self, prompt, window, seen):
        return tuple(float(mark.origin_mm[0]) for mark in prompt.marks if mark.kind == "box")

    def follow(self, mask, window):
        return ()


def load() -> None:
    return None
'''


def test_a_frame_that_looks_beyond_its_window_is_caught(tmp_path):
    with members.installed(tmp_path, {"models/bad.py": BAD}, package="bad_frames"):
        with pytest.raises(AssertionError):
            check_views("bad")
        with pytest.raises(AssertionError):
            check_marks("bad", (0.1, 0.1, 0.1), (0.3, 0.3, 0.3))
