from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy import stats

from da_wa.records.contrasts import contrasts
from da_wa.report.contrasts import effects, pairwise
from da_wa.report.outcomes import Outcome
from da_wa.report.resampling import Estimate, Resamples, seeds_to_resolve
from da_wa.report.statistics import ALPHA, Interval, Precision, run_flips, welch

ROWS = {
    "BN": {"norm": "bn", "weight": "plain", "activation": "bn", "method": "none"},
    "BN + WA": {"norm": "bn_wa", "weight": "align", "activation": "bn", "method": "none"},
}
DOMAINS = ("A", "W", "D")
PAIRS = [(s, t) for s in DOMAINS for t in DOMAINS if s != t]


def outcome(label: str, source: str, target: str, seed: int, right: np.ndarray) -> Outcome:
    truth = np.zeros(len(right), int)
    return Outcome(label, source, target, seed, np.arange(len(right)), truth, 1 - right.astype(int), None)


def simulated(
    draw: np.random.Generator, effect: float, seeds: int = 3, images: int = 120, luck: float = 0.15
) -> list[Outcome]:
    """Two norms whose images are hard for both, or for one, and whose seeds are lucky or not; ``effect`` in probits."""
    found = []
    hard = {target: draw.normal(size=images) for target in DOMAINS}
    own = {(norm, target): 0.4 * draw.normal(size=images) for norm in ("BN", "BN + WA") for target in DOMAINS}
    for norm, gain in (("BN", 0.0), ("BN + WA", effect)):
        for source in DOMAINS:
            for seed in range(seeds):
                chance = luck * draw.normal()
                for target in DOMAINS:
                    if target != source:
                        odds = gain + chance + hard[target] + own[norm, target]
                        found.append(outcome(norm, source, target, seed, draw.normal(size=images) < odds))
    return found


def estimated(outcomes: Sequence[Outcome], replicates: int = 300) -> Estimate:
    (contrast,) = contrasts(ROWS)
    found = Resamples(outcomes, replicates).estimate(contrast.terms(PAIRS))
    assert found is not None
    return found


def test_the_estimate_is_the_plain_mean() -> None:
    outcomes = simulated(np.random.default_rng(0), 0.3)
    mean = {n: np.mean([o.right.mean() for o in outcomes if o.label == n]) for n in ("BN", "BN + WA")}
    found = estimated(outcomes)
    assert found.interval.value == pytest.approx(100 * (mean["BN + WA"] - mean["BN"]))
    assert found.runs.sum() == pytest.approx(found.interval.value)
    assert (len(found.runs), found.seeds) == (9, 3)


def test_images_alone_give_the_binomial_error() -> None:
    right = np.arange(400) < 240
    found = Resamples([outcome("BN", "A", "W", 0, right)], 8000).estimate([(1.0, ("BN", "A", "W"))])
    assert found is not None
    assert found.precision.error == pytest.approx(math.sqrt(0.6 * 0.4 / 400), rel=0.04)
    assert (found.precision.df, found.precision.seed_variance, found.seeds) == (math.inf, 0.0, 1)


def test_seeds_alone_give_students_interval() -> None:
    # Every image the same within a seed: images add nothing, and three seeds have two degrees of freedom.
    outcomes = [outcome("BN", "A", f"T{t}", s, np.full(50, t < n)) for s, n in enumerate((3, 5, 6)) for t in range(8)]
    found = Resamples(outcomes, 20_000).estimate([(1 / 8, ("BN", "A", f"T{t}")) for t in range(8)])
    values = np.array([3, 5, 6]) / 8
    assert found is not None
    assert found.precision.error == pytest.approx(values.std(ddof=1) / math.sqrt(3), rel=0.03)
    assert found.precision.seed_variance == pytest.approx(values.var(ddof=1) / 3)
    assert found.precision.df == pytest.approx(2, rel=0.1)
    assert found.interval.half == pytest.approx(stats.t.ppf(0.975, 2) * found.precision.error, rel=0.05)


def test_images_never_shorten_the_interval_of_the_seeds() -> None:
    draw = np.random.default_rng(2)
    for _ in range(20):
        right = [draw.random(100) < 0.5 for _ in range(3)]
        found = Resamples([outcome("BN", "A", "W", k, r) for k, r in enumerate(right)], 200).estimate(
            [(1.0, ("BN", "A", "W"))]
        )
        assert found is not None
        student = stats.ttest_1samp([r.mean() for r in right], 0).confidence_interval(0.95)
        assert found.interval.half >= (student.high - student.low) / 2 - 1e-9


def test_images_left_out_by_some_seeds() -> None:
    sets = (np.array([0, 1, 2, 5]), np.array([3, 4, 6]))
    outcomes = [
        Outcome("BN", "A", "W", k, index, np.zeros(len(index)), np.zeros(len(index)) + (index % 2), None)
        for k, index in enumerate(sets)
    ]
    found = Resamples(outcomes, 200).estimate([(1.0, ("BN", "A", "W"))])
    assert found is not None
    assert found.interval.value == pytest.approx((2 / 4 + 2 / 3) / 2)


def test_what_is_not_there_is_not_estimated() -> None:
    resamples = Resamples([outcome("BN", "A", "W", 0, np.ones(9, bool)), outcome("WA", "A", "W", 1, np.ones(9, bool))])
    assert resamples.estimate([(1.0, ("LN", "A", "W"))]) is None
    assert resamples.estimate([(1.0, ("BN", "A", "W")), (-1.0, ("WA", "A", "W"))]) is None  # no seed in common
    assert Resamples([]).cells == []


def test_equal_draws_for_equal_input() -> None:
    outcomes = simulated(np.random.default_rng(1), 0.0)
    assert estimated(outcomes).precision == estimated(outcomes).precision


@pytest.mark.parametrize("luck", [0.0, 0.15, 0.6])
def test_false_positives_are_as_rare_as_promised(luck: float) -> None:
    draw = np.random.default_rng(7)
    experiments = [estimated(simulated(draw, 0.0, luck=luck), 200) for _ in range(200)]
    outside = np.mean([0.0 not in found.interval for found in experiments])
    p = np.array([run_flips(found.runs) for found in experiments])
    resolved = np.mean([0.0 not in f.interval and q < ALPHA for f, q in zip(experiments, p, strict=True)])
    # of 200 at 0.05, more than 20 would happen once in 600 such tests
    assert outside <= 0.10
    assert (p < ALPHA).mean() <= 0.13  # takes the images as they are, so their luck adds to its 0.05
    assert resolved <= 0.08


def test_an_effect_that_is_there_is_resolved() -> None:
    draw = np.random.default_rng(8)
    experiments = [estimated(simulated(draw, 0.35), 200) for _ in range(60)]
    truth = 100 * (stats.norm.cdf(0.35 / math.sqrt(2.1825)) - 0.5)  # variances 1 + 1 + 0.4² + 0.15²
    assert np.mean([0.0 not in found.interval and run_flips(found.runs) < ALPHA for found in experiments]) > 0.8
    assert np.mean([truth in found.interval for found in experiments]) > 0.88
    assert np.mean([found.interval.value for found in experiments]) == pytest.approx(truth, abs=0.8)


@pytest.mark.parametrize("effect", [0.6, 1.0, 2.0])
def test_the_seeds_that_would_be_needed_have_the_power(effect: float) -> None:
    # One source, one point of standard deviation between seeds, images that add nothing: a one-sample t-test.
    known = Estimate(
        Interval(effect, effect - 3, effect + 3),
        Precision(math.sqrt(1 / 3), 1 / 3, 2.0, 2.0),
        np.full(3, effect / 3),
        3,
    )
    needed = seeds_to_resolve(known)
    assert needed is not None

    def power(k: int) -> float:
        limit = stats.t.ppf(0.975, k - 1)
        return float(stats.nct.sf(limit, k - 1, effect * math.sqrt(k)))

    assert power(needed) > 0.77
    assert power(needed - 1) < 0.83


def test_no_number_of_seeds_mends_too_few_images() -> None:
    known = Estimate(Interval(1.0, -3, 5), Precision(2.0, 0.1, 90.0, 2.0), np.ones(3), 3)
    assert seeds_to_resolve(known) is None


def test_needed_seeds_count_on_the_interval_that_is_reported() -> None:
    """Two seeds, images that matter more: the interval is that over the seeds alone, 12.7 standard errors."""
    known = Estimate(Interval(8.0, 8.0 - 12.7, 8.0 + 12.7), welch(math.sqrt(1 + 4), [(1.0, 1)]), np.full(2, 4.0), 2)
    needed = seeds_to_resolve(known)
    assert needed is not None
    variance = 2.0 / needed
    assert stats.t.ppf(0.975, needed - 1) * math.sqrt(variance) < 8.0
    assert needed > 2


def test_a_stricter_level_widens_the_interval_that_is_used() -> None:
    """Seeds alone give the longer interval, with one degree of freedom: so at every level."""
    precise = welch(math.sqrt(1 + 4), [(1.0, 1)])
    assert precise.df == pytest.approx(25)
    assert precise.half_width() == pytest.approx(stats.t.ppf(0.975, 1))
    assert precise.half_width(0.05 / 8) == pytest.approx(stats.t.ppf(1 - 0.05 / 16, 1))
    many = welch(math.sqrt(1 + 4), [(1.0, 30)])  # the whole error is the longer one
    assert many.half_width(0.05 / 8) == pytest.approx(stats.t.ppf(1 - 0.05 / 16, 30 * 25) * math.sqrt(5))


def test_a_source_with_one_seed_has_the_variance_of_the_others() -> None:
    """All images alike within a run, so seeds alone matter: s²/k each; the source with one seed has s² of others."""
    right = {("A", 0): 3, ("A", 1): 5, ("A", 2): 6, ("W", 0): 2, ("W", 1): 6, ("D", 0): 4}
    outcomes = [
        outcome("BN", source, f"T{t}", seed, np.full(50, t < n))
        for (source, seed), n in right.items()
        for t in range(8)
    ]
    found = Resamples(outcomes, 20_000).estimate([(1 / 8, ("BN", s, f"T{t}")) for s in "AWD" for t in range(8)])
    assert found is not None
    a, w = (np.var([n / 8 for (s, _), n in right.items() if s == source], ddof=1) for source in "AW")
    shares = [(a * (1 / 3 + 1 / 2), 2), (w * (1 / 2 + 1 / 2), 1)]  # D has the mean of the variances of A and W
    total = sum(variance for variance, _ in shares)
    assert found.precision.seed_variance == pytest.approx(total)
    assert found.precision.error == pytest.approx(math.sqrt(total), rel=0.03)
    df = total**2 / sum(variance**2 / k for variance, k in shares)
    assert found.interval.half >= stats.t.ppf(0.975, df) * math.sqrt(total) - 1e-9
    assert found.seeds == 1


def test_norms_are_paired_by_their_factors_and_not_by_their_labels() -> None:
    levels = {
        "Baseline": ("plain", "none"),
        "WA": ("align", "none"),
        "Batch": ("plain", "bn"),
        "Ours": ("align", "bn"),
        "BN + WS": ("standardize", "bn"),
        "LN": ("plain", "ln"),
        "GN + WA": ("align", "gn"),
    }
    rows = {name: {"norm": name, "weight": w, "activation": a, "method": "none"} for name, (w, a) in levels.items()}
    names = [contrast.name for contrast in contrasts(rows)]
    assert names == ["Baseline → WA", "Batch → Ours", "Batch → BN + WS"]
    first = contrasts(rows)[0]
    assert (first.factor, first.value, first.base) == ("weight", "align", "plain")
    assert contrasts({name: rows[name] for name in ("Batch", "LN")}) == []


def test_methods_are_compared_at_equal_norms() -> None:
    rows = {
        f"{norm} {method}": {"norm": norm, "weight": "plain", "activation": norm, "method": method}
        for norm in ("bn", "ln")
        for method in ("none", "dann")
    }
    assert [c.rows[0] for c in contrasts(rows, "method")] == [("bn none", "bn dann"), ("ln none", "ln dann")]


def test_two_methods_are_compared_at_equal_weights_if_they_have_such() -> None:
    levels = [("mcc", 0.1), ("mcc", 1.0), ("dann", 0.1), ("dann", 1.0), ("afn", 0.05), ("none", None)]
    rows = {
        f"{method} {weight}": {"norm": "bn", "weight": "plain", "method": method, "method_weight": weight}
        for method, weight in levels
    }
    ln = {"norm": "ln", "weight": "plain"}  # has no weight in common
    rows |= {
        "ln mcc": {**ln, "method": "mcc", "method_weight": 10.0},
        "ln dann": {**ln, "method": "dann", "method_weight": 1.0},
    }
    found = {contrast.rows[0] for contrast in contrasts(rows, "method", "mcc")}
    same = {(f"mcc {weight}", f"dann {weight}") for weight in (0.1, 1.0)}
    others = {(f"mcc {weight}", other) for weight in (0.1, 1.0) for other in ("afn 0.05", "none None")}
    assert found == same | others | {("ln mcc", "ln dann")}


def test_the_quantile_is_students_and_not_the_normal_one() -> None:
    # The images are the same for all seeds and many: only three seeds matter, so t with 2 degrees of freedom, 4.30.
    rights = [np.arange(4000) % 100 < percent for percent in (30, 50, 70)]
    found = Resamples([outcome("BN", "A", "W", s, right) for s, right in enumerate(rights)], 4000).estimate(
        [(1.0, ("BN", "A", "W"))]
    )
    assert found is not None
    expected = stats.ttest_1samp([0.3, 0.5, 0.7], 0).confidence_interval(0.95)
    assert found.interval.half == pytest.approx((expected.high - expected.low) / 2, rel=0.05)
    assert found.interval.half > 1.8 * stats.norm.ppf(0.975) * found.precision.error


def test_large_tables_are_drawn_in_blocks_with_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = simulated(np.random.default_rng(3), 0.2)
    whole = estimated(outcomes)
    monkeypatch.setattr("da_wa.report.resampling._BLOCK", 120 * 7)
    assert estimated(outcomes).precision == whole.precision


def test_balanced_accuracy_weighs_classes_equally() -> None:
    truth = np.repeat([0, 1], [300, 100])
    predicted = np.zeros(400, int)
    found = Resamples([Outcome("BN", "A", "W", 0, np.arange(400), truth, predicted, None)], 500, balanced=True)
    estimate = found.estimate([(1.0, ("BN", "A", "W"))])
    assert estimate is not None
    assert (estimate.interval.value, estimate.precision.error) == (0.5, 0.0)  # one recall is always 1, the other 0


def test_the_degrees_of_freedom_are_satterthwaites() -> None:
    # Images matter more than seeds, so the interval is that of both: t of Satterthwaite's degrees of freedom.
    outcomes = simulated(np.random.default_rng(0), 0.3, seeds=3, images=60, luck=0.0)
    found = estimated(outcomes, 2000)
    variances = []
    for source in DOMAINS:
        effect = []  # of each seed on the average; a source is a third of it
        for seed in range(3):
            here = [o for o in outcomes if (o.source, o.seed) == (source, seed)]
            mean = {n: np.mean([100 * o.right.mean() for o in here if o.label == n]) for n in ("BN", "BN + WA")}
            effect.append((mean["BN + WA"] - mean["BN"]) / 3)
        variances.append(np.var(effect, ddof=1) / 3)
    assert found.precision.seed_variance == pytest.approx(sum(variances))
    assert found.precision.df == pytest.approx(found.precision.error**4 / sum(v**2 / 2 for v in variances))
    half = stats.t.ppf(0.975, found.precision.df) * found.precision.error
    assert found.interval.half == pytest.approx(half, rel=1e-9)
    assert half > 1.04 * stats.norm.ppf(0.975) * found.precision.error


def test_pretraining_seeds_alone_give_students_interval() -> None:
    # Every image the same within a network: three networks, one seed of each.
    outcomes = [
        Outcome("BN", source, f"T{t}", 0, np.arange(50), np.zeros(50, int), np.full(50, int(t >= n)), None, p)
        for p, n in enumerate((3, 5, 6))
        for source in "AD"
        for t in range(8)
    ]
    found = Resamples(outcomes, 20_000).estimate([(1 / 16, ("BN", s, f"T{t}")) for s in "AD" for t in range(8)])
    values = np.array([3, 5, 6]) / 8
    assert found is not None
    assert (found.pretraining_seeds, found.seeds) == (3, 1)
    assert found.interval.value == pytest.approx(values.mean())
    assert found.precision.error == pytest.approx(values.std(ddof=1) / math.sqrt(3), rel=0.03)  # common to both sources
    assert found.interval.half == pytest.approx(stats.t.ppf(0.975, 2) * found.precision.error, rel=0.05)


def test_networks_of_the_pairs_of_one_source_share_its_luck() -> None:
    """With one seed they share held-out images, head, order and augmentation: two equal pairs tell no more than one."""
    outcomes = [replace(outcome("DANN", "A", t, s, np.full(50, s == 0)), unit_target=t) for t in "WD" for s in range(3)]
    found = Resamples(outcomes, 8000).estimate([(0.5, ("DANN", "A", t)) for t in "WD"])
    assert found is not None
    assert (found.clusters, len(found.runs)) == (1, 3)
    assert found.precision.error == pytest.approx(math.sqrt(np.var([1, 0, 0], ddof=1) / 3), rel=0.04)
    assert found.precision.seed_df == pytest.approx(2)


def test_rows_are_paired_over_images() -> None:
    """One seed: the variance of a difference of paired proportions, as in McNemar's test."""
    images = np.arange(400)
    base, changed = images < 240, (images < 220) | (images >= 340)  # 60 gained, 20 lost
    outcomes = [outcome("BN", "A", "W", 0, base), outcome("BN + WA", "A", "W", 0, changed)]
    outcomes.append(outcome("LN", "A", "W", 0, base.copy()))
    resamples = Resamples(outcomes, 8000)
    found = resamples.estimate([(1.0, ("BN + WA", "A", "W")), (-1.0, ("BN", "A", "W"))])
    equal = resamples.estimate([(1.0, ("LN", "A", "W")), (-1.0, ("BN", "A", "W"))])
    assert found is not None and equal is not None
    assert found.precision.error == pytest.approx(math.sqrt((80 / 400 - (40 / 400) ** 2) / 400), rel=0.04)
    assert equal.precision.error == 0


def test_runs_of_one_network_are_not_independent() -> None:
    """Three networks whose luck is common to all nine runs: Student's test over three, not that of nine signs."""
    right = {0: 2, 1: 12, 2: 20}  # of 100 images, more than without WA
    outcomes = [
        Outcome(label, s, t, 0, np.arange(100), np.zeros(100, int), (np.arange(100) >= 40 + gain).astype(int), None, p)
        for p in right
        for label, gain in (("BN", 0), ("BN + WA", right[p]))
        for s, t in PAIRS
    ]
    (effect,) = effects(ROWS, PAIRS, Resamples(outcomes, 4000))
    expected = stats.ttest_1samp(list(right.values()), 0).pvalue
    assert run_flips(effect.estimate.runs) == pytest.approx(2**-8)
    assert effect.p is not None
    assert expected == pytest.approx(0.16, abs=0.01)
    assert expected - 0.01 < effect.p < expected + 0.03  # images add to the error and to the degrees of freedom
    assert not effect.resolved


def of_networks(right: dict[str, dict[int, int]], *, shared: bool = False) -> list[Outcome]:
    """Runs whose 100 images are right as often as their network says; rows share networks or have their own."""
    return [
        Outcome(
            *(label, s, t, 0, np.arange(100), np.zeros(100, int), (np.arange(100) >= n).astype(int), None, p),
            network=f"{'all' if shared else label}-{p}",
        )
        for label, networks in right.items()
        for p, n in networks.items()
        for s, t in PAIRS
    ]


@pytest.mark.parametrize("shared", [True, False])
def test_networks_are_paired_where_rows_start_from_the_same_ones(shared: bool) -> None:
    """Student's paired test over networks that rows share, Welch's where each norm has its own."""
    base, changed = {0: 30, 1: 34, 2: 47}, {0: 52, 1: 55, 2: 70}
    outcomes = of_networks({"BN": base, "BN + WA": changed}, shared=shared)
    (effect,) = effects(ROWS, PAIRS, Resamples(outcomes, 6000))
    test = stats.ttest_rel if shared else partial(stats.ttest_ind, equal_var=False)
    expected = test(list(changed.values()), list(base.values()))
    student = expected.confidence_interval(0.95)
    assert effect.estimate.interval.value == pytest.approx(22)
    assert effect.estimate.over_networks
    assert effect.p == pytest.approx(expected.pvalue, rel=0.6)  # images add to the error and to the degrees of freedom
    seeds_alone = math.sqrt(effect.estimate.precision.seed_variance)
    assert seeds_alone == pytest.approx(22 / expected.statistic)
    assert effect.estimate.precision.seed_df == pytest.approx(expected.df)
    assert effect.estimate.interval.half >= (student.high - student.low) / 2 - 1e-6


def test_each_norm_counts_all_its_networks() -> None:
    right = {"BN": {0: 30, 1: 34, 2: 47}, "BN + WA": {0: 52, 1: 55}}
    (effect,) = effects(ROWS, PAIRS, Resamples(of_networks(right), 50))
    assert effect.estimate.interval.value == pytest.approx(np.mean([52, 55]) - np.mean([30, 34, 47]))
    assert effect.estimate.pretraining_seeds == 2
    assert len(effect.estimate.runs) == 5 * len(PAIRS) / 2  # pairs of one source share their network
    assert effect.estimate.runs.sum() == pytest.approx(effect.estimate.interval.value)


def test_a_norm_with_one_network_varies_as_the_others_do() -> None:
    (effect,) = effects(ROWS, PAIRS, Resamples(of_networks({"BN": {0: 30, 1: 34, 2: 47}, "BN + WA": {0: 52}}), 50))
    variance = np.var([30, 34, 47], ddof=1)
    assert effect.estimate.precision.seed_variance == pytest.approx(variance * (1 / 3 + 1))
    assert effect.estimate.over_networks


def test_one_network_of_each_norm_is_not_tested_where_others_have_several() -> None:
    rows = ROWS | {"LN": {"norm": "ln", "weight": "plain", "activation": "ln", "method": "none"}}
    outcomes = of_networks({"LN": {0: 20, 1: 22}, "BN": {0: 30}, "BN + WA": {0: 70}})
    resamples = Resamples(outcomes, 50)
    (effect,) = effects(rows, PAIRS, resamples)
    assert effect.p is None
    assert not effect.resolved
    assert not pairwise([effect], resamples, outcomes)["resolved"].any()


def test_the_mean_over_norms_is_of_those_with_the_most_networks() -> None:
    rows = ROWS | {
        "LN": {"norm": "ln", "weight": "plain", "activation": "ln", "method": "none"},
        "LN + WA": {"norm": "ln_wa", "weight": "align", "activation": "ln", "method": "none"},
        "GN": {"norm": "gn", "weight": "plain", "activation": "gn", "method": "none"},
        "GN + WA": {"norm": "gn_wa", "weight": "align", "activation": "gn", "method": "none"},
    }
    right = {label: {0: 30 + 10 * k, 1: 34 + 10 * k} for k, label in enumerate(rows)}
    del right["GN + WA"][1]
    *_, mean = effects(rows, PAIRS, Resamples(of_networks(right), 50))
    assert mean.contrast.rows == [("BN", "BN + WA"), ("LN", "LN + WA")]
    assert mean.estimate.pretraining_seeds == 2
    assert mean.estimate.precision.seed_df == pytest.approx(4)  # four norms of equal variance, two networks each


def test_two_networks_of_every_norm_do_not_make_effects_of_luck() -> None:
    draw = np.random.default_rng(5)
    found = []
    for _ in range(300):
        right = {label: dict(enumerate(draw.binomial(100, 0.5 + 0.1 * draw.normal(size=2)))) for label in ROWS}
        (effect,) = effects(ROWS, PAIRS, Resamples(of_networks(right), 40))
        found.append(effect)
    # of 300 at 0.05, more than 28 would happen once in 500 such tests
    assert sum(0.0 not in effect.estimate.interval for effect in found) <= 28
    assert sum(effect.resolved for effect in found) <= 28


def test_networks_of_other_seeds_have_no_images_test() -> None:
    outcomes = of_networks({"BN": {0: 30, 1: 34}, "BN + WA": {2: 52, 3: 55}})
    resamples = Resamples(outcomes, 50)
    by_pair = pairwise(effects(ROWS, PAIRS, resamples), resamples, outcomes)
    assert by_pair["p_images"].isna().all()
    assert by_pair["effect"].to_numpy() == pytest.approx(53.5 - 32)


def test_seeds_of_different_networks_are_drawn_independently() -> None:
    """Three equal networks, two seeds of each: 1/2 and 0. A replicate draws one seed of each network that it draws.

    Of two draws of three networks, a third are twice the same: the squares of their weights sum to 2/3 on average.
    """
    outcomes = [
        Outcome("BN", "A", f"T{t}", s, np.arange(20), np.zeros(20, int), np.full(20, int(s or t)), None, p)
        for p in range(3)
        for s in (0, 1)
        for t in (0, 1)
    ]
    found = Resamples(outcomes, 20_000).estimate([(0.5, ("BN", "A", f"T{t}")) for t in (0, 1)])
    assert found is not None
    assert found.interval.value == pytest.approx(0.25)
    assert found.precision.error == pytest.approx(0.25 * math.sqrt(2 / 3), rel=0.03)


def test_images_that_a_run_did_not_see_are_no_part_of_its_resamples() -> None:
    index = np.arange(0, 800, 2)
    others = Outcome("LN", "A", "W", 0, np.arange(800), np.zeros(800, int), np.zeros(800, int), None)
    held_out = Outcome("BN", "A", "W", 0, index, np.zeros(400, int), (np.arange(400) >= 240).astype(int), None)
    found = Resamples([others, held_out], 8000).estimate([(1.0, ("BN", "A", "W"))])
    assert found is not None
    assert found.precision.error == pytest.approx(math.sqrt(0.6 * 0.4 / 400), rel=0.05)


def test_a_class_that_a_resample_lacks_does_not_lower_its_balanced_accuracy() -> None:
    """One image of the second class, which a third of resamples lack; all are right in any of them."""
    truth = np.array([0, 0, 0, 1])
    found = Resamples([Outcome("BN", "A", "W", 0, np.arange(4), truth, truth, None)], 500, balanced=True)
    estimate = found.estimate([(1.0, ("BN", "A", "W"))])
    assert estimate is not None
    assert (estimate.interval.value, estimate.precision.error) == (1.0, 0.0)


def test_needed_pretraining_seeds_are_counted_like_needed_seeds() -> None:
    interval, precision = Interval(1.0, -2, 4), Precision(math.sqrt(1 / 3), 1 / 3, 2.0, 2.0)
    seeds = seeds_to_resolve(Estimate(interval, precision, np.full(3, 1 / 3), 3))
    assert seeds is not None
    assert seeds_to_resolve(Estimate(interval, precision, np.full(3, 1 / 3), 1, 3, over_networks=True)) == seeds


@pytest.mark.parametrize("family", [1, 6, 90])
def test_needed_seeds_count_on_the_corrected_level(family: int) -> None:
    """A one-sample t-test of differences with a standard deviation of 1, at 0.05 / family."""
    known = Estimate(Interval(2.0, -1, 5), Precision(math.sqrt(1 / 3), 1 / 3, 2.0, 2.0), np.full(3, 2 / 3), 3)
    needed = seeds_to_resolve(known, family)
    assert needed is not None
    power = {
        k: stats.nct.sf(stats.t.isf(0.025 / family, k - 1), k - 1, 2.0 * math.sqrt(k)) for k in (needed - 1, needed)
    }
    assert power[needed] > 0.77 and power[needed - 1] < 0.83


def test_too_few_images_for_all_pairs_together_have_no_p_value() -> None:
    """Seven images can give 1/64: enough for one comparison on two pairs, too little for one on six."""
    draw = np.random.default_rng(0)
    outcomes = [outcome(n, s, t, 0, draw.random(7) < 0.5) for n in ("BN", "BN + WA") for s, t in PAIRS]
    resamples = Resamples(outcomes, 50)
    for pairs, known in ((PAIRS[:2], True), (PAIRS, False)):
        by_pair = pairwise(effects(ROWS, pairs, resamples), resamples, outcomes)
        assert len(by_pair) == len(pairs)
        assert (by_pair["p_images"].notna() == known).all()
