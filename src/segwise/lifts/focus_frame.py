"""The preprocessing of a net that looks at one region: windows of any size on whole voxels, shown on one shape."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from segwise.geometry import Array, Grid, Shape, Volume, regrid
from segwise.nets.contract import Marks
from segwise.prompt import Prompt
from segwise.segmenter import Frame, Tree

AXES = "SPL"
MARGIN = 0.25  # of a box's side, shown on either side of it
LEAST = 3  # voxels shown on either side of a box, where the scan has them
THIN = 0.4  # no side of a window is shorter than this share of its longest one, in mm, where the scan reaches so far
CLOSE = (20, 40)  # least and greatest side of the surroundings of a click, in voxels of the finest axis
WORTH = 0.4  # the surroundings are looked at if they are less than this share of the window
GIVEN = 4.0  # the logit of a voxel of a mask that is given
Index = NDArray[np.int64]
_CODE = "focus-1"


@dataclass(frozen=True)
class FocusFrame(Frame[Marks]):
    """The preprocessing: axes to S, P, L; a window of any size, averaged or interpolated to one shape.

    Attributes:
        side: voxels of a view on each axis.
    """

    side: int = 40

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """Of a view."""
        return self.side, self.side, self.side

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view."""
        return hashlib.blake2b(repr((_CODE, self.side, AXES)).encode(), digest_size=16).hexdigest()

    def prepare(self, volume: Volume) -> Volume:
        """The first channel on orthogonal axes towards S, P, L, in the file's own values."""
        first = Volume.of(volume.array[:1], volume.grid, volume.channels[:1])
        if volume.grid.skew > 1e-3:
            low = float(np.nanmin(volume.array[:1]))
            first = first.on(volume.grid.straight(), order=1, outside=low)
        grid = first.grid.toward(AXES)
        return Volume.of(regrid(first.array, first.grid, grid, order=1, outside=0.0), grid, first.channels)

    def window(self, grid: Grid, centre: Sequence[int]) -> Grid:
        """As many voxels as a view has around an index, as far as the grid goes."""
        low = np.maximum(np.asarray(centre, dtype=int) - self.side // 2, 0)
        high = np.minimum(low + self.side, grid.shape)
        return grid.crop(low.tolist(), high.tolist())

    def around(self, grid: Grid, low: Index, high: Index, *, margin: float = MARGIN) -> Grid:
        """The window of a half-open index box: a margin on every side, not too thin, cut to the grid."""
        size, spacing = (high - low).astype(np.float64), np.array(grid.spacing_mm)
        wide = np.maximum(size * (1 + 2 * margin), size + 2 * LEAST)
        wide = np.maximum(wide, THIN * (wide * spacing).max() / spacing)
        middle = (low + high) / 2
        first = np.maximum(np.floor(middle - wide / 2 + 1e-9), 0).astype(int)
        last = np.minimum(np.ceil(middle + wide / 2 - 1e-9), grid.shape).astype(int)
        return grid.crop(first.tolist(), last.tolist())

    def close(self, grid: Grid, window: Grid, place: Array) -> Grid | None:
        """The surroundings of a place (index on the grid) within a window; None if they are most of the window.

        Training looks at them too, so that the net knows targets that are larger than their window.
        """
        spacing = np.array(grid.spacing_mm)
        least, most = (np.maximum(side * spacing.min() / spacing, 3) for side in CLOSE)
        size = np.minimum(np.clip(np.array(window.shape) / 2, least, most), window.shape)
        if np.prod(size / window.shape) > WORTH:
            return None
        corner = np.rint(grid.index(window.mm((0, 0, 0)))[0]).astype(int)
        first = np.rint(place - (size - 1) / 2).astype(int)
        first = np.clip(first, corner, corner + window.shape - np.ceil(size).astype(int))
        return grid.crop(first.tolist(), (first + np.ceil(size).astype(int)).tolist())

    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [1, side, side, side]: the window, averaged where it has more voxels, interpolated where fewer."""
        low = np.rint(prepared.grid.index(window.mm((0, 0, 0)))[0]).astype(int)
        cut = prepared.array[0][tuple(slice(a, a + n) for a, n in zip(low, window.shape, strict=True))]
        values = cut.astype(np.float32)
        if not np.isfinite(values).all():
            finite = values[np.isfinite(values)]
            values = np.where(np.isfinite(values), values, finite.min() if finite.size else np.float32(0))
        return resized(values, self.shape)[None]

    def marks(self, prompt: Prompt, window: Grid, seen: Tree) -> Marks:
        """One query: the hull of the boxes, and all points, in voxels of the view.

        A mask that is given counts as the answer of the round before, until there is one.
        """
        placed = prompt.on(window)
        scale = np.array(self.shape) / np.array(window.shape)
        boxes = None
        if len(placed.boxes):
            hull = np.stack([placed.boxes[:, 0].min(axis=0), placed.boxes[:, 1].max(axis=0)])
            boxes = torch.from_numpy((hull * scale).astype(np.float32))[None]  # faces; the first voxel's is 0
        points = torch.from_numpy(((placed.points + 0.5) * scale - 0.5).astype(np.float32))[None]
        low_res = seen
        if low_res is None and placed.mask is not None:
            low_res = resized(np.where(placed.mask, np.float32(GIVEN), np.float32(-GIVEN)), self.shape)[None]
        return Marks(
            torch.zeros(1, dtype=torch.int64),
            points=points if len(placed.points) else None,
            signs=torch.from_numpy(placed.positive.astype(np.float32))[None] if len(placed.points) else None,
            boxes=boxes,
            low_res=None if low_res is None else torch.from_numpy(np.array(low_res, dtype=np.float32))[None],
        )

    def resize(self, array: Array) -> Array:
        """float32 [D, H, W] of a window on the voxels of its view, as `view` shows the image."""
        return resized(array, self.shape)

    def follow(self, mask: Array, window: Grid) -> Marks:
        """No query: a region is one answer."""
        return Marks(torch.zeros(0, dtype=torch.int64))

    def restore(self, logits: Array, window: Grid) -> Array:
        """Logits of a view, float32 [side, side, side], on the voxels of its window."""
        return resized(logits, window.shape)


def resized(array: Array, shape: Sequence[int]) -> Array:
    """float32 [D, H, W] on as many voxels as wanted over the same field: triangles as wide as the coarser voxels."""
    out = np.asarray(array, dtype=np.float32)
    for axis, n in enumerate(shape):
        if out.shape[axis] != n:
            out = np.moveaxis(np.tensordot(_weights(out.shape[axis], n), out, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(out, dtype=np.float32)


@functools.lru_cache(maxsize=512)
def _weights(have: int, want: int) -> Array:
    """float32 [want, have]: linear interpolation at the voxel centres, over more voxels where it shrinks."""
    step = have / want
    centre = (np.arange(want) + 0.5) * step - 0.5
    if step <= 1:
        centre = np.clip(centre, 0, have - 1)
    far = np.abs(np.arange(have)[None] - centre[:, None]) / max(step, 1.0)
    weight = np.maximum(1 - far, 0)
    out = np.asarray(weight / weight.sum(axis=1, keepdims=True), dtype=np.float32)
    out.setflags(write=False)
    return out
