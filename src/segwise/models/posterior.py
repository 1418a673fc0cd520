"""More like the clicks or more like what lies around the box: a Gaussian against a histogram, smoothed."""

from __future__ import annotations

import functools

import numpy as np
from scipy import ndimage

from segwise.card import ModelCard
from segwise.geometry import Array
from segwise.lifts import fields
from segwise.lifts.region import Region, RegionSegmenter

CARD = ModelCard(
    title="Posterior",
    summary="Log ratio of a Gaussian at the points and the histogram outside the box, smoothed over neighbours.",
    family="floor",
    takes=("box", "points"),
    memory="at most 200,000 voxels, a coarser grid above and its margin interpolated",
    input=(
        "first channel, clipped to the 0.5-99.5 percentiles; background is the shell of 3 voxels around the box. A box "
        "alone: the Gaussian of its core, an ellipsoid of 0.35 of its half axes. Points alone: connected to them, "
        "background is the rim of a sub-box that reaches 30 mm around them, then 60 and 120 mm, then the whole volume. "
        "A negative point takes away a ball half way to the nearest seed, 10 mm at most"
    ),
    seconds_hint=0.1,
)


def load(*, smooth: float = 1.0) -> RegionSegmenter:
    """The model.

    Args:
        smooth: Gaussian smoothing of the log ratio, in voxels of the solved grid.
    """
    return RegionSegmenter(functools.partial(margin, smooth=smooth), name=f"posterior 1/{smooth}")


def margin(region: Region, *, smooth: float) -> Array:
    """Log ratio of target and background. float32 [d, h, w] in about -4..4, > 0 is target."""
    ratio = fields.log_ratio(region.image, region.samples(), region.image[region.outside])
    found = np.asarray(ndimage.gaussian_filter(ratio, smooth), dtype=np.float32)
    if not region.boxed:  # nothing else says where the target ends
        found[~region.connected(found > 0) & (found > 0)] = -1.0
    return region.carved(found)
