"""The critical-difference diagram of Demšar (2006)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from da_wa.report.figures.style import plain, plain_style
from da_wa.report.statistics import Ranking

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def critical_difference(names: Sequence[str], ranking: Ranking) -> Figure:
    """Methods on an axis of mean ranks, the best at the left; bars join those that do not differ significantly."""
    from matplotlib.figure import Figure

    order = np.argsort(ranking.ranks, kind="stable")
    ranks = ranking.ranks[order]
    labels = [plain(names[k], 40) for k in order]
    bars = _groups(ranks, ranking.critical)
    half = (len(names) + 1) // 2
    first = 0.55 + 0.28 * len(bars)  # height of the uppermost name below the axis
    depth = first + 0.34 * half
    with plain_style():
        figure = Figure(figsize=(8, 0.45 * (depth + 1.2)))
        axes = figure.add_axes((0.22, 0, 0.56, 1))
        axes.set(xlim=(1, len(names)), ylim=(-depth, 1.2))
        axes.axis("off")
        axes.hlines(0, 1, len(names), "black", lw=1)
        for rank in range(1, len(names) + 1):
            axes.vlines(rank, 0, 0.12, "black", lw=1)
            axes.text(rank, 0.2, str(rank), ha="center", va="bottom")
        length = min(ranking.critical, len(names) - 1)
        axes.hlines(0.8, 1, 1 + length, "#EE6677", lw=2)
        axes.text(1 + length, 0.8, f"  critical difference {ranking.critical:.2f}", va="center", color="#EE6677")
        for place, (rank, label) in enumerate(zip(ranks, labels, strict=True)):
            left = place < half
            y = -first - 0.34 * (place if left else len(names) - 1 - place)
            x = 1 - 0.02 * (len(names) - 1) if left else len(names) + 0.02 * (len(names) - 1)
            axes.plot([rank, rank, x], [0, y, y], color="black", lw=0.8, clip_on=False)
            text = f"{label}  {rank:.2f} " if left else f" {rank:.2f}  {label}"
            axes.text(x, y, text, ha="right" if left else "left", va="center")
        for k, (start, end) in enumerate(bars):
            axes.hlines(-0.25 - 0.28 * k, ranks[start] - 0.06, ranks[end] + 0.06, "#4477AA", lw=4)
    return figure


def _groups(ranks: np.ndarray, critical: float) -> list[tuple[int, int]]:
    """The widest runs of sorted ``ranks`` that lie within ``critical``, of two or more."""
    found: list[tuple[int, int]] = []
    for start in range(len(ranks)):
        end = int(np.searchsorted(ranks, ranks[start] + critical)) - 1
        if end > start and (not found or end > found[-1][1]):
            found.append((start, end))
    return found
