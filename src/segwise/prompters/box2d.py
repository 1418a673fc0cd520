"""A box on every occupied slice."""

from __future__ import annotations

import numpy as np

from segwise.card import PrompterCard
from segwise.case import Target
from segwise.geometry import Array
from segwise.prompt import Prompt
from segwise.prompters._places import at_least, region

CARD = PrompterCard(
    title="Box per slice",
    summary="The tight box of the target on every occupied slice, with margin and jitter in mm.",
    gives=("box",),
    draws_if=("jitter_mm",),
    source="RadioActive: BoxPer2DSlice (tight), nonperfect boxes (jitter_mm); MedSAM: box enlarged outward (margin_mm)",
)


def first(
    target: Target, seed: int, *, margin_mm: float = 0.0, jitter_mm: float = 0.0, plane: str = "axial"
) -> Prompt | None:
    """One box, one voxel thick, on every occupied slice, in the order S, P or L of the plane.

    Args:
        target: the reference.
        seed: of the jitter.
        margin_mm: all four sides are moved outward by it.
        jitter_mm: each side of each box is then moved by its own draw from U(-jitter_mm, jitter_mm). Sides are cut
            at the image; a box is at least one voxel wide.
        plane: "axial", "coronal" or "sagittal".

    Returns:
        One box mark a slice; None for an empty reference.

    Raises:
        SpecError: a negative margin or jitter.
    """
    at_least("box2d: margin_mm", margin_mm, 0)
    at_least("box2d: jitter_mm", jitter_mm, 0)
    found = region(target.mask, target.grid)
    if found is None:
        return None
    rng = np.random.default_rng(seed)
    boxes = []
    for piece in found.slices(plane):
        outward = margin_mm + rng.uniform(-jitter_mm, jitter_mm, (2, 3))
        outward[:, piece.axis] = 0
        boxes.append(found.box(*piece.tight(), outward_mm=outward))
    return Prompt(tuple(boxes))


def next(
    target: Target,
    prompt: Prompt,
    mask: Array,
    seed: int,
    *,
    margin_mm: float = 0.0,
    jitter_mm: float = 0.0,
    plane: str = "axial",
) -> Prompt | None:
    """None: the boxes are given once."""
    return None
