"""What a section of the report is made of. Every format (page, LaTeX, CSV, PNG) is written from these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NONE = "–"
"""Stands where there is no number."""

WIDE = 13
"""More columns than this (12 pairs, which is four domains, and their average) are shown as rows."""


@dataclass(frozen=True)
class Table:
    r"""A table of text, for people.

    Attributes:
        name: stem of its file.
        caption: one line.
        header: the names of the columns; the first is of the rows' names.
        rows: the cells. A second line in a cell ("12.3\nn=45") is shown small.
        bold: (row, column) of the cells that are set bold.
        notes: what a reader has to know beside the numbers.
    """

    name: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    bold: frozenset[tuple[int, int]] = frozenset()
    notes: Sequence[str] = ()

    def transposed_if_wide(self, corner: str = "Pair") -> Table:
        """The same table, its columns as rows named ``corner`` where they are too many to stand side by side."""
        if len(self.header) - 1 <= WIDE:
            return self
        header, *rows = (list(column) for column in zip(self.header, *self.rows, strict=True))
        turned = frozenset((column - 1, row + 1) for row, column in self.bold)
        return Table(self.name, self.caption, [corner, *header[1:]], rows, turned, self.notes)


@dataclass(frozen=True)
class Plot:
    """A figure and the sentence that tells what it shows.

    Attributes:
        name: stem of its files.
        figure: what matplotlib draws.
        caption: what is seen.
        wide: whether it needs the width of the page.
    """

    name: str
    figure: Figure
    caption: str
    wide: bool = True


@dataclass(frozen=True)
class Section:
    """One question and its answer.

    Attributes:
        title: the question.
        parts: paragraphs, tables and figures in reading order.
        data: exact numbers, one CSV file each.
        summary: the answer in one or two sentences, for the head of the page.
    """

    title: str
    parts: Sequence[str | Table | Plot]
    data: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    summary: str = ""
