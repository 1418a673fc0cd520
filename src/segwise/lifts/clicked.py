"""`Clicked`: a net that answers classes on every window of a volume, and clicks on windows around them.

- Text picks a class: the windows run once a class, blended, and what is kept in the store is the box where its logit
  is > 0. All classes asked in one call share the windows.
- Points alone: one window around each point, which sees every point that lies inside it; parts of the answer without a
  positive point are dropped.
- Both: the class's answer, edited in the windows around the points: what the points add or take away counts in the
  connected parts that they touch.

Source: the inference code of VISTA3D (He et al., arXiv 2406.05285).
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import cc3d
import numpy as np
import torch
from torch import Tensor

from segwise.errors import PromptError
from segwise.geometry import Array, Grid, Volume
from segwise.lifts.ranking import REACH_MM, answer
from segwise.lifts.tiles import Tiling, blended
from segwise.lifts.windows import layers
from segwise.nets.contract import Marks
from segwise.prompt import Prompt
from segwise.segmenter import OUTSIDE, Ask, Frame, Learned, Parts, Prediction, State, Store, Tree

VERSION = 1
NEAR = 3  # voxels: how far from a part a point may lie and still touch it, this many steps from 0
SUMS_BYTES = 1 << 30  # of blended classes at a time; more classes run the windows again


class ClassFrame(Frame[Marks]):
    """The preprocessing of such a net. `marks(prompt, window, seen)`: the points inside a window, one query or none.

    Its `Marks.tokens` are the classes that tell the point head what the points mean.
    """

    @abstractmethod
    def classes(self, prompt: Prompt) -> tuple[int, ...]:
        """The classes that the prompt's text means; () without text, or with points on a target that is new.

        Raises:
            NoSuchStructure: none, and there are no points either.
        """


@dataclass(frozen=True)
class _Kept:
    """The answer to a class: its box on the prepared grid and the greatest logit anywhere."""

    low: Array
    values: Array
    most: float


class Clicked(Learned):
    """The lift.

    Args:
        parts: a `PromptNet` with `automatic(image [1, C, *patch], classes [K]) -> [K, *patch]`; a `ClassFrame`.
        tiling: of the windows that answer classes; its patch is also the window around a point.
        stitch: where windows around points overlap, "sum" or "mean" of their logits.
    """

    def __init__(self, parts: Parts, tiling: Tiling, *, stitch: str = "sum") -> None:
        self.parts, self.tiling, self.stitch = parts, tiling, stitch
        words = ("clicked", VERSION, parts.weights, parts.frame.digest, tiling)
        self.encoder = hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()
        self.digest = hashlib.blake2b(repr((self.encoder, stitch, NEAR, REACH_MM)).encode(), digest_size=16).hexdigest()

    def rebuilt(self, parts: Parts) -> Self:
        """The same lift around other parts."""
        return type(self)(parts, self.tiling, stitch=self.stitch)

    def encode(self, volume: Volume, *, store: Store) -> State:
        """Bring the volume into the net's frame; windows run when they are first asked for."""
        return State(self.parts.frame.prepare(volume), volume.grid, store)

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask.

        Raises:
            NoSuchStructure: a text names no class, and there are no points.
            PromptError: an ask has neither text nor points, or its points lie outside.
        """
        frame: Any = self.parts.frame
        classes = [frame.classes(ask.prompt) for ask in asks]
        for ask, named in zip(asks, classes, strict=True):
            if not named and not len(ask.prompt.on(state.grid).points):
                raise PromptError("this model takes a structure's name as text, or points on the scan; neither came")
        wanted = sorted({one for named in classes for one in named})
        found = dict(zip(wanted, self._automatic(state, wanted), strict=True))
        return [
            self._answer(state, ask.prompt, [found[c] for c in named]) for ask, named in zip(asks, classes, strict=True)
        ]

    def _automatic(self, state: State, wanted: list[int]) -> list[_Kept]:
        """What is kept of each class, through the store."""
        keys = [f"class-{self.encoder}-{state.volume.digest}-{one}" for one in wanted]
        n = max(1, int(SUMS_BYTES // (4 * self.tiling.patch[0] * np.prod(state.volume.grid.shape[1:]))))

        def make(missing: list[int]) -> list[Tree]:
            chunks = [missing[i : i + n] for i in range(0, len(missing), n)]
            return [kept for chunk in chunks for kept in self._run(state.volume, [wanted[i] for i in chunk])]

        found = state.store.get(keys, make) if keys else []
        return [_Kept(tree["low"], tree["values"], float(tree["most"])) for tree in found]

    def _run(self, prepared: Volume, classes: list[int]) -> list[Tree]:
        """The windows, once, for some classes."""
        vector, most = torch.tensor(classes), np.full(len(classes), -np.inf)
        net = self.parts.net.eval()

        @torch.inference_mode()
        def one(window: Tensor, low: tuple[int, int, int]) -> Tensor:
            return torch.as_tensor(net.automatic(window.to(_device(net)), vector.to(_device(net))))

        def watched(slabs: Iterator[Tensor]) -> Iterator[Tensor]:
            for slab in slabs:
                np.maximum(most, slab.amax(dim=(1, 2, 3)).cpu().numpy(), out=most)
                yield slab.cpu()

        found = layers(watched(blended(self._view(prepared), self.tiling, one)), half=False)
        none = {"low": np.zeros(3, np.int64), "values": np.zeros((0, 0, 0), np.float32)}
        return [{**found.get(str(i), none), "most": np.float64(most[i])} for i in range(len(classes))]

    def _view(self, prepared: Volume) -> Tensor:
        return torch.from_numpy(np.array(self.parts.frame.view(prepared, prepared.grid), dtype=np.float32))

    def _answer(self, state: State, prompt: Prompt, automatic: list[_Kept]) -> Prediction:
        prepared = state.volume
        logits, low = _greatest(automatic)
        presence = None
        if len(prompt.on(state.grid).points):
            before = _whole(logits, low, prepared.grid) if automatic else None
            logits, low = self._clicked(state, prompt, before), np.zeros(3, np.int64)
        else:
            most = max(kept.most for kept in automatic)
            presence = float(1 / (1 + np.exp(-np.clip(most, -50, 50))))
        return answer(prompt, logits, low, lattice=prepared.grid, grid=state.grid, presence=presence)

    def _clicked(self, state: State, prompt: Prompt, before: Array | None) -> Array:
        """float32 [D, H, W] on the prepared grid: the windows around the points; `before` elsewhere."""
        grid = state.volume.grid
        placed = prompt.on(grid)
        total, seen = np.zeros(grid.shape, dtype=np.float32), np.zeros(grid.shape, dtype=np.int16)
        for low in dict.fromkeys(self._corner(point, grid.shape) for point in placed.points):
            window = grid.crop(low, self._end(low))
            marks = self.parts.frame.marks(prompt, window, None)
            if not len(marks.image):
                continue
            first, last = np.maximum(low, 0), np.minimum(self._end(low), grid.shape)
            here = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
            inside = tuple(slice(a - c, b - c) for a, b, c in zip(first, last, low, strict=True))
            found = self._window(state, low, marks)[inside]
            if before is not None:
                found = edited(before[here], found, placed.points - first, placed.positive)
            total[here] += found
            seen[here] += 1
        if self.stitch == "mean":
            total /= np.maximum(seen, 1)
        if before is not None:
            return np.where(seen > 0, total, before)
        return with_points(np.where(seen > 0, total, np.float32(OUTSIDE)), placed.points, placed.positive)

    def _window(self, state: State, low: tuple[int, ...], marks: Marks) -> Array:
        """float32 [*patch]: the point branch on a window; its features come through the store."""
        net = self.parts.net.eval()
        key = f"window-{self.encoder}-{state.volume.digest}-{low}"

        def make(_: list[int]) -> list[Tree]:
            window = state.volume.grid.crop(low, self._end(low))
            view = torch.from_numpy(np.array(self.parts.frame.view(state.volume, window)))[None]
            return [net.encode(view.to(_device(net))).cpu().numpy()]

        with torch.inference_mode():
            features = torch.from_numpy(state.store.get([key], make)[0]).to(_device(net))
            decoded = net.decode(features, marks)
        return np.asarray(decoded.logits[0, 0].cpu().numpy())

    def _end(self, low: Sequence[int]) -> list[int]:
        return [a + n for a, n in zip(low, self.tiling.patch, strict=True)]

    def _corner(self, point: Array, shape: Sequence[int]) -> tuple[int, ...]:
        """Where the window around a point begins: inside the volume; a small volume lies in its middle."""
        corner = []
        for at, size, n in zip(point, self.tiling.patch, shape, strict=True):
            centred = min(max(int(at) - size // 2, 0), n - size)
            corner.append(centred if n >= size else -((size - n) // 2))
        return tuple(corner)


def _device(net: Any) -> torch.device:
    return next((p.device for p in net.parameters()), torch.device("cpu"))


def _greatest(automatic: list[_Kept]) -> tuple[Array, Array]:
    """The greatest logit of some classes in the box around all of them, and where it begins."""
    there = [kept for kept in automatic if kept.values.size]
    if not there:
        return np.zeros((0, 0, 0), dtype=np.float32), np.zeros(3, np.int64)
    low = np.min([kept.low for kept in there], axis=0)
    high = np.max([kept.low + kept.values.shape for kept in there], axis=0)
    out = np.full(tuple(high - low), OUTSIDE, dtype=np.float32)
    for kept in there:
        here = tuple(slice(a, a + n) for a, n in zip(kept.low - low, kept.values.shape, strict=True))
        out[here] = np.maximum(out[here], kept.values)
    return out, low


def _whole(logits: Array, low: Array, grid: Grid) -> Array:
    out = np.full(grid.shape, OUTSIDE, dtype=np.float32)
    out[tuple(slice(a, a + n) for a, n in zip(low, logits.shape, strict=True))] = logits
    return out


def edited(before: Array, clicked: Array, points: Array, positive: Array) -> Array:
    """An answer with what the points change: float32 [d, h, w].

    Args:
        before: logits of the class.
        clicked: logits of the points, on the same voxels.
        points: float [N, 3], indices; those outside do nothing.
        positive: bool [N].

    What the points add are the parts of `clicked > 0` outside `before > 0` (or all of it, where a point lies inside),
    what they take away those of `before > 0` where clicked is not; each part counts if a point of its sign touches it.
    """
    inside = [(point, sign) for point, sign in zip(points, positive, strict=True) if _within(point, before.shape)]
    old, new = before > 0, clicked > 0
    held = any(old[_at(point)] for point, _ in inside)
    added = touched(new if held else new & ~old, [point for point, sign in inside if sign])
    taken = touched(old & ~new, [point for point, sign in inside if not sign])
    return np.where(added | taken, clicked, before).astype(np.float32)


def touched(mask: Array, points: Sequence[Array]) -> Array:
    """bool [d, h, w]: the connected parts of a mask that points lie in, or at most NEAR - 1 voxels from."""
    keep = np.zeros(mask.shape, dtype=bool)
    if not len(points) or not mask.any():
        return keep
    parts = np.asarray(cc3d.connected_components(mask, connectivity=26))
    for point in points:
        at = np.rint(point).astype(int)
        for reach in range(NEAR):
            around = tuple(slice(max(0, a - reach), a + reach + 1) for a in at)
            part = int(parts[around].max(initial=0))
            if part:
                keep |= parts == part
                break
    return keep


def with_points(logits: Array, points: Array, positive: Array) -> Array:
    """Logits whose foreground parts without a positive point are turned to background."""
    mask = logits > 0
    if not mask.any():
        return logits
    parts = np.asarray(cc3d.connected_components(mask, connectivity=26))
    chosen = {int(parts[_at(point)]) for point, sign in zip(points, positive, strict=True) if sign} - {0}
    dropped = mask & ~np.isin(parts, list(chosen))
    return np.where(dropped, -np.abs(logits), logits).astype(np.float32)


def _within(point: Array, shape: Sequence[int]) -> bool:
    return bool((np.rint(point) >= 0).all() and (np.rint(point) < np.array(shape)).all())


def _at(point: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in np.rint(point))
