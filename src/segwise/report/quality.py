"""Whether one could have told the bad answers without a reference: risk against coverage of quality scores.

What is ordered is a target of an arm, its draws averaged. Targets of one person are not independent, so the interval
is over persons.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from segwise.report.markup import DASH, count, e, interval, number, table
from segwise.report.outcome import Outcome
from segwise.report.statistics import ALPHA, Floats, minus, subjects_needed

Severities = Callable[[Outcome], Mapping[str, float]]  # by signature, without a reference; {} if not known
Score = Callable[[Outcome], float | None]  # the higher, the more an outcome is trusted
ENOUGH = 10  # targets below which a curve says nothing
N_BOOT = 400
_STRUCTURES_UP_TO = 60


@dataclass(frozen=True)
class Judged:
    """One quality score over the targets that have it.

    Attributes:
        title: what it is; structure: of which targets, "" for all together.
        n, n_persons: how many targets of arms, and whose.
        aurc: mean of 1 - DSC over all coverages when the most trusted come first; the less the better.
        low, high: its bootstrap interval over persons, nan with one.
        best, chance: what perfect knowledge and no knowledge reach on the same targets.
        sure: it is better than no knowledge beyond chance over the persons.
    """

    title: str
    structure: str
    n: int
    n_persons: int
    aurc: float
    low: float
    high: float
    best: float
    chance: float
    sure: bool


@dataclass(frozen=True)
class _Point:
    """A target of an arm, draws averaged: what a score trusts it, and what it costs."""

    person: str
    structure: str
    trust: float
    risk: float


def aurc(trust: Sequence[float] | Floats, risk: Sequence[float] | Floats) -> float:
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
    _, place = np.unique(minus(0.0, trust), return_inverse=True)  # equal trust, equal place
    means = np.bincount(place, weights=np.asarray(risk, dtype=float)) / np.bincount(place)
    risks = means[np.sort(place)]
    return float((np.cumsum(risks) / np.arange(1, len(risks) + 1)).mean())


def judged(outcomes: Sequence[Outcome], measure: str, severities: Severities) -> list[Judged]:
    """Every quality score over all targets, and over each structure, where at least ten targets have it.

    Args:
        outcomes: of any arms, with a value of `measure`.
        measure: in [0, 1], higher is better.
        severities: of the failure signatures.

    Returns:
        In a fixed order of scores; of each the pooled one first, then the structures by name.
    """
    scores: dict[str, Score] = {
        "agreement with other draws of the prompt": lambda o: o.values.get("agreement_seeds"),
        "agreement with other models": lambda o: o.values.get("agreement_models"),
        "no failure signature (gravest severity without a reference)": lambda o: (
            -max(known.values()) if (known := severities(o)) else None
        ),
        "no leak (severity without a reference)": lambda o: (
            -known["leak"] if "leak" in (known := severities(o)) else None
        ),
        "the model's own estimate": lambda o: o.last.quality,
    }
    found = []
    for title, get in scores.items():
        points = _points(outcomes, measure, get)
        groups: dict[str, list[_Point]] = {"": points}
        for point in points:
            groups.setdefault(point.structure, []).append(point)
        if len(groups) == 2:  # one structure: the pooled row says it
            groups.pop(points[0].structure)
        found += [_judged(title, name, own) for name, own in sorted(groups.items()) if len(own) >= ENOUGH]
    return found


def _points(outcomes: Sequence[Outcome], measure: str, get: Score) -> list[_Point]:
    known: dict[tuple[str, ...], list[tuple[Outcome, float, float]]] = defaultdict(list)
    for o in outcomes:
        value, trust = o.values.get(measure), get(o)
        if value is not None and trust is not None:
            known[o.last.model, o.last.prompter, o.person, *o.item].append((o, trust, 1 - value))
    return [
        _Point(own[0][0].person, own[0][0].last.target, fmean(t for _, t, _ in own), fmean(r for *_, r in own))
        for _, own in sorted(known.items())
    ]


def _judged(title: str, structure: str, points: Sequence[_Point]) -> Judged:
    trust, risk = (np.array([getattr(p, name) for p in points]) for name in ("trust", "risk"))
    persons = sorted({p.person for p in points})
    low, high, gain = _interval(trust, risk, [persons.index(p.person) for p in points])
    return Judged(
        title=title,
        structure=structure,
        n=len(points),
        n_persons=len(persons),
        aurc=aurc(trust, risk),
        low=low,
        high=high,
        best=aurc(-risk, risk),
        chance=float(risk.mean()),
        sure=len(persons) >= subjects_needed(1, alpha=ALPHA) and gain > 0,
    )


def _interval(trust: Floats, risk: Floats, person: Sequence[int]) -> tuple[float, float, float]:
    """Over persons drawn with replacement, each with all of its targets: 2.5 and 97.5 percentile of the AURC, and the
    2.5 percentile of what it is below no knowledge; nan with one person."""
    own = [np.flatnonzero(np.asarray(person) == i) for i in range(max(person) + 1)]
    if len(own) < 2:
        return (float("nan"),) * 3
    draws = np.random.default_rng(0).integers(0, len(own), (N_BOOT, len(own)))
    rows = [np.concatenate([own[i] for i in draw]) for draw in draws]
    found = np.array([(aurc(trust[row], risk[row]), risk[row].mean()) for row in rows])  # [B, 2]
    low, high = np.quantile(found[:, 0], [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high), float(np.quantile(minus(found[:, 1], found[:, 0]), ALPHA / 2))


def block(outcomes: Sequence[Outcome], measure: str, severities: Severities) -> str:
    """The tables with what they mean, "" if no score has enough targets."""
    found = judged(outcomes, measure, severities)
    pooled = [one for one in found if not one.structure]
    if not pooled:
        return ""
    lead = (
        "<h3>Can one tell without a reference?</h3><p>Answers sorted by a score that needs no reference, the most "
        f"trusted first: the mean of 1 − {e(measure)} over all shares that one might keep (AURC, less is better) with "
        "its 95 % interval over persons, beside what perfect knowledge and no knowledge give on the same answers. "
        "Draws of a target are averaged first.</p>"
    )
    head = ("score", "persons", "targets of<br>all models", "AURC", "perfect", "no knowledge", "better than<br>none")
    rows = [[e(one.title), f"{one.n_persons:,}", f"{one.n:,}", *_numbers(one)] for one in pooled]
    return lead + table(head, rows, name="Quality scores without a reference") + _structures(found, pooled)


def _numbers(one: Judged) -> list[str]:
    between = interval(one.low, one.high)
    shown = f"{number(one.aurc)}{f'<br>{between}' if between else ''}"
    return [shown, number(one.best), number(one.chance), "yes" if one.sure else "cannot decide"]


def _structures(found: Sequence[Judged], pooled: Sequence[Judged]) -> str:
    """A row a structure, a column a score; "" where no structure has enough targets."""
    by_name: dict[str, dict[str, Judged]] = defaultdict(dict)
    for one in found:
        if one.structure:
            by_name[one.structure][one.title] = one
    if not by_name:
        return ""
    titles = [one.title for one in pooled]
    names = sorted(by_name)
    rows = [[e(name), *_sizes(by_name[name]), *_cells(by_name[name], titles)] for name in names[:_STRUCTURES_UP_TO]]
    more = f" The first {_STRUCTURES_UP_TO} of {len(names)}." if len(names) > _STRUCTURES_UP_TO else ""
    lead = (
        f"<p>The same for every structure with at least {count(ENOUGH, 'target')} of all models: AURC with its "
        "interval over persons, <b>bold</b> where it is better than no knowledge beyond chance; small: perfect and "
        f"no knowledge on the same targets.{more}</p>"
    )
    head = ("structure", "persons", "targets of<br>all models", *map(e, titles))
    return lead + table(head, rows, name="Quality scores by structure")


def _sizes(own: Mapping[str, Judged]) -> list[str]:
    return [f"{max(one.n_persons for one in own.values()):,}", f"{max(one.n for one in own.values()):,}"]


def _cells(own: Mapping[str, Judged], titles: Sequence[str]) -> list[str]:
    cells = []
    for title in titles:
        one = own.get(title)
        between = "" if one is None else interval(one.low, one.high)
        cells.append(
            DASH
            if one is None
            else f"{f'<b>{number(one.aurc)}</b>' if one.sure else number(one.aurc)} {between}"
            f"<br><small>{number(one.best)} to {number(one.chance)}</small>"
        )
    return cells
