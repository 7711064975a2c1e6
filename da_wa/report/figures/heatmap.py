"""Numbers in coloured cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from da_wa.report.content import NONE, WIDE
from da_wa.report.figures.style import plain, plain_style
from da_wa.report.matrix import AVERAGE, Matrix
from da_wa.report.wording import arrow, counted, of_networks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 70
"""More rows or columns than this are not named: the names could not be read."""

_LIGHT = 0.18
"""Relative luminance above which black text reads better than white (WCAG 2)."""


def matrix_heatmap(matrix: Matrix) -> Figure:
    """Accuracy in percent of every norm on every pair and on average."""
    named = matrix.mean.set_axis([*(arrow(*pair) for pair in matrix.pairs), AVERAGE], axis=1)
    return heatmap(named, _title(matrix), "{:.1f}")


def heatmap(
    frame: pd.DataFrame,
    title: str,
    number: str | None,
    *,
    cell: tuple[float, float] = (0.75, 0.4),
    top: float | None = None,
) -> Figure:
    """Every cell of ``frame`` in a colour, a number in it.

    The colours (viridis) keep their order in grey and for colour-blind readers; a cell without a number
    is hatched. A frame that is too wide is transposed; a column or row ``Avg`` is set apart.

    Args:
        frame: NaN where there is no number.
        title: above it.
        number: format of the numbers, None for colours alone.
        cell: width and height of a cell in inches.
        top: the value of the lightest colour, with the darkest at 0; the range of the frame without it.
    """
    import seaborn
    from matplotlib.figure import Figure

    wide = number is not None and frame.shape[1] > max(WIDE, frame.shape[0])
    grid = frame.T if wide else frame
    rows, columns = grid.shape
    low, high = (0.0, top or 100.0) if top or not grid.notna().any(axis=None) else (None, None)
    with plain_style():
        figure = Figure(figsize=(cell[0] * columns, cell[1] * rows))  # of the cells; rendered() adds what is beside
        axes = figure.add_axes((0, 0, 1, 1))
        axes.patch.set(facecolor="0.92", hatch="////", edgecolor="0.8")
        look = {"cmap": "viridis", "vmin": low, "vmax": high, "linewidths": 1 if number else 0, "cbar": False}
        seaborn.heatmap(grid.astype(float), ax=axes, xticklabels=False, yticklabels=False, **look)
        colours = axes.collections[0]
        if number is not None:
            for (row, column), value in np.ndenumerate(grid.to_numpy(float)):
                known = np.isfinite(value)
                light = not known or seaborn.utils.relative_luminance(colours.to_rgba(value)) > _LIGHT
                colour = "black" if light else "white"
                text = number.format(value) if known else NONE
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", size=9, color=colour)
        if grid.columns[-1] == AVERAGE:
            axes.axvline(columns - 1, color="white", linewidth=5)
        if grid.index[-1] == AVERAGE:
            axes.axhline(rows - 1, color="white", linewidth=5)
        size = 9 if number else 6
        names = [plain(str(name), 40) for name in grid.columns] if columns <= NAMED else []
        turn, align = (40, "right") if number else (90, "right")
        if number and max(map(len, names), default=0) <= 8:
            turn, align = 0, "center"
        axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=turn, ha=align, size=size)
        for name in axes.get_xticklabels():
            name.set(rotation_mode="anchor", va="center" if turn == 90 else "top")
        names = [plain(str(name), 40) for name in grid.index] if rows <= NAMED else []
        axes.set_yticks(np.arange(len(names)) + 0.5, names, rotation=0, size=size)
        axes.tick_params(length=0)
        axes.set(xlabel=None, ylabel=None)
        axes.set_title(title, fontsize=10, loc="left")
    return figure


def _title(matrix: Matrix) -> str:
    title = "Accuracy on the target (%)"
    if matrix.setting is None:
        return title
    runs = of_networks(counted(matrix.most_seeds, "seed"), matrix.networks)
    several = matrix.most_seeds > 1 or matrix.networks > 1
    seeds = f"mean of {'up to ' if matrix.uneven else ''}{runs}" if several else "one seed"
    return f"{title}\n{plain(matrix.setting.dataset)}, {plain(matrix.setting.model)}, {seeds}"
