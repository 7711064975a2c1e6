"""Points in a plane."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from da_wa.report.figures.style import boxes_for_missing_letters, look, panels, plain, plain_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

NAMES_IN_A_COLUMN = 15
LABELLED = 24
"""Up to so many points that have a name each are named beside the points, more in a legend."""


def embedding_scatter(parts: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """One small plot for each title, one colour and marker for each domain.

    Args:
        parts: title -> domain -> (m, 2) points; their axes have no unit.
    """
    with plain_style():
        figure, grid = panels(len(parts), 5, 1.9, 1.95)
        for axes, (title, domains) in zip(grid, parts.items(), strict=True):
            for k, (domain, points) in enumerate(domains.items()):
                colour, marker = look(k)
                axes.scatter(
                    points[:, 0],
                    points[:, 1],
                    s=14,
                    marker=marker,
                    color=colour,
                    alpha=0.65,
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
    """``y`` over ``x``, a marker and colour for each value of the column ``by``.

    A few points that have a name each are named where they are, others in a legend.
    """
    with plain_style():
        names = frame[by].nunique()
        labelled = names == len(frame) <= LABELLED
        columns = 1 + (names - 1) // NAMES_IN_A_COLUMN
        figure, (axes,) = panels(1, 1, 5.6 if labelled else 4.0 + 2.2 * columns, 3.6)
        for k, (name, rows) in enumerate(frame.groupby(by, sort=False)):
            colour, marker = look(k)
            axes.scatter(
                rows[x],
                rows[y],
                s=46,
                marker=marker,
                color=colour,
                alpha=0.9,
                edgecolors="white",
                linewidths=0.5,
                label=plain(str(name), 30),
            )
        axes.set(xlabel=x, ylabel=y)
        axes.margins(0.08)
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        if labelled:
            with boxes_for_missing_letters():
                _name_points(axes, frame[x].to_numpy(float), frame[y].to_numpy(float), list(frame[by].astype(str)))
        else:
            figure.legend(loc="outside right upper", frameon=False, ncols=columns, fontsize=8)
    return figure


def _name_points(axes: Axes, x: np.ndarray, y: np.ndarray, names: list[str]) -> None:
    """Writes every name beside its point, at the first of eight places where it covers no point and no name."""
    from matplotlib.transforms import Bbox

    figure = axes.get_figure()
    figure.draw_without_rendering()  # type: ignore[union-attr]
    points = axes.transData.transform(np.column_stack([x, y]))
    unit = figure.dpi / 72  # type: ignore[union-attr]
    taken = [Bbox.from_bounds(px - 4 * unit, py - 4 * unit, 8 * unit, 8 * unit) for px, py in points]
    inside = axes.get_window_extent()
    for name, at in zip(names, zip(x, y, strict=True), strict=True):
        tried: list[tuple[int, int, Annotation, Bbox]] = []
        for dx, dy in ((7, 0), (-7, 0), (0, 8), (0, -8), (6, 6), (-6, 6), (6, -6), (-6, -6)):
            text = axes.annotate(
                plain(name, 30),
                at,
                (dx, dy),
                textcoords="offset points",
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                va="bottom" if dy > 0 else "top" if dy < 0 else "center",
                fontsize=8,
            )
            box = text.get_window_extent()
            covered = sum(box.overlaps(other) for other in taken)
            outside = box.x0 < inside.x0 or box.x1 > inside.x1
            tried.append((covered + outside, len(tried), text, box))
            if not covered and not outside:
                break
            text.set_visible(False)
        _, _, text, box = min(tried, key=itemgetter(0, 1))
        text.set_visible(True)
        taken.append(box)
        for _, _, other, _ in tried:
            if other is not text:
                other.remove()
