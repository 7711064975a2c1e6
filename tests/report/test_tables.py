from __future__ import annotations

import csv
import io
import math
import re
from typing import Any

import pytest

from da_wa.report import tables
from da_wa.report.checkpoints import checkpoints
from da_wa.report.facts import load_facts
from da_wa.report.latex import table_latex

NASTY = ["写真", "*a_b", "50% & #1", "$x^2$", "{C}~\\d|e", "Ærø ąę đ Ħ", "😀 地図", "*bold* `code` <b>", "caf\udce9"]


def matrix_of(experiment: Any) -> Any:
    return load_facts(experiment.out).matrix


def test_counts_are_in_the_notes_and_not_in_the_cells(experiment: Any) -> None:
    experiment.fill(["bn", "ln"], seeds=[0, 1, 2])
    table = tables.matrix_table(matrix_of(experiment))
    assert all("\n" not in cell and "×" not in cell for row in table.rows for cell in row)
    notes = " ".join(table.notes)
    assert "A 2817, W 795, D 498" in notes
    assert "Mean over 3 seeds ± half of the 95 % interval over seeds and images." in notes


def test_an_interval_of_zero_width_is_explained(experiment: Any) -> None:
    experiment.images = dict.fromkeys("ab", 20)
    experiment.correct = lambda norm, source, target, seed: 20 if target == "b" else 10
    experiment.fill(["bn"], seeds=[0])
    told = [note for note in tables.notes(matrix_of(experiment)) if note.startswith("One seed: ")]
    assert [
        note.endswith("other seeds may differ by more. It is too short at 0 and 100 %, where it is ± 0.0.")
        for note in told
    ] == [True]


def test_a_norm_that_has_fewer_seeds_everywhere_is_named_once(experiment: Any) -> None:
    experiment.fill(["bn"], seeds=[0, 1, 2])
    experiment.fill(["wa"], seeds=[0])
    assert "Fewer seeds: WA (1 of 3)." in tables.notes(matrix_of(experiment))


def test_cells_with_fewer_seeds_are_named(experiment: Any) -> None:
    experiment.images = {"W": 1000, "D": 1000}
    experiment.fill(["bn"], seeds=[0, 1])
    experiment.fill(["ln"], seeds=[0])
    experiment.add("ln", "D", seed=1)
    assert "Fewer seeds: LN W→D (1 of 2)." in tables.notes(matrix_of(experiment))


def test_many_pairs_stand_below_each_other_in_every_format(experiment: Any) -> None:
    experiment.images = dict.fromkeys("abcde", 500)
    experiment.fill(["bn", "ln"])
    matrix = matrix_of(experiment)
    assert r"Pair & {BN} & {LN} & {Chance}" in table_latex(tables.matrix_table(matrix))
    assert "| Pair | BN | LN |" in tables.markdown(matrix)
    assert "e→d" in tables.plain(matrix).splitlines()[-2]


def test_many_norms_keep_their_rows(experiment: Any) -> None:
    experiment.images = dict.fromkeys("abcde", 20)
    experiment.correct = lambda norm, source, target, seed: 10
    experiment.fill([f"n{k:02d}" for k in range(25)])
    table = tables.matrix_table(matrix_of(experiment))
    assert table.header[0] == "Norm"
    assert len(table.rows) >= 25


def test_accuracy_csv_is_the_documented_table(experiment: Any) -> None:
    experiment.fill(["bn_wa", "bn"], seeds=[0, 10, 2])
    text = tables.accuracy_csv(load_facts(experiment.out).frame)
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["norm", "source", "target", "seed", "selection", "correct", "n", "accuracy", "run_id"]
    last = [row for row in rows if row[4] == "last"]
    assert len(last) == 2 * 3 * 3 * 3
    for norm, source, target, seed, _, correct, n, fraction, _ in last:
        if source != target:
            assert int(correct) == experiment.correct(norm, source, target, int(seed))
            assert int(n) == experiment.images[target]
        assert fraction == f"{int(correct) / int(n):.6f}"
    first_of_each_run = list(dict.fromkeys((row[0], row[1], int(row[3])) for row in rows))
    assert first_of_each_run == [(n, s, seed) for n in ("bn", "bn_wa") for s in "AWD" for seed in (0, 2, 10)]


def test_accuracy_csv_tells_the_weights_of_a_method_apart(experiment: Any) -> None:
    experiment.images = {"W": 40, "D": 40}
    experiment.correct = lambda norm, source, target, seed: 20
    for weight in (0.1, 1.0):
        run = experiment.record("bn", "W", target="D", method="dann", method_weight=weight)
        experiment.finish(run | {"id": f"dann-{weight}"}, [30], dict.fromkeys("WD", ([0, 1], [[0, 1]])))
    experiment.add("bn", "W")
    rows = list(csv.DictReader(io.StringIO(tables.accuracy_csv(load_facts(experiment.out).frame))))
    weights = {row["run_id"]: row["method_weight"] for row in rows}
    assert weights == {"dann-0.1": "0.100000", "dann-1.0": "1.000000", "bn-W-s0p0-resnet20": ""}


def test_a_domain_that_is_called_like_a_bound_has_its_own_column(experiment: Any) -> None:
    experiment.images = {"D": 40, "W": 40, "W low": 40}
    experiment.correct = lambda norm, source, target, seed: 30 if target == "W low" else 20
    experiment.fill(["bn"])
    matrix = matrix_of(experiment)
    (row,) = csv.DictReader(io.StringIO(tables.matrix_csv(matrix)))
    assert len(row) == 1 + 3 * 7
    assert row["'D'->'W low'"] == "75.00"
    assert row["'D'->'W' low"] == f"{matrix.low.iloc[0, matrix.pairs.index(('D', 'W'))]:.2f}"


def test_matrix_csv_has_the_interval_beside_the_value_and_leaves_holes_empty(experiment: Any) -> None:
    experiment.correct = lambda norm, source, target, seed: 100
    experiment.fill(["bn"])
    experiment.plan("wa", "A")
    matrix = matrix_of(experiment)
    first, second = csv.DictReader(io.StringIO(tables.matrix_csv(matrix)))
    assert first.pop("label") == "WA" and set(first.values()) == {""}
    assert second["A->W"] == "12.58"  # 100/795
    assert second["D->A"] == "3.55"  # 100/2817
    assert second["Avg"] == "12.07"
    for column, low, high in (
        (name, matrix.low.at["BN", name], matrix.high.at["BN", name]) for name in matrix.mean.columns
    ):
        assert (second[f"{column} low"], second[f"{column} high"]) == (f"{low:.2f}", f"{high:.2f}")
        assert low < float(second[column]) < high


def test_markdown(experiment: Any) -> None:
    right = {("bn", "W"): 400, ("bn_wa", "W"): 400, ("bn", "D"): 249, ("bn_wa", "D"): 248}
    experiment.correct = lambda norm, source, target, seed: right.get((norm, target), 50)
    experiment.images = {"W": 795, "D": 498}
    experiment.fill(["bn", "bn_wa"])
    experiment.plan("ln", "D")
    facts = load_facts(experiment.out)
    lines = tables.markdown(facts.matrix, facts.missing, spread="none").splitlines()
    assert lines[:5] == [
        "| Norm | W→D | D→W | Avg |",
        "| :-- | --: | --: | --: |",
        "| BN | **50.00** | **50.31** | **50.16** |",
        "| BN + WA | 49.80 | **50.31** | 50.06 |",
        "| LN | – | – | – |",
    ]
    assert (
        "- Protocol: full. Images evaluated per target: W 795, D 498. Selection: last (after the last epoch)." in lines
    )
    assert "- LN: no finished runs (–), so no Avg." in lines
    assert lines[-3:] == ["Missing:", "", "- LN D→W seed 0: not finished"]


def test_spreads_by_their_definitions(experiment: Any) -> None:
    experiment.images = {"W": 1000, "D": 1000}
    experiment.correct = lambda norm, source, target, seed: {"bn": 500, "ln": 501}[norm] + 20 * seed
    experiment.fill(["bn", "ln"], seeds=[0, 1])
    matrix = matrix_of(experiment)  # 50 and 52 %
    std = math.sqrt(2)
    assert tables.matrix_table(matrix, "std").rows[0][1] == f"51.0 ± {std:.1f}"
    assert tables.matrix_table(matrix, "sem").rows[0][1] == f"51.0 ± {std / math.sqrt(2):.1f}"
    assert tables.matrix_table(matrix, "none").rows[0][1] == "51.00"
    assert tables.matrix_table(matrix).rows[0][1] == f"51.0 ± {matrix.half.iat[0, 0]:.1f}"
    assert matrix.half.iat[0, 0] >= 12.7 - 0.1  # of the seeds alone: Student's t with one degree of freedom


def test_chance_and_the_largest_class_are_rows_that_are_never_best(experiment: Any) -> None:
    experiment.simulate(["bn", "ln"], (0, 1), classes=4)
    matrix = matrix_of(experiment)
    table = tables.matrix_table(matrix)
    chance, majority = table.rows[-2:]
    assert chance == ["Chance", *["25.0"] * 7]
    assert majority[0] == "Majority"
    assert float(majority[1]) == pytest.approx(matrix.setting.majority["W"], abs=0.05)
    assert {row for row, _ in table.bold} <= {0, 1}


def test_equal_numbers_are_equally_good(experiment: Any) -> None:
    experiment.images = {"W": 10_000, "D": 10_000}
    experiment.correct = lambda norm, source, target, seed: {"bn": 5000, "ln": 5001}[norm]
    experiment.fill(["bn", "ln"], seeds=[0, 1])
    lines = tables.markdown(matrix_of(experiment)).splitlines()
    assert [len(re.findall(r"\*\*50\.0 ± [\d.]+\*\*", line)) for line in lines[2:4]] == [3, 3]


def test_a_single_row_is_not_bold(experiment: Any) -> None:
    experiment.fill(["bn"])
    assert "**" not in tables.markdown(matrix_of(experiment))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a|b", r"a\|b"),
        ("*a* _b_ `c`", r"\*a\* \_b\_ \`c\`"),
        ("<b>", r"\<b\>"),
        ("😀 é", "😀 é"),
        ("a\nb", "a b"),
        ("a -> b", r"a -\> b"),
        ("caf\udce9", r"caf\\xe9"),
    ],
)
def test_names_in_markdown(name: str, source: str) -> None:
    assert tables._escape_md(name) == source


def test_names_come_back_from_csv(experiment: Any) -> None:
    experiment.images = dict.fromkeys([*NASTY[:-1], 'a,"b"'], 40)
    experiment.correct = lambda norm, source, target, seed: 20
    experiment.fill(["bn", "it's, 100%"])
    header, *rows = csv.reader(io.StringIO(tables.matrix_csv(matrix_of(experiment))))
    assert header[1] == f"{NASTY[0]}->{NASTY[1]}"
    assert [row[0] for row in rows] == ["BN", "it's, 100%"]


def test_undecodable_bytes_can_be_written(experiment: Any) -> None:
    experiment.images = {"caf\udce9": 40, "b -> c": 40}
    experiment.correct = lambda norm, source, target, seed: 20
    experiment.fill(["bn"])
    facts = load_facts(experiment.out)
    for text in (
        tables.matrix_csv(facts.matrix),
        tables.accuracy_csv(facts.frame),
        tables.plain(facts.matrix),
        tables.markdown(facts.matrix),
    ):
        assert "xe9" in text.encode().decode()


def test_checkpoint_tables(experiment: Any) -> None:
    experiment.add("bn", "A")
    found = checkpoints(load_facts(experiment.out))
    assert tables.csv(found, "%.2f") == (
        "label,dataset,epochs,correct,n,error,checkpoint\n"
        "BN,CIFAR-100,6,6002,10000,39.98,resnet20-cifar100-bn-ab12cd34\n"
    )
    assert tables.pretraining_markdown(found).splitlines()[2] == "| BN | CIFAR-100 | 6 | 6002/10000 | 39.98 |"
    assert r"BN & CIFAR-100 & 6 & 6002/10000 & 39.98 \\" in tables.pretraining_latex(found)


def test_several_networks_of_a_norm(experiment: Any) -> None:
    for p, seeds in enumerate(((0, 1), (0,))):
        network = {"name": f"net-{'ba'[p]}", "dataset": "CIFAR-100", "epochs": 6, "correct": 6000 + p, "n": 10_000}
        experiment.fill(["bn"], (0, 1), pretraining_seed=p, network=network)
        experiment.fill(["ln"], seeds, pretraining_seed=p, network={**network, "name": f"ln-{p}"})
    facts = load_facts(experiment.out)
    assert "Fewer runs, of fewer pre-trained networks or seeds: LN (3 of 4)." in tables.notes(facts.matrix)
    assert "lacks the variance over networks" not in " ".join(tables.notes(facts.matrix))
    experiment.fill(["gn"], (0, 1), pretraining_seed=0, network={**network, "name": "gn-0"})
    told = " ".join(tables.notes(load_facts(experiment.out).matrix))
    assert "The ± of a row with one network lacks the variance over networks." in told
    found = checkpoints(facts)
    assert found[["label", "seed", "checkpoint"]].to_numpy().tolist()[:2] == [["BN", 0, "net-b"], ["BN", 1, "net-a"]]
    assert tables.pretraining_markdown(found).splitlines()[3] == "| BN | 1 | CIFAR-100 | 6 | 6001/10000 | 39.99 |"


def test_plain_text_for_a_terminal(experiment: Any) -> None:
    experiment.fill(["bn"])
    text = tables.plain(matrix_of(experiment), [f"hole {k}" for k in range(12)])
    assert "Missing: 12\n  hole 0\n" in text
    assert text.endswith("  hole 9\n  and 2 more, see table.md")
