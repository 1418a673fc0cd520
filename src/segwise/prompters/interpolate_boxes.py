"""A box on k slices, interpolated to every slice between."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from segwise.card import PrompterCard
from segwise.case import Target
from segwise.geometry import Array
from segwise.prompt import Prompt
from segwise.prompters._places import at_least, region, spread

CARD = PrompterCard(
    title="Interpolated boxes",
    summary="A person draws tight boxes on k slices; the slices between get boxes with interpolated corners.",
    gives=("box",),
    version=2,
    source="RadioActive: BoxInterpolation (k = 3, 5, 10)",
)


def first(target: Target, seed: int, *, k: int = 3, plane: str = "axial") -> Prompt | None:
    """One box on every slice from the first to the last occupied one.

    The k slices are equidistant from the first to the last, rounded down and moved to the nearest occupied one; they
    get their tight box. Between, both corners (low, and high exclusive) are interpolated linearly and rounded to whole
    voxels; a box is at least one voxel wide.

    Args:
        target: the reference.
        seed: not used.
        k: prompted slices, at least 2; those that coincide count once.
        plane: "axial", "coronal" or "sagittal".

    Returns:
        One box mark a slice; those filled in between count as no interaction. None for an empty reference.

    Raises:
        SpecError: k below 2.
    """
    at_least("interpolate-boxes: k", k, 2)
    found = region(target.mask, target.grid)
    if found is None:
        return None
    chosen = spread(list(found.slices(plane)), k)
    known = np.array([piece.tight() for piece in chosen])  # [k, 2, 3]
    places = [piece.number for piece in chosen]
    boxes = []
    for number in range(places[0], places[-1] + 1):
        low, high = (np.array([np.interp(number, places, known[:, side, a]) for a in range(3)]) for side in (0, 1))
        low, high = np.rint(low).astype(int), np.rint(high).astype(int)
        boxes.append(replace(found.box(low, np.maximum(high, low + 1)), drawn=number in places))
    return Prompt(tuple(boxes))


def next(target: Target, prompt: Prompt, mask: Array, seed: int, *, k: int = 3, plane: str = "axial") -> Prompt | None:
    """None: the boxes are given once."""
    return None
