"""A point on k slices, interpolated to every slice between."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from segwise.card import PrompterCard
from segwise.case import Target
from segwise.geometry import Array, bounds
from segwise.prompt import Prompt
from segwise.prompters._places import Slice, at_least, largest, nearest, region, spread

CARD = PrompterCard(
    title="Interpolated points",
    summary="A person clicks on k slices; the slices between get a point on the straight line.",
    gives=("points",),
    version=2,
    source="RadioActive: PointInterpolation (k = 3, 5, 10)",
)


def first(target: Target, seed: int, *, k: int = 3, plane: str = "axial") -> Prompt | None:
    """One point on every slice from the first to the last occupied one.

    The k slices are equidistant from the first to the last, rounded down and moved to the nearest occupied one. There
    the point is the centre of the bounding box of the slice's largest component, moved to its nearest voxel (in mm;
    the source: in pixels). Between, rows and columns are interpolated linearly and rounded to a voxel, so a point may
    lie outside a bent target.

    Args:
        target: the reference.
        seed: not used.
        k: prompted slices, at least 2; those that coincide count once.
        plane: "axial", "coronal" or "sagittal".

    Returns:
        The points of the k slices, then those filled in between, which count as no interaction; None for an empty
        reference.

    Raises:
        SpecError: k below 2.
    """
    at_least("interpolate-points: k", k, 2)
    found = region(target.mask, target.grid)
    if found is None:
        return None
    chosen = spread(list(found.slices(plane)), k)
    axis = chosen[0].axis
    known = np.concatenate([piece.at(_centre(piece)) for piece in chosen])
    numbers = np.arange(known[0, axis], known[-1, axis] + 1)
    places = np.stack([np.interp(numbers, known[:, axis], known[:, a]) for a in range(3)], axis=1)
    between = np.rint(places[~np.isin(numbers, known[:, axis])]).astype(int)
    filled = [replace(found.clicks(between), drawn=False)] if len(between) else []
    return Prompt((found.clicks(known.astype(int)), *filled))


def next(target: Target, prompt: Prompt, mask: Array, seed: int, *, k: int = 3, plane: str = "axial") -> Prompt | None:
    """None: the points are given once."""
    return None


def _centre(piece: Slice) -> Array:
    component = largest(piece.mask)
    found = bounds(component)
    assert found is not None
    low, high = np.array(found[0]), np.array(found[1])
    return nearest(component, (low + high - 1) / 2, piece.spacing_mm)
