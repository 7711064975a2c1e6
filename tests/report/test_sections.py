"""The sections of the page: their numbers against formulas, their words against the design."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.metrics import confusion_matrix

from da_wa.errors import ConfigError
from da_wa.report import (
    comparison,
    cost,
    curves,
    effect,
    failures,
    overview,
    paper,
    selection,
    shift,
    side_by_side,
    start,
)
from da_wa.report.content import Section, Table
from da_wa.report.matrix import collect, pretraining, transfer_matrix
from da_wa.report.outcomes import Outcome, outcomes, saved
from da_wa.report.resampling import Resamples
from da_wa.report.tables import SELECTIONS, table_latex
from da_wa.runs.ledger import Ledger

SMALL = {"A": 140, "W": 90, "D": 70}
NORMS = ["bn", "bn_wa", "ln", "ln_wa", "gn", "gn_wa"]


class Read:
    """Everything that sections are made from."""

    def __init__(self, experiment: Any) -> None:
        ledger = Ledger(experiment.out)
        self.runs = collect(ledger)
        self.matrix = transfer_matrix(self.runs)
        self.outcomes = [o for record, arrays in saved(ledger, self.runs.records) for o in outcomes(record, arrays)]
        self.resamples = Resamples(self.outcomes, 200)

    def comparison(self) -> Section:
        return comparison.section(self.matrix, self.resamples, pretraining(self.runs.records))

    def effect(self) -> Section:
        return effect.section(self.matrix, self.resamples, self.outcomes)


def words(section: Section) -> str:
    told = [part if isinstance(part, str) else "\n".join(getattr(part, "notes", [])) for part in section.parts]
    return "\n".join(told)


def table(section: Section, name: str) -> Table:
    return next(part for part in section.parts if isinstance(part, Table) and part.name == name)


def simulate(experiment: Any, norms: Any = ("bn", "bn_wa"), seeds: Any = (0, 1, 2), **options: Any) -> Read:
    experiment.images = SMALL
    experiment.simulate(norms, seeds, **options)
    return Read(experiment)


def test_every_cell_has_its_n_and_its_interval(experiment: Any) -> None:
    read = simulate(experiment)
    section = overview.section(read.runs, read.matrix, read.resamples)
    shown = table(section, "matrix")
    assert [row[0] for row in shown.rows] == ["BN", "BN + WA"]
    assert all(
        cell.split("\n")[1] == f"3×{SMALL[t]}"
        for row in shown.rows
        for cell, t in zip(row[1:-1], "WADADW", strict=True)
    )
    data = section.data["intervals"].set_index(["label", "source", "target"])
    cell = data.loc[("BN", "A", "W")]
    values = [100 * o.right.mean() for o in read.outcomes if (o.label, o.source, o.target) == ("BN", "A", "W")]
    assert cell["mean"] == pytest.approx(np.mean(values))
    assert cell["seeds_high"] - cell["mean"] == pytest.approx(4.3027 * np.std(values, ddof=1) / 3**0.5, abs=1e-3)
    assert shown.rows[0][1].startswith(f"{np.mean(values):.1f} ± {cell['seeds_high'] - cell['mean']:.1f}")
    assert table(section, "held_out_source").rows[0][1].endswith("3×14")


def test_the_papers_cells_have_binomial_intervals_of_their_images(experiment: Any) -> None:
    section = simulate(experiment, ["bn", "wa"]).comparison()
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
    for source in experiment.images:
        experiment.add("bn", source, dataset="Office-Home")
    assert (
        words(Read(experiment).comparison()) == "The paper has numbers for Office-31 alone, and of none of these runs."
    )


def test_equal_order_has_tau_one(experiment: Any) -> None:
    ranks = sorted(paper.TABLE_VI, key=lambda label: float(paper.TABLE_VI[label][-1]))
    rising = {norm: 0.5 * ranks.index(label) for norm, label in LABELS.items()}
    section = simulate(experiment, list(LABELS), [0], effect=rising).comparison()
    assert "over 9 norms is 1.00 (p < 0.001" in words(section)


LABELS = {
    norm: label
    for norm, label in zip(
        ["wa", "bn", "bn_wa", "gn", "gn_wa", "in", "in_wa", "ln", "ln_wa"], paper.TABLE_VI, strict=True
    )
}


def test_a_large_effect_is_resolved_and_none_is_not(experiment: Any) -> None:
    section = simulate(experiment, NORMS, effect={"bn_wa": 2.0}).effect()
    data = section.data["effect"].set_index("contrast")
    assert data.loc["BN → BN + WA", "resolved"]
    assert not data.loc["LN → LN + WA", "resolved"]
    assert "resolved for BN → BN + WA." in section.summary
    assert "Not resolved: GN → GN + WA and LN → LN + WA." in section.summary
    shown = table(section, "effect")
    assert {row for row, _ in shown.bold} == set(np.flatnonzero(data["resolved"]))
    assert section.title == "Does WA help?"


def test_one_seed_never_resolves_and_says_why(experiment: Any) -> None:
    section = simulate(experiment, ["bn", "bn_wa"], [0], effect={"bn_wa": 3.0}).effect()
    assert not section.data["effect"]["resolved"].any()
    assert not section.data["effect_pairs"]["resolved"].any()
    assert section.data["effect"]["p_runs"].isna().all()
    told = words(section)
    assert "3 paired runs cannot reach less than 0.25 two-sided" in told
    assert "With one seed the intervals are of the images alone." in told
    assert (section.data["effect_pairs"]["p_images"] < 0.05).any()  # the very networks do differ


def test_the_mean_over_norms_is_of_those_with_the_most_seeds(experiment: Any) -> None:
    simulate(experiment, ["bn", "bn_wa", "ln", "ln_wa"], [0, 1, 2], effect={"bn_wa": 2.0, "ln_wa": 2.0})
    section = simulate(experiment, ["gn", "gn_wa"], [0]).effect()
    data = section.data["effect"].set_index("contrast")
    mean = data.loc["WA, mean over BN and LN"]
    assert mean["effect"] == pytest.approx(
        (data.loc["BN → BN + WA", "effect"] + data.loc["LN → LN + WA", "effect"]) / 2
    )
    assert (mean["seeds"], mean["runs"]) == (3, 9)
    assert "Too few runs to tell (it takes 3 seeds at least): GN → GN + WA." in section.summary
    assert data.at["GN → GN + WA", "seeds_needed"] == "≥ 3"
    told = words(section)
    assert "With one seed the intervals are of the images alone." in told
    assert "3 seeds cannot give a two-sided p-value below 0.25" in told
    assert "The pre-trained network of a norm is one and the same" in told


def test_three_seeds_give_no_p_value_for_seeds_on_a_pair(experiment: Any) -> None:
    assert "3 seeds cannot give a two-sided p-value below 0.25" in words(simulate(experiment).effect())


def test_nothing_to_compare_in_pairs(experiment: Any) -> None:
    section = simulate(experiment, ["bn", "ln"], [0]).effect()
    assert "No norm stands in the table both with and without" in words(section)
    assert "2 norms on 6 pairs cannot reach 0.05" in words(section)
    assert section.data == {}


def test_runs_without_predictions_are_reported_all_the_same(experiment: Any) -> None:
    experiment.fill(["bn", "bn_wa"])
    read = Read(experiment)
    assert "so there is nothing to compare in pairs" in words(read.effect())
    assert "No run has saved what it predicted" in words(read.comparison())
    assert "No run has saved what it predicted" in words(failures.section(read.matrix, ["x"], [], None))
    assert overview.section(read.runs, read.matrix, read.resamples).data["intervals"]["seeds_images_low"].isna().all()


def test_flattery_is_the_oracle_less_the_last_epoch(experiment: Any) -> None:
    read = simulate(experiment, ["bn", "bn_wa"], [0, 1])
    matrices = {rule: transfer_matrix(read.runs, rule) for rule in SELECTIONS}
    section = selection.section(matrices, read.runs.records)
    gain = (matrices["target_oracle"].mean - matrices["last"].mean).drop(columns="Avg")
    assert (gain >= 0).all(axis=None)
    assert section.summary.startswith("Among the 6 evaluated epochs (5, 10, 15, 20, 25 and 30), choosing by")
    assert f"by up to {gain.max(axis=None):.1f} " in section.summary
    cell = table(section, "selection_target_oracle").rows[0][1]
    assert cell == f"{matrices['target_oracle'].mean.at['BN', 'A->W']:.1f}\n{gain.at['BN', 'A->W']:+.1f}"
    assert (
        "raised no number" in selection.section(dict.fromkeys(SELECTIONS, matrices["last"]), read.runs.records).summary
    )
    data = section.data["selection"]
    mine = data[(data["selection"] == "source_val") & (data["label"] == "BN") & (data["pair"] == "A->W")].iloc[0]
    assert mine["less_last"] == pytest.approx(
        matrices["source_val"].mean.at["BN", "A->W"] - matrices["last"].mean.at["BN", "A->W"]
    )


def test_confusions_are_those_of_scikit_learn(experiment: Any) -> None:
    read = simulate(experiment, classes=5)
    section = failures.section(read.matrix, list("vwxyz"), read.outcomes, None)
    data = section.data["confusion"]
    mine = data[(data["label"] == "BN") & (data["source"] == "A") & (data["target"] == "D")]
    found = [o for o in read.outcomes if (o.label, o.source, o.target) == ("BN", "A", "D")]
    truth, predicted = (np.concatenate([getattr(o, n) for o in found]) for n in ("truth", "predicted"))
    counts = mine.pivot(index="true", columns="predicted", values="count").fillna(0).reindex(list("vwxyz"))
    assert (counts.to_numpy() == confusion_matrix(truth, predicted)).all()
    recall = section.data["class_accuracy"].set_index("class").at["v", "A->D"]
    everyone = [o for o in read.outcomes if (o.source, o.target) == ("A", "D")]
    assert recall == pytest.approx(100 * np.mean(np.concatenate([o.right[o.truth == 0] for o in everyone])))
    assert "written without images" in words(section)


def test_nothing_is_wrong() -> None:
    perfect = Outcome("BN", "A", "W", 0, np.arange(3), np.arange(3), np.arange(3), np.full(3, 0.9, np.float32))
    assert failures.most_confidently_wrong([perfect]) == []


def test_the_most_confidently_wrong() -> None:
    def seen(predicted: list[int], confidence: list[float]) -> Outcome:
        return Outcome("BN", "A", "W", 0, np.arange(4), np.zeros(4, int), np.array(predicted), np.array(confidence))

    found = failures.most_confidently_wrong(
        [seen([1, 0, 2, 1], [0.9, 0.99, 0.5, 0.6]), seen([0, 0, 2, 1], [1, 1, 0.7, 0.8])]
    )
    # scores: image 3 (0.6 + 0.8) / 2, image 2 (0.5 + 0.7) / 2, image 0 0.9 / 2; image 1 is never wrong
    # image 0 is the same confusion as image 3
    assert found == [(3, 0, 1, 2, pytest.approx(0.7)), (2, 0, 2, 2, pytest.approx(0.6))]


def test_mmd_by_its_definition() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(6, 3)), draw.normal(size=(5, 3)) + 1
    x = np.concatenate([a, b])
    squared = np.array([[np.sum((p - q) ** 2) for q in x] for p in x])
    width = np.median([squared[i, j] for i in range(11) for j in range(i)])
    k = np.exp(-squared / width)
    within_a = sum(k[i, j] for i in range(6) for j in range(6) if i != j) / 30
    within_b = sum(k[i, j] for i in range(6, 11) for j in range(6, 11) if i != j) / 20
    across = sum(k[i, j] for i in range(6) for j in range(6, 11)) / 30
    assert shift.mmd(a, b) == pytest.approx(within_a + within_b - 2 * across)


def test_equal_domains_are_near_and_distant_ones_far() -> None:
    draw = np.random.default_rng(1)
    a, b, c = draw.normal(size=(200, 64)), draw.normal(size=(200, 64)), draw.normal(size=(200, 64)) + 3
    assert shift.a_distance(*shift.scaled(a, b)) < 0.35
    assert shift.a_distance(*shift.scaled(a, c)) == pytest.approx(2.0, abs=0.02)
    assert abs(shift.mmd(*shift.scaled(a, b))) < 0.005
    assert shift.mmd(*shift.scaled(a, c)) > 0.1


def test_shift_without_features(experiment: Any) -> None:
    read = simulate(experiment, ["bn"], [0])
    assert (
        words(shift.section(read.matrix, [("BN", "A", 0, {})]))
        == "The runs saved no features, so the shift in them is not known."
    )


def test_curves_hold_every_accuracy(experiment: Any) -> None:
    read = simulate(experiment, ["bn"], [0, 1])
    data = curves.section(read.runs.records).data["curves"]
    first = data[(data["source"] == "A") & (data["images"] == "target W") & (data["epoch"] == 30)].iloc[0]
    assert first["mean"] == pytest.approx(read.matrix.mean.at["BN", "A->W"])
    assert (first["low"], first["seeds"]) == (
        pytest.approx(min(100 * o.right.mean() for o in read.outcomes if (o.source, o.target) == ("A", "W"))),
        2,
    )
    assert set(data["images"]) == {"source, training", "source, held out", "target A", "target W", "target D"}


def test_costs_and_what_repeats_them(experiment: Any) -> None:
    experiment.fill(["bn"], [0, 1])
    section = cost.section(collect(Ledger(experiment.out)).records)
    assert section.data["cost"]["total_s"].tolist() == [41.2] * 6
    assert section.data["cost"]["mfu"].tolist() == [0.3141] * 6
    costs = table(section, "cost")
    assert costs.rows[0][costs.header.index("MFU, %")] == "31"
    told = dict((row[0], row[1]) for row in table(section, "environment").rows)
    assert told["Command"] == "run_office31.py experiment=quick"
    assert told["Commit"] == "0123456789abcdef0123456789abcdef01234567"
    assert table(section, "data").rows[0] == ["A", "2817", "digest of A"]


def test_experiments_side_by_side(experiment: Any, tmp_path: Any) -> None:
    experiment.fill(["bn", "ln"], [0, 1])
    first = experiment.out
    experiment.out = tmp_path / "other"
    experiment.fill(["bn"], [0])
    for source in "AWD":
        record = experiment.record("wa", source)
        experiment.add("wa", source, id=record["id"])
    section = side_by_side.section(first, [experiment.out])
    shown = table(section, "compare")
    assert shown.header == ["Norm", "out", "other"]
    assert [row[0] for row in shown.rows] == ["BN", "LN", "WA"]
    assert shown.rows[2][1] == "–"
    started = table(section, "compare_pretraining")
    right = f"{(6000 + len('bn')) / 100:.1f}\nCIFAR-100, 6 epochs"
    assert started.rows[0] == ["BN", right, right]
    assert started.rows[2][1] == "–"
    data = section.data["compare"]
    matrix = transfer_matrix(collect(Ledger(experiment.out)))
    cell = data[(data["experiment"] == "other") & (data["label"] == "BN") & (data["pair"] == "Avg")].iloc[0]
    assert cell["mean"] == pytest.approx(matrix.mean.at["BN", "Avg"])
    with pytest.raises(ConfigError, match="twice"):
        side_by_side.section(first, [tmp_path / "out"])


def test_transfer_beside_pretraining(experiment: Any) -> None:
    norms = ["bn", "ln_wa", "instance_norm", "x" * 20, "wa"]  # the fixture's networks have 6000 + len(norm) right
    experiment.fill(norms, [0, 1])
    runs = collect(Ledger(experiment.out))
    matrix = transfer_matrix(runs)
    found = start.section(matrix, pretraining(runs.records))
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
    runs = collect(Ledger(experiment.out))
    found = start.section(transfer_matrix(runs), pretraining(runs.records))
    assert not found.data and "cannot be told" in found.parts[0]


def test_what_differs_between_experiments_is_named(experiment: Any, tmp_path: Any) -> None:
    experiment.fill(["bn"])
    first, experiment.out = experiment.out, tmp_path / "larger" / "out"
    for source in "AWD":
        experiment.add("bn", source, size=64, recipe="ffff")
    section = side_by_side.section(first, [experiment.out])
    rows = table(section, "compare_settings").rows
    assert [row[0] for row in rows if "differ" in row[0]] == ["Size (differs)", "Recipe (differs)"]
    assert section.summary == "The experiments differ in size and recipe, so their averages are not ranked."
    assert table(section, "compare").bold == frozenset()


def test_second_lines_of_cells_are_small_in_latex() -> None:
    text = table_latex(Table("t", "50 % & more", ["", "A→B"], [["x_1", "−1.0\np < 0.001"]], frozenset({(0, 1)})))
    assert r"x\_1 & \textbf{$-$1.0} {\scriptsize p \textless{} 0.001} \\" in text
    assert r"\caption{50 \% \& more}" in text


def test_wide_tables_are_turned() -> None:
    wide = Table("t", "", ["Norm", *map(str, range(20))], [["a", *map(str, range(20))]], frozenset({(0, 3)}))
    turned = wide.transposed_if_wide()
    assert turned.header == ["Pair", "a"]
    assert turned.rows[2] == ["2", "2"]
    assert turned.bold == {(2, 1)}
    assert turned.transposed_if_wide() is turned
