"""Figures, one function each. Seaborn is imported where it draws: it costs a second that a table does not need."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from da_wa.report.matrix import Matrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def heatmap(matrix: Matrix) -> Figure:
    """Accuracy of every norm (rows) on every pair and on average (columns), a number in each cell.

    Colours (cividis) keep their order in grey and for colour-blind readers; a cell without a number is hatched.
    """
    import matplotlib.style
    import seaborn
    from matplotlib.figure import Figure

    mean = matrix.mean
    rows, columns = mean.shape
    empty = mean.isna()
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(2.4 + 0.62 * columns, 1.2 + 0.36 * rows), layout="constrained")
        axes = figure.subplots()
        seaborn.heatmap(
            mean,
            mask=empty,
            annot=True,
            fmt=".1f",
            cmap="cividis",
            linewidths=1,
            ax=axes,
            annot_kws={"size": 9},
            vmin=None if mean.notna().any(axis=None) else 0,
            vmax=None if mean.notna().any(axis=None) else 100,
            cbar_kws={"label": "accuracy on the target (%)", "pad": 0.02},
        )
        axes.patch.set(facecolor="0.92", hatch="////", edgecolor="0.8")
        for row, column in zip(*empty.to_numpy().nonzero(), strict=True):
            axes.text(column + 0.5, row + 0.5, "–", ha="center", va="center")
        axes.axvline(columns - 1, color="white", linewidth=5)  # sets the average apart
        axes.set_xticks([k + 0.5 for k in range(columns)], [_plain(pair) for pair in mean.columns], rotation=0)
        axes.set_yticks([k + 0.5 for k in range(rows)], [_plain(label) for label in mean.index], rotation=0)
        axes.tick_params(length=0)
        axes.set(xlabel=None, ylabel=None)
        if matrix.setting:
            axes.set_title(_plain(_title(matrix)), fontsize=10)
    return figure


def rendered(figure: Figure, kind: str) -> bytes:
    """``figure`` as a file of ``kind`` (png, pdf), without the date: equal figures are equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=200, metadata={"pdf": {"CreationDate": None}}.get(kind))
    return buffer.getvalue()


def _title(matrix: Matrix) -> str:
    assert matrix.setting is not None
    seeds = len(matrix.setting.seeds)
    return f"{matrix.setting.dataset}, {matrix.setting.model}, " + (f"mean of {seeds} seeds" if seeds > 1 else "1 seed")


def _plain(text: str) -> str:
    """``text`` as matplotlib shows it unchanged: a dollar sign would start a formula."""
    return text.replace("->", "→").replace("$", r"\$")
