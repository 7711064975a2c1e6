"""Several units of one source, several pre-training seeds, several models: counted and tested as what they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

from da_wa.report import cube, effect, overview, tables, write_report
from da_wa.report import methods as by_method
from da_wa.report.choices import choices
from da_wa.report.content import Table
from da_wa.report.contrasts import effects, pairwise, seeds_needed
from da_wa.report.facts import load_facts
from da_wa.report.pivot import pivot
from da_wa.report.resampling import Resamples

SMALL = {"A": 140, "W": 90, "D": 70}


@pytest.fixture
def methods(experiment: Any) -> Any:
    experiment.images = SMALL
    experiment.simulate(["bn", "bn_wa"], (0, 1))
    experiment.simulate(["bn", "bn_wa"], (0, 1), per_pair=True, method="dann", effect={"bn": 1.0, "bn_wa": 1.0})
    return experiment


def test_methods_are_rows_of_their_own(methods: Any) -> None:
    facts = load_facts(methods.out)
    assert list(facts.matrix.mean.index) == ["BN", "BN · DANN", "BN + WA", "BN + WA · DANN"]
    assert (facts.matrix.seeds == 2).all(axis=None)
    assert (facts.matrix.runs == 2).all(axis=None)
    by_method = pivot(facts.frame, ["method"], ["weight"]).mean
    assert by_method.at["dann", "align"] == pytest.approx(facts.matrix.mean.at["BN + WA · DANN", "Avg"])


def test_the_table_of_methods_says_what_its_numbers_say(experiment: Any) -> None:
    experiment.images = {"A": 400, "W": 300, "D": 200}
    seeds = tuple(range(4))
    experiment.simulate(["bn", "ln"], seeds)
    experiment.simulate(["bn", "ln"], seeds, per_pair=True, method="dann", effect={"bn": 2.0, "ln": 0.0})
    section = by_method.section(load_facts(experiment.out))
    data = section.data["methods"].set_index(["norm", "method"])
    best = data["mean"].idxmax()
    assert best == ("bn", "dann")
    assert f"Best combination: BN with DANN, {data['mean'].max():.1f} %, a maximum over 4 that uses" in section.summary
    assert "1 of 2 combinations of norm and method significantly higher, 0 significantly lower" in section.summary
    shown = section.parts[0]
    assert {(shown.rows[i][0], shown.header[j]) for i, j in shown.bold} == {("BN", "DANN")}
    assert data.at[("bn", "dann"), "resolved"] and not data.at[("ln", "dann"), "resolved"]


def test_two_units_of_a_source_are_two_seeds_and_not_four(methods: Any) -> None:
    facts = load_facts(methods.out)
    data = overview.section(facts).data["intervals"].set_index(["label", "source", "target"])
    held_out = data.loc[("BN · DANN", "A", "A")]
    assert (held_out["seeds"], held_out["runs"], held_out["images"]) == (2, 2, 14)
    rows = facts.frame[(facts.frame["label"] == "BN · DANN") & (facts.frame["selection"] == "last")]
    own = rows[(rows["source"] == "A") & (rows["target"] == "A")]
    assert held_out["mean"] == pytest.approx(100 * own.groupby("seed")["accuracy"].mean().mean())
    assert set(own["unit_target"]) == {"W", "D"}


def test_networks_of_pairs_are_runs_of_their_own(methods: Any) -> None:
    facts = load_facts(methods.out)
    pairs = facts.matrix.pairs
    weights = {e.contrast.name: e.estimate for e in effects(facts.levels, pairs, facts.resamples, "weight")}
    assert len(weights["BN → BN + WA"].runs) == 3 * 2  # one network per source and seed
    assert len(weights["BN · DANN → BN + WA · DANN"].runs) == 3 * 2  # its pairs share held-out images, head and order
    methods_ = {e.contrast.name: e.estimate for e in effects(facts.levels, pairs, facts.resamples, "method")}
    assert set(methods_) == {"BN → BN · DANN", "BN + WA → BN + WA · DANN", "dann, mean over BN and BN + WA"}
    assert len(methods_["BN → BN · DANN"].runs) == 3 * 2  # both pairs of a source share the network without adaptation
    assert methods_["BN → BN · DANN"].interval.value == pytest.approx(
        facts.matrix.mean.at["BN · DANN", "Avg"] - facts.matrix.mean.at["BN", "Avg"]
    )


def test_many_methods_do_not_fill_the_summary(experiment: Any) -> None:
    experiment.images = SMALL
    experiment.simulate(["bn", "bn_wa"], (0,))
    sizes = {"coral": 0.1, "dann": 2.0, "mcc": -2.5, "bnm": 1.0, "afn": -1.5, "dan": 0.5, "shot": 3.0}
    for method, size in sizes.items():
        effect_ = {"bn": size, "bn_wa": size}
        experiment.simulate(["bn", "bn_wa"], (0,), per_pair=True, method=method, effect=effect_)
    found = effect.adaptation(load_facts(experiment.out))
    named = [method for method in sizes if f"{method}, mean over" in found.summary.lower()]
    assert sorted(named) == ["afn", "bnm", "dann", "mcc", "shot"]  # the five largest
    assert "2 more means are in the table." in found.summary
    assert "and 2 more" in found.title
    assert set(found.data["adaptation"]["value"]) == set(sizes)


def test_pretraining_seeds_are_replicates(experiment: Any) -> None:
    experiment.images = SMALL
    for p in (0, 1):
        experiment.simulate(["bn", "bn_wa"], (0, 1, 2), pretraining_seed=p)
    facts = load_facts(experiment.out)
    assert list(facts.matrix.mean.index) == ["BN", "BN + WA"]
    assert (facts.matrix.seeds == 3).all(axis=None)
    assert (facts.matrix.runs == 6).all(axis=None)
    assert "Mean over 3 seeds of each of 2 pre-trained networks ±" in tables.markdown(facts.matrix)
    assert "interval over pre-trained networks, seeds and images." in tables.markdown(facts.matrix)
    assert "lacks the variance over networks" not in tables.markdown(facts.matrix)
    values = facts.resamples._observed["BN", "A", "W"]
    assert len(values) == 6
    estimate = facts.resamples.estimate([(1.0, ("BN", "A", "W"))])
    assert estimate is not None
    by_p = [np.mean([v for (q, _), v in values.items() if q == p]) for p in (0, 1)]
    assert estimate.pretraining_seeds == 2
    assert estimate.interval.value == pytest.approx(np.mean(by_p))
    assert facts.matrix.mean.at["BN", "A->W"] == pytest.approx(100 * np.mean(by_p))
    assert estimate.precision.seed_variance == pytest.approx(np.var(by_p, ddof=1) / 2)
    assert estimate.runs.sum() == pytest.approx(estimate.interval.value)
    shortest = stats.t.ppf(0.975, 1) * np.std(by_p, ddof=1) / 2**0.5
    assert estimate.interval.half >= shortest - 1e-12


def test_a_pretraining_seed_that_matters_lengthens_the_interval(experiment: Any) -> None:
    experiment.images = SMALL
    for p, gain in ((0, -0.6), (1, 0.0), (2, 0.6)):
        experiment.simulate(["bn"], (0, 1), pretraining_seed=p, effect={"bn": gain})
    both = load_facts(experiment.out)
    one = Resamples([o for o in both.outcomes if o.pretraining_seed == 1])
    cells = [(1 / 6, ("BN", *pair)) for pair in both.matrix.pairs]
    estimate = both.resamples.estimate(cells)
    alone = one.estimate(cells)
    assert estimate is not None
    assert alone is not None
    assert estimate.interval.half > 2 * alone.interval.half


def test_p_values_of_effects_are_corrected_after_holm(experiment: Any) -> None:
    experiment.images = SMALL
    experiment.simulate(["bn", "bn_wa", "gn", "gn_wa", "ln", "ln_wa"], effect={"bn_wa": 2.0, "gn_wa": 0.3})
    facts = load_facts(experiment.out)
    found = effects(facts.levels, facts.matrix.pairs, facts.resamples)
    raw = [e.p for e in found]
    assert all(p is not None for p in raw)
    expected = multipletests(raw, method="holm")[1]
    assert [e.corrected for e in found] == pytest.approx(expected)
    assert not np.allclose(expected, raw)  # type: ignore[arg-type]
    by_pair = pairwise(found, facts.resamples, facts.outcomes)
    assert by_pair["p_images_holm"].to_numpy() == pytest.approx(
        multipletests(by_pair["p_images"].to_numpy(), method="holm")[1]
    )
    assert not np.allclose(by_pair["p_images_holm"], by_pair["p_images"])


def test_models_are_rows_where_they_vary(experiment: Any) -> None:
    experiment.images = SMALL
    for model in ("resnet20", "resnet18"):
        experiment.fill(["bn"], model=model)
    facts = load_facts(experiment.out)
    assert list(facts.matrix.mean.index) == ["BN · resnet18", "BN · resnet20"]
    write_report(experiment.out)
    header = (experiment.out / "accuracy.csv").read_text().splitlines()[0]
    assert "model" in header and "method" not in header


@pytest.mark.parametrize("name", ["office31_resnet20", "office31_resnet20_18_epochs"])
def test_committed_results_give_the_same_bytes(name: str) -> None:
    folder = Path(__file__).resolve().parents[2] / "results" / name
    facts = load_facts(folder)
    assert tables.accuracy_csv(facts.frame).encode() == (folder / "accuracy.csv").read_bytes()


def test_adaptation_has_a_section_and_files(methods: Any) -> None:
    section = effect.adaptation(load_facts(methods.out))
    assert section.title == "Does DANN help?"
    assert set(section.data) == {"adaptation", "adaptation_pairs"}
    assert len(section.data["adaptation_pairs"]) == 12


def test_norms_by_methods_with_the_change_at_equal_norm(methods: Any) -> None:
    methods.simulate(["gn"], (0, 1))
    methods.simulate(["bn"], (0, 1), per_pair=True, method="adabn", changes=["bn"])
    facts = load_facts(methods.out)
    section = by_method.section(facts)
    table, plot = section.parts
    mean = facts.matrix.mean["Avg"]
    assert list(table.header) == ["Norm", "source only", "adabn", "DANN"]
    assert [row[0] for row in table.rows] == ["BN", "BN + WA", "GN"]
    change = mean["BN · DANN"] - mean["BN"]
    assert table.rows[0][3].startswith(f"{mean['BN · DANN']:.1f}\n{change:+.1f} ± ")
    assert [row[2] for row in table.rows[1:]] == ["–", "="]  # not run; AdaBN does nothing without BatchNorm
    shown = {text.get_text() for axes in plot.figure.axes for text in axes.texts}
    assert {f"{value:.1f}" for value in mean} <= shown
    frame = section.data["methods"].set_index(["norm", "method"])
    assert frame.at[("bn", "dann"), "change"] == pytest.approx(change)


def test_fewer_seeds_of_a_method_are_told(methods: Any) -> None:
    def notes() -> str:
        return " ".join(by_method.section(load_facts(methods.out)).parts[0].notes)

    assert "Fewer than" not in notes()
    methods.simulate(["bn"], (2,))
    methods.simulate(["bn"], (2,), per_pair=True, method="dann", effect={"bn": 1.0})
    assert "Fewer than 3 seeds: BN + WA (2 seeds) and BN + WA · DANN (2 seeds)." in notes()


def test_a_method_that_was_planned_for_a_norm_and_failed_does_not_count_as_without_effect(experiment: Any) -> None:
    experiment.images = {"A": 40, "W": 40}
    experiment.correct = lambda norm, source, target, seed: 20
    experiment.fill(["bn", "gn", "ln"])
    experiment.fill(["bn"], method="adabn", changes=["bn"])
    experiment.fail("gn", "A", "out of memory", method="adabn")
    facts = load_facts(experiment.out)
    section = by_method.section(facts)
    assert [row[2] for row in section.parts[0].rows] == ["50.0\n+0.0 ± 0.0", "–", "="]
    assert section.data["methods"].query("identity")[["norm", "method"]].to_numpy().tolist() == [["ln", "adabn"]]
    shown = cube.section(facts, choices(facts, {})).parts[1]
    assert {row[0] for row in shown.rows} == {"BN", "GN", "LN", "BN · adabn", "LN · adabn"}


def test_one_seed_of_several_networks_is_no_interval_over_images_alone(experiment: Any) -> None:
    for p in (0, 1, 2):
        experiment.fill(["bn"], (0,), pretraining_seed=p)
    told = " ".join(tables.notes(load_facts(experiment.out).matrix))
    assert "Mean over 1 seed of each of 3 pre-trained networks ± half of the 95 % interval over pre-trained" in told
    assert "One seed" not in told
    write_report(experiment.out)
    page = (experiment.out / "page.html").read_text()
    assert "6 pairs of domains, 1 seed of each of 3 pre-trained networks." in page
    assert "% (3 runs)" in page


def test_cells_with_one_seed_beside_others_are_noted(experiment: Any) -> None:
    experiment.fill(["bn"], (0, 1))
    assert "images alone" not in " ".join(tables.notes(load_facts(experiment.out).matrix))
    experiment.add("ln", "A", 0)
    assert "over seeds and images, over images alone for one seed." in " ".join(
        tables.notes(load_facts(experiment.out).matrix)
    )


def test_a_source_with_one_seed_beside_others_is_not_over_images_alone(experiment: Any) -> None:
    experiment.images = SMALL
    for source, seeds in (("A", 1), ("W", 3), ("D", 3)):
        for seed in range(seeds):
            for norm in ("bn", "bn_wa"):
                experiment.add(norm, source, seed)
    facts = load_facts(experiment.out)
    (found,) = effects(facts.levels, facts.matrix.pairs, facts.resamples)
    assert (found.estimate.seeds, len(found.estimate.runs), found.estimate.clusters) == (1, 7, 3)
    section = effect.section(facts)
    notes = " ".join(next(part for part in section.everything if getattr(part, "name", "") == "effect").notes)
    assert "intervals are over images alone" not in notes
    assert "A source with one seed is taken to vary over seeds as the other sources do" in notes
    assert section.data["effect"]["seeds_needed"].tolist() == ["≥ 2"]  # 6 runs of 3 sources


def test_weights_of_a_method_stand_by_size_and_are_no_bases_to_average_over(experiment: Any) -> None:
    experiment.images = SMALL
    right = {("none", None): 30, ("mcc", 1.0): 31, ("mcc", 2.0): 34, ("mcc", 10.0): 38}

    def add(norm: str) -> None:
        for (method, weight), n in right.items():
            experiment.correct = lambda norm, source, target, seed, n=n: n + (norm == "ln")
            for source in SMALL:
                id_ = f"{norm}-{source}-{method}-{weight}"
                experiment.add(norm, source, method=method, method_weight=weight, id=id_)

    add("bn")
    facts = load_facts(experiment.out)
    rows = [f"BN · mcc × {weight}" for weight in (1, 2, 10)]
    assert list(facts.matrix.mean.index) == ["BN", *rows]
    assert list(facts.effects("method")["contrast"]) == [f"BN → {row}" for row in rows]
    add("ln")
    found = load_facts(experiment.out).effects("method").set_index("contrast")["effect"]
    assert len(found) == 7
    assert found["mcc, mean over BN and LN (6 comparisons)"] == pytest.approx(found.iloc[:6].mean())


def test_networks_are_counted_and_tested_where_norms_have_several(experiment: Any) -> None:
    experiment.images = SMALL
    norms = ["bn", "bn_wa", "gn", "gn_wa", "ln", "ln_wa"]
    for p, luck in ((0, -0.3), (1, 0.3)):
        gains = {norm: luck * (k % 3) + 3.0 * norm.endswith("_wa") for k, norm in enumerate(norms)}
        experiment.simulate(norms[:-1] if p else norms, (0,), effect=gains, pretraining_seed=p)
    section = effect.section(load_facts(experiment.out))
    data = section.data["effect"].set_index("contrast")
    assert data["p_runs"].notna().all()
    assert data["pretraining_seeds"].tolist() == [2, 2, 1, 2]
    assert data.index[-1] == "WA, mean over BN and GN"
    shown = next(part for part in section.parts if isinstance(part, Table))
    assert [row[shown.header.index("Networks")] for row in shown.rows] == ["2", "2", "1", "2"]
    needed = data["seeds_needed"].to_dict()
    assert needed.pop("LN → LN + WA").startswith("≥ ") or data.at["LN → LN + WA", "resolved"]
    assert all(n in ("enough", "> 100") or int(n) >= 3 for n in needed.values())
    told = " ".join(shown.notes)
    assert "Student's test over pre-trained networks" in told
    assert "A norm with one network is taken to vary over networks" in told
    assert "sign-flip" not in told


def test_needed_seeds_are_more_than_those_that_were_not_enough(experiment: Any) -> None:
    """A gain in each of three runs is clear by its interval, but three signs never give a p-value below 1/4."""
    experiment.images = {"A": 140, "W": 90}
    for seed, gain in enumerate((30, 31, 32)):
        experiment.correct = lambda norm, source, target, seed, gain=gain: 20 + gain * (norm == "bn_wa")
        for norm in ("bn", "bn_wa"):
            experiment.add(norm, "A", seed)
    facts = load_facts(experiment.out)
    (found,) = effects(facts.levels, facts.matrix.pairs, facts.resamples)
    assert 0.0 not in found.estimate.interval and not found.resolved
    assert seeds_needed(found, family=1) == "6"  # 2 ** (1 - 6) < 0.05
    four_sources = replace(found.estimate, clusters=4, runs=np.repeat(found.estimate.runs, 4))
    assert seeds_needed(replace(found, estimate=four_sources, p=0.04, corrected=0.2), family=1) == "4"


def test_methods_have_a_row_for_every_level_of_what_else_varies(experiment: Any) -> None:
    experiment.images = {"A": 40, "W": 30}
    experiment.correct = lambda norm, source, target, seed: 20
    experiment.fill(["bn"])
    for lr, right in ((0.01, 12), (0.1, 24)):
        experiment.correct = lambda norm, source, target, seed, right=right: right
        for pair in ("A", "W"), ("W", "A"):
            experiment.add("bn", pair[0], target=pair[1], method="dann", lr=lr, id=f"{pair[0]}{pair[1]}{lr}")
    facts = load_facts(experiment.out)
    section = by_method.section(facts)
    assert [row[0] for row in section.parts[0].rows] == ["BN · lr 0.01", "BN · lr 0.1"]
    frame = section.data["methods"].set_index(["lr", "method"])
    assert frame.at[(0.01, "none"), "mean"] == pytest.approx(50 * (20 / 40 + 20 / 30))
    assert frame.at[(0.01, "dann"), "mean"] == pytest.approx(50 * (12 / 40 + 12 / 30))
    assert frame.at[(0.1, "dann"), "mean"] == pytest.approx(50 * (24 / 40 + 24 / 30))


def test_a_change_over_fewer_pairs_says_so(experiment: Any) -> None:
    experiment.images = {"A": 40, "W": 30}
    experiment.correct = lambda norm, source, target, seed: 20
    for source in "AW":
        experiment.add("ln", source)
        experiment.add("bn", source, target="W" if source == "A" else "A", method="dann")
        experiment.add("ln", source, target="W" if source == "A" else "A", method="dann")
    experiment.correct = lambda norm, source, target, seed: 14
    experiment.add("bn", "A")
    rows = {row[0]: row for row in by_method.section(load_facts(experiment.out)).parts[0].rows}
    assert rows["BN"][-1].splitlines()[1].startswith(f"+{100 * 6 / 30:.1f} ± ")
    assert rows["BN"][-1].endswith(" (1 pair)")
    assert "pair" not in rows["LN"][-1]


def test_networks_count_alike_however_many_seeds_they_have(experiment: Any) -> None:
    experiment.images = {"A": 40, "W": 30}
    for p, seed, right in ((0, 0, 6), (0, 1, 12), (1, 0, 27)):
        experiment.correct = lambda norm, source, target, seed, right=right: right
        experiment.fill(["bn"], (seed,), pretraining_seed=p)
    facts = load_facts(experiment.out)
    mean = 100 * ((6 + 12) / 2 + 27) / 2 / 30
    assert facts.matrix.mean.at["BN", "A->W"] == pytest.approx(mean)
    estimate = facts.resamples.estimate([(100.0, ("BN", "A", "W"))])
    assert estimate is not None
    assert estimate.interval.value == pytest.approx(mean)
    assert facts.matrix.std.at["BN", "A->W"] == pytest.approx(np.std([20, 40, 90], ddof=1))


def test_held_out_images_of_all_units_of_a_source_are_in_the_interval(methods: Any) -> None:
    facts = load_facts(methods.out)
    right = {target: [] for target in ("W", "D")}
    for o in facts.held_out:
        if (o.label, o.source) == ("BN · DANN", "A"):
            right[o.unit_target].append(100 * o.right.mean())
    assert [len(found) for found in right.values()] == [2, 2]
    assert not np.isclose(np.mean(right["W"]), np.mean(right["D"]))
    section = overview.section(facts)
    shown = next(part for part in section.everything if getattr(part, "name", "") == "held_out_source")
    texts = {row[0]: row[1] for row in shown.rows}
    assert texts["BN · DANN"].startswith(f"{np.mean([*right['W'], *right['D']]):.1f} ± ")
