"""Selection and its quality on tables whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from da_wa.select import choose, judge, largest_share, summarize, weighted_spearman

# Five families of (score, accuracy, share of the most frequent class), accuracy of source-only 0.60.
# Family:           right choice       worse choice      collapse chosen      all collapsed    no score
SCORES = [[0.1, 0.9, 0.5], [0.9, 0.1, 0.5], [0.2, 0.3, 0.9], [0.3, 0.4, 0.2], [math.nan] * 3]
ACCURACIES = [[0.50, 0.80, 0.70], [0.55, 0.75, 0.70], [0.70, 0.65, 0.10], [0.10, 0.20, 0.30], [0.5, 0.6, 0.7]]
SHARES = [[0.1, 0.1, 0.1], [0.1, 0.1, 0.1], [0.1, 0.1, 0.9], [0.9, 0.8, 0.6], [0.1, 0.1, 0.1]]
# chosen:           1: 80              0: 55             2: 10 / guard 1: 65  1: 20            none
# regret:           0                  20                60 / guard 5         10               –
# below 60 %:       no                 yes               yes / guard no       yes              –


def verdicts(guard: bool):
    return [
        judge(s, a, share, source_only=0.6, guard=guard) for s, a, share in zip(SCORES, ACCURACIES, SHARES, strict=True)
    ]


def test_choices_without_and_with_the_guard():
    assert [v.chosen for v in verdicts(False)] == [1, 0, 2, 1, None]
    assert [v.chosen for v in verdicts(True)] == [1, 0, 1, 1, None]


def test_regret_in_points_is_counted_from_the_best_of_all_candidates():
    assert [v.regret for v in verdicts(False)] == pytest.approx([0, 20, 60, 10, math.nan], nan_ok=True)
    assert [v.regret for v in verdicts(True)] == pytest.approx([0, 20, 5, 10, math.nan], nan_ok=True)


def test_a_good_candidate_that_cannot_be_chosen_counts_as_regret():
    assert judge([1, 2], [0.75, 0.5], shares=[0.9, 0.1], guard=True).regret == 25  # rejected by the guard
    assert judge([math.nan, 2], [0.75, 0.5]).regret == 25  # without a score


def test_harm_and_collapse():
    assert [v.below_source for v in verdicts(False)] == [False, True, True, True, None]
    assert [v.below_source for v in verdicts(True)] == [False, True, False, True, None]
    assert [v.collapsed for v in verdicts(False)] == [False, False, True, True, None]
    assert [v.collapsed for v in verdicts(True)] == [False, False, False, True, None]


def test_means_over_families():
    plain, guarded = summarize(verdicts(False)), summarize(verdicts(True))
    assert (plain.families, guarded.families) == (4, 4)
    assert (plain.regret, guarded.regret) == pytest.approx((22.5, 8.75))
    assert (plain.below_source, guarded.below_source) == (0.75, 0.5)
    assert (plain.collapsed, guarded.collapsed) == (0.5, 0.25)
    assert plain.spearman == pytest.approx(np.mean([v.spearman for v in verdicts(False)[:4]]))


def test_the_guard_leaves_collapsed_candidates_out_of_the_correlation():
    scores, accuracies, shares = [1, 2, 3, 4], [0.5, 0.6, 0.7, 0.1], [0.1, 0.1, 0.1, 0.9]
    assert judge(scores, accuracies, shares).spearman < 0
    assert judge(scores, accuracies, shares, guard=True).spearman == pytest.approx(1)


def test_exactly_as_good_as_the_source_is_not_below_it():
    assert judge([1.0], [0.6], source_only=0.6).below_source is False


def test_exactly_half_in_one_class_is_not_collapsed():
    assert judge([1.0], [0.6], shares=[0.5]).collapsed is False
    assert choose([1.0, 0.0], shares=[0.5, 0.1]) == 0


@pytest.mark.parametrize(
    ("source", "limit"),
    [(1 / 31, 0.5), (0.1, 0.5), (0.25, 0.5), (0.5, 0.75), (0.6, 0.84), (0.9, 0.99)],
)
def test_the_limit_grows_with_the_largest_class_of_the_source(source, limit):
    judged = [judge([1.0], [0.6], shares=[limit + d], source_share=source).collapsed for d in (-1e-9, 1e-9)]
    assert judged == [False, True]
    assert judge([1.0], [0.6], shares=[1.0], source_share=source).collapsed is True


@pytest.mark.parametrize("source", [0.5, 0.6])
def test_a_perfect_network_is_chosen_on_two_uneven_classes(source):
    """The target has classes of 60 and 40 %; the last candidate is collapsed."""
    scores, accuracies, shares = [3, 1, 4], [1.0, 0.7, 0.6], [0.6, 0.5, 0.98]
    verdict = judge(scores, accuracies, shares, guard=True, source_share=source)
    assert (verdict.chosen, verdict.regret, verdict.collapsed) == (0, 0, False)
    assert choose(scores, shares, source) == 0


def test_what_is_unknown_stays_unknown():
    verdict = judge([1.0, 2.0], [0.6, 0.6])
    assert (verdict.below_source, verdict.collapsed) == (None, None)
    assert math.isnan(verdict.spearman)  # equal accuracies
    summary = summarize([verdict])
    assert summary.regret == 0
    assert math.isnan(summary.below_source) and math.isnan(summary.collapsed) and math.isnan(summary.spearman)
    assert summarize([]).families == 0 and math.isnan(summarize([]).regret)


def test_of_equal_scores_the_first_is_chosen():
    assert choose([0.5, 0.7, 0.7]) == 1


def test_a_candidate_without_a_score_is_not_chosen():
    assert choose([math.nan, 0.1, -0.2]) == 1
    assert choose([math.nan, -math.inf]) == 1
    assert choose([math.nan, 0.1], shares=[0.1, 0.9]) == 1
    assert choose([math.nan, math.nan]) is None


def test_a_perfect_score_has_no_regret_and_a_random_one_the_mean():
    rng = np.random.default_rng(0)
    tables = rng.random((2000, 10))
    perfect = summarize([judge(a, a) for a in tables])
    assert (perfect.regret, perfect.spearman) == (0, pytest.approx(1))
    random = summarize([judge(rng.random(10), a) for a in tables])
    # E max of ten uniforms is 10/11, E of any is 1/2
    assert random.regret == pytest.approx(100 * (10 / 11 - 1 / 2), abs=2)  # 3 standard errors
    assert random.spearman == pytest.approx(0, abs=0.03)


def test_share_of_the_most_frequent_class():
    assert largest_share([3, 3, 1, 0, 3, 2, 3, 3]) == 5 / 8
    assert largest_share(np.zeros(7, dtype=int)) == 1


# Weighted Spearman


TABLES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=12).filter(
    lambda t: len({a for a, _ in t}) > 1 and len({b for _, b in t}) > 1
)


@given(TABLES)
def test_power_zero_is_scipys_spearman(table):
    x, y = zip(*table, strict=True)
    assert weighted_spearman(x, y, power=0) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


@given(TABLES)
def test_weights_repeat_rows(table):
    """By its definition: the ordinary correlation of a table in which row i stands w_i times."""
    x, y = (np.array(column) for column in zip(*table, strict=True))
    rank = np.searchsorted(np.unique(x), x) + 1  # dense
    repeated = np.repeat(np.arange(len(x)), rank**2)
    expected = stats.spearmanr(x[repeated], y[repeated]).statistic
    assert weighted_spearman(x, y) == pytest.approx(expected, abs=1e-9)


def test_a_bad_candidate_at_the_top_costs_more_than_a_good_one_at_the_bottom_alone():
    accuracy = np.arange(1, 11)
    top, low = accuracy.copy(), accuracy.copy()
    top[[8, 9]] = top[[9, 8]]
    low[[0, 1]] = low[[1, 0]]
    assert stats.spearmanr(top, accuracy).statistic == stats.spearmanr(low, accuracy).statistic
    assert weighted_spearman(top, accuracy) < weighted_spearman(low, accuracy) < 1


@given(TABLES)
def test_only_ranks_matter(table):
    x, y = (np.array(column, dtype=float) for column in zip(*table, strict=True))
    assert weighted_spearman(np.exp(x), y**3) == pytest.approx(weighted_spearman(x, y), abs=1e-12)


def test_one_candidate_has_no_correlation():
    assert math.isnan(weighted_spearman([1.0], [0.5]))
    assert math.isnan(weighted_spearman([1.0, 1.0], [0.5, 0.6]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: judge([1, 2], [0.5]), "accuracies must hold 2 values"),
        (lambda: judge([], []), "scores must hold one value a candidate"),
        (lambda: judge([1, 2], [50, 60]), "must be fractions"),
        (lambda: judge([1, 2], [0.5, math.nan]), "must be fractions"),
        (lambda: judge([1, 2], [0.5, 0.6], source_only=60), "source_only must be fractions"),
        (lambda: judge([1, 2], [0.5, 0.6], guard=True), "the collapse guard needs the shares"),
        (lambda: judge([1, 2], [0.5, 0.6], shares=[0.1]), "shares must hold 2 values"),
        (lambda: choose([1, 2], shares=[0.1]), "shares must hold 2 values"),
        (lambda: weighted_spearman([1, math.nan], [1, 2]), "needs numbers"),
        (lambda: largest_share([]), "must have shape"),
    ],
)
def test_degenerate_inputs(call, message):
    with pytest.raises(ValueError, match=message):
        call()
