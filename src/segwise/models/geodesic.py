"""Geodesic distances: a voxel belongs to whom it is reached from more cheaply, the clicks or the shell of the box.

The cost of a step grows with the image's edges, so a path that stays within one structure is cheap whatever its
brightness does, and one that crosses an edge is dear.
"""

from __future__ import annotations

import functools

import numpy as np

from segwise.card import ModelCard
from segwise.geometry import Array
from segwise.lifts import fields
from segwise.lifts.region import Region, RegionSegmenter

CARD = ModelCard(
    title="Geodesic distance",
    summary="A voxel is target if a path that crosses no edges leads from it to the clicks rather than out of the box.",
    family="floor",
    takes=("box", "points"),
    paper="Bai and Sapiro 2009, doi:10.1007/s11263-008-0191-z (geodesic matting; here on image edges)",
    memory="at most 200,000 voxels are solved: a larger sub-box is solved on a coarser grid, its margin interpolated",
    input=(
        "first channel, clipped to the 0.5-99.5 percentiles; the sub-box of the prompt with a shell of 3 voxels. "
        "A box alone: seeds are its core, an ellipsoid of 0.35 of its half axes. Points alone: the sub-box reaches "
        "30 mm around them, then 60 and 120 mm, then the whole volume, until the answer no longer touches its rim"
    ),
    deviations=(
        "one cost for both sides, from edges; the paper takes differences of a class posterior",
        "a few global numbers were chosen on the 32 targets of plans/floor.toml: scores there favour it",
    ),
    seconds_hint=2.0,
)
FLOOR = 0.03  # cost of a step without any edge, in median edges: keeps paths short where the image is flat
POWER = 2.0  # strong edges count more than many weak ones
SMOOTH = 0.7  # voxels, before the gradient
LEAN = 0.1  # ties go to the clicks: the shell starts right at a tight box's faces, the clicks start deep


def load(*, power: float = POWER, smooth: float = SMOOTH, floor: float = FLOOR) -> RegionSegmenter:
    """The model.

    Args:
        power: exponent of the edge strength in the cost of a step.
        smooth: Gaussian smoothing before the gradient, in voxels of the solved grid.
        floor: cost of a step without an edge, in median edges.
    """
    solve = functools.partial(margin, power=power, smooth=smooth, floor=floor)
    return RegionSegmenter(solve, name=f"geodesic 2/{power}/{smooth}/{floor}")


def margin(region: Region, *, power: float, smooth: float, floor: float) -> Array:
    """Log ratio of the two distances, shell over clicks, plus a small lean to the clicks.

    Returns:
        float32 [d, h, w] on the region's grid, > 0 where the clicks are nearer.
    """
    cost = fields.edge_cost(region.image, region.inside, smooth=smooth, power=power, floor=floor)
    return fields.nearer(cost, region.seeds, region.outside, spacing_mm=region.spacing_mm) + np.float32(LEAN)
