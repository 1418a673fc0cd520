"""What these data can decide: the smallest difference they would show, and how steady the order is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from segwise.report.markup import DASH, count, e, heat, note, number, signed, table
from segwise.report.ranking import Ranked, arm_name, heading
from segwise.report.statistics import ALPHA, Floats, highest, minus, subject_means, subjects_needed

POWER = 0.8
N_BOOT = 2000
_ARE = 3 / math.pi  # a signed-rank test needs 1 / 0.955 as many subjects as a t-test under normal differences
_SHOWN = 12
_MOST = 100_000


def detectable(
    spread: float, n_subjects: int, *, n_pairs: int = 1, alpha: float = ALPHA, power: float = POWER
) -> float:
    """The smallest mean difference that so many subjects would decide with this power.

    Args:
        spread: standard deviation over subjects of the difference of two arms.
        n_subjects: S.
        n_pairs: that are tested together; the first step of Holm's correction is taken.
        alpha: two-sided error over all pairs.
        power: how often it would be decided.

    Returns:
        In the unit of the spread; inf if so few subjects can decide nothing, however great the difference.

    Source: paired t-test with the asymptotic relative efficiency of the signed-rank test, 3 / pi, for normal
    differences (Lehmann, Nonparametrics, section 4.3); differences of DSC are not quite normal, so it is a guide.
    """
    if n_subjects < max(2, subjects_needed(n_pairs, alpha=alpha)):
        return math.inf
    tails = stdtrit(n_subjects - 1, 1 - alpha / n_pairs / 2) + stdtrit(n_subjects - 1, power)
    return float(tails * spread / math.sqrt(n_subjects * _ARE))


def needed(
    difference: float, spread: float, *, n_pairs: int = 1, alpha: float = ALPHA, power: float = POWER
) -> int | None:
    """The fewest subjects to decide a difference with this power; None if it is 0 or more than 100,000 would."""
    if not minus(difference, 0.0):
        return None
    low, high = max(2, subjects_needed(n_pairs, alpha=alpha)), _MOST
    if detectable(spread, high, n_pairs=n_pairs, alpha=alpha, power=power) > abs(difference):
        return None
    while low < high:
        middle = (low + high) // 2
        enough = detectable(spread, middle, n_pairs=n_pairs, alpha=alpha, power=power) <= abs(difference)
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def rank_shares(values: Floats, subjects: Sequence[str], *, n_boot: int = N_BOOT, seed: int = 0) -> Floats:
    """[A, A] share of the draws of subjects in which an arm (row) has a rank (column); ties take the better rank."""
    draws = _means(values, subjects, n_boot=n_boot, seed=seed)
    ranks = (draws[:, None, :] > draws[:, :, None]).sum(axis=2)  # [B, A]
    return np.stack([(ranks == place).mean(axis=0) for place in range(values.shape[1])], axis=1)


def agreement(values: Floats, subjects: Sequence[str], *, n_boot: int = N_BOOT, seed: int = 0) -> tuple[float, float]:
    """Kendall's tau-a of the order of drawn subjects with that of all: (mean, 2.5th percentile); nan for one arm."""
    draws = _means(values, subjects, n_boot=n_boot, seed=seed)
    above, below = np.triu_indices(values.shape[1], 1)
    if not len(above):
        return math.nan, math.nan
    whole = subject_means(values, subjects).mean(axis=0)
    own = np.sign(minus(whole[above], whole[below]))
    taus = (np.sign(draws[:, above] - draws[:, below]) * own).mean(axis=1)
    return float(taus.mean()), float(np.quantile(taus, 0.025))


def without_one(values: Floats, subjects: Sequence[str]) -> list[str]:
    """The subjects without whom another arm would be first."""
    means = subject_means(values, subjects)  # in order of name
    names = sorted(set(subjects))
    first = highest(means.mean(axis=0))
    left = [np.delete(means, i, axis=0).mean(axis=0) for i in range(len(names))] if len(names) > 1 else []
    return [name for name, mean in zip(names, left, strict=False) if highest(mean) != first]


def section(ranked: Sequence[Ranked], measure: str) -> str:
    """HTML: the minimum detectable differences and the steadiness of the order, of each panel of two arms and more."""
    parts = []
    for i, one in enumerate(ranked):
        if len(one.panel.arms) > 1:
            parts += [heading(ranked[0], one)] if i else []
            parts += [_differences(one, measure), _steady(one)]
    return "".join(parts)


def _differences(one: Ranked, measure: str) -> str:
    panel, result = one.panel, one.result
    means, n = subject_means(panel.values, panel.persons), result.n_subjects
    n_pairs = len(panel.arms) * (len(panel.arms) - 1) // 2
    first, rows, smallest = result.order[0], [], []
    for i in result.order[1:_SHOWN]:
        own = minus(means[:, first], means[:, i])
        spread = float(own.std(ddof=1)) if n > 1 else math.nan
        least = math.inf if math.isnan(spread) else detectable(spread, n, n_pairs=n_pairs)
        wanted = None if math.isnan(spread) else needed(float(own.mean()), spread, n_pairs=n_pairs)
        smallest.append(least)
        sure = "yes" if result.decided[first, i] else '<span class="tag mild">no</span>'
        shown = DASH if math.isinf(least) else number(least)
        name, asked = arm_name(panel.arms[i], one.place), f"{wanted:,}" if wanted else DASH
        rows.append([name, signed(float(own.mean())), number(spread), shown, sure, asked])
    head = [
        "First minus",
        f"Difference of<br>mean {e(measure)}",
        "Spread over<br>subjects",
        "Smallest that<br>would show",
    ]
    head += ["Decided", "Subjects for<br>this difference"]
    if any(map(math.isinf, smallest)):
        text = (
            f"With {count(n, 'subject')} <b>no difference could be decided, however great</b>: {result.n_needed} "
            f"subjects are the fewest for {count(n_pairs, 'pair')}. These data cannot decide."
        )
    else:
        text = (
            f"With {count(n, 'subject')} a difference must be at least <b>{min(smallest):.3f}</b> (for the steadiest "
            f"of these pairs) to be decided in {POWER:.0%} of such studies; what is smaller than its row says may be "
            "there and not be seen. “Not decided” is not “equal”."
        )
    return note(text) + table(head, rows, name="Detectable")


def _steady(one: Ranked) -> str:
    panel, result = one.panel, one.result
    if result.n_subjects < 2:
        return note("With one subject nothing can be said of how steady the order is.")
    shares = rank_shares(panel.values, panel.persons)
    order = result.order[:_SHOWN]
    rows = [
        [arm_name(panel.arms[i], one.place), *(f"{heat(v)}{v:.0%}</td>" for v in shares[i, : len(order)])]
        for i in order
    ]
    mean, low = agreement(panel.values, panel.persons)
    other = without_one(panel.values, panel.persons)
    names = e(", ".join(name.partition("\x1f")[2] or name for name in other[:5]))
    more = " …" if len(other) > 5 else ""
    alone = (
        f"Without {names}{more} another arm would be first."
        if len(other) == 1
        else f"Without any one of {len(other)} subjects ({names}{more}) another arm would be first."
        if other
        else "Whichever subject is left out, the first arm stays first."
    )
    text = (
        f"Ranks when the subjects are drawn anew ({N_BOOT:,} draws). Agreement of the whole order with itself, "
        f"Kendall's τ: {number(mean, 2)} on average, {number(low, 2)} in the worst 2.5 %. {alone}"
    )
    head = ["Rank in the draws", *(str(k + 1) for k in range(len(order)))]
    return note(text) + table(head, rows, name="Rank stability")


def _means(values: Floats, subjects: Sequence[str], *, n_boot: int, seed: int) -> Floats:
    """[B, A] rounded so that float noise orders nothing."""
    means = subject_means(values, subjects)
    n = len(means)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot)
    return np.round(counts @ means / n, 10)
