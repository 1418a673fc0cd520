"""A person's clicks: in the largest error, but some millimetres off its centre."""

from __future__ import annotations

import numpy as np

from segwise.card import PrompterCard
from segwise.case import Target
from segwise.geometry import Array
from segwise.prompt import Prompt
from segwise.prompters._places import at_least, belongs, deepest, depth, largest, rounds_made, wrong

CARD = PrompterCard(
    title="Human clicks",
    summary="One click a round in the largest error component, off its centre by a spread in mm; n rounds.",
    gives=("points",),
    rounds="error",
    draws=True,
    source="Model of this project: normal around the distance-transform centre, kept on the error; not fitted",
)
_REACH = 3.0  # standard deviations: clicks are drawn no farther from the centre


def first(target: Target, seed: int, *, n: int = 5, spread_mm: float = 3.0) -> Prompt | None:
    """The click that answers an empty prediction: in the reference's largest component, off its centre.

    Args:
        target: the reference.
        seed: of the draw.
        n: rounds, this one included.
        spread_mm: standard deviation on each axis of patient space.

    Returns:
        One positive click; None for an empty reference.

    Raises:
        SpecError: n below 1, or a spread of 0 or less.
    """
    at_least("human-clicks: n", n, 1)
    at_least("human-clicks: spread_mm", spread_mm, 1e-3)
    if not target.mask.any():
        return None
    return _click(target, Prompt(), np.zeros(target.grid.shape, dtype=bool), np.random.default_rng(seed), spread_mm)


def next(
    target: Target, prompt: Prompt, mask: Array, seed: int, *, n: int = 5, spread_mm: float = 3.0
) -> Prompt | None:
    """The prompt with one click more.

    A voxel of the largest component (26 neighbours, by voxels) of reference ≠ prediction is drawn with weight
    exp(-d² / (2 spread²)), d its distance in mm to the component's distance-transform centre, out to three spreads: a
    person aims at the middle of what is wrong, misses it by millimetres, and sees whether the click is on the error.
    Positive where the reference is foreground. The draw depends on the seed and the number of marks so far.

    Returns:
        The longer prompt; None after n clicks, for a perfect prediction and for an empty reference.

    Raises:
        GridError: the mask is not bool on the target's grid.
    """
    opening = first(target, seed, n=n, spread_mm=spread_mm)
    if opening is None or rounds_made(prompt, opening) >= n:
        return None
    return _click(target, prompt, mask, np.random.default_rng([seed, len(prompt.marks)]), spread_mm)


def _click(target: Target, prompt: Prompt, mask: Array, rng: np.random.Generator, spread_mm: float) -> Prompt | None:
    found = wrong(target, mask)
    if found is None:
        return None
    spacing = np.array(found.grid.spacing_mm)
    component = largest(found.mask)
    centre = deepest(depth(component, found.grid.spacing_mm), found.grid.spacing_mm)
    reach = np.ceil(_REACH * spread_mm / spacing).astype(int)
    low = np.maximum(centre - reach, 0)
    near = np.argwhere(component[tuple(slice(a, b) for a, b in zip(low, centre + reach + 1, strict=True))]) + low
    away = (((near - centre) * spacing) ** 2).sum(axis=1)
    weights = np.exp(-away / (2 * spread_mm**2))
    place = near[rng.choice(len(near), p=weights / weights.sum())]
    return prompt.also(found.clicks(place, positive=belongs(target, found.mm(place)[0])))
