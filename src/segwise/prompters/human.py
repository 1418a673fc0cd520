"""A person's box: too loose or too tight by millimetres, as people differ from each other and from themselves."""

from __future__ import annotations

from typing import Literal

import numpy as np

from segwise.card import PrompterCard
from segwise.case import Target
from segwise.geometry import Array
from segwise.prompt import Box, Prompt
from segwise.prompters._places import Region, at_least, region

CARD = PrompterCard(
    title="Human box",
    summary="A 3D box (or one a slice) with the spread between observers, in mm; compose with human-clicks.",
    gives=("box",),
    draws=True,
    source="Model of this project: observer and face effects (two-level normal), parameters assumed, not fitted",
)
_LARGEST = 2.0  # standard deviations: draws beyond are cut there


def first(
    target: Target,
    seed: int,
    *,
    margin_mm: float = 1.0,
    spread_mm: float = 2.0,
    observer_share: float = 0.5,
    dims: Literal[2, 3] = 3,
    plane: str = "axial",
) -> Prompt | None:
    """The tight box with every face moved outward by margin + observer + slip, in mm.

    observer ~ N(0, share · spread²) is one draw a seed: some people draw loose boxes, some tight ones. slip ~
    N(0, (1 - share) · spread²) is a draw a face. Each is cut at two standard deviations; a face moves inward by at most
    a quarter of the target's extent on its axis. Faces are cut at the image. The defaults are assumptions: a margin of
    about a voxel, and a spread like that reported between observers' contours of organs (1 to 3 mm).

    Args:
        target: the reference.
        seed: of the observer and the slips.
        margin_mm: mean distance of a face from the target.
        spread_mm: standard deviation of a face, observer and slip together.
        observer_share: part of the variance that is the observer's, 0 to 1.
        dims: 3 makes one box, 2 one on each occupied slice of `plane`, by one observer.
        plane: "axial", "coronal" or "sagittal"; used with dims=2.

    Returns:
        Box marks; None for an empty reference.

    Raises:
        SpecError: a negative spread, or a share outside 0 to 1.
    """
    at_least("human: spread_mm", spread_mm, 0)
    at_least("human: observer_share", observer_share, 0)
    at_least("human: 1 - observer_share", 1 - observer_share, 0)
    found = region(target.mask, target.grid)
    if found is None:
        return None
    rng = np.random.default_rng(seed)
    base = margin_mm + spread_mm * np.sqrt(observer_share) * _normal(rng, ())
    slip = spread_mm * np.sqrt(1 - observer_share)
    if dims == 3:
        return Prompt((_drawn(found, *found.tight(), base + slip * _normal(rng, (2, 3))),))
    boxes = []
    for piece in found.slices(plane):
        outward = base + slip * _normal(rng, (2, 3))
        outward[:, piece.axis] = 0
        boxes.append(_drawn(found, *piece.tight(), outward))
    return Prompt(tuple(boxes))


def next(
    target: Target,
    prompt: Prompt,
    mask: Array,
    seed: int,
    *,
    margin_mm: float = 1.0,
    spread_mm: float = 2.0,
    observer_share: float = 0.5,
    dims: Literal[2, 3] = 3,
    plane: str = "axial",
) -> Prompt | None:
    """None: the box is drawn once."""
    return None


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.clip(rng.standard_normal(shape), -_LARGEST, _LARGEST)


def _drawn(found: Region, low: Array, high: Array, outward_mm: Array) -> Box:
    extent = (high - low) * np.array(found.grid.spacing_mm)
    return found.box(low, high, outward_mm=np.maximum(outward_mm, -extent / 4))
