"""Tables for people and programs: CSV, Markdown, LaTeX. Each function returns the text of one file."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

import pandas as pd

from da_wa.report.content import NONE, Table
from da_wa.report.matrix import AVERAGE, Matrix, Missing

SENTENCE = 60
"""A cell longer than this makes its column one of text that wraps."""

SELECTIONS = {
    "last": "after the last epoch",
    "source_val": "at the best epoch on the held-out source",
    "target_oracle": "at the best epoch on the target, which uses the target's labels",
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


def markdown(matrix: Matrix, missing: Sequence[Missing] = (), unreadable: Sequence[str] = ()) -> str:
    """The matrix as a GitHub table: mean ± standard deviation over seeds, the best of every column bold."""
    holes = [*(_arrow(str(cell)) for cell in missing), *unreadable]
    parts = [
        _pipe_table(["Norm", *map(_arrow, matrix.mean.columns)], _rows(matrix, lambda text: f"**{text}**", _escape_md)),
        "\n".join(f"- {_escape_md(note)}" for note in notes(matrix)),
        "\n".join(["Missing:\n", *(f"- {_escape_md(hole)}" for hole in holes)]) if holes else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(matrix: Matrix, missing: Sequence[str] = (), limit: int = 10) -> str:
    """The matrix as text for a terminal, and the first ``limit`` of what is missing."""
    rows = _rows(matrix, bold=str, escape=str)
    frame = pd.DataFrame(rows, columns=["", *map(_arrow, matrix.mean.columns)])
    lines = ["Accuracy on the target in percent", frame.to_string(index=False)]
    if missing:
        lines += [f"Missing: {len(missing)}", *(f"  {hole}" for hole in missing[:limit])]
    if len(missing) > limit:
        lines.append(f"  and {len(missing) - limit} more, see table.md")
    return "\n".join(lines)


def latex(matrix: Matrix) -> str:
    r"""The matrix as a ``table`` to ``\input``: booktabs, shrunk to the line where it is wider."""
    dataset = matrix.setting.dataset if matrix.setting else ""
    return _latex_table(
        ["Norm", *map(_arrow, matrix.mean.columns)],
        _rows(matrix, lambda text: rf"\textbf{{{text}}}", _escape_latex),
        caption=f"Accuracy in percent on the target: source→target pairs{f' of {dataset}' if dataset else ''}.",
        label="tab:accuracy",
        footnotes=notes(matrix),
    )


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
            f"Mean ± sample standard deviation over {most} seeds."
            if most > 1
            else f"One seed per cell ({', '.join(map(str, setting.seeds))}): no spread is known.",
        ]
    lines.append(f"Bold: best of its column. {AVERAGE}: unweighted mean of the pairs.")
    pairs = matrix.seeds.drop(columns=AVERAGE)
    if few := _named(pairs, lambda n: 0 < n < most, lambda n: f" ({n} of {most})"):
        lines.append(f"Fewer seeds than elsewhere: {few}.")
    if holes := _named(pairs, lambda n: n == 0, lambda n: ""):
        lines.append(f"No finished run ({NONE}), hence no {AVERAGE}: {holes}.")
    return lines


def _named(seeds: pd.DataFrame, wanted: Callable[[int], bool], remark: Callable[[int], str]) -> str:
    """Names the cells whose number of seeds is ``wanted``, row by row."""
    rows = []
    for label, counts in seeds.iterrows():
        cells = [f"{_arrow(pair)}{remark(int(n))}" for pair, n in counts.items() if wanted(int(n))]
        if cells:
            rows.append(f"{label} {', '.join(cells)}")
    return "; ".join(rows)


def _rows(matrix: Matrix, bold: Callable[[str], str], escape: Callable[[str], str]) -> list[list[str]]:
    """The cells as text, the label first. One decimal beside a spread, two, as the paper has, without."""
    most = matrix.most_seeds
    digits = 1 if most > 1 else 2
    shown = matrix.mean.map(lambda percent: float(f"{percent:.{digits}f}"))
    best = shown.eq(shown.max()) & (shown.count() > 1)
    rows = []
    for label in matrix.mean.index:
        cells = [escape(label)]
        for column in matrix.mean.columns:
            mean, std, n = (frame.at[label, column] for frame in (matrix.mean, matrix.std, matrix.seeds))
            if pd.isna(mean):
                cells.append(escape(NONE))
                continue
            spread = "" if pd.isna(std) else f" ± {std:.{digits}f}"
            text = f"{mean:.{digits}f}{spread}" + (f" (n={n})" if n < most else "")
            cells.append(bold(escape(text)) if best.at[label, column] else escape(text))
        rows.append(cells)
    return rows


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
    "…": r"\ldots{}",
} | {special: f"\\{special}" for special in "&%$#_{}"}
_NOT_IN_T1 = "ĦħĸĿŀŉŦŧſ"


def _escape_latex(text: str) -> str:
    """``text`` as LaTeX source. A letter that pdfLaTeX has no glyph for becomes its code point, e.g. [U+1F600]."""
    plain = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(_LATEX.get(letter) or _typeset(letter) for letter in plain)


def _typeset(letter: str) -> str:
    known = " " <= letter <= "~" or ("\u00a0" <= letter <= "\u017f" and letter not in _NOT_IN_T1)
    return letter if known else f"[U+{ord(letter):04X}]"


def _escape_md(text: str) -> str:
    """``text`` as it shall read in a GitHub table."""
    plain = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#~$&" else letter for letter in plain)
