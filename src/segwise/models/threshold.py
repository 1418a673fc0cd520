"""As bright as where the user clicked: the median of small patches, give or take some deviations."""

from __future__ import annotations

import functools

import numpy as np
from scipy import ndimage

from segwise.card import ModelCard
from segwise.geometry import Array
from segwise.lifts.region import Region, RegionSegmenter

CARD = ModelCard(
    title="Threshold",
    summary="A voxel is target if it is as bright as the 3x3x3 patches at the points, within two standard deviations.",
    family="floor",
    takes=("box", "points"),
    memory="at most 200,000 voxels, a coarser grid above and its margin interpolated",
    input=(
        "first channel, clipped to the 0.5-99.5 percentiles. A box alone: brightness of its core, an ellipsoid of 0.35 "
        "of its half axes. Points alone: connected to them, in a sub-box that reaches 30 mm around them, then 60 and "
        "120 mm, then the whole volume. A negative point takes away a ball half way to the nearest seed, 10 mm at most"
    ),
    seconds_hint=0.05,
)
SMOOTH = 0.7  # voxels, of the margin: single noisy voxels make no holes


def load(*, n_sd: float = 2.0) -> RegionSegmenter:
    """The model.

    Args:
        n_sd: half width of the accepted range, in standard deviations of the patches.
    """
    return RegionSegmenter(functools.partial(margin, n_sd=n_sd), name=f"threshold 1/{n_sd}")


def margin(region: Region, *, n_sd: float) -> Array:
    """How many standard deviations a voxel lies within the range. float32 [d, h, w], > 0 inside it."""
    samples = region.samples()
    spread = max(float(samples.std()), 1e-3)
    found = np.clip(n_sd - np.abs(region.image - np.median(samples)) / spread, -n_sd, n_sd)
    found = np.asarray(ndimage.gaussian_filter(found, SMOOTH), dtype=np.float32)
    if not region.boxed:  # nothing else says where the target ends
        found[~region.connected(found > 0) & (found > 0)] = -n_sd
    return region.carved(found)
