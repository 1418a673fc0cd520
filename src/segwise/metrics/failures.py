"""How a mask failed: leak, discontinuity, hallucination, over-propagation, decay; with the reference and without it."""

from __future__ import annotations

from segwise.card import Measure, MetricCard
from segwise.pair import Pair, undefined
from segwise.signatures import judge
from segwise.signatures.hallucination import empty_slice_ml

CARD = MetricCard(
    title="Failure signatures",
    summary="Severity of five ways to fail, in units of what good masks reach: above 1 is a flag.",
    measures={
        "leak": Measure(higher_is_better=False, low=0.0, meaning="runs into what lies beside the target"),
        "discontinuity": Measure(
            higher_is_better=False, low=0.0, meaning="jitter, holes, stairs, disappearance and return along the slices"
        ),
        "hallucination": Measure(higher_is_better=False, low=0.0, meaning="pieces where the target is not"),
        "overrun": Measure(higher_is_better=False, low=0.0, meaning="goes on past the target's first or last slice"),
        "decay": Measure(higher_is_better=False, low=0.0, meaning="loses the target with distance from the prompt"),
        "blind_leak": Measure(higher_is_better=False, low=0.0, meaning="leak, without the reference"),
        "blind_discontinuity": Measure(higher_is_better=False, low=0.0, meaning="discontinuity, without it"),
        "blind_hallucination": Measure(higher_is_better=False, low=0.0, meaning="hallucination, without it"),
        "blind_overrun": Measure(higher_is_better=False, low=0.0, meaning="overrun, without it"),
        "blind_decay": Measure(higher_is_better=False, low=0.0, meaning="decay, without it"),
        "blind_worst": Measure(higher_is_better=False, low=0.0, meaning="the largest of those without a reference"),
        "false_ml_per_empty_slice": Measure(
            higher_is_better=False, unit="ml", low=0.0, meaning="painted on a slice that the reference is not on"
        ),
    },
    edge_cases=(
        "No reference: what needs it is undefined. Reference empty: so are leak, discontinuity, overrun and decay, and "
        "any prediction is hallucination. Prediction empty: decay is flagged, with a box without a reference too; "
        "without a box nothing can be said without a reference."
    ),
    measured=(
        "On good masks of structures that the thresholds were not drawn from, a signature flags 0 to 6 % with the "
        "reference and 1 to 21 % without."
    ),
    edition=3,
    source="Survey arXiv 2506.10825 for what fails; segwise.signatures for each definition and threshold",
)
_NEED_TARGET = ("leak", "discontinuity", "overrun", "decay")


def score(pair: Pair, *, plane: str = "axial") -> dict[str, float]:
    """The five signatures, twice, and what is painted on empty slices.

    Args:
        pair: prediction with what was asked, and a reference or None.
        plane: "axial", "coronal" or "sagittal": whose slices count as neighbours.

    Returns:
        Severities of at least 0, above 1 beyond what good masks reach (`segwise.signatures.scale` says how that was
        found), and false_ml_per_empty_slice in ml over the slices that are painted there; undefined as the card says.

    Raises:
        SpecError: an unknown plane.
    """
    judged = judge.judged(pair, plane)
    values: dict[str, float] = dict.fromkeys(CARD.measures, undefined(pair.gap))
    if pair.reference is not None:
        found = {name: one.severity for name, one in judged.reference.items()}
        if not pair.n_reference:
            found |= {name: undefined(pair.gap) for name in _NEED_TARGET}
        values |= found | {"false_ml_per_empty_slice": empty_slice_ml(judged.seen)}
    if not pair.n_prediction and judged.seen.box is None:
        return values | {name: undefined("prediction empty") for name in values if name.startswith("blind_")}
    blind = {f"blind_{name}": one.severity for name, one in judged.blind.items()}
    return values | blind | {"blind_worst": max(blind.values())}
