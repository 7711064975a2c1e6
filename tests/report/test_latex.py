"""LaTeX: structure without TeX, and the width of what pdfLaTeX sets."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from da_wa.report.content import Table
from da_wa.report.latex import SIZES, escape_latex, table_latex

NASTY = [
    "写真",
    "50% & #1",
    "$x^2$",
    "{C}~\\d|e",
    "Ærø ąę đ Ħ",
    "😀 地図",
    "<b> *x*",
    "a -> b",
    "caf\udce9",
    "tab\tand\nline",
]
NORMS = ["Baseline", "WA", "BN", "BN + WA", "GN", "GN + WA", "IN", "IN + WA", "LN", "LN + WA"]
PAIRS = ["A→W", "W→A", "A→D", "D→A", "W→D", "D→W", "Avg"]

needs_tex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


def accuracies(norms: list[str], pairs: list[str]) -> Table:
    """Every cell as wide as accuracies with intervals become, one column of them bold."""
    cells = [[norm, *("46.1 ± 11.8" if j % 3 else "21.5 ± 3.2" for j, _ in enumerate(pairs))] for norm in norms]
    bold = frozenset((1, j) for j in range(1, len(pairs) + 1))
    return Table("matrix", "Accuracy (%)", ["Norm", *pairs], cells, bold, ["3 seeds × 795 images."])


def test_columns_of_numbers_are_siunitx_columns() -> None:
    rows = [["a", "9.5 ± 10.2", "+1.5", "12", "x", "1,000"], ["b", "–", "−0.5", "7", "y", "2"]]
    text = table_latex(Table("t", "C", ["Norm", "u", "v", "w", "x", "y"], rows, frozenset({(0, 1)})))
    assert (
        r"\begin{tabular}{lS[table-format=1.1(3)]S[table-format=+1.1,retain-explicit-plus]S[table-format=2]cc}" in text
    )
    assert r"a & \bfseries 9.5 +- 10.2 & +1.5 & 12 & x & 1,000 \\" in text
    assert r"b & {--} & -0.5 & 7 & y & 2 \\" in text
    assert r"Norm & {u} & {v} & {w} & x & y \\" in text


def test_nothing_is_scaled() -> None:
    text = table_latex(accuracies(NORMS, PAIRS))
    assert "resizebox" not in text and "adjustbox" not in text
    assert re.search(r"\\(normalsize|small|footnotesize|scriptsize)\n", text)
    assert "tiny" not in text and "tiny" not in {name for name, _, _ in SIZES}


def test_second_lines_are_a_row_of_their_own() -> None:
    text = table_latex(Table("t", "50 % & more", ["", "A→B"], [["x_1", "−1.0\np < 0.001"]], frozenset({(0, 1)})))
    assert "x\\_1 & \\bfseries -1.0 \\\\\n     & {\\scriptsize p \\textless{} 0.001} \\\\" in text
    assert r"\caption{50 \% \& more}" in text


@pytest.mark.parametrize(("norms", "pairs"), [(10, 30), (60, 7), (60, 31), (10, 7), (2, 3)])
def test_every_cell_is_set_once_however_large_the_table(norms: int, pairs: int) -> None:
    table = Table("t", "C", ["Norm", *(f"A{j}→B" for j in range(pairs))], [])
    rows = [[f"N{i}", *(f"{i + 100}.{j + 10}" for j in range(pairs))] for i in range(norms)]
    text = table_latex(Table(table.name, table.caption, table.header, rows))
    for i in range(norms):
        for j in range(pairs):
            assert len(re.findall(rf"(?<!\d){i + 100}\.{j + 10}(?!\d)", text)) == 1
    for environment in re.findall(r"\\begin\{table\*?\}.*?\\end\{table\*?\}", text, flags=re.DOTALL):
        assert environment.count(r"\\") <= 50  # lines that fit on a page
    assert text.count(r"\label") == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a_b 50% & #1", r"a\_b 50\% \& \#1"),
        ("$x^2$", r"\$x\textasciicircum{}2\$"),
        ("{C}~\\d", r"\{C\}\textasciitilde{}\textbackslash{}d"),
        ("cafe\u0301", "café"),
        ("Ħ😀", "{[}U+0126]{[}U+1F600]"),
        ("[a]*", "{[}a]{*}"),
        ("tab\tand\nline", "tab and line"),
        ("caf\udce9", r"caf\textbackslash{}xe9"),
        ("a->b", r"a-\textgreater{}b"),
    ],
)
def test_names(name: str, source: str) -> None:
    assert escape_latex(name) == source


def compiled(folder: Path, options: str, *tables: Table) -> list[tuple[float, float]]:
    """Natural width of every tabular and the width there is for it, in points."""
    for k, table in enumerate(tables):
        (folder / f"t{k}.tex").write_text(table_latex(table))
    measure = (
        r"\newbox\B\let\OT\tabular\let\OE\endtabular\renewenvironment{tabular}[1]{\setbox\B\hbox\bgroup\OT{#1}}"
        r"{\OE\egroup\immediate\wlog{WIDTH \the\wd\B\space OF \the\linewidth}\box\B}"
    )
    inputs = "".join(rf"\input{{t{k}}}" for k in range(len(tables)))
    (folder / "paper.tex").write_text(
        rf"\documentclass{options}{{article}}\usepackage[T1]{{fontenc}}\usepackage{{booktabs,siunitx}}"
        rf"{measure}\begin{{document}}{inputs}\end{{document}}"
    )
    command = ["pdflatex", "-draftmode", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    log = (folder / "paper.log").read_text(errors="replace")
    return [(float(a), float(b)) for a, b in re.findall(r"WIDTH ([\d.]+)pt OF ([\d.]+)pt", log)]


@needs_tex
@pytest.mark.parametrize("options", ["", "[twocolumn]"])
@pytest.mark.parametrize(("norms", "pairs"), [(NORMS, PAIRS), (NORMS[:4], PAIRS[:2]), (NORMS, [*PAIRS] * 5)])
def test_tables_fit_at_full_size(tmp_path: Path, options: str, norms: list[str], pairs: list[str]) -> None:
    widths = compiled(tmp_path, options, accuracies(norms, pairs))
    assert widths
    assert all(natural <= there for natural, there in widths)


@needs_tex
def test_the_table_of_a_few_pairs_fits_one_of_two_columns(tmp_path: Path) -> None:
    ((natural, there),) = compiled(tmp_path, "[twocolumn]", accuracies(NORMS[:4], PAIRS[:2]))
    assert natural <= there < 240


@needs_tex
def test_awkward_names_and_long_texts_compile(tmp_path: Path) -> None:
    names = Table("names", NASTY[0], ["Norm", *NASTY], [[name, *NASTY] for name in NASTY], notes=NASTY)
    long = Table("long", "C", ["", "Value"], [["Digest", "0123456789abcdef" * 6], ["Words", "many words " * 30]])
    assert compiled(tmp_path, "[twocolumn]", names, long)
