"""Estimates as dots, their intervals as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from da_wa.report.figures.style import look, panels, plain, plain_style
from da_wa.report.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Panel:
    """One small plot.

    Attributes:
        title: above it.
        series: for each name in the legend an interval per row, None where there is none.
        hollow: rows whose dots are not filled.
    """

    title: str
    series: Mapping[str, Sequence[Interval | None]]
    hollow: frozenset[int] = frozenset()


def dots(rows: Sequence[str], parts: Sequence[Panel], unit: str, *, zero: bool = False, width: float = 2.6) -> Figure:
    """Every row's estimates in small plots beside each other, one marker and colour for each series.

    Args:
        rows: their names, from the top.
        parts: the plots.
        unit: what the horizontal axes show.
        zero: draw a line at 0.
        width: of one plot in inches.
    """
    with plain_style():
        figure, grid = panels(len(parts), 4, width, 0.9 + 0.26 * len(rows), sharey=True)
        names: dict[str, None] = {}
        for axes, part in zip(grid, parts, strict=True):
            names |= dict.fromkeys(part.series)
            if zero:
                axes.axvline(0, color="0.4", linewidth=1)
            for k, (name, intervals) in enumerate(part.series.items()):
                shift = 0.5 * (k - (len(part.series) - 1) / 2) / max(len(part.series) - 1, 1)
                there = [(row, i) for row, i in enumerate(intervals) if i is not None]
                spread = [(row + shift, i) for row, i in there if i.known]
                colour, marker = look(k)
                axes.hlines(
                    [y for y, _ in spread], [i.low for _, i in spread], [i.high for _, i in spread], colour, lw=1.4
                )
                axes.scatter(
                    [i.value for _, i in there],
                    [row + shift for row, _ in there],
                    s=28,
                    marker=marker,
                    edgecolors=colour,
                    facecolors=["white" if row in part.hollow else colour for row, _ in there],
                    zorder=3,
                    label=plain(name, 60),
                )
            axes.set_title(plain(part.title, 40), loc="left")
            axes.grid(axis="y", color="0.92")
            axes.set_axisbelow(True)
        grid[0].set_yticks(range(len(rows)), [plain(row, 40) for row in rows])
        grid[0].set_ylim(len(rows) - 0.5, -0.5)
        figure.supxlabel(unit, fontsize=9)
        if len(names) > 1:
            handles, texts = grid[0].get_legend_handles_labels()
            figure.legend(handles, texts, loc="outside upper left", ncols=min(len(texts), 3), frameon=False)
    return figure
