"""How much two masks overlap, counted in voxels."""

from __future__ import annotations

from segwise.card import Measure, MetricCard
from segwise.pair import Pair, undefined

CARD = MetricCard(
    title="Overlap",
    summary="Dice, intersection over union, sensitivity and precision, by voxels.",
    measures={
        "DSC": Measure(higher_is_better=True, low=0.0, high=1.0, meaning="2|R∩P| / (|R|+|P|)"),
        "IoU": Measure(higher_is_better=True, low=0.0, high=1.0, meaning="|R∩P| / |R∪P|"),
        "sensitivity": Measure(higher_is_better=True, low=0.0, high=1.0, meaning="|R∩P| / |R|"),
        "precision": Measure(higher_is_better=True, low=0.0, high=1.0, meaning="|R∩P| / |P|"),
    },
    edge_cases=(
        "No reference or both empty: all undefined. Reference empty: DSC, IoU and precision 0, sensitivity undefined. "
        "Prediction empty: DSC, IoU and sensitivity 0, precision undefined."
    ),
    source="Metrics Reloaded (Maier-Hein et al., arXiv 2206.01653)",
)


def score(pair: Pair) -> dict[str, float]:
    """Overlap of reference and prediction.

    Args:
        pair: both masks.

    Returns:
        DSC, IoU, sensitivity and precision in [0, 1]; undefined (nan with a reason) as the card says. MONAI differs
        for an empty reference with a prediction: it answers nan where DSC here is 0 (false positives are an error).
    """
    gap = pair.gap
    if gap in ("no reference", "both empty"):
        return dict.fromkeys(CARD.measures, undefined(gap))
    both, union = pair.n_both, pair.n_reference + pair.n_prediction - pair.n_both
    return {
        "DSC": pair.dice,
        "IoU": both / union,
        "sensitivity": both / pair.n_reference if pair.n_reference else undefined(gap),
        "precision": both / pair.n_prediction if pair.n_prediction else undefined(gap),
    }
