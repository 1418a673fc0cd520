"""One tight 3D box and points deep inside the target: the prompts that the weightless floor was measured with."""

from __future__ import annotations

import numpy as np

from segwise.card import PrompterCard
from segwise.case import Target
from segwise.geometry import Array
from segwise.prompt import Prompt
from segwise.prompters._places import at_least, deepest, depth, drawn, region

CARD = PrompterCard(
    title="Box and deep points",
    summary="The tight 3D box, the deepest point and n-1 random ones from the deeper half of the target.",
    gives=("box", "points"),
    draws=True,
    source="The floor of this project: tight box, deepest point and four random deep points (floor.csv)",
)


def first(target: Target, seed: int, *, n: int = 5) -> Prompt | None:
    """The tight box, then n points: the deepest voxel and n-1 random ones at least half as deep.

    Deep is the Euclidean distance in mm to the object's border (the nearest voxel outside it; the image's edge is no
    border). Of equally deep voxels the one nearest to their middle is taken; the random ones are drawn without repeats
    where there are enough, and do not repeat the deepest.

    Args:
        target: the reference.
        seed: of the draw.
        n: points in all.

    Returns:
        A box mark and one mark of n points, the deepest first; None for an empty reference.

    Raises:
        SpecError: n below 1.
    """
    at_least("box-points: n", n, 1)
    found = region(target.mask, target.grid)
    if found is None:
        return None
    distances = depth(found.mask, found.grid.spacing_mm)
    top = deepest(distances, found.grid.spacing_mm)
    places = top[None]
    if n > 1:
        deep = distances >= distances[tuple(top)] / 2
        deep[tuple(top)] = not (deep.sum() > 1)
        places = np.concatenate([places, drawn(deep, n - 1, np.random.default_rng(seed))])
    return Prompt((found.box(*found.tight()), found.clicks(places)))


def next(target: Target, prompt: Prompt, mask: Array, seed: int, *, n: int = 5) -> Prompt | None:
    """None: box and points are given once."""
    return None
