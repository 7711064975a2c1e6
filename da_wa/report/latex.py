r"""Tables as LaTeX source to ``\input``, readable in a one-column and in a two-column paper.

A table is set in the largest of four sizes at which it fits, never below ``\scriptsize`` (7 pt beside text of
10 pt) and never scaled. A narrow table fits one column of a two-column paper; others use ``table*``, which a
one-column paper sets as ``table``. What is wider still is continued below, what is longer than a page in another
table. Columns of numbers are siunitx's ``S`` columns.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from da_wa.errors import printable
from da_wa.report.content import NONE, Table

COLUMN = 229.0
"""Width in points of a column of ``\\documentclass[twocolumn]{article}``."""

TEXT = 345.0
"""Width in points of the text of ``\\documentclass{article}``."""

SIZES = (("normalsize", 5.0, 6.0), ("small", 4.63, 4.0), ("footnotesize", 4.25, 2.0), ("scriptsize", 3.99, 2.0))
"""Name, width of a digit in Computer Modern, and half the space between columns, both in points."""

LONGEST = 40
"""Rows of a table on one page."""

SENTENCE = 60
"""A cell longer than this makes its column one of text that wraps."""

_BOLD = 1.16
"""How much wider bold digits are."""

_SCRIPT = 1.0
"""Width of letters of second lines, at most, in units of the first lines'."""

_NUMBER = re.compile(r"([+−-]?)(\d+)(?:\.(\d+))?(?: ± (\d+)(?:\.(\d+))?)?")


def table_latex(table: Table) -> str:
    r"""Any table as source to ``\input``; second lines of cells are set small below the first.

    >>> print(table_latex(Table("t", "Accuracy", ["Norm", "A→W"], [["BN", "9.5 ± 10.2"]])))
    % Needs \usepackage{booktabs,siunitx}; \usepackage[T1]{fontenc} for letters such as ą and đ.
    \begin{table}[htbp]
      \centering
      \caption{Accuracy}
      \label{tab:t}
      \normalsize
      \setlength{\tabcolsep}{6pt}
      \sisetup{separate-uncertainty=true,detect-weight=true,mode=text,tight-spacing=true}
      \begin{tabular}{lS[table-format=1.1(3)]}
        \toprule
        Norm & {A$\to$W} \\
        \midrule
        BN & 9.5 +- 10.2 \\
        \bottomrule
      \end{tabular}
    \end{table}
    <BLANKLINE>
    """
    columns = [_column(table, j) for j in range(len(table.header))]
    environment, (size, digit, gap), blocks = _layout(columns)
    panels = [(block, rows) for rows in _pages(len(table.rows)) for block in blocks]
    floats = list(_floats(panels))
    lines = [r"% Needs \usepackage{booktabs,siunitx}; \usepackage[T1]{fontenc} for letters such as ą and đ."]
    for k, inside in enumerate(floats):
        lines += [
            rf"\begin{{{environment}}}[htbp]",
            r"  \centering",
            rf"  \caption{{{escape_latex(table.caption)}{' (continued)' if k else ''}}}",
            *([] if k else [rf"  \label{{tab:{table.name}}}"]),
            rf"  \{size}",
            rf"  \setlength{{\tabcolsep}}{{{gap:g}pt}}",
            r"  \sisetup{separate-uncertainty=true,detect-weight=true,mode=text,tight-spacing=true}",
        ]
        for number, (block, rows) in enumerate(inside):
            lines += [*([r"  \par\medskip"] if number else []), *_tabular(table, columns, block, rows, digit, gap)]
        if table.notes and k == len(floats) - 1:
            lines += [
                r"  \par\smallskip",
                r"  \parbox{\linewidth}{\footnotesize",
                *(rf"    {escape_latex(note)}\par" for note in table.notes),
                r"  }",
            ]
        lines.append(rf"\end{{{environment}}}")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Column:
    """How a column is set.

    Attributes:
        spec: of the tabular; empty for text that wraps.
        digits: estimated width in units of the width of a digit.
        numeric: whether it is an ``S`` column.
    """

    spec: str
    digits: float
    numeric: bool = False


def _column(table: Table, j: int) -> _Column:
    cells = [row[j].partition("\n") for row in table.rows]
    stretch = _BOLD if any(column == j for _, column in table.bold) else 1.0
    below = max((_SCRIPT * _digits(second) for _, _, second in cells), default=0.0)
    widest = max(below, _digits(table.header[j]))
    if j and (found := _number_format([first for first, _, _ in cells])):
        template, digits = found
        return _Column(f"S[table-format={template}]", max(stretch * digits, widest), True)
    if any(len(first) > SENTENCE for first, _, _ in cells):
        return _Column("", 24.0)
    return _Column("c" if j else "l", max(widest, *(stretch * _digits(first) for first, _, _ in cells), 0.0))


def _number_format(cells: Sequence[str]) -> tuple[str, float] | None:
    """The ``table-format`` of the cells and its width in digits; None unless all are numbers or have none."""
    found = [_NUMBER.fullmatch(cell) for cell in cells if cell not in (NONE, "")]
    numbers = [match for match in found if match]
    if not numbers or len(numbers) < len(found):
        return None
    whole = max(len(match[2]) for match in numbers)
    decimals = max(len(match[3] or "") for match in numbers)
    spread = [match for match in numbers if match[4]]
    if any(len(match[5] or "") != len(match[3] or "") for match in spread):
        return None
    uncertain = max((len(match[4]) + len(match[5] or "") for match in spread), default=0)
    sign = "+" if any(match[1] for match in numbers) else ""
    template = f"{sign}{whole}" + (f".{decimals}" if decimals else "") + (f"({uncertain})" if uncertain else "")
    digits = whole + decimals + uncertain + (0.56 * (1 + bool(uncertain)) if decimals else 0.0)
    digits += 1.56 * (bool(sign) + bool(uncertain))
    if any(match[1] == "+" for match in numbers):
        template += ",retain-explicit-plus"
    return template, digits


def _layout(columns: Sequence[_Column]) -> tuple[str, tuple[str, float, float], list[list[int]]]:
    """The environment, the size, and the columns of each panel; every panel begins with the first column."""
    everything = list(range(len(columns)))
    wraps = any(not column.spec for column in columns)
    for environment, limit in (("table*", TEXT),) if wraps else (("table", COLUMN), ("table*", TEXT)):
        for size in SIZES:
            if _width(columns, everything, size) <= limit:
                return environment, size, [everything]
    blocks = [[0]]
    for j in everything[1:]:
        if len(blocks[-1]) > 1 and _width(columns, [*blocks[-1], j], SIZES[-1]) > TEXT:
            blocks.append([0])
        blocks[-1].append(j)
    return "table*", SIZES[-1], blocks


def _width(columns: Sequence[_Column], block: Sequence[int], size: tuple[str, float, float]) -> float:
    _, digit, gap = size
    return sum(digit * columns[j].digits + 2 * gap for j in block)


def _pages(rows: int) -> list[range]:
    return [range(start, min(start + LONGEST, rows)) for start in range(0, max(rows, 1), LONGEST)]


def _floats(panels: Sequence[tuple[list[int], range]]) -> Iterator[list[tuple[list[int], range]]]:
    """Groups panels so that no group has more rows than fit on a page."""
    group: list[tuple[list[int], range]] = []
    for panel in panels:
        if group and sum(len(rows) + 3 for _, rows in [*group, panel]) > LONGEST + 3:
            yield group
            group = []
        group.append(panel)
    yield group


def _tabular(
    table: Table, columns: Sequence[_Column], block: Sequence[int], rows: range, digit: float, gap: float
) -> list[str]:
    wrapped = [j for j in block if not columns[j].spec]
    fixed = sum(digit * columns[j].digits for j in block if columns[j].spec) + 2 * gap * len(block)
    share = max((0.97 * TEXT - fixed) / TEXT / max(len(wrapped), 1), 0.2)
    text = rf">{{\raggedright\arraybackslash}}p{{{share:.2f}\linewidth}}"
    body = [" & ".join(_head(table.header[j], columns[j]) for j in block)]
    for i in rows:
        cells = [table.rows[i][j].partition("\n") for j in block]
        first = [_cell(first, (i, j) in table.bold, columns[j]) for j, (first, _, _) in zip(block, cells, strict=True)]
        body.append(" & ".join(first))
        if any(second for _, _, second in cells):
            body.append(
                " & ".join(rf"{{\scriptsize {escape_latex(second)}}}" if second else "" for _, _, second in cells)
            )
    return [
        rf"  \begin{{tabular}}{{{''.join(columns[j].spec or text for j in block)}}}",
        r"    \toprule",
        rf"    {body[0]} \\",
        r"    \midrule",
        *(rf"    {line} \\" for line in body[1:]),
        r"    \bottomrule",
        r"  \end{tabular}",
    ]


def _head(name: str, column: _Column) -> str:
    return f"{{{escape_latex(name)}}}" if column.numeric else escape_latex(name)


def _cell(text: str, bold: bool, column: _Column) -> str:
    if column.numeric:
        source = text.replace("±", "+-").replace("−", "-") if text not in (NONE, "") else f"{{{escape_latex(text)}}}"
        return rf"\bfseries {source}" if bold else source
    source = escape_latex(text) if column.spec else _breakable(text)
    return rf"\textbf{{{source}}}" if bold else source


def _breakable(text: str) -> str:
    """Text whose long words, such as digests, may be broken anywhere."""
    words = [
        escape_latex(word) if len(word) <= 20 else r"\allowbreak{}".join(map(escape_latex, word))
        for word in text.split()
    ]
    return " ".join(words)


def _digits(text: str) -> float:
    """About how wide ``text`` is in units of the width of a digit."""
    return sum(
        0.6 if c in "ijltfI.,:;!|'()[] " else 1.75 if c in "mwMWOQ%@±→×−" else 1.45 if c.isupper() else 1.06
        for c in _shown(text)
    )


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
    "χ": r"$\chi$",
    "ε": r"$\varepsilon$",
    "²": r"$^2$",
    "·": r"$\cdot$",
    "[": "{[}",  # after the end of a row, [ would begin a length and * belong to the command
    "*": "{*}",
    "…": r"\ldots{}",
} | {special: f"\\{special}" for special in "&%$#_{}"}
_NOT_IN_T1 = "ĦħĸĿŀŉŦŧſ"


def escape_latex(text: str) -> str:
    r"""``text`` as LaTeX source. A letter that pdfLaTeX has no glyph for becomes its code point, e.g. {[}U+1F600].

    >>> print(escape_latex("a_b 50 %"))
    a\_b 50 \%
    """
    return "".join(_LATEX.get(letter, letter) for letter in _shown(text))


def _shown(text: str) -> str:
    """``text`` in letters that pdfLaTeX has."""
    plain = printable(" ".join(unicodedata.normalize("NFC", text).split()))
    return "".join(letter if letter in _LATEX or _in_t1(letter) else f"[U+{ord(letter):04X}]" for letter in plain)


def _in_t1(letter: str) -> bool:
    return " " <= letter <= "~" or ("\u00a0" <= letter <= "\u017f" and letter not in _NOT_IN_T1)
