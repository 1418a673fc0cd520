"""A stroke a round along the contour of the largest error."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from skimage.measure import find_contours

from segwise.card import PrompterCard
from segwise.case import Target
from segwise.errors import GridError, SpecError
from segwise.geometry import Array, Grid
from segwise.prompt import Prompt, Stroke
from segwise.prompters._places import (
    Region,
    Slice,
    at_least,
    deepest,
    depth,
    largest,
    region,
    rounds_made,
)

CARD = PrompterCard(
    title="Contour scribbles",
    summary="One scribble a round on the slice with most of the largest error: inside what is missed, or along the "
    "target where too much was taken.",
    gives=("stroke",),
    rounds="error",
    draws=True,
    source="RadioActive: contour scribble on false positives (length 0.6, distance 2); ScribblePrompt: contour "
    "scribbles",
)


def first(
    target: Target,
    seed: int,
    *,
    n: int = 5,
    length: float = 0.6,
    distance_mm: float = 2.0,
    plane: str = "axial",
) -> Prompt | None:
    """The scribble that answers an empty prediction: inside the target on its largest slice.

    Args:
        target: the reference.
        seed: where along the contour the stroke begins.
        n: rounds, this one included.
        length: part of the contour that is drawn, above 0, at most 1.
        distance_mm: from the border: inside what is missed (at most half its depth), outside the target on what is
            too much.
        plane: of the drawing: "axial", "coronal" or "sagittal".

    Returns:
        One positive stroke; None for an empty reference.

    Raises:
        SpecError: n below 1, a length outside (0, 1], or a distance of 0 or less.
    """
    at_least("scribble: n", n, 1)
    at_least("scribble: distance_mm", distance_mm, 1e-3)
    if not 0 < length <= 1:
        raise SpecError(f"scribble: length is {length}, expected above 0 and at most 1")
    if not target.mask.any():
        return None
    nothing = np.zeros(target.grid.shape, dtype=bool)
    return _stroke(target, Prompt(), nothing, np.random.default_rng(seed), length, distance_mm, plane)


def next(
    target: Target,
    prompt: Prompt,
    mask: Array,
    seed: int,
    *,
    n: int = 5,
    length: float = 0.6,
    distance_mm: float = 2.0,
    plane: str = "axial",
) -> Prompt | None:
    """The prompt with one stroke more, on the slice that holds most of the largest error component.

    Components (26 neighbours) of what is missed and of what is too much are told apart; the one of most voxels counts.

    Missed: positive, along the line `distance_mm` inside the component's slice (or at half its depth). Too much:
    negative, along the line `distance_mm` outside the reference, its longest stretch on the component; inside the
    component as above where that line does not meet it. A part of `length` of the line is drawn, from a random place;
    where there is no line, a dot at the deepest place. Points are voxel centres on the error. The source draws
    negative strokes only, in the sagittal plane, and clicks for what is missed.

    Returns:
        The longer prompt; None after n strokes, for a perfect prediction and for an empty reference.

    Raises:
        GridError: the mask is not bool on the target's grid.
    """
    opening = first(target, seed, n=n, length=length, distance_mm=distance_mm, plane=plane)
    if opening is None or rounds_made(prompt, opening) >= n:
        return None
    rng = np.random.default_rng([seed, len(prompt.marks)])
    return _stroke(target, prompt, mask, rng, length, distance_mm, plane)


def _stroke(
    target: Target,
    prompt: Prompt,
    mask: Array,
    rng: np.random.Generator,
    length: float,
    distance_mm: float,
    plane: str,
) -> Prompt | None:
    if mask.dtype != bool or mask.shape != target.grid.shape:
        raise GridError(f"prediction is {mask.dtype} {mask.shape}, expected bool {target.grid.shape}")
    errors = [_component(wrong, target.grid) for wrong in (target.mask & ~mask, mask & ~target.mask)]
    counts = [0 if error is None else int(np.count_nonzero(error.mask)) for error in errors]
    positive = counts[0] >= counts[1]
    found = errors[0 if positive else 1]
    if found is None:
        return None
    piece = max(found.slices(plane), key=lambda s: np.count_nonzero(s.mask))
    deep = deepest(depth(piece.mask, piece.spacing_mm), piece.spacing_mm)
    line = None if positive else _along(found, piece, target, distance_mm)
    line = _inside(piece, distance_mm) if line is None else line
    line = deep[None] if line is None else _part(line, length, rng)
    return prompt.also(Stroke(found.mm(piece.at(line)), closed=False, positive=positive))


def _component(mask: Array, grid: Grid) -> Region | None:
    """The largest component of a mask."""
    found = region(mask, grid)
    return None if found is None else Region(largest(found.mask), found.low, found.grid)


def _inside(piece: Slice, distance_mm: float) -> Array | None:
    """The longest line at a depth inside a slice's mask, as places [N, 2]; None if there is none."""
    distances = depth(np.pad(piece.mask, 1), piece.spacing_mm)
    level = min(distance_mm, float(distances.max()) / 2)
    return _longest(distances, level, np.pad(piece.mask, 1), offset=1)


def _along(found: Region, piece: Slice, target: Target, distance_mm: float) -> Array | None:
    """The longest stretch of the line around the reference that lies on a slice's mask; None if there is none."""
    reference = found.whole_slice(target.mask, target.grid, piece)
    if not reference.any():
        return None
    corner = np.delete(found.low, piece.axis)
    error = np.zeros_like(reference)
    error[tuple(slice(a, a + n) for a, n in zip(corner, piece.mask.shape, strict=True))] = piece.mask
    return _longest(depth(~reference, piece.spacing_mm), distance_mm, error, offset=corner)


def _longest(distances: Array, level: float, allowed: Array, *, offset: ArrayLike) -> Array | None:
    """The longest stretch, over all lines of a level, whose places [N, 2] are allowed, minus an offset."""
    best = np.empty((0, 2), dtype=int)
    for contour in find_contours(distances, level):
        places = np.rint(contour).astype(int)
        on = allowed[tuple(places.T)]
        if not on.all() and np.array_equal(contour[0], contour[-1]):
            turn = int(np.argmin(on))  # begin off the mask, so that no stretch is cut at the line's ends
            places, on = np.roll(places, -turn, axis=0), np.roll(on, -turn)
        breaks = np.flatnonzero(np.diff(np.cumsum(~on)[on])) + 1
        best = max(best, *np.split(places[on], breaks), key=len)
    return best - np.asarray(offset) if len(best) else None


def _part(line: Array, length: float, rng: np.random.Generator) -> Array:
    """A stretch of a line [N, 2], without places that repeat one after the other."""
    n = max(1, round(len(line) * length))
    start = int(rng.integers(0, len(line) - n + 1))
    part = line[start : start + n]
    moved = np.concatenate([[True], (np.diff(part, axis=0) != 0).any(axis=1)])
    return np.asarray(part[moved])
