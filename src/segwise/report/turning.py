"""Where a curve turns: the knee from which more cost buys nothing, and the break from which a model no longer holds.

Everything is done over persons. A curve is `[K, P]`: at each of K places, the mean of each of P persons over the same
targets. Both are found again on draws of the persons; what the draws do not agree on cannot be decided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segwise.report.gather import Panel
from segwise.report.statistics import ALPHA, Floats, holm, minus, signed_rank, subject_means, subjects_needed

N_BOOT = 2000
SURE = 0.95  # share of the draws that must agree
WORTH = 0.005  # of DSC: less is no gain, whatever its interval
REST = 0.1  # share of the whole gain that a knee may leave to what costs more
LOST = 0.05  # of DSC: a model that loses more than this no longer holds


@dataclass(frozen=True)
class Knee:
    """From where more cost buys nothing.

    Attributes:
        place: index of the cheapest that has all of the gain but a tenth, -1 without one.
        low, high: of its interval.
        gain: of the best over the first, mean over persons.
        verdict: "knee", "no gain" (none is better by `WORTH`) or "cannot decide".
    """

    place: int
    low: int
    high: int
    gain: float
    verdict: str


@dataclass(frozen=True)
class Break:
    """From where a model no longer holds.

    Attributes:
        at: where the loss passes `LOST` for good, straight between the measured places; nan without one.
        low, high: of its interval.
        holds, fails: the last measured place that holds, and the next one; nan without.
        verdict: "breaks", "holds" (at every place, the interval of the loss included) or "cannot decide".
    """

    at: float
    low: float
    high: float
    holds: float
    fails: float
    verdict: str


def by_person(panel: Panel) -> Floats:
    """[A, P] mean of each person over the panel's items, an arm a row."""
    return np.asarray(subject_means(panel.values, panel.persons).T)


def knee(values: Floats) -> Knee:
    """The knee of a curve that rises with its cost.

    Args:
        values: [K, P], the cheapest first; the first is what gains are over.
    """
    mean = values.mean(axis=1)
    gain = float(minus(mean.max(), mean[0]))
    undecided = Knee(-1, -1, -1, gain, "cannot decide")
    if len(values) < 2 or values.shape[1] < subjects_needed(1, alpha=ALPHA):
        return undecided
    draws = _draws(values)
    over = minus(draws[:, 1:], draws[:, :1])
    low, high = np.quantile(over, [ALPHA / 2, 1 - ALPHA / 2], axis=0)
    p = holm(signed_rank(minus(values[1:], values[0]).T))
    if not ((p < ALPHA) & (low > 0)).any():
        return Knee(-1, -1, -1, gain, "no gain") if (high < WORTH).all() else undecided
    places = np.array([_first_of(row) for row in draws])
    first, last = np.quantile(places, [ALPHA / 2, 1 - ALPHA / 2], method="nearest")
    if first == 0 or (last - first) >= max(len(values) - 1, 2):
        return undecided
    return Knee(_first_of(mean), int(first), int(last), gain, "knee")


def stop(costs: Sequence[float], values: Floats, *, worth: float = WORTH) -> int:
    """Index at which to stop: the first after which no doubling of the cost adds `worth` any more.

    Args:
        costs: [K] rising.
        values: [K, P].
        worth: of the measure, for a doubling.
    """
    mean = values.mean(axis=1)
    for k in range(len(mean)):
        later = [(mean[j] - mean[k]) / max(math.log2(costs[j] / costs[k]), 1e-3) for j in range(k + 1, len(mean))]
        if all(rate < worth for rate in later):
            return k
    return len(mean) - 1


def broken(places: Sequence[float], values: Floats, *, lost: float = LOST) -> Break:
    """The break of a curve that falls along the places.

    Args:
        places: [K] rising; the first is what losses are from.
        values: [K, P].
        lost: of the measure: what is lost where a model no longer holds.
    """
    nothing = Break(math.nan, math.nan, math.nan, math.nan, math.nan, "cannot decide")
    if len(places) < 2 or values.shape[1] < subjects_needed(1, alpha=ALPHA):
        return nothing
    where = np.asarray(places, dtype=float)
    left = lost - (values[0] - values).mean(axis=1)  # [K], below 0 where it is broken
    draws = _draws(values)
    found = np.array([_falls(where, lost - (row[0] - row)) for row in draws])
    ends = np.isfinite(found)
    worst = np.quantile(draws[:, :1] - draws, 1 - ALPHA / 2, axis=0).max()
    if (~ends).mean() >= SURE and worst <= lost:
        return Break(math.nan, math.nan, math.nan, float(where[-1]), math.nan, "holds")
    at = _falls(where, left)
    if ends.mean() < SURE or not math.isfinite(at):
        return nothing
    low, high = np.quantile(found[ends], [ALPHA / 2, 1 - ALPHA / 2])
    k = int(np.flatnonzero(left >= 0)[-1])
    return Break(float(at), float(low), float(high), float(where[k]), float(where[k + 1]), "breaks")


def _draws(values: Floats) -> Floats:
    """[B, K] means over persons drawn with replacement."""
    n = values.shape[1]
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=N_BOOT)
    return np.asarray(counts @ values.T / n)


def _first_of(mean: Floats) -> int:
    """The first place that leaves no more than `REST` of the gain of the best one."""
    return int(np.flatnonzero(mean >= mean.max() - REST * (mean.max() - mean[0]) - 1e-12)[0])


def _falls(where: Floats, left: Floats) -> float:
    """Where what is left becomes negative for good, straight between places; inf if it does not."""
    if left[-1] >= 0:
        return math.inf
    k = int(np.flatnonzero(left >= 0)[-1])  # the first place has lost nothing
    share = left[k] / (left[k] - left[k + 1])
    return float(where[k] + share * (where[k + 1] - where[k]))
