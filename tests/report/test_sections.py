"""The sections of the page: their numbers against formulas, their words against the design."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from da_wa.errors import ConfigError
from da_wa.records.schema import Conversion
from da_wa.report import (
    comparison,
    conversions,
    effect,
    overview,
    paper,
    selection,
    side_by_side,
    start,
    write_report,
)
from da_wa.report.content import Section, Table
from da_wa.report.facts import Facts, load_facts
from da_wa.report.tables import SELECTIONS

SMALL = {"A": 140, "W": 90, "D": 70}
NORMS = ["bn", "bn_wa", "ln", "ln_wa", "gn", "gn_wa"]


def words(section: Section) -> str:
    texts = [part if isinstance(part, str) else "\n".join(getattr(part, "notes", [])) for part in section.everything]
    return "\n".join(texts)


def table(section: Section, name: str) -> Table:
    return next(part for part in section.everything if isinstance(part, Table) and part.name == name)


def simulate(experiment: Any, norms: Any = ("bn", "bn_wa"), seeds: Any = (0, 1, 2), **options: Any) -> Facts:
    experiment.images = SMALL
    experiment.simulate(norms, seeds, **options)
    return load_facts(experiment.out)


def test_every_number_has_one_interval(experiment: Any) -> None:
    facts = simulate(experiment)
    section = overview.section(facts)
    shown = table(section, "matrix")
    assert [row[0] for row in shown.rows][:2] == ["BN", "BN + WA"]
    data = section.data["intervals"].set_index(["label", "source", "target"])
    cell = data.loc[("BN", "A", "W")]
    values = [100 * o.right.mean() for o in facts.outcomes if (o.label, o.source, o.target) == ("BN", "A", "W")]
    assert cell["mean"] == pytest.approx(np.mean(values))
    assert cell["std"] == pytest.approx(np.std(values, ddof=1))
    assert (cell["seeds"], cell["runs"], cell["images"]) == (3, 3, 90)
    estimate = facts.resamples.estimate([(100.0, ("BN", "A", "W"))])
    assert estimate is not None
    half = estimate.interval.half
    assert (cell["low"], cell["high"]) == pytest.approx((np.mean(values) - half, np.mean(values) + half))
    text = f"{np.mean(values):.1f} ± {half:.1f}"
    assert shown.rows[0][1] == text
    assert table(comparison.section(facts), "paper").rows[0][2] == text
    average = facts.resamples.estimate([(100 / 6, ("BN", *pair)) for pair in facts.matrix.pairs])
    assert average is not None
    assert shown.rows[0][-1] == f"{average.interval.value:.1f} ± {average.interval.half:.1f}"
    assert len(table(section, "held_out_source").rows) == 2
    assert "14" in table(section, "held_out_source").notes[0]
    deviations = overview.section(facts, "std")
    assert table(deviations, "matrix").rows != shown.rows
    own = table(deviations, "held_out_source")
    assert own.rows == table(section, "held_out_source").rows
    assert "± is half of the 95 % interval" in own.notes[0]


def test_the_papers_cells_have_binomial_intervals_of_their_images(experiment: Any) -> None:
    section = comparison.section(simulate(experiment, ["bn", "wa"]))
    data = section.data["paper"].set_index(["label", "pair"])
    cell = data.loc[("BN", "A->W")]
    assert cell["paper"] == 46.92
    assert (cell["paper_low"], cell["paper_high"]) == pytest.approx((38.55, 55.47), abs=0.05)  # Wilson of 61/130
    assert cell["difference"] == pytest.approx(cell["ours"] - 46.92)
    inside = (data["ours_low"] <= data["paper"]) & (data["paper"] <= data["ours_high"])
    assert (data["paper_inside_ours"] == inside).all()
    assert f"{inside.drop('Avg', level='pair').sum()} of the paper's 12 cells lie inside" in words(section)
    average = data.loc[("WA", "Avg")]
    assert (average["paper_high"] - average["paper_low"]) / 2 / 1.96 == pytest.approx(1.59, abs=0.01)


def test_the_standard_errors_of_the_papers_averages(experiment: Any) -> None:
    # noted beside the paper: {WA: 1.59, BN: 1.60, BN+WA: 1.56, GN: 1.66, GN+WA: 1.61, IN: 1.61, ...}
    known = yaml.safe_load(
        "{WA: 1.59, BN: 1.60, BN + WA: 1.56, GN: 1.66, GN + WA: 1.61, IN: 1.61, IN + WA: 1.57, LN: 1.68}"
    )
    found = comparison._theirs(list(known))
    assert {k: round(found[k, "Avg"].half / 1.96, 2) for k in known} == pytest.approx(known, abs=0.0101)


def test_the_paper_is_left_out_for_other_data(experiment: Any) -> None:
    experiment.fill(["bn"], dataset="Office-Home")
    text = words(comparison.section(load_facts(experiment.out)))
    assert text == "The paper has numbers for Office-31 with 31 classes only, and for none of these runs."


def test_the_paper_is_left_out_for_other_classes(experiment: Any) -> None:
    experiment.fill(["bn"])
    facts = load_facts(experiment.out)
    assert "with 31 classes only" in words(comparison.section(replace(facts, classes=facts.classes[:10])))


def test_equal_order_has_tau_one(experiment: Any) -> None:
    ranks = sorted(paper.TABLE_VI, key=lambda label: float(paper.TABLE_VI[label][-1]))
    rising = {norm: 0.5 * ranks.index(label) for norm, label in LABELS.items()}
    section = comparison.section(simulate(experiment, list(LABELS), [0], effect=rising))
    assert "over 9 norms is 1.00 (p < 0.001" in words(section)


LABELS = {
    norm: label
    for norm, label in zip(
        ["wa", "bn", "bn_wa", "gn", "gn_wa", "in", "in_wa", "ln", "ln_wa"], paper.TABLE_VI, strict=True
    )
}


def test_a_large_effect_is_resolved_and_none_is_not(experiment: Any) -> None:
    section = effect.section(simulate(experiment, NORMS, effect={"bn_wa": 2.0}))
    data = section.data["effect"].set_index("contrast")
    assert data.loc["BN → BN + WA", "resolved"]
    assert not data.loc["LN → LN + WA", "resolved"]
    assert "Accuracy is significantly higher for BN → BN + WA." in section.summary
    assert "No significant difference: GN → GN + WA and LN → LN + WA." in section.summary
    shown = table(section, "effect")
    assert {row for row, _ in shown.bold} == set(np.flatnonzero(data["resolved"]))
    assert section.title == "Does WA help?"


def test_one_seed_never_resolves_and_says_why(experiment: Any) -> None:
    section = effect.section(simulate(experiment, ["bn", "bn_wa"], [0], effect={"bn_wa": 3.0}))
    assert not section.data["effect"]["resolved"].any()
    assert not section.data["effect_pairs"]["resolved"].any()
    assert section.data["effect"]["p_runs"].isna().all()
    told = words(section)
    assert "3 paired runs cannot give less than 0.25" in told
    assert "With one seed, intervals are over images alone" in told
    assert (section.data["effect_pairs"]["p_images"] < 0.05).any()  # the very networks do differ


def test_the_mean_over_norms_is_of_those_with_the_most_seeds(experiment: Any) -> None:
    simulate(experiment, ["bn", "bn_wa", "ln", "ln_wa"], [0, 1, 2], effect={"bn_wa": 2.0, "ln_wa": 2.0})
    section = effect.section(simulate(experiment, ["gn", "gn_wa"], [0]))
    data = section.data["effect"].set_index("contrast")
    mean = data.loc["WA, mean over BN and LN"]
    assert mean["effect"] == pytest.approx(
        (data.loc["BN → BN + WA", "effect"] + data.loc["LN → LN + WA", "effect"]) / 2
    )
    assert (mean["seeds"], mean["runs"]) == (3, 9)
    assert "Too few runs for a test (3 seeds needed): GN → GN + WA." in section.summary
    assert data.at["GN → GN + WA", "seeds_needed"] == "≥ 3"
    told = words(section)
    assert "With one seed, intervals are over images alone" in told
    assert "3 seeds cannot give a two-sided p-value below 0.25" in told
    assert "All seeds of a norm start from one pre-trained network" in told


def test_three_seeds_give_no_p_value_for_seeds_on_a_pair(experiment: Any) -> None:
    assert "3 seeds cannot give a two-sided p-value below 0.25" in words(effect.section(simulate(experiment)))


def test_nothing_to_compare_in_pairs(experiment: Any) -> None:
    section = effect.section(simulate(experiment, ["bn", "ln"], [0]))
    assert "No norm was run both with and without" in words(section)
    assert "2 norms on 6 pairs cannot reach p < 0.05" in words(section)
    assert section.data == {}


def test_a_source_without_a_common_seed_is_left_out_of_an_effect(experiment: Any) -> None:
    experiment.images = SMALL
    experiment.fill(["bn"], (0, 1))
    for source, seeds in (("A", (0, 1)), ("W", (0, 1)), ("D", (2,))):
        for seed in seeds:
            experiment.add("bn_wa", source, seed)
    facts = load_facts(experiment.out)
    section = effect.section(facts)
    (row,) = section.data["effect"].to_dict("records")
    shared = [f"{source}->{target}" for source, target in facts.matrix.pairs if source != "D"]
    mean = facts.matrix.mean[shared].mean(axis=1)
    assert (row["pairs"], row["seeds"]) == (4, 2)
    assert row["effect"] == pytest.approx(mean["BN + WA"] - mean["BN"])


def test_targets_of_one_source_without_a_common_seed_do_not_hide_an_effect(experiment: Any) -> None:
    """Each pair has a seed of both methods, and no seed has both pairs."""
    experiment.images = SMALL
    experiment.fill(["bn"], (0, 1))
    for target, seed in ("W", 0), ("D", 1):
        experiment.add("bn", "A", seed, target=target, method="mcc")
    facts = load_facts(experiment.out)
    (row,) = effect.adaptation(facts).data["adaptation"].to_dict("records")
    assert (row["pairs"], row["seeds"]) == (1, 1)


def test_any_norm_or_method_can_be_the_base_of_an_effect(experiment: Any) -> None:
    experiment.images = SMALL
    experiment.simulate(["bn", "bn_wa", "ln", "ln_wa"], [0, 1])
    pairs = list(itertools.permutations(SMALL, 2))
    for norm, method, seed, (source, target) in itertools.product(("bn", "ln"), ("mcc", "dann"), (0, 1), pairs):
        experiment.correct = lambda n, s, t, k, m=method: 30 + 7 * (m == "dann") + 3 * (n == "ln") + k
        experiment.add(norm, source, seed, target=target, method=method)
    facts = load_facts(experiment.out)
    mean = facts.matrix.mean["Avg"]
    norms = facts.effects("activation", "ln").set_index("contrast")["effect"]
    assert norms["LN → BN"] == pytest.approx(mean["BN"] - mean["LN"])
    assert norms["LN + WA → BN + WA"] == pytest.approx(mean["BN + WA"] - mean["LN + WA"])
    assert norms["LN · mcc → BN · mcc"] == pytest.approx(mean["BN · mcc"] - mean["LN · mcc"])
    assert not any("LN → BN + WA" in contrast or "LN → BN · " in contrast for contrast in norms.index)
    one = facts.effects("norm", "ln", ["bn_wa"])
    assert set(one["contrast"]) == {"LN → BN + WA"}
    assert one["effect"].item() == pytest.approx(mean["BN + WA"] - mean["LN"])
    assert one["p_runs_holm"].item() == one["p_runs"].item()
    methods = facts.effects("method", "mcc")
    assert set(methods["base"]) == {"mcc"}
    changes = methods.set_index("contrast")["effect"]
    assert changes["BN · mcc → BN · DANN"] == pytest.approx(mean["BN · DANN"] - mean["BN · mcc"])
    assert changes["BN · mcc → BN"] == pytest.approx(mean["BN"] - mean["BN · mcc"])
    back = facts.effects("method", "dann").set_index("contrast")["effect"]
    assert changes["BN · mcc → BN · DANN"] == pytest.approx(-back["BN · DANN → BN · mcc"])
    both = methods[(methods["value"] == "dann") & methods["contrast"].str.contains("mean over")]
    assert both["effect"].item() == pytest.approx(
        np.mean([mean[f"{norm} · DANN"] - mean[f"{norm} · mcc"] for norm in ("BN", "LN")])
    )


def test_what_selecting_by_target_labels_would_gain(experiment: Any) -> None:
    facts = simulate(experiment, ["bn", "bn_wa"], [0, 1])
    matrices = {rule: facts.selected(rule) for rule in SELECTIONS}
    section = selection.section(facts)
    gain = (matrices["target_oracle"].mean - matrices["last"].mean).drop(columns="Avg")
    assert (gain >= 0).all(axis=None)
    assert section.summary.startswith("Selecting among up to 6 evaluated epochs by the target's")
    assert f"by up to {gain.max(axis=None):.1f} " in section.summary
    cell = table(section, "selection_target_oracle").rows[0][1]
    assert cell == f"{matrices['target_oracle'].mean.at['BN', 'A->W']:.1f}\n{gain.at['BN', 'A->W']:+.1f}"
    data = section.data["selection"]
    mine = data[(data["selection"] == "source_val") & (data["label"] == "BN") & (data["pair"] == "A->W")].iloc[0]
    assert mine["less_last"] == pytest.approx(
        matrices["source_val"].mean.at["BN", "A->W"] - matrices["last"].mean.at["BN", "A->W"]
    )


def test_one_evaluated_epoch_of_each_run_leaves_nothing_to_select(experiment: Any) -> None:
    experiment.images = SMALL
    experiment.fill(["bn"])
    predicted = {domain: (np.zeros(SMALL[domain]), np.zeros((1, SMALL[domain]))) for domain in "AW"}
    experiment.finish(experiment.record("bn", "A", method="tent", target="W", epochs=1), [1], predicted)
    section = selection.section(load_facts(experiment.out))
    assert section.everything == ["Every run was evaluated after one epoch only, so there is nothing to compare."]


def test_experiments_side_by_side(experiment: Any, tmp_path: Any) -> None:
    experiment.fill(["bn", "ln"], [0, 1])
    first = experiment.out
    experiment.out = tmp_path / "other"
    experiment.fill(["bn"], [0])
    experiment.fill(["wa"], [0])
    section = side_by_side.section(first, load_facts(first), [experiment.out])
    shown = table(section, "compare")
    assert shown.header == ["Norm", "out", "other"]
    assert [row[0] for row in shown.rows] == ["BN", "LN", "WA"]
    assert shown.rows[2][1] == "–"
    started = table(section, "compare_pretraining")
    right = f"{(6000 + len('bn')) / 100:.1f}\nCIFAR-100, 6 epochs"
    assert started.rows[0] == ["BN", right, right]
    assert started.rows[2][1] == "–"
    data = section.data["compare"]
    matrix = load_facts(experiment.out).matrix
    cell = data[(data["experiment"] == "other") & (data["label"] == "BN") & (data["pair"] == "Avg")].iloc[0]
    assert cell["mean"] == pytest.approx(matrix.mean.at["BN", "Avg"])
    with pytest.raises(ConfigError, match="twice"):
        side_by_side.section(first, load_facts(first), [tmp_path / "out"])


def test_experiments_with_another_order_of_the_domains_are_comparable(experiment: Any, tmp_path: Any) -> None:
    experiment.fill(["bn"])
    first, experiment.out = experiment.out, tmp_path / "other"
    experiment.images = dict(reversed(experiment.images.items()))
    experiment.fill(["bn"], dataset="My images")
    section = side_by_side.section(first, load_facts(first), [experiment.out])
    assert section.summary.startswith("The experiments have the same settings")
    assert ["Dataset", "Office-31", "My images"] in table(section, "compare_settings").rows


def test_transfer_beside_pretraining(experiment: Any) -> None:
    norms = ["bn", "ln_wa", "instance_norm", "x" * 20, "wa"]  # the fixture's networks have 6000 + len(norm) right
    experiment.fill(norms, [0, 1])
    facts = load_facts(experiment.out)
    matrix = facts.matrix
    found = start.section(facts)
    points = found.data["start"].set_index("norm")
    assert sorted(points[start.X]) == pytest.approx(sorted((6000 + len(norm)) / 100 for norm in norms))
    assert points[start.Y].to_dict() == pytest.approx(matrix.mean["Avg"].to_dict())
    pairs = list(itertools.combinations(zip(points[start.X], points[start.Y], strict=True), 2))
    agree = sum(np.sign((a - c) * (b - d)) for (a, b), (c, d) in pairs)
    ties = [sum(one[k] == other[k] for one, other in pairs) for k in (0, 1)]
    tau = agree / np.sqrt((len(pairs) - ties[0]) * (len(pairs) - ties[1]))  # Kendall's tau-b
    assert f"τ {tau:+.2f}".replace("-", "−") in found.summary


def test_transfer_beside_pretraining_needs_networks(experiment: Any) -> None:
    experiment.fill(["bn", "wa"])
    found = start.section(load_facts(experiment.out))
    assert not found.data
    assert "nothing to compare" in words(found)


def test_networks_count_once_however_many_methods_start_from_them(experiment: Any, tmp_path: Any) -> None:
    norms = ["bn", "ln_wa", "in", "gn", "wa"]
    experiment.images = SMALL
    experiment.fill(norms)
    alone = start.section(load_facts(experiment.out))
    assert "over 5 points" in alone.summary and "p " in alone.summary
    experiment.fill(norms, method="mcc")
    found = start.section(load_facts(experiment.out))
    assert found.data["start"].equals(alone.data["start"])
    assert found.summary == alone.summary
    first, experiment.out = experiment.out, tmp_path / "other"
    experiment.fill(norms)
    section = side_by_side.section(first, load_facts(first), [experiment.out])
    plot = next(part for part in section.details if getattr(part, "name", "") == "compare_start")
    assert "over 10 points" in plot.caption and "p " not in plot.caption  # of five networks


def test_methods_that_differ_between_experiments_are_named(experiment: Any, tmp_path: Any) -> None:
    weak, strong = ({"name": "mcc", "weight": weight, "build": {"temperature": 2.5}} for weight in (0.1, 1.0))
    folders = [tmp_path / name for name in ("weak", "strong", "again", "alone")]
    for folder, method in zip(folders, (weak, strong, dict(reversed(weak.items())), None), strict=True):
        experiment.out = folder
        experiment.fill(["bn"], method=method["name"] if method else "none")
        for record in folder.rglob("record.json") if method else ():
            record.write_text(json.dumps(json.loads(record.read_text()) | {"method": method}))
    facts = load_facts(folders[0])
    told = {folder.name: side_by_side.section(folders[0], facts, [folder]).summary for folder in folders[1:]}
    assert told["strong"] == told["alone"] == ("The experiments differ in methods, so their averages are not ranked.")
    assert told["again"].startswith("The experiments have the same settings")


def test_a_method_alone_is_not_compared_with_the_papers_numbers(experiment: Any) -> None:
    experiment.images = SMALL
    experiment.fill(["bn", "bn_wa"], method="mcc")
    facts = load_facts(experiment.out)
    assert list(facts.matrix.mean.index) == ["BN · mcc", "BN + WA · mcc"]
    assert "for none of these runs" in words(comparison.section(facts))
    write_report(experiment.out)
    page = (experiment.out / "page.html").read_text()
    assert "on the source alone, evaluated" not in page.split("<h2")[0]
    assert "Evaluated on the target after the last epoch." in page


def test_what_differs_between_experiments_is_named(experiment: Any, tmp_path: Any) -> None:
    experiment.fill(["bn"])
    first, experiment.out = experiment.out, tmp_path / "larger" / "out"
    for source in "AWD":
        experiment.add("bn", source, size=64, experiment="ffff")
    section = side_by_side.section(first, load_facts(first), [experiment.out])
    rows = table(section, "compare_settings").rows
    assert [row[0] for row in rows if "differ" in row[0]] == ["Size (differs)", "Recipe (differs)"]
    assert section.summary == "The experiments differ in size and recipe, so their averages are not ranked."
    assert table(section, "compare").bold == frozenset()


def test_networks_and_parameters_that_differ_between_experiments_are_named(experiment: Any, tmp_path: Any) -> None:
    """Where records do not have the parameters, nothing is claimed of them."""
    other = {"name": "resnet20-cifar100-bn-00000000", "dataset": "CIFAR-100", "epochs": 6}
    folders = [tmp_path / name for name in ("this", "same", "another_eps", "another_network", "old")]
    for folder, eps in zip(folders, (1e-5, 1e-5, 1e-3, 1e-5, None), strict=True):
        experiment.out = folder
        experiment.fill(["bn"], **({"network": other} if folder.name == "another_network" else {}))
        if folder.name == "same":
            experiment.fill(["ln"])  # of a norm that the others do not have
        known = {"facts": {"norm": {"name": "bn", "eps": eps}, "model": {"name": "resnet20"}}}
        for config in folder.rglob("config.yaml") if eps else ():
            config.write_text(config.read_text() + yaml.safe_dump(known))
    facts = load_facts(folders[0])
    sections = {folder.name: side_by_side.section(folders[0], facts, [folder]) for folder in folders[1:]}
    told = {name: section.summary for name, section in sections.items()}
    assert told["same"] == "The experiments have the same settings, so their averages are comparable."
    differ = "The experiments differ in {}, so their averages are not ranked."
    assert told["another_network"] == differ.format("starting networks")
    assert told["another_eps"] == differ.format("parameters of norms and models")
    assert told["old"].startswith("The experiments have the same settings, as far as the records tell, so")
    bold = {name: bool(table(section, "compare").bold) for name, section in sections.items()}
    assert bold == {"same": True, "another_eps": False, "another_network": False, "old": True}


def test_wide_tables_are_turned() -> None:
    wide = Table("t", "", ["Norm", *map(str, range(20))], [["a", *map(str, range(20))]], frozenset({(0, 3)}))
    turned = wide.transposed_if_wide()
    assert turned.header == ["Pair", "a"]
    assert turned.rows[2] == ["2", "2"]
    assert turned.bold == {(2, 1)}
    assert turned.transposed_if_wide() is turned


def test_equal_averages_have_no_order(experiment: Any) -> None:
    experiment.classes = [f"class {k}" for k in range(31)]
    experiment.correct = lambda norm, source, target, seed: SMALL[target] // 2
    experiment.images = SMALL
    experiment.fill(["bn", "bn_wa", "ln"])
    section = comparison.section(load_facts(experiment.out))
    assert "All averages are equal, so there is no order to compare." in words(section)
    assert "nan" not in words(section)
    assert [row[3] for row in table(section, "paper_order").rows] == ["1", "1", "1"]


def test_norms_that_share_a_rank_do_not_share_the_next(experiment: Any) -> None:
    experiment.classes = [f"class {k}" for k in range(31)]
    experiment.correct = lambda norm, source, target, seed: 60 if norm == "ln" else 30
    experiment.images = SMALL
    experiment.fill(["bn", "bn_wa", "gn", "ln"])
    ranks = {row[0]: row[3] for row in table(comparison.section(load_facts(experiment.out)), "paper_order").rows}
    assert ranks == {"LN": "1", "BN": "2", "BN + WA": "2", "GN": "2"}


def test_networks_of_unknown_accuracy_and_several_ones_beside_others(experiment: Any, tmp_path: Any) -> None:
    unknown = {"name": "timm", "dataset": "ImageNet", "epochs": 0}
    experiment.fill(["bn"], network=unknown)
    first, experiment.out = experiment.out, tmp_path / "other"
    for p, correct in enumerate((6000, 7000)):
        network = {"name": f"p{p}", "dataset": "CIFAR-100", "epochs": 6, "correct": correct, "n": 10_000}
        experiment.fill(["bn"], pretraining_seed=p, network=network)
    section = side_by_side.section(first, load_facts(first), [experiment.out])
    started = table(section, "compare_pretraining").rows[0]
    assert started == ["BN", "–\nImageNet, 0 epochs", "65.0\nCIFAR-100, 6 epochs, 2 networks"]


def test_norms_are_ranked_over_pairs_without_their_average(experiment: Any) -> None:
    norms = ["bn", "gn", "in", "ln"]
    experiment.images = SMALL
    experiment.correct = lambda norm, source, target, seed: 10 * (norms.index(norm) + 1)
    experiment.fill(norms)
    text = words(effect.section(load_facts(experiment.out)))
    q = stats.studentized_range.ppf(0.95, 4, np.inf) / 2**0.5
    critical = q * (4 * 5 / (6 * 6)) ** 0.5  # Nemenyi's, of four norms on six pairs
    apart = sum(abs(a - b) > critical for a, b in itertools.combinations(range(1, 5), 2))  # equal orders in all pairs
    assert "Over 6 pairs as blocks, the 4 norms differ (Friedman χ² = 18.0, p < 0.001)" in text  # 6 · (4 - 1)
    assert f"more than {critical:.2f} apart: {apart} of 6 pairs of norms" in text


def test_methods_are_not_ranked_as_norms(experiment: Any) -> None:
    norms = ["bn", "gn", "in", "ln"]
    experiment.images = SMALL
    experiment.correct = lambda norm, source, target, seed: 10 * (norms.index(norm) + 1)
    experiment.fill(norms)
    alone = words(effect.section(load_facts(experiment.out)))
    for norm, pair in itertools.product(norms, itertools.permutations(SMALL, 2)):
        experiment.add(norm, pair[0], target=pair[1], method="dann")
    assert "the 4 norms differ (Friedman" in alone
    assert words(effect.section(load_facts(experiment.out))).split("Over 6 pairs")[1] == alone.split("Over 6 pairs")[1]


@pytest.mark.parametrize(
    ("stale", "changed", "said"),
    [
        (
            2,
            2,
            "GN + WA started without BN's calibration (the filters of 2 of 3 layers changed): it needs re-training.",
        ),
        (0, 2, "GN + WA started with other filters (of 2 of 3 layers) than those trained: it needs re-training."),
        (0, 0, "Every trained value was kept."),
    ],
)
def test_a_conversion_that_changes_filters_keeps_no_trained_network(stale: int, changed: int, said: str) -> None:
    found = Conversion(replaced={"Conv2d -> X": 2}, reached=2, layers=3, stale=stale, changed=changed)
    assert conversions.section({"GN + WA": found}).parts[0] == said
