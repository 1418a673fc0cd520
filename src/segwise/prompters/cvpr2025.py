"""The interactive protocol of the CVPR 2025 challenge: a box, then five clicks at the centre of the largest error."""

from __future__ import annotations

from typing import Literal

import numpy as np

from segwise.card import PrompterCard
from segwise.case import Target
from segwise.geometry import Array
from segwise.prompt import Prompt
from segwise.prompters._places import Slice, at_least, belongs, depth, largest, region, wrong

CARD = PrompterCard(
    title="CVPR 2025 interactive",
    summary="A loose box of the middle slice over the target's range, then n clicks in the largest error.",
    gives=("box", "points"),
    rounds="error",
    draws=True,
    source="CVPR 2025 Foundation Models for Interactive 3D Biomedical Image Segmentation: get_boxes.py, "
    "CVPR25_iter_eval.py",
)
_LARGEST_SHIFT = 5  # voxels of a 256-voxel wide image
_TIES = 42  # the challenge seeds its draw among equal distances with it, anew for every click


def first(target: Target, seed: int, *, n: int = 5, middle: Literal["slices", "voxels"] = "slices") -> Prompt | None:
    """The box: all occupied axial slices, with the tight rows and columns of one slice enlarged at random.

    A shift s in 0..5 is drawn once; int(s W/256) columns and int(s H/256) rows are added on each side, cut at the
    image. Slices run from feet to head, whatever the file. For structures that the challenge gives no box (vessels),
    `clicks` is the protocol's remainder.

    Args:
        target: the reference.
        seed: of the shift.
        n: clicks that follow.
        middle: whose box it is: "slices" the median of the occupied slices; "voxels" the slice of the median
            foreground voxel, which an earlier edition of the challenge's script took.

    Returns:
        One box mark; None for an empty reference.

    Raises:
        SpecError: n below 1.
    """
    at_least("cvpr2025: n", n, 1)
    found = region(target.mask, target.grid)
    if found is None:
        return None
    pieces = list(found.slices("axial"))
    chosen = _middle(pieces, by_voxels=middle == "voxels")
    low, high = chosen.tight()
    low[chosen.axis], high[chosen.axis] = pieces[0].number, pieces[-1].number + 1
    size = np.array(found.grid.shape)
    shift = (int(np.random.default_rng(seed).integers(0, _LARGEST_SHIFT + 1)) * size / 256).astype(int)
    shift[chosen.axis] = 0
    return Prompt((found.box(np.maximum(low - shift, -found.low), np.minimum(high + shift, size - found.low)),))


def next(
    target: Target,
    prompt: Prompt,
    mask: Array,
    seed: int,
    *,
    n: int = 5,
    middle: Literal["slices", "voxels"] = "slices",
) -> Prompt | None:
    """The prompt with one click more, at the centre of the largest error component.

    Components join by face, edge or corner; the largest by voxels; the voxel of greatest Euclidean distance in voxel
    units to anything outside the component (beyond the image too), drawn among equals with the challenge's fixed seed;
    positive where the reference is foreground. Deviation: components whose padded box exceeds 60 million voxels are
    not down-sampled first.

    Returns:
        The longer prompt; None after n clicks, for a perfect prediction and for an empty reference.

    Raises:
        GridError: the mask is not bool on the target's grid.
    """
    at_least("cvpr2025: n", n, 1)
    found = wrong(target, mask)
    if found is None or not target.mask.any() or _clicks_made(prompt) >= n:
        return None
    distances = depth(largest(found.mask), (1, 1, 1), edge_is_border=True)
    ties = np.argwhere(distances == distances.max())
    place = ties[np.random.RandomState(_TIES).choice(len(ties))]
    return prompt.also(found.clicks(place, positive=belongs(target, found.mm(place)[0])))


def _clicks_made(prompt: Prompt) -> int:
    """Clicks after the last box: those of other prompters come before it."""
    kinds = [mark.kind for mark in prompt.marks]
    return kinds[::-1][: kinds[::-1].index("box") if "box" in kinds else None].count("points")


def _middle(pieces: list[Slice], *, by_voxels: bool) -> Slice:
    weights = [int(np.count_nonzero(piece.mask)) if by_voxels else 1 for piece in pieces]
    summed = np.cumsum(weights)
    return pieces[int(np.searchsorted(summed, summed[-1] // 2, side="right"))]
