"""Which arm is better, and can these data decide it: everything is done over subjects, never over voxels or objects.

An arm is a model with a prompter. Cases, targets and seeds of one subject are not independent, so they are averaged
first; what is resampled and tested is one value a subject. Repeating a subject's objects tenfold changes nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]
ALPHA = 0.05
N_BOOT = 10_000
_EXACT_UP_TO = 30  # subjects; beyond it the normal approximation errs in the fourth digit
_DIGITS = 10  # differences closer than this are ties: float noise must not order them


@dataclass(frozen=True, eq=False)
class Comparison:
    """Arms compared on the same items; A arms, S subjects.

    Attributes:
        n_subjects: S.
        n_needed: subjects from which on any of the pairs could be decided at all.
        mean: [A] mean over subjects.
        low, high: [A] bootstrap interval of it, nan with one subject.
        rank: [A] 1 is best; equal means share the better rank.
        rank_low, rank_high: [A] interval of the rank over the bootstrap.
        first: [A] share of the draws in which the arm is (or shares) first, nan with one subject.
        difference: [A, A] row minus column, mean over subjects.
        difference_low, difference_high: [A, A] bootstrap interval of it, nan with one subject.
        p: [A, A] Wilcoxon signed-rank over subjects, corrected by Holm over all pairs; nan on the diagonal.
        decided: [A, A] row is better than column, beyond what chance explains.
        top: indices of the arms that the first one does not decidedly beat, itself first.
    """

    n_subjects: int
    n_needed: int
    mean: Floats
    low: Floats
    high: Floats
    rank: NDArray[np.int64]
    rank_low: NDArray[np.int64]
    rank_high: NDArray[np.int64]
    first: Floats
    difference: Floats
    difference_low: Floats
    difference_high: Floats
    p: Floats
    decided: NDArray[np.bool_]
    top: tuple[int, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """Arms from best to worst; equal ones in the order given."""
        return tuple(int(i) for i in np.argsort(-np.round(self.mean, _DIGITS), kind="stable"))


def compare(
    values: Floats, subjects: Sequence[str], *, alpha: float = ALPHA, n_boot: int = N_BOOT, seed: int = 0
) -> Comparison:
    """Ranks arms by their mean over subjects and says which differences the data decide.

    A pair is decided when Holm's corrected p is below alpha *and* the bootstrap interval of the mean difference
    excludes zero on the same side: the signed-rank test alone says nothing of the mean.

    Args:
        values: [N, A], higher is better; item by arm, complete (no nan).
        subjects: [N] whose item it is.
        alpha: two-sided error over all pairs together.
        n_boot: draws of subjects.
        seed: of the draws.
    """
    means = subject_means(values, subjects)  # [S, A]
    n_subjects, n_arms = means.shape
    draws = _draws(means, n_boot=n_boot, seed=seed)  # [B, A]
    rank_low, rank_high, first = _ranks(draws, means.mean(axis=0))
    pairs = list(combinations(range(n_arms), 2))
    p_pairs = holm(signed_rank(_differences(means, pairs)))
    low, high = _pair_intervals(draws, pairs, alpha=alpha)
    if n_subjects < 2:
        low, high = np.full_like(low, np.nan), np.full_like(high, np.nan)
    difference = minus(means.mean(axis=0)[:, None], means.mean(axis=0)[None, :])
    p = _square(p_pairs, p_pairs, pairs, n_arms)
    difference_low = _square(low, -high, pairs, n_arms)
    difference_high = _square(high, -low, pairs, n_arms)
    decided = (p < alpha) & (difference > 0) & (difference_low > 0)
    mean_low, mean_high = _interval(draws, alpha) if n_subjects > 1 else (np.full(n_arms, np.nan),) * 2
    mean = means.mean(axis=0)
    rank = _places(mean[None])[0]
    best = int(np.argmin(rank))
    top = (best, *(i for i in np.argsort(rank, kind="stable").tolist() if i != best and not decided[best, i]))
    return Comparison(
        n_subjects=n_subjects,
        n_needed=subjects_needed(len(pairs), alpha=alpha),
        mean=mean,
        low=mean_low,
        high=mean_high,
        rank=rank,
        rank_low=rank_low,
        rank_high=rank_high,
        first=first if n_subjects > 1 else np.full(n_arms, np.nan),
        difference=difference,
        difference_low=difference_low,
        difference_high=difference_high,
        p=p,
        decided=decided,
        top=top,
    )


def subject_means(values: Floats, subjects: Sequence[str]) -> Floats:
    """[S, A]: mean over the items of each subject; subjects in order of name.

    Args:
        values: [N, A].
        subjects: [N].
    """
    names, index = np.unique(np.asarray(subjects, dtype=str), return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, index, values)
    return np.asarray(sums / np.bincount(index, minlength=len(names))[:, None])


def minus(a: ArrayLike, b: ArrayLike) -> Floats:
    """a - b without float noise: two values that are equal but for it differ by exactly 0 (never -0).

    Differences of scores are made here and nowhere else, so that a test of "nothing changed" and the number of subjects
    that a difference would need never read noise.
    """
    return np.asarray(np.round(np.subtract(a, b), _DIGITS) + 0.0)


def highest(values: Floats) -> int:
    """Index of the greatest value; of those that are equal but for float noise, the first."""
    return int(np.round(values, _DIGITS).argmax())


def interval_of_mean(
    values: Floats, subjects: Sequence[str], *, n_boot: int = 2000, seed: int = 0
) -> tuple[Floats, Floats]:
    """[A] low and high of the bootstrap interval of the mean over subjects; nan with one subject."""
    means = subject_means(values, subjects)
    if len(means) < 2:
        return (np.full(values.shape[1], np.nan),) * 2
    return _interval(_draws(means, n_boot=n_boot, seed=seed), ALPHA)


def signed_rank(differences: Floats) -> Floats:
    """[P] two-sided p of the Wilcoxon signed-rank test, a column a pair.

    Zeros are dropped (all zero: p = 1), ties take mid-ranks. Up to 30 subjects the null distribution is exact, also
    with ties (all sign flips of the ranks at hand); beyond, normal with the variance of these ranks and a continuity
    correction of a half.

    Args:
        differences: [S, P], one value a subject.

    Source: Wilcoxon, Biometrics Bulletin 1945.
    """
    rounded = np.round(differences, _DIGITS)
    n_zero = (rounded == 0).sum(axis=0)
    ranks = np.column_stack([_mid_ranks(column) for column in np.abs(rounded).T]) if rounded.size else rounded
    ranks = np.where(rounded == 0, 0.0, ranks - n_zero)  # zeros hold the lowest ranks
    plus = (ranks * (rounded > 0)).sum(axis=0)
    centre = ranks.sum(axis=0) / 2
    if len(differences) <= _EXACT_UP_TO:
        columns = [_exact(tuple(sorted(column[column > 0].tolist()))) for column in ranks.T]
        distance = np.rint(2 * np.abs(plus - centre)).astype(int)
        return np.array([tail[d] for tail, d in zip(columns, distance, strict=True)])
    spread = np.sqrt((ranks**2).sum(axis=0)) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.maximum(np.abs(plus - centre) - 0.5, 0) / spread
    return np.where(spread > 0, np.minimum(1.0, 2 * ndtr(-z)), 1.0)


def holm(p: Floats) -> Floats:
    """[P] p-values corrected for all of them together, in the order given.

    Source: Holm, Scandinavian Journal of Statistics 1979.
    """
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)) if len(p) else p
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def family_wise(differences: Floats, *, n_draws: int = 4000, seed: int = 0) -> Floats:
    """[P] two-sided p of each mean difference, corrected for all columns together by flipping the signs of subjects.

    Where the columns go together, as pairs that share an arm do, fewer subjects decide than with Holm's correction.
    Each column is divided by the root of its sum of squares, which flips leave as it is: the order is that of t. All
    flips are taken where there are at most `n_draws`, and that many at random beyond.

    Args:
        differences: [S, P], one value a subject.
        n_draws: flips at most.
        seed: of the random ones.

    Source: Westfall & Young, Resampling-Based Multiple Testing, 1993 (single step, maximum over the columns).
    """
    n = len(differences)
    size = np.sqrt((differences**2).sum(axis=0))
    scaled = np.divide(differences, size, out=np.zeros_like(differences, dtype=float), where=size > 0)
    if 2**n <= n_draws:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        drawn = np.random.default_rng(seed).integers(0, 2, size=(n_draws - 1, n))
        signs = np.vstack([np.ones((1, n), dtype=int), 1 - 2 * drawn])  # the data as they are belong to them
    highest_of = np.abs(signs @ scaled).max(axis=1, initial=0.0)
    own = np.abs(scaled.sum(axis=0))
    return np.asarray([(highest_of >= value - 10.0**-_DIGITS).mean() for value in own])


def smallest_p(n_subjects: int) -> float:
    """The smallest two-sided p that the exact signed-rank test can give: all differences have one sign."""
    return min(1.0, 2.0 ** (1 - n_subjects))


def subjects_needed(n_pairs: int, *, alpha: float = ALPHA) -> int:
    """The fewest subjects with which one of so many pairs can fall below alpha after Holm's correction."""
    return math.floor(math.log2(2 * max(n_pairs, 1) / alpha)) + 1


@functools.lru_cache(maxsize=4096)
def _exact(ranks: tuple[float, ...]) -> Floats:
    """P(2·|W − centre| ≥ k) for k = 0, 1 …, over all sign flips of these (mid-)ranks."""
    doubled = [round(2 * rank) for rank in ranks]  # mid-ranks are halves
    total = sum(doubled)
    ways = np.zeros(total + 1)
    ways[0] = 1.0
    for rank in doubled:
        shifted = np.zeros_like(ways)
        shifted[rank:] = ways[: total + 1 - rank]
        ways = (ways + shifted) / 2
    distance = np.abs(2 * np.arange(total + 1) - total) // 2  # of 2·W from 2·centre = total / 2, in steps of one
    density = np.bincount(distance, weights=ways, minlength=total + 1)
    return np.minimum(1.0, np.cumsum(density[::-1])[::-1])


def _draws(means: Floats, *, n_boot: int, seed: int) -> Floats:
    """[B, A] means of subjects drawn with replacement; the same draws for every arm, so that they are paired."""
    n = len(means)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot)
    return np.asarray(counts @ means / n)


def _interval(draws: Floats, alpha: float) -> tuple[Floats, Floats]:
    low, high = np.quantile(draws, [alpha / 2, 1 - alpha / 2], axis=0)
    return low, high


def _ranks(draws: Floats, mean: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    ranks = _places(draws)
    low, high = np.quantile(ranks, [0.025, 0.975], axis=0, method="nearest")
    own = _places(mean[None])[0]  # the interval holds the rank it is about
    return np.minimum(low, own).astype(np.int64), np.maximum(high, own).astype(np.int64), (ranks == 1).mean(axis=0)


def _places(values: Floats) -> NDArray[np.int64]:
    """[B, A] rank of each column in its row, 1 for the greatest; equal ones share the better rank."""
    rounded = np.round(values, _DIGITS)
    return np.column_stack([1 + (rounded > rounded[:, [i]]).sum(axis=1) for i in range(rounded.shape[1])])


def _mid_ranks(values: Floats) -> Floats:
    """[S] ranks from 1 for the least; equal ones share the mean of theirs."""
    ordered = np.sort(values)
    below, upto = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return np.asarray((below + upto + 1) / 2)


def _differences(means: Floats, pairs: list[tuple[int, int]]) -> Floats:
    left, right = np.array(pairs, dtype=int).reshape(-1, 2).T
    return minus(means[:, left], means[:, right])


def _pair_intervals(draws: Floats, pairs: list[tuple[int, int]], *, alpha: float) -> tuple[Floats, Floats]:
    parts = [_interval(_differences(draws, pairs[i : i + 400]), alpha) for i in range(0, len(pairs), 400)]
    if not parts:
        return np.empty(0), np.empty(0)
    low, high = (np.concatenate(side) for side in zip(*parts, strict=True))
    return np.round(low, _DIGITS) + 0.0, np.round(high, _DIGITS) + 0.0


def _square(upper: Floats, lower: Floats, pairs: list[tuple[int, int]], n: int) -> Floats:
    """[A, A] from values of pairs (row < column) and of the same pairs turned round; nan on the diagonal."""
    square = np.full((n, n), np.nan)
    for (i, j), above, below in zip(pairs, upper, lower, strict=True):
        square[i, j], square[j, i] = above + 0.0, below + 0.0  # no -0
    return square
