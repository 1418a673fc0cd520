"""Where a net of marks as channels looks: crops around a mark, whether to zoom out, and which patches refine.

Pure functions on arrays and index boxes; a box is int64 [3, 2], half-open, and may lie outside the image. Source:
Isensee et al., nnInteractive (arXiv 2503.08373) and its package 2.5.0. The official planning falls back on numpy's
global generator; here the generator is an argument.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segwise.geometry import Array, bounds

FARTHEST = 4.0  # times the patch
GROWTH = 1.5  # of the zoom
CHANGED, CHANGED_LITTLE, CHANGED_SHARE = 1500, 100, 0.2  # pixels of a face
OPENING = 5  # voxels
MARGIN = 24  # voxels of a patch's rim that do not count as covered
DRAWS, DRAWS_DEEP, DEPTH = 10, 25, 3


class Cover(NamedTuple):
    """Patches int64 [N, 3, 2] in the order of use, and how many of the last ones were found by drawing."""

    boxes: Array
    drawn: int


def around(box: Array, patch: Sequence[int]) -> tuple[list[int], float]:
    """(centre, zoom) that shows a box with a third of a patch around it; halves round to even."""
    centre = [round((int(low) + int(high)) / 2) for low, high in box]
    zoom = max((int(high - low) + p // 3) / p for (low, high), p in zip(box, patch, strict=True))
    return centre, max(1.0, zoom)


def crop(centre: Sequence[int], zoom: float, patch: Sequence[int]) -> Array:
    """The box of `zoom` patches around an index."""
    sizes = [round(p * zoom) for p in patch]
    return np.array([[c - s // 2, c + s // 2 + s % 2] for c, s in zip(centre, sizes, strict=True)], dtype=np.int64)


def clipped(box: Array, shape: Sequence[int]) -> Array:
    """The part of a box inside the image; empty where its ends cross."""
    return np.stack([np.maximum(box[:, 0], 0), np.minimum(box[:, 1], shape)], axis=1)


def union(boxes: Array) -> Array:
    """[N, 3, 2] -> the box around all."""
    return np.stack([boxes[:, :, 0].min(axis=0), boxes[:, :, 1].max(axis=0)], axis=1)


def slices(box: Array) -> tuple[Any, ...]:
    """An index box as slices."""
    return tuple(slice(int(low), int(high)) for low, high in box)


def cut(values: Tensor, box: Array) -> Tensor:
    """[..., D, H, W] -> a copy of the box, zeros outside."""
    inside = clipped(box, values.shape[-3:])
    out = values.new_zeros((*values.shape[:-3], *(box[:, 1] - box[:, 0]).tolist()))
    if (inside[:, 1] > inside[:, 0]).all():
        out[(..., *slices(inside - box[:, :1]))] = values[(..., *slices(inside))]
    return out


def paste(values: Tensor, part: Tensor, box: Array) -> None:
    """Write the part of a box that lies inside, in place."""
    inside = clipped(box, values.shape[-3:])
    if (inside[:, 1] > inside[:, 0]).all():
        values[(..., *slices(inside))] = part[(..., *slices(inside - box[:, :1]))].to(values.dtype)


def odd(number: float) -> int:
    """The odd neighbour of a number, the upper one first."""
    up, down = math.ceil(number), math.floor(number)
    return up if up % 2 else down if down % 2 else round(number) + 1


def spread(values: Tensor, size: int) -> Tensor:
    """[C, D, H, W] -> the maximum over a cube of an odd size, the rim repeated."""
    side = (size - 1) // 2
    values = F.pad(values[None], (side,) * 6, mode="replicate")
    for _ in range(side):
        values = F.max_pool3d(values, 3, 1)
    return values[0]


def thickened(values: Tensor, size: int) -> Tensor:
    """`spread` of [1, D, H, W] without negative values, computed only around what is not 0."""
    found = bounds(values[0].numpy() != 0)
    if found is None or size == 1:
        return values
    side = (size - 1) // 2
    box = clipped(np.array(found).T + np.array([-side, side]), values.shape[-3:])
    out = values.clone()
    out[(slice(None), *slices(box))] = spread(values[(slice(None), *slices(box))], size)
    return out


def shrunk(values: Tensor, patch: Sequence[int]) -> Tensor:
    """[1, D, H, W] -> means over windows [1, *patch], computed only for the layers that are not 0.

    Bit for bit what `interpolate(mode="area")` gives: a layer of windows is cut out along the axis with fewest of them.
    """
    out = values.new_zeros((1, *patch))
    found = bounds(values[0].numpy() != 0)
    if found is None:
        return out
    share = [(high - low) / n for low, high, n in zip(*found, values.shape[1:], strict=True)]
    axis = int(np.argmin(share))
    if share[axis] > 0.5:
        return F.interpolate(values[None], tuple(patch), mode="area")[0]
    size, n = values.shape[1 + axis], patch[axis]
    sides = tuple(1 if a == axis else p for a, p in enumerate(patch))
    for i in range(n):
        low, high = i * size // n, -(-(i + 1) * size // n)
        if low < found[1][axis] and high > found[0][axis]:
            layer = values.narrow(1 + axis, low, high - low)
            out.narrow(1 + axis, i, 1).copy_(F.interpolate(layer[None], sides, mode="area")[0])
    return out


def opened(mask: Tensor) -> Tensor:
    """bool [D, H, W] without its specks: minimum, then maximum over a cube."""
    kept = -spread(-mask[None].float(), OPENING)
    return spread(kept, OPENING)[0] > 0


def grown(now: Tensor, before: Tensor) -> bool:
    """Whether a face of the crop changed so much that the object may go on behind it; both [D, H, W]."""
    for axis in range(3):
        for at in (0, now.shape[axis] - 1):
            face, old = now.select(axis, at), before.select(axis, at)
            differ = int((face != old).sum())
            # half precision on purpose, as in the original: the areas are rounded to 11 bits
            areas = torch.stack([old.half().sum(), face.sum().half()])
            share = float(areas.max() / areas.min().clamp(min=1e-5) - 1)
            if differ > CHANGED or (differ > CHANGED_LITTLE and share > CHANGED_SHARE):
                return True
    return False


def cover(mask: Array, patch: Sequence[int], random: np.random.RandomState) -> Cover:
    """Patches that cover a region of what changed: greedy over a lattice of centres, then over drawn voxels.

    Args:
        mask: bool [D, H, W].
        patch: voxels.
        random: draws centres for what no lattice centre reaches.
    """
    if not mask.any():
        return Cover(np.empty((0, 3, 2), dtype=np.int64), 0)
    left = mask.copy()
    places = np.argwhere(left)
    low, high = places.min(axis=0), places.max(axis=0)
    stride = [max(1, round(int(b - a) / 4)) for a, b in zip(low, high, strict=True)]
    centres = np.empty((0, 3), dtype=np.int64)
    deep = False
    for depth in itertools.count():
        if depth > DEPTH:
            deep = True
            break
        axes = [np.arange(a, b + 1, s) for a, b, s in zip(low, high, stride, strict=True)]
        lattice = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        centres = lattice[left[tuple(lattice.T)]]
        if len(centres):
            break
        stride = [max(1, s // 2) for s in stride]
    boxes = _greedy(left, centres, patch)
    drawn = _draw(left, patch, random, DRAWS_DEEP if deep else DRAWS)
    return Cover(np.array(boxes + drawn, dtype=np.int64).reshape(-1, 3, 2), len(drawn))


def _greedy(left: Array, centres: Array, patch: Sequence[int]) -> list[Array]:
    boxes = []
    while len(centres) and left.any():
        counts = [int(np.count_nonzero(left[slices(_reach(c, patch, left.shape))])) for c in centres]
        best = int(np.argmax(counts))
        if not counts[best]:
            break
        boxes.append(_patch(centres[best], patch))
        left[slices(_reach(centres[best], patch, left.shape))] = False
        centres = centres[left[tuple(centres.T)]]
    return boxes


def _draw(left: Array, patch: Sequence[int], random: np.random.RandomState, n: int) -> list[Array]:
    boxes = []
    while left.any():
        places = np.argwhere(left)
        centres = [places[random.choice(len(places))] for _ in range(n)]
        counts = [int(np.count_nonzero(left[slices(_reach(c, patch, left.shape))])) for c in centres]
        best = centres[int(np.argmax(counts))]
        boxes.append(_patch(best, patch))
        left[slices(_reach(best, patch, left.shape))] = False
    return boxes


def _patch(centre: Array, patch: Sequence[int]) -> Array:
    return np.array([[c - p // 2, c - p // 2 + p] for c, p in zip(centre.tolist(), patch, strict=True)], dtype=np.int64)


def _reach(centre: Array, patch: Sequence[int], shape: Sequence[int]) -> Array:
    """What a patch covers without its margin (a smaller one for a patch that is nothing but margin)."""
    margin = np.minimum(MARGIN, (np.array(patch) - 1) // 2)
    box = _patch(centre, patch)
    return clipped(np.stack([box[:, 0] + margin, box[:, 1] - margin], axis=1), shape)
