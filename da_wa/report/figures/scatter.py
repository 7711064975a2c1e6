"""Points in a plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from da_wa.report.figures.style import COLOURS, MARKERS, panels, plain, plain_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
NAMES_IN_A_COLUMN = 15


def embedding_scatter(parts: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """One small plot for each title, one cloud for each domain.

    Args:
        parts: title -> domain -> (m, 2) points; their axes have no unit.
    """
    with plain_style():
        figure, grid = panels(len(parts), 5, 1.9, 1.95)
        for axes, (title, domains) in zip(grid, parts.items(), strict=True):
            for k, (domain, points) in enumerate(domains.items()):
                axes.scatter(
                    points[:, 0],
                    points[:, 1],
                    s=9,
                    marker=MARKERS[k % len(MARKERS)],
                    color=COLOURS[k % len(COLOURS)],
                    alpha=0.6,
                    linewidths=0,
                    label=plain(domain, 40),
                )
            axes.set_title(plain(title, 30), loc="left")
            axes.set(xticks=[], yticks=[])
            axes.spines[["left", "bottom"]].set_visible(False)
            axes.patch.set_facecolor("0.97")
        handles, texts = grid[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside upper left", ncols=min(len(texts), 6), frameon=False, markerscale=2)
    return figure


def relation(frame: pd.DataFrame, x: str, y: str, by: str) -> Figure:
    """``y`` over ``x``, a marker and colour for each value of the column ``by``."""
    with plain_style():
        names = frame[by].nunique()
        columns = 1 + (names - 1) // NAMES_IN_A_COLUMN
        figure, (axes,) = panels(1, 1, 4.0 + 2.2 * columns, 3.4)
        for k, (name, rows) in enumerate(frame.groupby(by, sort=False)):
            axes.scatter(
                rows[x],
                rows[y],
                s=26,
                marker=MARKERS[k % len(MARKERS)],
                color=COLOURS[(k + k // 8) % len(COLOURS)],
                alpha=0.85,
                linewidths=0,
                label=plain(str(name), 30),
            )
        axes.set(xlabel=x, ylabel=y)
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        figure.legend(loc="outside right upper", frameon=False, ncols=columns, fontsize=8)
    return figure
