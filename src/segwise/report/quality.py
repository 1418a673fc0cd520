"""Whether one could have told the bad answers without a reference: risk against coverage of quality scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from segwise.report.gather import Outcome
from segwise.report.markup import e, number, table

Severities = Callable[[Outcome], float | None]  # of an outcome without a reference, None if not known
ENOUGH = 10  # results below which a curve says nothing


@dataclass(frozen=True)
class Judged:
    """One quality score over the results that have it.

    Attributes:
        title: what it is; n: how many results.
        aurc: mean of 1 - DSC over all coverages when the most trusted come first; the less the better.
        best, chance: what perfect knowledge and no knowledge reach on the same results.
    """

    title: str
    n: int
    aurc: float
    best: float
    chance: float


def aurc(trust: Sequence[float], risk: Sequence[float]) -> float:
    """Area under the risk-coverage curve.

    Args:
        trust: [N] a quality score, higher is better; ties count as any order would on average.
        risk: [N] what an answer costs, here 1 - DSC.

    Returns:
        Mean over n = 1..N of the mean risk of the n most trusted answers; nan for none.

    Source: Jaeger et al., arXiv 2211.15259 (AURC); with 1 - DSC as risk: Zenk et al., arXiv 2406.03323, section 3.
    """
    if not len(trust):
        return float("nan")
    order = np.argsort(-np.asarray(trust, dtype=float), kind="stable")
    ranked, risks = np.asarray(trust, dtype=float)[order], np.asarray(risk, dtype=float)[order]
    for value in np.unique(ranked):
        risks[ranked == value] = risks[ranked == value].mean()
    return float((np.cumsum(risks) / np.arange(1, len(risks) + 1)).mean())


def judged(outcomes: Sequence[Outcome], measure: str, severity: Severities) -> list[Judged]:
    """Every quality score that at least ten results have, in a fixed order.

    Args:
        outcomes: of any arms, with a value of `measure`.
        measure: in [0, 1], higher is better.
        severity: of the gravest signature.
    """
    scores: dict[str, Severities] = {
        "agreement with other draws of the prompt": lambda o: o.values.get("agreement_seeds"),
        "agreement with other models": lambda o: o.values.get("agreement_models"),
        "no failure signature (gravest severity without a reference)": lambda o: (
            None if (value := severity(o)) is None else -value
        ),
        "the model's own estimate": lambda o: o.last.quality,
    }
    found = []
    for title, get in scores.items():
        known = [(trust, 1 - value) for o in outcomes if (value := o.values.get(measure)) is not None
                 and (trust := get(o)) is not None]  # fmt: skip
        if len(known) >= ENOUGH:
            trusts, risks = [one[0] for one in known], [one[1] for one in known]
            best = aurc([-risk for risk in risks], risks)
            found.append(Judged(title, len(known), aurc(trusts, risks), best, float(np.mean(risks))))
    return found


def block(outcomes: Sequence[Outcome], measure: str, severity: Severities) -> str:
    """The table with what it means, "" if no score has enough results."""
    rows = [
        [e(one.title), f"{one.n:,}", number(one.aurc), number(one.best), number(one.chance)]
        for one in judged(outcomes, measure, severity)
    ]
    if not rows:
        return ""
    lead = (
        "<h3>Can one tell without a reference?</h3><p>Answers sorted by a score that needs no reference, the most "
        f"trusted first: the mean of 1 − {e(measure)} over all shares that one might keep (AURC, less is better), "
        "beside what perfect knowledge and no knowledge give on the same answers.</p>"
    )
    head = ("score", "results", "AURC", "perfect", "no knowledge")
    return lead + table(head, rows, name="Quality scores without a reference")
