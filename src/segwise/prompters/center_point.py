"""The centre of the largest component, in the volume or in every occupied slice."""

from __future__ import annotations

from typing import Literal

import numpy as np

from segwise.card import PrompterCard
from segwise.case import Target
from segwise.geometry import Array
from segwise.prompt import Prompt
from segwise.prompters._places import largest, mean, nearest, region

CARD = PrompterCard(
    title="Centre point",
    summary="The foreground voxel nearest to the mean of the largest component, in the volume or in every slice.",
    gives=("points",),
    source="RadioActive: CenterPoint (dims=2), centroid (dims=3)",
)


def first(target: Target, seed: int, *, dims: Literal[2, 3] = 3, plane: str = "axial") -> Prompt | None:
    """The mean index of the largest component, rounded and moved to the nearest voxel of that component.

    Nearest is in mm (the source: in voxels, equal where the spacing is). Components join by face, edge or corner.

    Args:
        target: the reference.
        seed: not used.
        dims: 3 makes one point, 2 one in each occupied slice of `plane`.
        plane: "axial", "coronal" or "sagittal"; used with dims=2.

    Returns:
        One mark of points; None for an empty reference.
    """
    found = region(target.mask, target.grid)
    if found is None:
        return None
    if dims == 3:
        return Prompt((found.clicks(_centre(found.mask, found.grid.spacing_mm)),))
    return Prompt((found.clicks(np.concatenate([s.at(_centre(s.mask, s.spacing_mm)) for s in found.slices(plane)])),))


def next(
    target: Target, prompt: Prompt, mask: Array, seed: int, *, dims: Literal[2, 3] = 3, plane: str = "axial"
) -> Prompt | None:
    """None: the point is given once."""
    return None


def _centre(mask: Array, spacing: tuple[float, ...]) -> Array:
    component = largest(mask)
    return nearest(component, mean(component), spacing)
