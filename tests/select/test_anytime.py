"""The e-process against the integral that defines it, and by simulation.

Simulations print their rates; ``pytest -rP`` shows them. Tolerances are three standard errors of a rate over
the simulated studies, √(p(1−p)/N).
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from da_wa.select import decided, decided_after, e_process, e_value, t_statistics

STUDIES = 4000
LOOKS = 30


def simulate(effect: float, seeds: int = LOOKS, studies: int = STUDIES, sd: float = 1.7) -> np.ndarray:
    """Evidence after each seed, (studies, seeds), of differences with mean effect · sd."""
    rng = np.random.default_rng(20261125)
    return e_process(sd * (effect + rng.standard_normal((studies, seeds))))


def stops(path: np.ndarray, alpha: float = 0.05) -> np.ndarray:
    """Seeds at the stop, infinity for none."""
    hit = path >= 1 / alpha
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1.0, np.inf)


# Formula


@pytest.mark.parametrize("n", [2, 3, 5, 12, 30])
@pytest.mark.parametrize("t", [0.0, 0.7, -2.5, 6.0])
@pytest.mark.parametrize("g", [1.0, 4.0])
def test_e_value_is_a_ratio_of_densities_of_t(n, t, g):
    """The noncentral density of t at effect/sd δ ~ N(0, g), over the central one."""

    def integrand(delta: float) -> float:
        return stats.nct.pdf(t, n - 1, delta * math.sqrt(n)) * stats.norm.pdf(delta, scale=math.sqrt(g))

    marginal = integrate.quad(integrand, -15, 15, points=[0.0, t / math.sqrt(n)], limit=200)[0]
    assert e_value(t, n, g) == pytest.approx(marginal / stats.t.pdf(t, n - 1), rel=1e-5)


def test_e_value_as_written_in_the_specification():
    t, n, g = 3.1, 7, 4
    v = n - 1
    expected = (1 + n * g) ** -0.5 * ((1 + t**2 / ((1 + n * g) * v)) / (1 + t**2 / v)) ** (-n / 2)
    assert e_value(t, n) == pytest.approx(expected, rel=1e-12)


def test_expected_e_value_is_one_without_an_effect():
    for n in (2, 3, 8):
        mean = integrate.quad(lambda t, n=n: float(e_value(t, n)) * stats.t.pdf(t, n - 1), -np.inf, np.inf, limit=500)
        assert mean[0] == pytest.approx(1, rel=1e-3)


def test_limits():
    assert e_value(5.0, 1) == 1  # one seed says nothing
    assert e_value(np.inf, 4) == pytest.approx(17**1.5)  # (1 + ng)^((n−1)/2)
    assert e_value(1e200, 4) == pytest.approx(17**1.5)
    assert e_value(0.0, 4) == pytest.approx(17**-0.5)
    assert e_value(-2.0, 6) == e_value(2.0, 6)


def test_t_statistics_are_scipys():
    x = np.random.default_rng(0).normal(1e3, 1, size=(3, 9))
    for row, n in itertools.product(range(3), range(2, 10)):
        assert t_statistics(x)[row, n - 1] == pytest.approx(stats.ttest_1samp(x[row, :n], 0).statistic, rel=1e-8)


def test_equal_differences():
    assert t_statistics([0.0, 0.0, 0.0]).tolist() == [0, 0, 0]
    assert (e_process(np.zeros(5)) == 1).all()  # no differences, no evidence
    assert e_process([1.0] * 4)[-1] == pytest.approx(17**1.5)
    assert e_process([-0.1] * 4)[-1] == pytest.approx(17**1.5)


def test_scale_and_sign_do_not_matter():
    x = np.random.default_rng(1).normal(1, 1, 12)
    assert e_process(100 * x) == pytest.approx(e_process(x))
    assert e_process(-x) == pytest.approx(e_process(x))


def test_evidence_is_not_taken_back():
    path = e_process([2.0, 2.1, 1.9, 2.0, -30.0, 25.0])
    assert (np.diff(path) >= 0).all()
    assert path[-1] == path[3] > 20


# Simulation


def test_false_alarms_under_continuous_looking():
    """At most 5 % by Ville's inequality; 2.6 % in the specification's own simulation, over 30 looks."""
    rate = float(np.isfinite(stops(simulate(0.0))).mean())
    print(f"false alarms over {LOOKS} looks, {STUDIES} studies: {rate:.2%}")
    assert rate <= 0.05
    # both are estimates: 2.6 % over >= 2,000 studies and ours
    error = math.sqrt(0.026 * 0.974 * (1 / STUDIES + 1 / 2000))
    assert rate == pytest.approx(0.026, abs=3 * error)


def test_looking_after_every_seed_with_a_t_test_would_not_hold_the_level():
    """What the e-process is for: p < 0.05 at any of the looks happens several times as often."""
    x = np.random.default_rng(20261125).standard_normal((STUDIES, LOOKS))
    t, n = t_statistics(x)[:, 1:], np.arange(2, LOOKS + 1)
    rate = (2 * stats.t.sf(np.abs(t), n - 1) < 0.05).any(axis=1).mean()
    print(f"a t test after every seed: {rate:.0%}")
    assert rate > 0.2


@pytest.mark.parametrize(("effect", "median"), [(1, 12), (2, 6), (3, 5)])
def test_seeds_until_an_effect_is_found(effect, median):
    """The specification's medians, within the sampling error of ours: m is the median if at most half stop before m
    and at least half by m. For effect/sd 1 half have stopped at 12 almost exactly, so 13 is within the error as well.
    """
    n = stops(simulate(effect, seeds=60))
    before, at = float((n < median).mean()), float((n <= median).mean())
    print(f"effect/sd {effect}: median stop {np.median(n):.0f}, stopped before {before:.0%}, by then {at:.0%}")
    error = math.sqrt(0.25 / STUDIES)
    assert before <= 0.5 + 3 * error and at >= 0.5 - 3 * error
    assert abs(np.median(n) - median) <= 1


def test_family_of_contrasts_under_continuous_looking():
    """Six true null hypotheses that share the runs of one baseline: any false decision in at most 5 % of studies."""
    rng = np.random.default_rng(7)
    runs = rng.standard_normal((2000, 7, LOOKS))
    paths = e_process(runs[:, 1:] - runs[:, :1])
    at_the_end = np.array([decided(path[:, -1]) for path in paths])  # evidence never shrinks: the last look decides
    rate = float(at_the_end.any(axis=1).mean())
    print(f"any false decision among six contrasts: {rate:.2%}")
    assert rate <= 0.05


def test_effects_that_are_there_are_decided_beside_one_that_is_not():
    rng = np.random.default_rng(8)
    effects = np.array([2.0, 1.5, 0.0])
    paths = e_process(effects[:, None] + rng.standard_normal((2000, 3, LOOKS)))
    rates = np.array([decided(path[:, -1]) for path in paths]).mean(axis=0)
    print(f"decided at effect/sd 2, 1.5, 0: {rates.round(3)}")
    assert (rates[:2] > 0.95).all() and rates[2] <= 0.05


# Holm


def test_holm_is_the_reports_holm_on_inverse_e_values():
    from da_wa.report.statistics import holm

    rng = np.random.default_rng(9)
    for _ in range(300):
        e = np.exp(rng.normal(3, 1.5, size=rng.integers(1, 8)))
        expected = [p <= 0.05 for p in holm([min(1.0, 1 / v) for v in e])]
        assert decided(e).tolist() == expected


def test_one_contrast_needs_one_over_alpha():
    assert decided([20.0]).tolist() == [True]
    assert decided([19.99]).tolist() == [False]
    assert decided([10.0], alpha=0.1).tolist() == [True]
    assert decided([]).tolist() == []


# After how many seeds


def test_decisions_by_hand():
    """E of equal differences after n seeds is (1+4n)^((n−1)/2): 3, 13, 70, 441, 3125."""
    same, none = [1.0] * 6, [1.0, -1.0] * 3
    assert decided_after([same]) == [4]  # 70 >= 20
    assert decided_after([same, none]) == [4, None]  # 70 >= 40
    assert decided_after([same, none, none, none]) == [5, None, None, None]  # 70 < 80
    assert decided_after([same, same, none, none]) == [5, 5, None, None]
    assert decided_after([]) == []


def test_a_contrast_that_got_no_more_seeds_stays_decided():
    rng = np.random.default_rng(10)
    slow = list(0.8 + rng.standard_normal(40))
    strong = [2.0, 2.1, 1.9, 2.0, 2.05]
    first = decided_after([strong, slow[:5]])
    assert first == [4, None]
    assert decided_after([strong, slow]) == [4, decided_after([strong, slow])[1]]


def test_later_seeds_do_not_change_earlier_decisions():
    """So an interrupted run that goes on decides the same."""
    rng = np.random.default_rng(11)
    contrasts = [list(mu + rng.standard_normal(25)) for mu in (0.0, 0.7, 1.5, 3.0)]
    whole = decided_after(contrasts)
    for n in range(1, 26):
        part = decided_after([x[:n] for x in contrasts])
        assert part == [seed if seed is not None and seed <= n else None for seed in whole]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: e_value(1.0, 0), "n >= 1"),
        (lambda: e_value(math.nan, 3), "numbers"),
        (lambda: e_value(1.0, 3, g=0), "g > 0"),
        (lambda: e_process([1.0, math.nan]), "finite numbers"),
        (lambda: e_process([]), "finite numbers"),
        (lambda: decided([math.nan]), "non-negative"),
        (lambda: decided([-1.0]), "non-negative"),
        (lambda: decided([1.0], alpha=5), "alpha must lie between 0 and 1"),
    ],
)
def test_degenerate_inputs(call, message):
    with pytest.raises(ValueError, match=message):
        call()
