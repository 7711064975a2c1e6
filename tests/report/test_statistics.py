from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from da_wa.report.statistics import (
    Interval,
    binomial,
    holm,
    image_flips,
    of_binomial_average,
    of_difference,
    p_text,
    rank_correlation,
    ranking,
    run_flips,
    runs_to_reach,
    welch,
)


def test_wilson_interval_by_its_formula() -> None:
    # Wilson (1927): centre (p + z²/2n) / (1 + z²/n), half width z sqrt(p(1-p)/n + z²/4n²) / (1 + z²/n)
    n, p, z = 130, 61 / 130, 1.959963984540054
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    found = binomial(61, n)
    assert (found.value, found.low, found.high) == pytest.approx((p, centre - half, centre + half))
    assert binomial(0, 73).low == 0
    assert binomial(73, 73).high == 1


def test_student_interval_of_a_textbook_sample() -> None:
    # t(0.975, 2) = 4.303: 50 ± 4.303 · 1 / sqrt(3)
    variance = float(np.var([49.0, 50.0, 51.0], ddof=1)) / 3
    found = welch(math.sqrt(variance), [(variance, 2)])
    assert found.half_width() == pytest.approx(4.303 / math.sqrt(3), abs=1e-3)


def test_newcombe_interval_of_his_own_example() -> None:
    # Newcombe (1998), table II, example (a), method 10: 56/70 - 48/80 is 0.0524 to 0.3339
    found = of_difference(binomial(56, 70), binomial(48, 80))
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_interval_of_an_average_of_proportions() -> None:
    found = of_binomial_average([45, 178, 38, 183, 64, 104], [130, 415, 73, 415, 73, 130])  # the paper's WA
    assert 100 * found.half / 1.96 == pytest.approx(1.59, abs=5e-3)


@pytest.mark.parametrize(("gained", "lost", "same"), [(10, 3, 100), (0, 12, 5), (7, 7, 0), (0, 0, 40)])
def test_flipping_images_is_mcnemar_for_one_seed(gained: int, lost: int, same: int) -> None:
    net = np.repeat([1, -1, 0], [gained, lost, same])
    exact = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert image_flips(net) == pytest.approx(exact)


def test_flipping_images_is_the_full_enumeration_for_several_seeds() -> None:
    net = np.array([3, -1, 2, 0, 1, 2, -3, 2, 1, 1])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 10)).reshape(10, -1)
    sums = np.abs((signs * net[:, None]).sum(axis=0))
    assert image_flips(net) == pytest.approx((sums >= abs(net.sum())).mean())


def test_flipping_runs_is_the_full_enumeration() -> None:
    effects = np.array([0.5, 0.2, -0.1, 0.7, 0.3, 0.05, 0.4])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 7)).reshape(7, -1)
    sums = np.abs((signs * effects[:, None]).sum(axis=0))
    assert run_flips(effects) == pytest.approx((sums >= abs(effects.sum()) - 1e-12).mean())


def test_no_p_value_where_the_design_cannot_give_one() -> None:
    assert run_flips(np.array([1.0, 1.0, 1.0])) is None  # 0.25 at the least, as by Wilcoxon's test
    assert stats.wilcoxon([1.0, 1.1, 1.2]).pvalue == 0.25
    assert run_flips(np.ones(6)) == pytest.approx(2 / 2**6)
    assert run_flips(np.ones(6), family=2) is None
    assert image_flips(np.ones(5, int)) is None
    assert [runs_to_reach(family) for family in (1, 2, 5)] == [6, 7, 8]
    assert all(run_flips(np.ones(runs_to_reach(f)), f) is not None for f in range(1, 12))
    assert all(run_flips(np.ones(runs_to_reach(f) - 1), f) is None for f in range(1, 12))


def test_holm_of_a_worked_example() -> None:
    # Holm (1979) by hand: 0.01·4, max(0.04, 0.02·3), max(0.06, 0.03·2), max(0.06, 0.2·1)
    assert holm([0.02, 0.2, 0.01, 0.03]) == pytest.approx([0.06, 0.2, 0.04, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.01, None, 0.5]) == [pytest.approx(0.03), None, 1.0]  # what gave none still counts
    assert holm([]) == []


def test_holm_is_that_of_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(0).random(20) ** 3
    assert holm(list(p)) == pytest.approx(multitest.multipletests(p, method="holm")[1])


def test_friedman_and_nemenyi_of_demsars_example() -> None:
    # Demšar (2006), table 6: AUC of C4.5 with and without two parameters on 14 data sets
    c45 = [0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1.000, 0.940, 0.619, 0.972, 0.957]
    m = [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.000, 0.962, 0.666, 0.981, 0.978]
    cf = [0.771, 0.590, 0.968, 0.654, 0.886, 0.916, 0.609, 0.563, 0.866, 1.000, 0.965, 0.614, 0.9751, 0.946]
    mcf = [0.798, 0.569, 0.967, 0.657, 0.898, 0.931, 0.685, 0.625, 0.875, 1.000, 0.962, 0.669, 0.975, 0.970]
    found = ranking(np.array([c45, m, cf, mcf]).T)
    assert found is not None
    assert found.ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert found.statistic == pytest.approx(stats.friedmanchisquare(c45, m, cf, mcf).statistic)
    assert found.critical == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 14)), abs=1e-3)  # his q for four methods


def test_no_ranking_of_too_few() -> None:
    assert ranking(np.random.default_rng(0).random((50, 2))) is None
    assert ranking(np.array([[1, 2, 3], [1, 2, 3.0]])) is None  # chi2(4) of two degrees: 0.14 at the least
    assert ranking(np.zeros((6, 4))).p == 1  # type: ignore[union-attr]


def test_kendall() -> None:
    # 5 values, one neighbouring swap: 9 concordant pairs of 10, 1 discordant
    tau, p = rank_correlation([1, 2, 3, 4, 5], [1, 2, 3, 5, 4])
    assert tau == pytest.approx(0.8)
    assert p == pytest.approx(10 / 120)  # (1 + 4) of 120 orders are as extreme, on either side
    assert rank_correlation([1, 2, 3, 4], [1, 2, 3, 4]) == (1.0, None)


def test_intervals() -> None:
    assert 2.0 in Interval(1, 0, 2)
    assert 2.1 not in Interval(1, 0, 2)
    assert 1.0 not in Interval(1.0)
    assert 100.0 * Interval(0.5, 0.25, 1.0) == Interval(50.0, 25.0, 100.0)


@pytest.mark.parametrize(
    ("p", "text"), [(None, "–"), (0.0001, "< 0.001"), (0.0234, "0.023"), (0.3, "0.30"), (1.0, "1.00")]
)
def test_p_values_as_printed(p: float | None, text: str) -> None:
    assert p_text(p) == text
