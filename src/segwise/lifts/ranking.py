"""What a closed-label net said of every voxel, kept small, and answers about any of its labels.

Kept is a ranking: for every voxel of the box around what is not background, the best classes with their logits,
greatest first. That is enough to answer any set of labels.

An answer: the logit of a target S is the greatest logit over its labels minus the greatest over the rest, so on the
ranking's own grid it is > 0 exactly where the net's class lies in S. Where S (or the rest) has no class among the
ranked ones, its place is taken by the lowest ranked logit: the sign stays right, the size is a bound. Of equal logits
the first class wins, as with argmax: the others are lowered by one unit in the last place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from segwise.errors import GridError
from segwise.geometry import Array, Grid, Shape, regrid
from segwise.prompt import Prompt
from segwise.segmenter import OUTSIDE, Prediction, Tree

RANKS = 8
REACH_MM = 10.0
RIM = 2  # voxels of background that stay around a box, so that the logits at its faces can be interpolated


class Slab(NamedTuple):
    """The ranking of one slab's box: low corner in the volume, values and classes [R, d, h, w]."""

    low: Array
    values: Array
    classes: Array


def ranked(
    slabs: Iterable[torch.Tensor], *, shape: Shape, n_classes: int, ranks: int = RANKS, half: bool = False
) -> tuple[list[Slab], Array]:
    """Rankings slab by slab, and the best class of every voxel.

    Args:
        slabs: logits [K, d, H, W], in order along the first axis; together they are [K, *shape].
        shape: (D, H, W).
        n_classes: K, background included.
        ranks: how many classes are kept a voxel.
        half: keep logits in half precision (5 bytes a rank become 3).

    Returns:
        (rankings, integer [D, H, W]).

    Raises:
        GridError: a slab has another shape.
    """
    dtype = np.dtype(np.uint8 if n_classes <= 256 else np.int16)
    best = np.zeros(shape, dtype=dtype)
    found: list[Slab] = []
    at = 0
    for logits, low, high in _boxed(slabs):  # [K, d, H, W]
        if logits.shape[0] != n_classes or tuple(logits.shape[2:]) != shape[1:]:
            raise GridError(f"the net answered {tuple(logits.shape)}, expected {n_classes} classes on {shape}")
        if (low < high).all():
            offset = np.array((at, 0, 0))
            inside = logits[(slice(None), *slices(low, high))].float()
            values, classes = _top(inside, min(ranks, n_classes), half=half)
            found.append(Slab(low + offset, values, classes.astype(dtype)))
            best[slices(low + offset, high + offset)] = classes[0]
        at += logits.shape[1]
    return found, best


def _top(logits: torch.Tensor, ranks: int, *, half: bool) -> tuple[Array, Array]:
    """The best classes of [K, d, h, w], greatest first and the first of equals: values and classes [R, d, h, w]."""
    found, order = logits.permute(1, 2, 3, 0).topk(ranks, dim=-1)  # [d, h, w, R]
    kind = np.float16 if half else np.float32
    values, classes = _first(found).astype(kind), _first(order.to(torch.int16))
    winner = logits.argmax(0).to(torch.int16).cpu().numpy()  # the first of equals
    if ranks > 1:
        other = classes[0] != winner
        listed = np.where((classes == winner).any(axis=0), (classes == winner).argmax(axis=0), ranks - 1)
        places = np.nonzero(other)
        classes[(listed[other], *places)] = classes[0][other]
        classes[0] = winner
        values[1:] = np.minimum(values[1:], np.nextafter(values[0], kind(-np.inf)))
    return values, classes


def kept(found: list[Slab], best: Array, keep: Array) -> Tree:
    """All slabs as one ranking of the box around what is kept; empties the list.

    Args:
        found, best: from `ranked`.
        keep: bool [D, H, W]; where a voxel is not background and not kept, background wins.

    Returns:
        {"low": int64 [3], "values": [R, d, h, w], "classes": [R, d, h, w]}; empty arrays if nothing is kept.
    """
    if not keep.any():
        none = np.zeros((1, 0, 0, 0))
        return {"low": np.zeros(3, np.int64), "values": none.astype(np.float32), "classes": none.astype(np.uint8)}
    low, high = box(keep)
    low, high = np.maximum(low - RIM, 0), np.minimum(high + RIM, keep.shape)
    values, classes = _joined(found, low, high)
    removed = (best != 0)[slices(low, high)] & ~keep[slices(low, high)]
    _background_wins(classes, removed)
    return {"low": low, "values": values, "classes": classes}


def margin(ranking: Tree, chosen: Array) -> Array:
    """float32 [d, h, w]: the best logit over the chosen classes (bool [K]) minus the best over the rest."""
    values, classes = ranking["values"], ranking["classes"]
    inside = outside = values[-1].astype(np.float32)
    for rank in reversed(range(len(values))):
        is_chosen = chosen[classes[rank]]
        inside = np.where(is_chosen, values[rank], inside)
        outside = np.where(is_chosen, outside, values[rank])
    return np.asarray(inside - outside, dtype=np.float32)


def answer(
    prompt: Prompt, logits: Array, low: Array, *, lattice: Grid, grid: Grid, presence: float | None = None
) -> Prediction:
    """A prediction on a crop of the input's grid: the target's own voxels and REACH_MM around them.

    Args:
        prompt: what was asked.
        logits: float32 [d, h, w], > 0 is the target; may be empty.
        low: int [3]: where they begin on the lattice.
        lattice: the grid that the logits belong to.
        grid: the input's.
        presence: as in `Prediction`.
    """
    nothing = grid.crop((0, 0, 0), (1, 1, 1))
    empty = Prediction(prompt, np.full((1, 1, 1, 1), OUTSIDE, dtype=np.float32), nothing, presence=presence)
    if not logits.size:
        return empty
    first, last = box((logits > 0) | (logits == logits.max()))
    reach = np.ceil(REACH_MM / np.array(lattice.spacing_mm)).astype(int)
    first, last = np.maximum(first - reach, 0), np.minimum(last + reach, logits.shape)
    own = lattice.crop(first + low, last + low)
    crop = covering(grid, own)
    if crop is None:
        return empty
    found = regrid(logits[slices(first, last)], own, crop, order=1, outside=OUTSIDE)
    return Prediction(prompt, np.ascontiguousarray(found[None], dtype=np.float32), crop, presence=presence)


def covering(grid: Grid, part: Grid) -> Grid | None:
    """The crop of `grid` that covers `part`; None if they do not meet."""
    faces = itertools.product(*((-0.5, n - 0.5) for n in part.shape))
    corners = grid.index(part.mm(list(faces)))
    low = np.clip(np.floor(corners.min(axis=0) + 0.5 + 1e-3), 0, None).astype(int)
    high = np.minimum(np.ceil(corners.max(axis=0) + 0.5 - 1e-3), grid.shape).astype(int)
    return grid.crop(low, high) if (low < high).all() else None


def box(mask: Array) -> tuple[Array, Array]:
    """Half-open corners (int64 [3] each) of what is True; there must be something."""
    ends: list[Any] = []
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        ends.append((found[0], found[-1] + 1))
    return np.array([e[0] for e in ends], dtype=np.int64), np.array([e[1] for e in ends], dtype=np.int64)


def slices(low: Array, high: Array) -> tuple[slice, ...]:
    """Corners as an index."""
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _boxed(slabs: Iterable[torch.Tensor]) -> Iterator[tuple[torch.Tensor, Array, Array]]:
    """Each slab with the rows and columns around what is not background in it or in its neighbours (empty if none)."""
    held: torch.Tensor | None = None
    boxes: list[Array] = []  # of the slab before the held one, of the held one, of the next
    for logits in itertools.chain(slabs, [None]):
        boxes = [*boxes[-2:], np.zeros((0, 3)) if logits is None else _foreground(logits)]
        if held is not None:
            corners = np.concatenate(boxes).astype(np.int64)
            low, high = (corners.min(axis=0), corners.max(axis=0) + 1) if len(corners) else (np.zeros(3), np.zeros(3))
            low, high = np.maximum(low - RIM, 0), np.minimum(high + RIM, held.shape[1:]) if len(corners) else high
            low[0], high[0] = 0, held.shape[1]
            yield held, low.astype(np.int64), high.astype(np.int64)
        held = logits


def _foreground(logits: torch.Tensor) -> Array:
    """[K, d, H, W] -> the first and the last index (d, h, w) of what is not background, [2, 3]; [0, 3] if nothing."""
    mask = (logits.argmax(0) != 0).cpu().numpy()
    if not mask.any():
        return np.zeros((0, 3))
    low, high = box(mask)
    return np.stack([low, high - 1])


def _first(ranks_last: torch.Tensor) -> Array:
    """[d, h, w, R] -> contiguous [R, d, h, w]."""
    return np.ascontiguousarray(ranks_last.permute(3, 0, 1, 2).cpu().numpy())


def _joined(found: list[Slab], low: Array, high: Array) -> tuple[Array, Array]:
    """All slabs in one box; a place that no slab's box covers is background, by an unknown lead. Empties the list."""
    ranks, dtype = len(found[0].values), found[0].classes.dtype
    shape = (ranks, *(high - low))
    values, classes = np.full(shape, OUTSIDE, dtype=found[0].values.dtype), np.zeros(shape, dtype=dtype)
    values[0] = 0
    while found:
        piece = found.pop()
        first = np.maximum(piece.low, low)
        last = np.minimum(piece.low + piece.values.shape[1:], high)
        if (first < last).all():
            here, there = slices(first - low, last - low), slices(first - piece.low, last - piece.low)
            values[(slice(None), *here)] = piece.values[(slice(None), *there)]
            classes[(slice(None), *here)] = piece.classes[(slice(None), *there)]
    return values, classes


def _background_wins(classes: Array, removed: Array) -> None:
    """In removed voxels the winner and the background change places (in place); not ranked, background is last."""
    order = classes[:, removed]  # [R, n]
    winner = order[0].copy()
    where = np.where((order == 0).any(axis=0), (order == 0).argmax(axis=0), len(order) - 1)
    order[where, np.arange(order.shape[1])] = winner
    order[0] = 0
    classes[:, removed] = order
