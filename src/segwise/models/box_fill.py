"""The box itself: what a prompt is worth before any model looks at the image."""

from __future__ import annotations

import numpy as np

from segwise.card import ModelCard
from segwise.geometry import Array
from segwise.lifts.region import Region, RegionSegmenter

CARD = ModelCard(
    title="Box fill",
    summary="Everything in the box is the target; a model that does not beat it has not looked at the image.",
    family="floor",
    takes=("box",),
    memory="at most 200,000 voxels, interpolated",
    input="the boxes of the prompt; clicks are not used, the image neither",
    seconds_hint=0.01,
)


def load() -> RegionSegmenter:
    """The model."""
    return RegionSegmenter(margin, name="box-fill 1")


def margin(region: Region) -> Array:
    """1 everywhere; the answer is clipped to the boxes afterwards. float32 [d, h, w]."""
    return np.ones(region.image.shape, dtype=np.float32)
