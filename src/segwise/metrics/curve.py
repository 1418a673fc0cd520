"""How the score grows with the prompts: what a whole interaction was worth."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from segwise.card import Measure, MetricCard
from segwise.errors import SpecError
from segwise.pair import Pair, undefined

CARD = MetricCard(
    title="Interaction curve",
    summary="Area under DSC and NSD over the click rounds, final scores, and prompts needed for DSC 0.8 and 0.9.",
    measures={
        "DSC_AUC": Measure(
            higher_is_better=True, low=0.0, meaning="trapezoid of DSC over the click rounds, <= steps-1"
        ),
        "NSD_AUC": Measure(
            higher_is_better=True, low=0.0, meaning="trapezoid of NSD over the click rounds, <= steps-1"
        ),
        "DSC_final": Measure(higher_is_better=True, low=0.0, high=1.0, meaning="DSC of the last round"),
        "NSD_final": Measure(higher_is_better=True, low=0.0, high=1.0, meaning="NSD of the last round"),
        "n_to_DSC80": Measure(higher_is_better=False, low=0.0, meaning="interactions at the first round of DSC >= 0.8"),
        "n_to_DSC90": Measure(higher_is_better=False, low=0.0, meaning="interactions at the first round of DSC >= 0.9"),
    },
    curve=True,
    edge_cases=(
        "No reference, or reference and a prediction both empty in some round: what needs that round is undefined. "
        "One of the two empty: DSC and NSD 0. NSD counts as 0 where DSC is not above nsd_floor. A user who stopped "
        "because the prediction was perfect keeps the last score for the steps left; any other curve of fewer click "
        "rounds than steps has no area. n_to_DSC80 and n_to_DSC90 are undefined where it is not reached."
    ),
    source="CVPR 2025 Foundation Models for Interactive 3D Biomedical Image Segmentation, CVPR25_iter_eval.py",
)


def score(
    pairs: Sequence[Pair], *, steps: int = 5, tolerance_mm: float = 2.0, nsd_floor: float = 0.2
) -> dict[str, float]:
    """The rounds of one task and target together.

    Args:
        pairs: one a round, in order, each with the prompt of its round.
        steps: click rounds under the curve. A click round is one whose prompt holds points or strokes, so a first
            round of a box alone is left out, as in the challenge; further rounds count in the final scores only. Where
            prompts are not known, the last `steps` rounds count if there are that many or one more.
        tolerance_mm: of NSD.
        nsd_floor: NSD counts as 0 where DSC is at most this. The challenge decides by the mean DSC of a case's
            classes, here each target stands for itself.

    Returns:
        DSC_AUC and NSD_AUC in [0, steps - 1] (unit spacing of rounds), DSC_final and NSD_final in [0, 1], n_to_DSC80
        and n_to_DSC90 as numbers of interactions (`Prompt.n_interactions`); undefined as the card says.

    Raises:
        SpecError: fewer than 2 steps, or a negative tolerance.
    """
    if steps < 2 or not tolerance_mm >= 0:
        raise SpecError(f"curve: steps is {steps} and tolerance_mm {tolerance_mm}, expected at least 2 and 0")
    if not pairs:
        return dict.fromkeys(CARD.measures, undefined("no round"))
    dices = [pair.dice for pair in pairs]
    nsds = [
        pair.surface_dice(tolerance_mm) if not d <= nsd_floor else 0.0 for pair, d in zip(pairs, dices, strict=True)
    ]
    return {
        "DSC_AUC": _area(pairs, dices, steps),
        "NSD_AUC": _area(pairs, nsds, steps),
        "DSC_final": dices[-1],
        "NSD_final": nsds[-1],
        "n_to_DSC80": _reached(pairs, dices, 0.8),
        "n_to_DSC90": _reached(pairs, dices, 0.9),
    }


def _area(pairs: Sequence[Pair], values: list[float], steps: int) -> float:
    if any(pair.prompt is None for pair in pairs):
        if len(pairs) not in (steps, steps + 1):
            return undefined("prompts not known")
        clicked = values[-steps:]
    else:
        clicked = [v for p, v in zip(pairs, values, strict=True) if p.prompt and p.prompt.kinds & {"points", "stroke"}]
    missing = next((v for v in clicked if np.isnan(v)), None)
    if missing is not None:
        return missing
    if pairs[-1].dice == 1:
        clicked += [values[-1]] * (steps - len(clicked))
    if len(clicked) < steps:
        return undefined(f"{len(clicked)} click rounds, {steps} needed")
    used = clicked[:steps]
    return sum((a + b) / 2 for a, b in itertools.pairwise(used))


def _reached(pairs: Sequence[Pair], dices: list[float], wanted: float) -> float:
    for pair, dice in zip(pairs, dices, strict=True):
        if np.isnan(dice):
            return dice
        if dice >= wanted:
            return undefined("prompts not known") if pair.prompt is None else float(pair.prompt.n_interactions)
    return undefined(f"DSC {wanted} not reached")
