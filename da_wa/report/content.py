"""The parts of a report section. Every format (page, LaTeX, CSV, PNG) is written from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NONE = "–"
"""Placeholder for a missing number."""

WIDE = 13
"""A table with more columns than this (12 pairs, which is four domains, and their average) is transposed."""


@dataclass(frozen=True)
class Table:
    r"""A table of text, for people.

    Attributes:
        name: stem of its file.
        caption: one line.
        header: the names of the columns; the first is of the rows' names.
        rows: the cells. A second line in a cell ("12.3\nn=45") is shown small.
        bold: (row, column) of the cells that are set bold.
        notes: how to read the numbers; shown below the table.
    """

    name: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    bold: frozenset[tuple[int, int]] = frozenset()
    notes: Sequence[str] = ()

    def has_words(self, column: int) -> bool:
        """Whether a column has words and not only numbers, so that it is set to the left.

        >>> table = Table("t", "", ["Norm", "error", "verdict"], [["BN", "4.3 ± 0.1", "–"], ["WA", "–", "open"]])
        >>> [table.has_words(column) for column in range(3)]
        [True, False, True]
        """
        return any(re.match(r"[^\W\d]", row[column]) for row in self.rows)

    def transposed_if_wide(self, corner: str = "Pair") -> Table:
        """The same table, with rows and columns exchanged where it has too many columns and fewer rows.

        Args:
            corner: heads the first column, which then names the former columns.

        >>> wide = Table("t", "", ["Norm", *"abcdefghijklmno"], [["BN", *"012345678901234"]])
        >>> wide.transposed_if_wide().rows[:2]
        [['a', '0'], ['b', '1']]
        """
        columns = len(self.header) - 1
        if columns <= WIDE or len(self.rows) >= columns:
            return self
        header, *rows = (list(column) for column in zip(self.header, *self.rows, strict=True))
        turned = frozenset((column - 1, row + 1) for row, column in self.bold)
        return Table(self.name, self.caption, [corner, *header[1:]], rows, turned, self.notes)


@dataclass(frozen=True)
class Plot:
    """A figure and its caption.

    Attributes:
        name: stem of its files.
        figure: what matplotlib draws.
        caption: what it shows.
        wide: whether it needs the width of the page.
    """

    name: str
    figure: Figure
    caption: str
    wide: bool = True


Part = str | Table | Plot
"""A paragraph, a table or a figure."""


@dataclass(frozen=True)
class Section:
    """One question and its answer.

    Attributes:
        title: the question.
        parts: what everyone reads, in reading order: the answer in plain sentences, one table or figure.
        data: exact numbers, one CSV file each.
        summary: the answer in one or two sentences, for the head of the page.
        details: further tables, figures and statistics; the page folds them away.
    """

    title: str
    parts: Sequence[Part]
    data: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    summary: str = ""
    details: Sequence[Part] = ()

    @property
    def everything(self) -> list[Part]:
        """Parts and details."""
        return [*self.parts, *self.details]
