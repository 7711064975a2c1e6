from __future__ import annotations

import csv
import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from da_wa.report import tables
from da_wa.report.matrix import Matrix, accuracy, collect, pretraining, transfer_matrix
from da_wa.runs.ledger import Ledger

NASTY = [
    "写真",
    "*a_b",
    "50% & #1",
    "$x^2$",
    "{C}~\\d|e",
    "Ærø ąę đ Ħ",
    "😀 地図",
    "*bold* `code` <b>",
    "tab\tand\nline",
]


def collected(experiment: Any) -> Any:
    return collect(Ledger(experiment.out))


def latex(matrix: Matrix) -> str:
    return tables.table_latex(tables.matrix_table(matrix))


def test_a_norm_that_has_fewer_seeds_everywhere_is_named_once(experiment: Any) -> None:
    experiment.fill(["bn"], seeds=[0, 1, 2])
    experiment.fill(["wa"], seeds=[0])
    assert "Fewer seeds than elsewhere: WA (1 of 3)." in tables.notes(transfer_matrix(collected(experiment)))


def test_many_pairs_stand_below_each_other_in_every_format(experiment: Any) -> None:
    experiment.images = dict.fromkeys("abcde", 500)
    experiment.fill(["bn", "ln"])
    matrix = transfer_matrix(collected(experiment))
    assert r"Pair & BN & LN \\" in latex(matrix)
    assert "| Pair | BN | LN |" in tables.markdown(matrix)
    assert "e→d" in tables.plain(matrix).splitlines()[-2]


def test_accuracy_csv_is_the_documented_table(experiment: Any) -> None:
    experiment.fill(["bn_wa", "bn"], seeds=[0, 10, 2])
    text = tables.accuracy_csv(accuracy(collected(experiment).records))
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["norm", "source", "target", "seed", "selection", "correct", "n", "accuracy", "run_id"]
    assert len(rows) == 2 * 3 * 3 * (3 + 3 + 2)
    for norm, source, target, seed, _, correct, n, fraction, run_id in rows:
        assert int(correct) == experiment.correct(norm, source, target, int(seed))
        assert int(n) == experiment.images[target]
        assert fraction == f"{int(correct) / int(n):.6f}"
        assert run_id == f"{norm}-{source}-s{seed}-1a2b3c4d"
    first_of_each_run = list(dict.fromkeys((row[0], row[1], int(row[3])) for row in rows))
    assert first_of_each_run == [(n, s, seed) for n in ("bn", "bn_wa") for s in "AWD" for seed in (0, 2, 10)]


def test_matrix_csv_has_two_decimals_and_leaves_holes_empty(experiment: Any) -> None:
    experiment.correct = lambda norm, source, target, seed: 100
    experiment.fill(["bn"])
    experiment.plan("wa", "A")
    assert tables.matrix_csv(transfer_matrix(collected(experiment))) == (
        "label,A->W,W->A,A->D,D->A,W->D,D->W,Avg\n"
        "WA,,,,,,,\n"
        "BN,12.58,3.55,20.08,3.55,20.08,12.58,12.07\n"  # 100/795, 100/2817, 100/498
    )


def test_markdown_of_one_seed(experiment: Any) -> None:
    right = {("bn", "W"): 400, ("bn_wa", "W"): 400, ("bn", "D"): 249, ("bn_wa", "D"): 248}
    experiment.correct = lambda norm, source, target, seed: right.get((norm, target), 1000)
    experiment.images = {"W": 795, "D": 498}
    experiment.fill(["bn", "bn_wa"])
    experiment.plan("ln", "D")
    assert tables.markdown(transfer_matrix(runs := collected(experiment)), runs.missing).splitlines() == [
        "| Norm | W→D | D→W | Avg |",
        "| :-- | --: | --: | --: |",
        "| BN | **50.00** <sub>1×498</sub> | **50.31** <sub>1×795</sub> | **50.16** <sub>1 seed</sub> |",
        "| BN + WA | 49.80 <sub>1×498</sub> | **50.31** <sub>1×795</sub> | 50.06 <sub>1 seed</sub> |",
        "| LN | – | – | – |",
        "",
        "- Office-31: resnet20, 32×32 pixels, pre-trained on CIFAR-100.",
        "- Protocol: full; images evaluated per target: W 795, D 498. Selection: last (after the last epoch).",
        "- One seed per cell (0): no spread is known.",
        "- Bold: the best norm of each pair. Avg: unweighted mean of the pairs. Small: seeds × images evaluated.",
        "- No finished run (–), hence no Avg: LN.",
        "",
        "Missing:",
        "",
        "- LN D→W seed 0: not finished",
    ]


def test_markdown_of_several_seeds(experiment: Any) -> None:
    experiment.images = {"W": 1000, "D": 1000}
    experiment.correct = lambda norm, source, target, seed: {"bn": 500, "ln": 501}[norm] + 20 * seed
    experiment.fill(["bn"], seeds=[0, 1])
    experiment.fill(["ln"], seeds=[0])
    experiment.add("ln", "D", seed=1)
    lines = tables.markdown(transfer_matrix(collected(experiment))).replace("<sub>", "").splitlines()
    # 50 and 52 have a standard error of 1, and Student's t is 12.7
    assert (
        lines[2].replace("</sub>", "")
        == "| BN | **51.0 ± 12.7** 2×1000 | 51.0 ± 12.7 2×1000 | **51.0 ± 12.7** 2 seeds |"
    )
    assert lines[3].replace("</sub>", "") == "| LN | 50.1 1×1000 | **51.1 ± 12.7** 2×1000 | 50.6 1 seed |"
    assert any("± is half of the 95 % interval over 2 seeds" in line for line in lines)
    assert "- Fewer seeds than elsewhere: LN W→D (1 of 2)." in lines


def test_what_reads_equal_is_equally_good(experiment: Any) -> None:
    experiment.images = {"W": 10_000, "D": 10_000}
    experiment.correct = lambda norm, source, target, seed: {"bn": 5000, "ln": 5001}[norm]
    experiment.fill(["bn", "ln"], seeds=[0, 1])
    lines = tables.markdown(transfer_matrix(collected(experiment))).splitlines()
    assert [line.count("**50.0 ± 0.0**") for line in lines[2:4]] == [3, 3]


def test_a_single_row_has_nothing_to_be_best_of(experiment: Any) -> None:
    experiment.fill(["bn"])
    assert "**" not in tables.markdown(transfer_matrix(collected(experiment)))


def test_latex_of_the_same_table(experiment: Any) -> None:
    experiment.images = {"W": 1000, "D": 1000}
    experiment.correct = lambda norm, source, target, seed: {"bn": 500, "bn_wa": 510}[norm] + 20 * seed
    experiment.fill(["bn", "bn_wa"], seeds=[0, 1])
    text = latex(transfer_matrix(collected(experiment)))
    body = text[text.index(r"\toprule") : text.index(r"\end{tabular}")].splitlines()
    counts = [r"2$\times$1000", r"2$\times$1000", "2 seeds"]
    assert [line.strip().removesuffix(r" \\") for line in body] == [
        r"\toprule",
        r"Norm & W$\to$D & D$\to$W & Avg",
        r"\midrule",
        r"BN & " + " & ".join(rf"51.0 $\pm$ 12.7 {{\scriptsize {n}}}" for n in counts),
        r"BN + WA & " + " & ".join(rf"\textbf{{52.0 $\pm$ 12.7}} {{\scriptsize {n}}}" for n in counts),
        r"\bottomrule",
        "",
    ]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a_b 50% & #1", r"a\_b 50\% \& \#1"),
        ("$x^2$", r"\$x\textasciicircum{}2\$"),
        ("{C}~\\d", r"\{C\}\textasciitilde{}\textbackslash{}d"),
        ("Ærø ą", "Ærø ą"),
        ("cafe\u0301", "café"),
        ("Ħ😀", "{[}U+0126]{[}U+1F600]"),
        ("[a]*", "{[}a]{*}"),
        ("tab\tand\nline", "tab and line"),
    ],
)
def test_names_in_latex(experiment: Any, name: str, source: str) -> None:
    experiment.add("bn", "A", label=name)
    assert f"    {source} & " in latex(transfer_matrix(collected(experiment)))


@pytest.mark.parametrize(
    ("name", "source"),
    [("a|b", r"a\|b"), ("*a* _b_ `c`", r"\*a\* \_b\_ \`c\`"), ("<b>", r"\<b\>"), ("😀 é", "😀 é"), ("a\nb", "a b")],
)
def test_names_in_markdown(experiment: Any, name: str, source: str) -> None:
    experiment.add("bn", "A", label=name)
    assert f"| {source} | " in tables.markdown(transfer_matrix(collected(experiment)))


def test_names_come_back_from_csv(experiment: Any) -> None:
    experiment.images = dict.fromkeys([*NASTY, 'a,"b"'], 500)
    experiment.fill(["bn", "it's, 100%"])
    header, *rows = csv.reader(io.StringIO(tables.matrix_csv(transfer_matrix(collected(experiment)))))
    assert header[1] == f"{NASTY[0]}->{NASTY[1]}"
    assert [row[0] for row in rows] == ["BN", "it's, 100%"]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_whatever_the_names_are(experiment: Any, tmp_path: Path) -> None:
    experiment.images = dict.fromkeys(NASTY, 500)
    experiment.fill(["bn", *NASTY[:3]], seeds=[0, 1])
    experiment.plan("ln", NASTY[0])
    runs = collected(experiment)
    (tmp_path / "table.tex").write_text(latex(transfer_matrix(runs)))
    (tmp_path / "pretraining.tex").write_text(tables.pretraining_latex(pretraining(runs.records)))
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs,graphicx}\usepackage[T1]{fontenc}"
        r"\begin{document}\input{table}\input{pretraining}\end{document}"
    )
    command = ["pdflatex", "-draftmode", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_checkpoint_tables(experiment: Any) -> None:
    experiment.add("bn", "A")
    checkpoints = pretraining(collected(experiment).records)
    assert tables.pretraining_csv(checkpoints) == (
        "label,dataset,epochs,correct,n,error,checkpoint\n"
        "BN,CIFAR-100,6,6002,10000,39.98,resnet20-cifar100-bn-ab12cd34\n"
    )
    assert tables.pretraining_markdown(checkpoints).splitlines()[2] == "| BN | CIFAR-100 | 6 | 6002/10000 | 39.98 |"
    assert r"BN & CIFAR-100 & 6 & 6002/10000 & 39.98 \\" in tables.pretraining_latex(checkpoints)


def test_a_checkpoint_of_unknown_origin_has_holes(experiment: Any) -> None:
    experiment.add("bn", "A", pretrain={"name": "mine", "dataset": None, "correct": None, "n": None, "epochs": None})
    runs = collected(experiment)
    checkpoints = pretraining(runs.records)
    assert "pre-trained on an unknown dataset." in tables.markdown(transfer_matrix(runs))
    assert tables.pretraining_csv(checkpoints).splitlines()[1] == "BN,,,,,,mine"
    assert tables.pretraining_markdown(checkpoints).splitlines()[2] == "| BN | – | – | – | – |"


def test_plain_text_for_a_terminal(experiment: Any) -> None:
    experiment.fill(["bn"])
    text = tables.plain(transfer_matrix(collected(experiment)), [f"hole {k}" for k in range(12)])
    assert "Missing: 12\n  hole 0\n" in text
    assert text.endswith("  hole 9\n  and 2 more, see table.md")
