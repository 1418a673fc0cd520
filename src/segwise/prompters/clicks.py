"""Clicks at the deepest place of the largest error, starting from nothing."""

from __future__ import annotations

import numpy as np

from segwise.card import PrompterCard
from segwise.case import Target
from segwise.geometry import Array
from segwise.prompt import Prompt
from segwise.prompters._places import at_least, belongs, deepest, depth, largest, rounds_made, wrong

CARD = PrompterCard(
    title="Error-driven clicks",
    summary="One click a round at the distance-transform centre of the largest error component; n rounds.",
    gives=("points",),
    rounds="error",
    source="RITM (Sofiiuk et al., arXiv 2102.06583) in 3D; CVPR 2025 without the box; distances in mm, no draw",
)


def first(target: Target, seed: int, *, n: int = 5) -> Prompt | None:
    """The click that answers an empty prediction: the deepest voxel of the reference's largest component.

    Args:
        target: the reference.
        seed: not used.
        n: rounds, this one included.

    Returns:
        One positive click; None for an empty reference.

    Raises:
        SpecError: n below 1.
    """
    at_least("clicks: n", n, 1)
    return _click(target, Prompt(), np.zeros(target.grid.shape, dtype=bool)) if target.mask.any() else None


def next(target: Target, prompt: Prompt, mask: Array, seed: int, *, n: int = 5) -> Prompt | None:
    """The prompt with one click more: in the largest component (26 neighbours, by voxels) of reference ≠ prediction.

    The voxel of greatest Euclidean distance in mm to the component's border, of equal ones that nearest to their
    middle; positive where the reference is foreground. Marks of others in the prompt are kept and not counted.

    Returns:
        The longer prompt; None after n clicks, for a perfect prediction and for an empty reference.

    Raises:
        GridError: the mask is not bool on the target's grid.
    """
    opening = first(target, seed, n=n)
    if opening is None or rounds_made(prompt, opening) >= n:
        return None
    return _click(target, prompt, mask)


def _click(target: Target, prompt: Prompt, mask: Array) -> Prompt | None:
    found = wrong(target, mask)
    if found is None:
        return None
    spacing = found.grid.spacing_mm
    place = deepest(depth(largest(found.mask), spacing), spacing)
    return prompt.also(found.clicks(place, positive=belongs(target, found.mm(place)[0])))
