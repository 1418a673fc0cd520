"""More like the clicks or more like what lies around the box: a Gaussian against a histogram, smoothed."""

from __future__ import annotations

import functools

import numpy as np
from scipy import ndimage

from segwise.card import ModelCard
from segwise.geometry import Array
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
BINS = 64
UNSEEN = 1e-4  # share of either class in a brightness that it never showed


def load(*, smooth: float = 1.0) -> RegionSegmenter:
    """The model.

    Args:
        smooth: Gaussian smoothing of the log ratio, in voxels of the solved grid.
    """
    return RegionSegmenter(functools.partial(margin, smooth=smooth), name=f"posterior 1/{smooth}")


def margin(region: Region, *, smooth: float) -> Array:
    """Log ratio of target and background. float32 [d, h, w] in about -4..4, > 0 is target."""
    ratio = log_ratio(region.image, region.samples(), region.image[region.outside])
    found = np.asarray(ndimage.gaussian_filter(ratio, smooth), dtype=np.float32)
    if not region.boxed:  # nothing else says where the target ends
        found[~region.connected(found > 0) & (found > 0)] = -1.0
    return region.carved(found)


def log_ratio(image: Array, target: Array, background: Array) -> Array:
    """Log of p(brightness | target) / p(brightness | background), clipped to -4..4.

    Args:
        image: float32 [d, h, w] in 0..1.
        target: float32 [N] samples, taken as a Gaussian: median, and the larger of the MAD and half the deviation.
        background: float32 [N] samples, taken as a smoothed histogram of 64 bins.
    """
    centre = float(np.median(target))
    spread = max(1.4826 * float(np.median(np.abs(target - centre))), float(target.std()) / 2, 1 / BINS)
    bins = np.clip((image * BINS).astype(int), 0, BINS - 1)
    counts, _ = np.histogram(background, bins=BINS, range=(0.0, 1.0))
    there = ndimage.gaussian_filter1d(counts.astype(np.float64), 1.5, mode="nearest")
    middle = (np.arange(BINS) + 0.5) / BINS
    here = np.exp(-0.5 * ((middle - centre) / spread) ** 2)
    here, there = (p / max(p.sum(), 1e-12) + UNSEEN for p in (here, there))
    return np.asarray(np.clip(np.log(here / there), -4.0, 4.0)[bins])
