"""Distributions over epochs: bands between quantiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from da_wa.report.figures.style import COLOURS, panels, plain, plain_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 5
"""Panels beside each other."""


def bands(found: pd.DataFrame, quantiles: Sequence[str]) -> Figure:
    """A panel for every norm: quantiles against the epoch. A symmetric distribution has bands symmetric around zero.

    Args:
        found: columns ``norm``, ``epoch`` and the quantiles; a row for every norm and epoch.
        quantiles: their columns in increasing order, as many below the median as above; each pair bounds a band.
    """
    middle = len(quantiles) // 2
    pairs = list(zip(quantiles[:middle], quantiles[:middle:-1], strict=True))
    norms = found["norm"].unique()
    with plain_style():
        figure, grid = panels(len(norms), COLUMNS, 1.9, 1.7, sharex=True)
        for axes, norm in zip(grid, norms, strict=True):
            rows = found[found["norm"] == norm].sort_values("epoch")
            for low, high in pairs:
                axes.fill_between(rows["epoch"], rows[low], rows[high], color=COLOURS[2], alpha=0.25, lw=0)
            axes.plot(rows["epoch"], rows[quantiles[middle]], color=COLOURS[0], lw=1)
            axes.axhline(0, color="0.6", linestyle=":", linewidth=0.8)
            most = 1.05 * rows[list(quantiles)].abs().to_numpy().max()
            axes.set_ylim(-most, most)
            axes.set_title(plain(str(norm), 30), loc="left")
        figure.supxlabel("epoch", fontsize=9)
    return figure
