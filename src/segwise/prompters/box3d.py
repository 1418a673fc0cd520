"""One box around the target in the volume."""

from __future__ import annotations

import numpy as np

from segwise.card import PrompterCard
from segwise.case import Target
from segwise.geometry import Array
from segwise.prompt import Prompt
from segwise.prompters._places import at_least, region

CARD = PrompterCard(
    title="3D box",
    summary="The tight box of the whole target, with margin and jitter in mm.",
    gives=("box",),
    draws_if=("jitter_mm",),
    source="RadioActive: Box3D; SegVol: exact 3D bounding box",
)


def first(target: Target, seed: int, *, margin_mm: float = 0.0, jitter_mm: float = 0.0) -> Prompt | None:
    """The half-open box of all foreground voxels, along the file's axes.

    Args:
        target: the reference.
        seed: of the jitter.
        margin_mm: all six faces are moved outward by it.
        jitter_mm: each face is then moved by its own draw from U(-jitter_mm, jitter_mm). Faces are cut at the image;
            the box is at least one voxel wide.

    Returns:
        One box mark; None for an empty reference.

    Raises:
        SpecError: a negative margin or jitter.
    """
    at_least("box3d: margin_mm", margin_mm, 0)
    at_least("box3d: jitter_mm", jitter_mm, 0)
    found = region(target.mask, target.grid)
    if found is None:
        return None
    outward = margin_mm + np.random.default_rng(seed).uniform(-jitter_mm, jitter_mm, (2, 3))
    return Prompt((found.box(*found.tight(), outward_mm=outward),))


def next(
    target: Target, prompt: Prompt, mask: Array, seed: int, *, margin_mm: float = 0.0, jitter_mm: float = 0.0
) -> Prompt | None:
    """None: the box is given once."""
    return None
