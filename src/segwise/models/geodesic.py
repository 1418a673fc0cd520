"""Geodesic distances: a voxel belongs to whom it is reached from more cheaply, the clicks or the shell of the box.

The cost of a step grows with the image's edges, so a path that stays within one structure is cheap whatever its
brightness does, and one that crosses an edge is dear.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy import ndimage
from skimage.graph import MCP_Geometric

from segwise.card import ModelCard
from segwise.geometry import Array
from segwise.lifts.region import Region, RegionSegmenter

CARD = ModelCard(
    title="Geodesic distance",
    summary="A voxel is target if a path that crosses no edges leads from it to the clicks rather than out of the box.",
    family="floor",
    takes=("box", "points"),
    paper="Bai and Sapiro 2009, doi:10.1007/s11263-008-0191-z (geodesic matting; here on image edges)",
    memory="at most 200,000 voxels are solved: a larger sub-box is solved on a coarser grid and its margin interpolated",
    input=(
        "first channel, clipped to the 0.5-99.5 percentiles; the sub-box of the prompt with a shell of 3 voxels. "
        "A box alone: seeds are its core, an ellipsoid of 0.35 of its half axes. Points alone: the sub-box reaches "
        "30 mm around them, then 60 and 120 mm, then the whole volume, until the answer no longer touches its rim"
    ),
    deviations=("one cost for both sides, from edges; the paper takes differences of a class posterior",),
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
    cost = edges(region.image, smooth=smooth, inside=region.inside) ** power + floor
    inner = distance(cost, region.seeds, spacing_mm=region.spacing_mm)
    outer = distance(cost, region.outside, spacing_mm=region.spacing_mm)
    tiny = 1e-3 * float(np.median(cost)) * min(region.spacing_mm)
    return np.asarray(np.log((outer + tiny) / (inner + tiny)) + LEAN, dtype=np.float32)


def edges(image: Array, *, smooth: float, inside: Array) -> Array:
    """Gradient magnitude per voxel (not per mm: a slice's thickness blurs its edge), in units of its median inside."""
    blurred = ndimage.gaussian_filter(image, smooth) if smooth > 0 else image
    strength = np.sqrt(sum(ndimage.sobel(blurred, axis) ** 2 for axis in range(3)))
    usual = float(np.median(strength[inside])) or float(strength.mean()) or 1.0
    return np.asarray(strength / usual)


def distance(cost: Array, seeds: Array, *, spacing_mm: tuple[float, float, float]) -> Array:
    """Cost of the cheapest path from any seed to each voxel, 26 neighbours. float64 [d, h, w]."""
    starts = np.argwhere(seeds & ~ndimage.binary_erosion(seeds, border_value=1))
    found, _ = MCP_Geometric(cost, sampling=spacing_mm).find_costs(starts)
    return np.where(seeds, 0.0, found)
