"""Geodesic distances, a random walk and brightness classes learned from their own answer, added up and smoothed.

The best we know without weights. All terms are log ratios, > 0 for the target:
1. distances along edges to the clicks and to the shell, and a random walk between the same seeds: where it is;
2. a weak prior: the ellipsoid in the box, and the Gaussian of the clicks against the shell;
3. the joint histogram of brightness and edge strength in and out of the answer so far: what it looks like, estimated
   anew in each round;
4. smoothing that stops at edges.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy import ndimage

from segwise.card import ModelCard
from segwise.geometry import Array
from segwise.lifts import fields
from segwise.lifts.region import Region, RegionSegmenter

CARD = ModelCard(
    title="Geodesic Bayes",
    summary="Geodesic distances, a random walk and brightness classes re-estimated from the answer, smoothed to edges.",
    family="floor",
    takes=("box", "points"),
    paper="after Bai and Sapiro 2009, doi:10.1007/s11263-008-0191-z; Rother et al. 2004, doi:10.1145/1015706.1015720",
    memory="at most 50,000 voxels are solved: a larger sub-box is solved on a coarser grid, its margin interpolated",
    input=(
        "first channel, clipped to the 0.5-99.5 percentiles and half equalised over the sub-box of the prompt with a "
        "shell of 3 voxels. A box alone: seeds are its core, an ellipsoid of 0.35 of its half axes. Points alone: the "
        "sub-box reaches 30 mm around them, then 60 and 120 mm, then the whole volume, until the answer no longer "
        "touches its rim"
    ),
    deviations=("a few global weights were set on the 32 targets of plans/floor.toml; no target has its own",),
    seconds_hint=2.0,
)
MAX_VOXELS = 50_000
LEAN = 0.1  # ties go to the clicks: the shell starts right at a tight box's faces, the clicks start deep
WALK, ELLIPSOID, CLICKS = 0.2, 0.25, 0.15  # weights beside the distances' 1
CLIP = 2.5  # no voxel is surer than this before it is smoothed: its neighbours can still turn it


def load(*, classes: float = 1.0, smooth: float = 1.5, rounds: int = 2) -> RegionSegmenter:
    """The model.

    Args:
        classes: weight of the brightness classes; 0 leaves them out.
        smooth: weight of the smoothing between neighbours.
        rounds: how often the classes are estimated anew.
    """
    solve = functools.partial(margin, classes=classes, smooth=smooth, rounds=rounds)
    return RegionSegmenter(solve, name=f"geodesic-bayes 1/{classes}/{smooth}/{rounds}", max_voxels=MAX_VOXELS)


def margin(region: Region, *, classes: float, smooth: float, rounds: int) -> Array:
    """Sum of the log ratios after smoothing. float32 [d, h, w], > 0 is target."""
    image, spacing = fields.equalised(region.image), region.spacing_mm
    where = _where(region, image)
    strength = fields.gradient(image, smooth=0.7)
    strength = np.sqrt(np.minimum(1.0, strength / max(float(np.quantile(strength, 0.95)), 1e-9)))
    blurred = ndimage.gaussian_filter(image, 0.5)
    found = where
    for _ in range(rounds):
        target = (found > 0) & region.inside
        ratio = fields.class_ratio((image, strength), target) if target.any() and not target.all() else 0 * found
        voted = np.clip(where + classes * ndimage.gaussian_filter(ratio, 0.5), -CLIP, CLIP)
        found = fields.smoothed(voted, blurred, weight=smooth, beta=0.5, spacing_mm=spacing)
    found[region.seeds] = np.maximum(found[region.seeds], 0.1)
    for click in region.negative:
        found[tuple(click)] = -CLIP
    return np.asarray(found, dtype=np.float32)


def _where(region: Region, image: Array) -> Array:
    """The terms that do not change between rounds. float64 [d, h, w]."""
    spacing = region.spacing_mm
    cost = fields.edge_cost(image, region.inside, smooth=0.7, power=2.0, floor=0.03)
    near = fields.nearer(cost, region.seeds, region.outside, spacing_mm=spacing) + LEAN
    walk = fields.walk(image, region.seeds, region.outside, beta=39.0, scale=1000.0, spacing_mm=spacing)
    like = fields.log_ratio(region.image, region.samples(), region.image[region.outside])
    prior = ELLIPSOID * (0.9 - (region.place**2).sum(axis=0)) if region.boxed else 0.0
    return np.asarray(
        near + WALK * np.clip(walk, -9, 9) + CLICKS * ndimage.gaussian_filter(like, 1.0) + prior, dtype=np.float64
    )
