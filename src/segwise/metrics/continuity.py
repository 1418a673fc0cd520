"""Whether axial slices of a mask go on from one another, as those of the reference do."""

from __future__ import annotations

import numpy as np

from segwise.card import Measure, MetricCard
from segwise.geometry import Array, Grid
from segwise.pair import Pair, undefined

CARD = MetricCard(
    title="Continuity",
    summary="Mean DSC of neighbouring axial slices of the prediction, and how far it stays behind the reference's.",
    measures={
        "continuity": Measure(
            higher_is_better=True, low=0.0, meaning="mean DSC of neighbouring axial slices of the prediction, at most 1"
        ),
        "continuity_lost": Measure(
            higher_is_better=False, low=-1.0, high=1.0, meaning="that of the reference minus that of the prediction"
        ),
    },
    edge_cases=(
        "Prediction empty or on one slice: both undefined. No reference, or one that is empty or on one slice: "
        "continuity_lost undefined. An empty slice between occupied ones counts as DSC 0 with both neighbours."
    ),
    source="Measure of this project: slice models jump from slice to slice where volume models do not",
)


def score(pair: Pair) -> dict[str, float]:
    """continuity in [0, 1] and continuity_lost (0 where the prediction is as smooth as the reference), see the card."""
    own = _continuity(pair.prediction, pair.grid)
    if pair.reference is None:
        return {"continuity": own, "continuity_lost": undefined(pair.gap)}
    theirs = _continuity(pair.reference, pair.grid)
    if np.isnan(own) or np.isnan(theirs):
        why = pair.gap or "on one slice alone"
        return {"continuity": own, "continuity_lost": undefined(why)}
    return {"continuity": own, "continuity_lost": theirs - own}


def _continuity(mask: Array, grid: Grid) -> float:
    """Mean DSC of neighbours from the first to the last occupied slice. bool [D, H, W]."""
    slices = np.moveaxis(mask, grid.axis_of("axial"), 0).reshape(mask.shape[grid.axis_of("axial")], -1)
    sizes = np.count_nonzero(slices, axis=1)
    occupied = np.flatnonzero(sizes)
    if len(occupied) == 0:
        return undefined("empty")
    if len(occupied) == 1:
        return undefined("on one slice alone")
    inside = slices[occupied[0] : occupied[-1] + 1]
    sizes = sizes[occupied[0] : occupied[-1] + 1]
    both = np.count_nonzero(inside[1:] & inside[:-1], axis=1)
    return float((2 * both / np.maximum(sizes[1:] + sizes[:-1], 1)).mean())
