"""Statistics of the report: numbers a person can check, and planted truths."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from segwise.report import statistics as s


def test_subject_means_average_the_items_of_each_subject() -> None:
    values = np.array([[0.2, 0.0], [0.4, 1.0], [0.9, 0.5]])
    assert s.subject_means(values, ["b", "b", "a"]) == pytest.approx(np.array([[0.9, 0.5], [0.3, 0.5]]))


@pytest.mark.parametrize(("n", "p"), [(1, 1.0), (2, 0.5), (3, 0.25), (4, 0.125), (5, 0.0625), (6, 0.03125)])
def test_the_smallest_p_with_n_subjects(n: int, p: float) -> None:
    differences = np.linspace(0.1, 0.2, n)[:, None]
    assert s.signed_rank(differences) == pytest.approx([p])
    assert s.smallest_p(n) == p


def test_exact_p_with_ties_counts_the_sign_flips() -> None:
    # ranks 1.5 1.5 3, all plus: 1 of 8 flips is as great, doubled
    assert s.signed_rank(np.array([[0.1], [0.1], [0.2]])) == pytest.approx([0.25])
    # ranks 1.5 1.5 3 with signs - + +: W+ = 4.5 of 6; W+ >= 4.5 in 3 of 8 flips ({3,1.5}, {3,1.5}, all)
    assert s.signed_rank(np.array([[-0.1], [0.1], [0.2]])) == pytest.approx([0.75])


def test_zeros_are_dropped_and_all_zero_is_one() -> None:
    assert s.signed_rank(np.array([[0.0, 0.0], [0.1, 0.0], [0.2, 0.0]])) == pytest.approx([0.5, 1.0])


@given(st.integers(2, 45), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_signed_rank_agrees_with_scipy(n: int, seed: int) -> None:
    d = np.random.default_rng(seed).normal(0.3, 1, n)
    exact = n <= 30
    reference = stats.wilcoxon(d, method="exact") if exact else stats.wilcoxon(d, method="approx", correction=True)
    assert s.signed_rank(d[:, None])[0] == pytest.approx(reference.pvalue, rel=1e-9)


def test_holm_by_hand() -> None:
    assert s.holm(np.array([0.04, 0.01, 0.03])) == pytest.approx([0.06, 0.03, 0.06])
    assert s.holm(np.array([0.9, 0.8])) == pytest.approx([1.0, 1.0])
    assert s.holm(np.array([])).size == 0


@pytest.mark.parametrize(("pairs", "needed"), [(1, 6), (3, 7), (10, 9), (45, 11)])
def test_subjects_needed_is_the_first_n_that_can_decide(pairs: int, needed: int) -> None:
    assert s.subjects_needed(pairs) == needed
    assert s.smallest_p(needed) * pairs < 0.05 <= s.smallest_p(needed - 1) * pairs


def _planted(n_subjects: int, lead: float, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    subject = np.repeat(rng.normal(0, 0.1, n_subjects), 4)
    base = 0.7 + subject[:, None] + rng.normal(0, 0.03, (n_subjects * 4, 3))
    return base + np.array([0.0, lead, 0.0]), [f"s{i // 4}" for i in range(n_subjects * 4)]


def test_a_known_winner_is_found() -> None:
    values, subjects = _planted(12, 0.1)
    result = s.compare(values, subjects)
    assert result.order[0] == 1 and result.top == (1,)
    assert result.decided[1, 0] and result.decided[1, 2] and not result.decided[0, 1]
    assert result.first[1] > 0.99 and result.rank_high[1] == 1
    assert result.difference[1, 0] == pytest.approx(0.1, abs=0.03)
    assert result.difference_low[1, 0] == pytest.approx(-result.difference_high[0, 1])


def test_noise_cannot_decide() -> None:
    wrong = sum(bool(s.compare(*_planted(12, 0.0, seed), n_boot=500).decided.any()) for seed in range(60))
    assert wrong <= 6  # 5 % of 60 is 3


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        values = rng.normal(0.5, 0.1, (25, 1))
        low, high = s.interval_of_mean(values, [str(i) for i in range(25)], n_boot=400)
        hits += bool(low[0] <= 0.5 <= high[0])
    assert hits / 200 > 0.88


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_few_subjects_never_decide(n: int) -> None:
    values, subjects = _planted(n, 0.3)
    result = s.compare(values[:, :2], subjects)
    assert result.order == (1, 0)
    assert not result.decided.any() and result.top == (1, 0)
    assert result.n_needed == 6
    assert np.isnan(result.low).all() == (n == 1)


def test_repeating_a_subject_tenfold_does_not_shrink_the_interval() -> None:
    values, subjects = _planted(8, 0.02)
    once = s.compare(values, subjects)
    again = s.compare(np.vstack([values] + [values[:4]] * 9), subjects + subjects[:4] * 9)
    assert again.n_subjects == once.n_subjects == 8
    for name in ("mean", "low", "high", "difference_low", "difference_high", "p"):
        assert getattr(again, name) == pytest.approx(getattr(once, name), abs=1e-9, nan_ok=True), name


def test_more_objects_of_one_subject_are_not_more_subjects() -> None:
    rng = np.random.default_rng(0)
    values = np.hstack([rng.normal(0.5, 0.05, (400, 1)), rng.normal(0.9, 0.05, (400, 1))])
    assert not s.compare(values, ["only"] * 400).decided.any()


def test_a_difference_of_float_noise_is_none() -> None:
    noise = np.full((8, 1), 0.1 + 0.2)
    assert not s.minus(noise, 0.3).any() and not np.signbit(s.minus(0.3, noise)).any()
    assert s.highest(np.array([0.3, 0.1 + 0.2])) == 0 and s.highest(np.array([0.3, 0.3001])) == 1
    result = s.compare(np.hstack([noise, np.full((8, 1), 0.3)]), [str(i) for i in range(8)])
    assert not result.difference.any() and not np.signbit(result.difference_low).any()


def test_equal_arms_share_a_rank() -> None:
    values = np.tile(np.array([[0.5], [0.6], [0.7]]), (1, 2)) + np.array([0.0, 1e-15])
    result = s.compare(values, ["a", "b", "c"])
    assert result.rank.tolist() == [1, 1] and result.p[0, 1] == 1.0 and result.order == (0, 1)


def test_one_arm() -> None:
    result = s.compare(np.array([[0.5], [0.7]]), ["a", "b"])
    assert result.order == (0,) and result.top == (0,) and result.mean == pytest.approx([0.6])


def test_a_test_of_medians_alone_does_not_decide_the_mean() -> None:
    # better by a hair on 19 subjects, a disaster on one: the signed ranks speak for it, the mean does not
    values = np.column_stack([np.full(20, 0.8), np.full(20, 0.79)])
    values[0] = [0.0, 0.79]
    result = s.compare(values, [str(i) for i in range(20)])
    assert result.p[0, 1] < 0.05 and not result.decided.any()


@pytest.mark.slow
def test_a_hundred_arms_take_seconds() -> None:
    start = time.process_time()
    s.compare(np.random.default_rng(0).random((3000, 100)), [str(i % 300) for i in range(3000)])
    assert time.process_time() - start < 30


def test_family_wise_is_the_share_of_flips_that_do_as_well() -> None:
    same = np.full((5, 3), 0.1)  # all flips or none reach it: 2 of 32
    assert s.family_wise(same) == pytest.approx([2 / 32] * 3)
    mixed = np.array([[0.1, 0.1]] * 4 + [[0.1, -0.1]])  # the second one's own two flips reach as far
    # as far as 3: all four of one sign with either fifth (4), or three of them (16)
    assert s.family_wise(mixed) == pytest.approx([4 / 32, 20 / 32])
    assert s.family_wise(np.zeros((6, 2))) == pytest.approx([1.0, 1.0])


def test_many_pairs_on_few_subjects_are_decided_where_all_subjects_agree() -> None:
    """406 pairs of 11 subjects: Holm's correction of the least p of the signed-rank test gives .396."""
    rng = np.random.default_rng(0)
    d = 0.15 + rng.normal(0, 0.01, (11, 406))
    assert s.holm(s.signed_rank(d)).min() == pytest.approx(406 * 2 / 2**11)
    assert s.family_wise(d).max() == pytest.approx(2 / 2**11)


@pytest.mark.parametrize("n", [7, 14], ids=["all flips", "random flips"])
def test_family_wise_finds_nothing_in_noise(n: int) -> None:
    rng = np.random.default_rng(n)
    found = [s.family_wise(rng.normal(0, 1, (n, 12)), n_draws=500).min() < 0.05 for _ in range(200)]
    assert sum(found) <= 19  # 10 expected; 19 or more once in 200
