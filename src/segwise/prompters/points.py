"""Random points of the foreground, in the volume or in every occupied slice."""

from __future__ import annotations

from typing import Literal

import numpy as np

from segwise.card import PrompterCard
from segwise.case import Target
from segwise.geometry import Array
from segwise.prompt import Prompt
from segwise.prompters._places import at_least, drawn, region

CARD = PrompterCard(
    title="Random points",
    summary="n random foreground points in the volume (dims=3) or in every occupied slice (dims=2).",
    gives=("points",),
    draws=True,
    source="RadioActive: N points in volume (dims=3), N FG points per slice (dims=2); SAM-Med3D random (n=1)",
)


def first(target: Target, seed: int, *, n: int = 5, dims: Literal[2, 3] = 3, plane: str = "axial") -> Prompt | None:
    """n foreground voxels, each equally likely, none twice unless there are fewer than n.

    Args:
        target: the reference.
        seed: of the draw.
        n: points in the volume, or in each slice.
        dims: 3 draws in the volume, 2 in each occupied slice of `plane`.
        plane: "axial", "coronal" or "sagittal"; used with dims=2.

    Returns:
        One mark of points; None for an empty reference.

    Raises:
        SpecError: n below 1.
    """
    at_least("points: n", n, 1)
    found = region(target.mask, target.grid)
    if found is None:
        return None
    rng = np.random.default_rng(seed)
    if dims == 3:
        return Prompt((found.clicks(drawn(found.mask, n, rng)),))
    return Prompt((found.clicks(np.concatenate([s.at(drawn(s.mask, n, rng)) for s in found.slices(plane)])),))


def next(
    target: Target, prompt: Prompt, mask: Array, seed: int, *, n: int = 5, dims: Literal[2, 3] = 3, plane: str = "axial"
) -> Prompt | None:
    """None: the points are given once."""
    return None
