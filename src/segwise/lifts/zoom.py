"""Zoom out, zoom in: a 3D promptable net looks at the whole volume made small, then closely at what it found.

Zoom-out: the whole prepared volume, resized to the net's one size, and the whole prompt. Zoom-in: the box of what was
found, at least a window large where the volume allows, is covered by windows at full resolution that overlap by half;
the prompt is made anew for each window, the answers are averaged and replace the first answer in that box.

Source: Du et al., SegVol (arXiv 2311.13385), section 2.3, and its inference code (BAAI-DCAI/SegVol,
`inference_demo.py`, `utils/monai_inferers_utils.py`). What the prompt becomes in a window is theirs: words stay; a box
is the prompt's own if one window covers all, else the box of what the zoom-out found there; points are up to five
positive ones in the window, filled up with padding, and come with such a box. Deviations: their points are drawn at
random, with repetition, from the voxels that the coarse points cover; points and a box together are refused there and
follow both rules here. Where the region is smaller than a window it is padded on both sides, and theirs forgets to move
the prompt's own points and box by that padding (`padding="forgotten"`).
"""

from __future__ import annotations

import hashlib
import itertools
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from torch.nn import functional as F

from segwise.errors import SpecError
from segwise.geometry import Array, Grid, Shape, Volume, bounds, regrid
from segwise.lifts.crop import content
from segwise.lifts.planes import MARGIN, covering, nothing
from segwise.lifts.tiles import Tiling
from segwise.nets.contract import Decoded, Marks, PromptNet
from segwise.nets.marks import mapped
from segwise.prompt import Prompt
from segwise.segmenter import OUTSIDE, Ask, Frame, Learned, Parts, Prediction, State, Store, Tree, expect, step

Padding = Literal["moved", "forgotten"]
PADDINGS = ("moved", "forgotten")
OVERLAP = 0.5
POINTS = 5  # of a zoomed-in window
NOWHERE = -1.0  # coordinates of a padding point, and of the box of nothing
_CODE = "zoom-1"  # raised when features or answers of unchanged parts change


class ZoomFrame(Frame[Marks]):
    """The preprocessing of a net of one size that zooms.

    A window of the net's own size is shown as it is, zeros beyond the volume; any other is resized to it, nearest
    voxels. `marks` returns no query (Q = 0) for a prompt that says nothing in the window that the net can use.
    """

    @abstractmethod
    def tokens(self, prompt: Prompt) -> Tree:
        """The words of a prompt as `Marks.tokens`, or None if it has none.

        Raises:
            NoSuchStructure: the model does not know them.
            PromptError: it cannot take words.
        """

    def window(self, grid: Grid, centre: Sequence[int]) -> Grid:
        """As many voxels as a view has, around an index."""
        low = np.asarray(centre, dtype=int) - np.array(self.shape) // 2
        return grid.crop(low.tolist(), (low + self.shape).tolist())

    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [1, *shape]."""
        values = regrid(prepared.array[:1], prepared.grid, window, order=1, outside=0.0)
        if window.shape != self.shape:
            small = torch.from_numpy(np.array(values, dtype=np.float32))[None]
            values = F.interpolate(small, self.shape, mode="nearest-exact")[0].numpy()
        return np.array(values, dtype=np.float32)

    def marks(self, prompt: Prompt, window: Grid, seen: Tree) -> Marks:
        """Points at their voxels, one box around all boxes (its first and last voxel), and words."""
        view = window if window.shape == self.shape else window.resized(self.shape)
        placed = prompt.on(view)
        index = np.clip(np.floor(placed.points + 0.5 + 1e-6), 0, np.array(view.shape) - 1)
        box = None
        if len(placed.boxes):
            box = np.stack([placed.boxes[:, 0].min(axis=0), placed.boxes[:, 1].max(axis=0) - 1])
        return asked(index, placed.positive.astype(np.float32), box, self.tokens(prompt))

    def closer(self, prompt: Prompt, window: Grid, coarse: Array, *, alone: bool, less: Sequence[int]) -> Marks:
        """The prompt of a zoomed-in window.

        Args:
            prompt: all marks.
            window: of the view's size.
            coarse: bool [*window.shape]: what the zoom-out found there.
            alone: the one window.
            less: voxels by which the prompt's own places are put too low along each axis.
        """
        whole = self.marks(prompt, window, None)
        kinds = prompt.kinds
        own = np.full((2, 3), NOWHERE) if whole.boxes is None else whole.boxes[0].numpy() - np.array(less)
        found = bounds(coarse)
        guessed = np.full((2, 3), NOWHERE) if found is None else np.stack([found[0], np.subtract(found[1], 1)])
        box = None
        if kinds & {"box", "points"}:
            box = own if "box" in kinds and alone else guessed
        points, signs = np.empty((0, 3)), np.empty(0)
        if "points" in kinds:
            points, signs = _five(whole, less)
        return asked(points, signs, box, whole.tokens if whole.tokens is not None else self.tokens(prompt))

    def follow(self, mask: Array, window: Grid) -> Marks:
        """No query: the zoom goes on by `closer`."""
        return Marks(torch.zeros(0, dtype=torch.int64))


class Region(NamedTuple):
    """Logits of a box of the prepared grid: float32 [*shape], low corner in it."""

    logits: Array
    low: tuple[int, ...]


class Zoom(Learned):
    """The Segmenter of a net that zooms.

    Args:
        parts: a `PromptNet` with one candidate and a `ZoomFrame`.
        closely: zoom in; else the answer on the whole volume made small is all.
        padding: the prompt's own places are "moved" by the padding of a region smaller than a window, or it is
            "forgotten", as in the original.

    Raises:
        SpecError: no such padding.
    """

    def __init__(self, parts: Parts, *, closely: bool = True, padding: Padding = "moved") -> None:
        if padding not in PADDINGS:
            raise SpecError(f'padding is "{padding}", expected one of {", ".join(PADDINGS)}')
        self.parts, self.closely, self.padding = parts, closely, padding
        self.net: PromptNet = parts.net.eval()
        self.frame: ZoomFrame = parts.frame  # type: ignore[assignment]
        self._device = next((p.device for p in self.net.parameters()), torch.device("cpu"))
        own = (_CODE, torch.__version__, str(self._device), parts.frame.digest)
        self.encoder = _hashed(*own, content(self.net.encoding))
        self.digest = _hashed(self.encoder, parts.weights, content(self.net), repr((parts.frame, closely, padding)))

    def rebuilt(self, parts: Parts) -> Self:
        """The same lift around other parts."""
        return type(self)(parts, closely=self.closely, padding=self.padding)

    def encode(self, volume: Volume, *, store: Store) -> State:
        """Bring the volume into the net's frame; views are encoded when an ask first needs them."""
        return State(self.frame.prepare(volume), volume.grid, store)

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask. With words its presence is the greatest probability that the zoom-out found.

        Raises:
            NoSuchStructure: words name nothing the model knows.
            PromptError: a prompt says nothing that the net can use on this volume.
        """
        return [self._answer(state, ask.prompt) for ask in asks]

    @torch.no_grad()
    def _answer(self, state: State, prompt: Prompt) -> Prediction:
        grid = state.volume.grid
        marks = self.frame.marks(prompt, grid, None)
        if not len(marks.image):
            raise nothing(prompt)
        out = self._asked(state.volume, grid, marks, state.store)
        small = out.logits[0, 0].cpu().numpy()  # on the whole grid, resized
        found = foreground(small, grid.shape)
        if self.closely and found is not None:
            region = self._zoomed(state, prompt, small, region_of(*found, self.frame.shape, grid.shape))
        else:
            low, high = found or ((0, 0, 0), grid.shape)
            low = tuple(max(0, a - MARGIN) for a in low)
            region = Region(enlarged(small, grid.shape, low, [b + MARGIN for b in high]), low)
        crop = grid.crop(region.low, np.add(region.low, region.logits.shape).tolist())
        own = covering(state.grid, crop)
        logits = regrid(region.logits[None], crop, own, order=1, outside=OUTSIDE)
        sure = float(1 / (1 + np.exp(-np.float64(small.max())))) if "text" in prompt.kinds else None
        return Prediction(
            prompt,
            np.ascontiguousarray(logits, dtype=np.float32),
            own,
            quality=None if out.quality is None else out.quality[0].cpu().numpy(),
            presence=sure,
        )

    def _zoomed(self, state: State, prompt: Prompt, small: Array, box: tuple[Array, Array]) -> Region:
        """The mean answer of the windows over a box, low and high corner."""
        low, high = box
        grid = state.volume.grid
        inner = state.volume.on(grid.crop(low.tolist(), high.tolist()))
        coarse = enlarged(small, grid.shape, low.tolist(), high.tolist()) > 0
        before, starts = _windows(inner.grid.shape, self.frame.shape)
        less = before if self.padding == "forgotten" else (0, 0, 0)
        size = [max(n, m) for n, m in zip(inner.grid.shape, self.frame.shape, strict=True)]
        total, count = np.zeros(size, dtype=np.float32), np.zeros(size, dtype=np.float32)
        expect(len(starts), "windows")
        for start in starts:
            first = np.subtract(start, before)
            window = inner.grid.crop(first.tolist(), (first + self.frame.shape).tolist())
            there = np.asarray(regrid(coarse, inner.grid, window, order=0, outside=0), dtype=bool)
            marks = self.frame.closer(prompt, window, there, alone=len(starts) == 1, less=less)
            at = tuple(slice(a, a + n) for a, n in zip(start, self.frame.shape, strict=True))
            total[at] += self._asked(inner, window, marks, state.store).logits[0, 0].cpu().numpy()
            count[at] += 1
            step()
        own = tuple(slice(b, b + n) for b, n in zip(before, inner.grid.shape, strict=True))
        return Region(total[own] / count[own], tuple(low.tolist()))

    def _asked(self, volume: Volume, window: Grid, marks: Marks, store: Store) -> Decoded:
        def make(_: list[int]) -> list[Tree]:
            view = torch.from_numpy(self.frame.view(volume, window))[None].to(self._device)
            return [mapped(lambda x: x.cpu(), self.net.encode(view))]

        (features,) = store.get([f"{self.encoder}:{volume.digest}:{window.digest}"], make)
        given = {name: getattr(marks, name) for name in ("image", "points", "signs", "boxes", "tokens")}
        moved = {k: mapped(lambda x: x.to(self._device), v) for k, v in given.items() if v is not None}
        return self.net.decode(mapped(lambda x: x.to(self._device), features), Marks(**moved))


def asked(points: Array, signs: Array, box: Array | None, tokens: Tree) -> Marks:
    """One query of points [N, 3] with signs [N], a box [2, 3] and words; none where all are missing."""
    if not len(points) and box is None and tokens is None:
        return Marks(torch.zeros(0, dtype=torch.int64))
    return Marks(
        torch.zeros(1, dtype=torch.int64),
        points=torch.from_numpy(np.asarray(points, dtype=np.float32))[None] if len(points) else None,
        signs=torch.from_numpy(np.asarray(signs, dtype=np.float32))[None] if len(points) else None,
        boxes=None if box is None else torch.from_numpy(np.asarray(box, dtype=np.float32))[None],
        tokens=tokens,
    )


def foreground(small: Array, shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The box low..high on a grid that `enlarged` logits > 0 fill; None if none are."""
    found = bounds(small > 0)
    if found is None:
        return None
    low, high = [], []
    for n, source, first, last in zip(shape, small.shape, *found, strict=True):
        there = np.flatnonzero((_source(n, source) >= first) & (_source(n, source) < last))
        if not len(there):
            return None
        low.append(int(there[0]))
        high.append(int(there[-1]) + 1)
    return tuple(low), tuple(high)


def enlarged(small: Array, shape: Shape, low: Sequence[int], high: Sequence[int]) -> Array:
    """A box low..high (cut to the grid) of logits resized to a grid: nearest, as torch's mode "nearest" rounds."""
    axes = [_source(n, m)[a:b] for n, m, a, b in zip(shape, small.shape, low, high, strict=True)]
    return np.ascontiguousarray(small[np.ix_(*axes)])


def region_of(low: Sequence[int], high: Sequence[int], window: Shape, shape: Shape) -> tuple[Array, Array]:
    """The box that is looked at closely: what was found, grown evenly to a window's size as far as the volume goes."""
    first, last = np.array(low), np.array(high) - 1
    grow = np.maximum(0, np.array(window) - (last - first + 1)) // 2
    return np.maximum(0, first - grow), np.minimum(np.array(shape), last + grow + 1)


def _windows(shape: Shape, size: Shape) -> tuple[list[int], list[tuple[int, ...]]]:
    """(zeros before each axis, first indices of the windows in the padded box)."""
    before = [max(0, n - m) // 2 for m, n in zip(shape, size, strict=True)]
    padded = [max(n, m) for m, n in zip(shape, size, strict=True)]
    return before, list(_starts(padded, size))


def _starts(padded: Sequence[int], size: Shape) -> Iterator[tuple[int, ...]]:
    yield from itertools.product(*Tiling.monai(size, overlap=OVERLAP).starts(padded))


def _source(n: int, source: int) -> Array:
    return np.arange(n) * source // n


def _five(marks: Marks, less: Sequence[int]) -> tuple[Array, Array]:
    """Up to five positive points and padding: five in all, or one if there is no positive point."""
    points = np.empty((0, 3))
    if marks.points is not None and marks.signs is not None:
        points = marks.points[0][marks.signs[0] == 1].numpy()[:POINTS] - np.array(less)
    n = POINTS if len(points) else 1
    fill = np.full((n - len(points), 3), NOWHERE)
    signs = np.concatenate([np.ones(len(points)), np.full(len(fill), -1.0)])
    return np.concatenate([points, fill]), signs


def _hashed(*words: str) -> str:
    return hashlib.blake2b("\x1f".join(words).encode(), digest_size=16).hexdigest()
