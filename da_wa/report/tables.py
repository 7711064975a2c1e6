"""Tables for people and programs: CSV, Markdown, LaTeX. Each function returns the text of one file."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

import pandas as pd

from da_wa.report.content import NONE, Table
from da_wa.report.matrix import AVERAGE, Matrix, Missing
from da_wa.report.statistics import half_width
from da_wa.report.wording import arrow, counted, number

SENTENCE = 60
"""A cell longer than this makes its column one of text that wraps."""

SELECTIONS = {
    "last": "after the last epoch",
    "source_val": "at the best evaluated epoch on the held-out source",
    "target_oracle": "at the best evaluated epoch on the target, which uses the target's labels",
}
"""What the three selection rules mean, for footnotes."""


def accuracy_csv(accuracy: pd.DataFrame) -> str:
    """One row per result; ``accuracy`` is a fraction. Equal runs give equal bytes."""
    return csv(accuracy.drop(columns="label"), "%.6f")


def matrix_csv(matrix: Matrix) -> str:
    """One row per norm, one column per pair and their average, in percent; empty where there is no number."""
    return csv(matrix.mean.rename_axis("label").reset_index(), "%.2f")


def pretraining_csv(pretraining: pd.DataFrame) -> str:
    """One row per checkpoint that runs started from; ``error`` is in percent."""
    return csv(pretraining, "%.2f")


def matrix_table(matrix: Matrix) -> Table:
    """The matrix: mean ± half of its interval over seeds, the best norm of every pair bold, the counts below.

    One decimal beside a spread, two, as the paper has, without.
    """
    digits = 1 if matrix.most_seeds > 1 else 2
    images = matrix.setting.images if matrix.setting else {}
    shown = matrix.mean.map(lambda percent: float(f"{percent:.{digits}f}"))
    best = (shown.eq(shown.max()) & (shown.count() > 1)).to_numpy()
    targets = [*(target for _, target in matrix.pairs), AVERAGE]
    rows = []
    for label in matrix.mean.index:
        row = [" ".join(label.split())]
        for column, target in zip(matrix.mean.columns, targets, strict=True):
            mean, std, seeds = (frame.at[label, column] for frame in (matrix.mean, matrix.std, matrix.seeds))
            half = half_width(std, int(seeds))
            text = number(mean, digits) + ("" if pd.isna(half) else f" ± {half:.{digits}f}")
            under = f"{seeds}×{images[target]}" if target in images else counted(int(seeds), "seed")
            row.append(text if pd.isna(mean) else f"{text}\n{under}")
        rows.append(row)
    header = ["Norm", *(arrow(*pair) for pair in matrix.pairs), AVERAGE]
    bold = frozenset((int(i), int(j) + 1) for i, j in zip(*best.nonzero(), strict=True))
    return Table("matrix", "Accuracy on the target in percent", header, rows, bold, notes(matrix)).transposed_if_wide()


def markdown(matrix: Matrix, missing: Sequence[Missing] = (), unreadable: Sequence[str] = (), mixed: str = "") -> str:
    """The matrix as a GitHub table, in what its runs differ, and what is missing."""
    table = matrix_table(matrix)
    holes = [*(_arrow(str(cell)) for cell in missing), *unreadable]

    def cell(text: str, bold: bool) -> str:
        first, _, second = text.partition("\n")
        large = f"**{_escape_md(first)}**" if bold else _escape_md(first)
        return f"{large} <sub>{_escape_md(second)}</sub>" if second else large

    parts = [
        _pipe_table(table.header, _cells(table, cell, _escape_md)),
        "\n".join(f"- {_escape_md(note)}" for note in [*table.notes, *([mixed] if mixed else [])]),
        "\n".join(["Missing:\n", *(f"- {_escape_md(hole)}" for hole in holes)]) if holes else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(matrix: Matrix, missing: Sequence[str] = (), limit: int = 10) -> str:
    """The matrix as text for a terminal, and the first ``limit`` of what is missing."""
    table = matrix_table(matrix)
    rows = _cells(table, lambda text, bold: text.partition("\n")[0], str)
    lines = [table.caption, pd.DataFrame(rows, columns=["", *table.header[1:]]).to_string(index=False)]
    if missing:
        lines += [f"Missing: {len(missing)}", *(f"  {hole}" for hole in missing[:limit])]
    if len(missing) > limit:
        lines.append(f"  and {len(missing) - limit} more, see table.md")
    return "\n".join(lines)


def pretraining_markdown(pretraining: pd.DataFrame) -> str:
    """The checkpoints as a GitHub table: dataset, epochs, top-1 error in percent."""
    header, rows = _pretraining_rows(pretraining)
    return _pipe_table(header, [[_escape_md(text) for text in row] for row in rows]) + "\n"


def pretraining_latex(pretraining: pd.DataFrame) -> str:
    r"""The checkpoints as a ``table`` to ``\input``: dataset, epochs, top-1 error in percent."""
    header, rows = _pretraining_rows(pretraining)
    return _latex_table(
        header,
        [[_escape_latex(text) for text in row] for row in rows],
        caption="Top-1 error in percent of the pre-trained networks.",
        label="tab:pretraining",
        footnotes=[],
    )


def table_latex(table: Table) -> str:
    r"""Any table as a ``table`` to ``\input``; second lines of cells are set small beside the first."""

    def cell(text: str, bold: bool) -> str:
        first, _, second = text.partition("\n")
        large = rf"\textbf{{{_escape_latex(first)}}}" if bold else _escape_latex(first)
        return rf"{large} {{\scriptsize {_escape_latex(second)}}}" if second else large

    return _latex_table(
        table.header,
        [[cell(text, (i, j) in table.bold) for j, text in enumerate(row)] for i, row in enumerate(table.rows)],
        caption=table.caption,
        label=f"tab:{table.name}",
        footnotes=table.notes,
    )


def notes(matrix: Matrix) -> list[str]:
    """What a reader has to know beside the numbers, one sentence or two each."""
    lines = []
    most = matrix.most_seeds
    if setting := matrix.setting:
        trained = f", pre-trained on {setting.pretraining}" if setting.pretraining else ", not pre-trained"
        images = ", ".join(f"{domain} {n}" for domain, n in setting.images.items())
        lines += [
            f"{setting.dataset}: {setting.model}, {setting.size}×{setting.size} pixels{trained}.",
            f"Protocol: {setting.protocol}; images evaluated per target: {images}. "
            f"Selection: {matrix.selection} ({SELECTIONS[matrix.selection]}).",
            f"± is half of the 95 % interval over {most} seeds (Student's t), "
            f"for {AVERAGE} over the averages of the seeds."
            if most > 1
            else f"One seed per cell ({', '.join(map(str, setting.seeds))}): no spread is known.",
        ]
    lines.append(
        f"Bold: the best norm of each pair. {AVERAGE}: unweighted mean of the pairs. Small: seeds × images evaluated."
    )
    pairs = matrix.seeds.drop(columns=AVERAGE)
    if few := _named(pairs, lambda n: 0 < n < most, lambda n: f" ({n} of {most})"):
        lines.append(f"Fewer seeds than elsewhere: {few}.")
    if holes := _named(pairs, lambda n: n == 0, lambda n: ""):
        lines.append(f"No finished run ({NONE}), hence no {AVERAGE}: {holes}.")
    return lines


def _named(seeds: pd.DataFrame, wanted: Callable[[int], bool], remark: Callable[[int], str]) -> str:
    """Names the cells whose number of seeds is ``wanted``, row by row; a row of equal numbers is named as a whole."""
    rows = []
    for label, counts in seeds.iterrows():
        cells = [f"{_arrow(pair)}{remark(int(n))}" for pair, n in counts.items() if wanted(int(n))]
        if cells and counts.nunique() == 1:
            rows.append(f"{label}{remark(int(counts.iloc[0]))}")
        elif cells:
            rows.append(f"{label} {', '.join(cells)}")
    return "; ".join(rows)


def _cells(table: Table, cell: Callable[[str, bool], str], name: Callable[[str], str]) -> list[list[str]]:
    """The rows as source text, ``cell`` being told which are bold and ``name`` writing the first column."""
    return [
        [name(row[0]), *(cell(text, (i, j) in table.bold) for j, text in enumerate(row[1:], 1))]
        for i, row in enumerate(table.rows)
    ]


def _pretraining_rows(pretraining: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    header = ["Norm", "Dataset", "Epochs", "Correct", "Error"]
    rows = [
        [
            row.label,
            NONE if pd.isna(row.dataset) else row.dataset,
            NONE if pd.isna(row.epochs) else str(row.epochs),
            NONE if pd.isna(row.correct) else f"{row.correct}/{row.n}",
            NONE if pd.isna(row.error) else f"{row.error:.2f}",
        ]
        for row in pretraining.itertuples()
    ]
    return header, rows


def csv(frame: pd.DataFrame, float_format: str) -> str:
    """Any frame as a CSV file without its index."""
    return str(frame.to_csv(index=False, float_format=float_format, lineterminator="\n"))


def _arrow(pair: str) -> str:
    return pair.replace("->", "→")


def _pipe_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[_escape_md(name) for name in header], [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _latex_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, label: str, footnotes: Sequence[str]
) -> str:
    longest = [max((len(row[column]) for row in rows), default=0) for column in range(1, len(header))]
    columns = "".join(r"p{0.7\linewidth}" if length > SENTENCE else "c" for length in longest)
    body = [" & ".join(map(_escape_latex, header)), *(" & ".join(cells) for cells in rows)]
    lines = [
        r"% Needs \usepackage{booktabs,graphicx}; \usepackage[T1]{fontenc} for letters such as ą and đ.",
        r"\begin{table}[htbp]",
        r"  \centering",
        rf"  \caption{{{_escape_latex(caption)}}}",
        rf"  \label{{{label}}}",
        r"  \resizebox{\ifdim\width>\linewidth \linewidth\else \width\fi}{!}{%",
        rf"  \begin{{tabular}}{{l{columns}}}",
        r"    \toprule",
        rf"    {body[0]} \\",
        r"    \midrule",
        *(rf"    {row} \\" for row in body[1:]),
        r"    \bottomrule",
        r"  \end{tabular}}",
        *([r"  \par\smallskip", r"  \parbox{\linewidth}{\footnotesize"] if footnotes else []),
        *(rf"    {_escape_latex(note)}\par" for note in footnotes),
        *([r"  }"] if footnotes else []),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "→": r"$\to$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "−": "$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "τ": r"$\tau$",
    "²": r"$^2$",
    "·": r"$\cdot$",
    "[": "{[}",  # after the end of a row, [ would begin a length and * belong to the command
    "*": "{*}",
    "…": r"\ldots{}",
} | {special: f"\\{special}" for special in "&%$#_{}"}
_NOT_IN_T1 = "ĦħĸĿŀŉŦŧſ"


def _escape_latex(text: str) -> str:
    """``text`` as LaTeX source. A letter that pdfLaTeX has no glyph for becomes its code point, e.g. {[}U+1F600]."""
    plain = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(_LATEX.get(letter) or _typeset(letter) for letter in plain)


def _typeset(letter: str) -> str:
    known = " " <= letter <= "~" or ("\u00a0" <= letter <= "\u017f" and letter not in _NOT_IN_T1)
    return letter if known else f"{{[}}U+{ord(letter):04X}]"


def _escape_md(text: str) -> str:
    """``text`` as it shall read in a GitHub table."""
    plain = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#~$&" else letter for letter in plain)
