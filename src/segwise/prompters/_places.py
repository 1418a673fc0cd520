"""What the simulated users share: a target's foreground cut out and turned upright, its deep places, its slices.

Every prompter works on arrays with axes towards S, P, L (slices from feet to head, rows towards the back, columns
towards the left), cut to the foreground. So a file whose axes are swapped or flipped gets the same prompts, ties and
random draws included, and a small target in a large volume costs little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cc3d
import edt
import numpy as np
from numpy.typing import ArrayLike

from segwise.case import Target
from segwise.errors import GridError, SpecError
from segwise.geometry import Array, Grid, bounds, regrid
from segwise.prompt import Box, Mark, Points, Prompt

UPRIGHT = "SPL"
TIE = 1e-5  # relative: float32 distances this close are equal


@dataclass(frozen=True, eq=False)
class Region:
    """The foreground of a mask, cut out and turned upright.

    Attributes:
        mask: bool [d, h, w], axes towards S, P, L, with one voxel around the foreground where the image has one.
        low: int [3], where the cut begins in `grid`.
        grid: the whole image's grid, turned towards S, P, L.
    """

    mask: Array
    low: Array
    grid: Grid

    def mm(self, index: ArrayLike) -> Array:
        """Indices [N, 3] of `mask` -> float64 [N, 3] mm."""
        return self.grid.mm(np.atleast_2d(np.asarray(index)) + self.low)

    def tight(self) -> tuple[Array, Array]:
        """The half-open box low..high of the foreground, int [3] each, in indices of `mask`."""
        found = bounds(self.mask)
        assert found is not None  # a Region is made of a mask that holds something
        return np.array(found[0]), np.array(found[1])

    def box(self, low: ArrayLike, high: ArrayLike, *, outward_mm: ArrayLike = 0.0) -> Box:
        """A box with each face moved outward, cut to the image and at least one voxel thick.

        Args:
            low, high: int [3] half-open, in indices of `mask`.
            outward_mm: one number or float [2, 3] (low, high faces); negative is inward.
        """
        shift = np.broadcast_to(np.asarray(outward_mm, dtype=np.float64), (2, 3)) / np.array(self.grid.spacing_mm)
        first = np.asarray(low) + self.low - shift[0]
        last = np.asarray(high) + self.low + shift[1]
        first, last = np.minimum(first, last), np.maximum(first, last)
        centre, thin = (first + last) / 2, last - first < 1
        first, last = np.where(thin, centre - 0.5, first), np.where(thin, centre + 0.5, last)
        first = np.clip(first, 0, np.array(self.grid.shape) - 1)
        last = np.clip(last, first + 1, self.grid.shape)
        return Box.of(self.grid, first.tolist(), last.tolist())

    def clicks(self, index: ArrayLike, *, positive: bool = True) -> Points:
        """Clicks of one sign at indices [N, 3] of `mask`."""
        places = self.mm(index)
        return Points(places, np.full(len(places), positive))

    def whole_slice(self, mask: Array, grid: Grid, piece: Slice) -> Array:
        """The whole image slice [A, B], turned upright, of another mask [D, H, W] where a slice of this region lies."""
        low, high = np.zeros(3, dtype=int), np.array(self.grid.shape)
        low[piece.axis] = self.low[piece.axis] + piece.number
        high[piece.axis] = low[piece.axis] + 1
        cut = regrid(mask, grid, self.grid.crop(low.tolist(), high.tolist()), order=0, outside=0.0)
        return np.asarray(np.take(cut, 0, axis=piece.axis))

    def slices(self, plane: str) -> Iterator[Slice]:
        """The occupied slices of a plane, in the direction of S, P or L.

        Raises:
            GridError: no such plane.
        """
        axis = self.grid.axis_of(plane)
        others = tuple(a for a in range(3) if a != axis)
        for i in np.flatnonzero(self.mask.any(axis=others)):
            yield Slice(np.take(self.mask, int(i), axis=axis), int(i), axis, self.grid.spacing_mm)


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice of a region.

    Attributes:
        mask: bool [a, b], never empty.
        number: its index along `axis` of the region's mask.
        axis: the stacking axis.
        spacing: of the region, (d, h, w) mm.
    """

    mask: Array
    number: int
    axis: int
    spacing: tuple[float, float, float]

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """(a, b): of the slice's rows and columns."""
        return tuple(s for i, s in enumerate(self.spacing) if i != self.axis)

    def at(self, places: ArrayLike) -> Array:
        """Places [N, 2] of the slice -> [N, 3] of the region."""
        return np.insert(np.atleast_2d(np.asarray(places)), self.axis, self.number, axis=1)

    def tight(self, mask: Array | None = None) -> tuple[Array, Array]:
        """The half-open box low..high of the slice's (or another mask's) foreground, one voxel thick, int [3] each."""
        found = bounds(self.mask if mask is None else mask)
        assert found is not None
        low, high = (np.insert(np.array(corner), self.axis, self.number) for corner in found)
        high[self.axis] += 1
        return low, high


def region(mask: Array, grid: Grid) -> Region | None:
    """The foreground of a bool mask [D, H, W] on a grid, upright; None if it is empty."""
    found = bounds(mask)
    if found is None:
        return None
    low = [max(a - 1, 0) for a in found[0]]
    high = [min(b + 1, n) for b, n in zip(found[1], mask.shape, strict=True)]
    cut = grid.crop(low, high)
    turned, whole = cut.toward(UPRIGHT), grid.toward(UPRIGHT)
    piece = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    upright = np.array(regrid(piece, cut, turned, order=0, outside=0.0), order="C")  # writeable, as cc3d wants it
    return Region(upright, np.rint(whole.index(turned.mm([0, 0, 0]))[0]).astype(int), whole)


def middle(pieces: Sequence[Slice]) -> Slice:
    """Of the occupied slices the one at int((z1 - z0) / 2 + z0), z1 the last; the nearest (lower) one if that is empty.

    Counted in the direction of S, P or L, so that a flipped file has the same middle.
    """
    wanted = int((pieces[-1].number - pieces[0].number) / 2 + pieces[0].number)
    return min(pieces, key=lambda piece: abs(piece.number - wanted))


def spread(pieces: Sequence[Slice], k: int) -> list[Slice]:
    """Of the occupied slices k equidistant ones from the first to the last, rounded down, then moved to the nearest
    occupied one; fewer if some coincide (RadioActive)."""
    wanted = np.linspace(pieces[0].number, pieces[-1].number, k, dtype=int)
    chosen = {(p := min(pieces, key=lambda piece: abs(piece.number - w))).number: p for w in wanted}
    return [chosen[number] for number in sorted(chosen)]


def wrong(target: Target, mask: Array) -> Region | None:
    """Where a prediction differs from the reference; None if nowhere.

    Raises:
        GridError: the prediction is not a bool mask on the target's grid.
    """
    if mask.dtype != bool or mask.shape != target.grid.shape:
        raise GridError(f"prediction is {mask.dtype} {mask.shape}, expected bool {target.grid.shape}")
    return region(target.mask ^ mask, target.grid)


def belongs(target: Target, xyz_mm: Array) -> bool:
    """Whether the voxel nearest to a place [3] is of the reference."""
    d, h, w = np.rint(target.grid.index(xyz_mm)[0]).astype(int)
    return bool(target.mask[d, h, w])


def largest(mask: Array) -> Array:
    """The largest component by voxel count (neighbours by face, edge or corner); the first met on a tie.

    Args:
        mask: bool [d, h, w] or [a, b], not empty.
    """
    labels = cc3d.connected_components(mask, connectivity=26 if mask.ndim == 3 else 8)
    counts = np.array(cc3d.statistics(labels, no_slice_conversion=True)["voxel_counts"])[1:]
    return np.asarray(mask if len(counts) == 1 else labels == int(np.argmax(counts)) + 1)


def depth(mask: Array, spacing: Sequence[float], *, edge_is_border: bool = False) -> Array:
    """float32 distances, same shape: from each true voxel to the nearest false one, 0 elsewhere.

    Args:
        mask: bool, two or three axes.
        spacing: mm of the axes; ones for voxel units.
        edge_is_border: what lies beyond the array is background; always so if the array holds no background.
    """
    border = edge_is_border or bool(mask.all())
    return np.asarray(edt.edt(np.ascontiguousarray(mask), anisotropy=tuple(spacing), black_border=border, parallel=1))


def deepest(distances: Array, spacing: Sequence[float]) -> Array:
    """int [ndim]: the greatest distance; of equal ones that nearest to their middle, then the first in array order."""
    ties = np.argwhere(distances >= distances.max() * (1 - TIE))
    away = np.linalg.norm((ties - ties.mean(axis=0)) * np.asarray(spacing), axis=1)
    return np.asarray(ties[np.argmin(np.round(away, 3))])


def mean(mask: Array) -> Array:
    """float64 [ndim]: the mean index of what is true."""
    axes = range(mask.ndim)
    sums = [np.count_nonzero(mask, axis=tuple(b for b in axes if b != a)) for a in axes]
    return np.array([np.average(np.arange(len(n)), weights=n) for n in sums])


def nearest(mask: Array, index: ArrayLike, spacing: Sequence[float]) -> Array:
    """int [ndim]: the true voxel nearest to an index (rounded) in mm; the first in array order on a tie."""
    wanted = np.rint(index).astype(int)
    if mask[tuple(wanted)]:
        return wanted
    found = np.argwhere(mask)
    away = np.linalg.norm((found - wanted) * np.asarray(spacing), axis=1)
    return np.asarray(found[np.argmin(np.round(away, 6))])


def drawn(mask: Array, n: int, rng: np.random.Generator) -> Array:
    """int [n, ndim]: different true voxels, each equally likely; if there are fewer, all and then repeats."""
    found = np.flatnonzero(mask)
    if len(found) >= n:
        chosen = rng.choice(found, n, replace=False)
    else:
        chosen = np.concatenate([found, rng.choice(found, n - len(found))])
    return np.stack(np.unravel_index(chosen, mask.shape), axis=1)


def rounds_made(prompt: Prompt, opening: Prompt | None) -> int:
    """How many rounds a prompter has made that adds one mark a round, in a prompt that may hold others' marks.

    Its first mark is looked for; where it is not found, the marks of one kind at the prompt's end count.
    """
    marks = prompt.marks
    if opening is not None:
        for i in range(len(marks)):
            if Prompt(marks[i : i + 1]) == Prompt(opening.marks[-1:]):
                return len(marks) - i
    run = 0
    while run < len(marks) and marks[-1 - run].kind == marks[-1].kind and _single(marks[-1 - run]):
        run += 1
    return run


def at_least(name: str, value: float, least: float) -> None:
    """Refuse an argument below its least value.

    Raises:
        SpecError: the value is smaller, or not a number.
    """
    if not value >= least:
        raise SpecError(f"{name} is {value}, expected at least {least}")


def _single(mark: Mark) -> bool:
    return not isinstance(mark, Points) or len(mark.xyz_mm) == 1
