"""Accuracy over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from da_wa.report.figures.style import COLOURS, DASHES, panels, plain, plain_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curves(parts: Mapping[str, Mapping[str, pd.DataFrame]], names: Sequence[str]) -> Figure:
    """One small plot for each norm, one line for each set of images; the band is the range over runs.

    Args:
        parts: norm -> name of the line -> columns epoch, mean, low, high (percent).
        names: of all lines; a name has the same look in all figures with equal ``names``.
    """
    with plain_style():
        figure, grid = panels(len(parts), 5, 1.9, 1.7, sharex=True, sharey=True)
        for axes, (norm, lines) in zip(grid, parts.items(), strict=True):
            for k, name in enumerate(names):
                if name not in lines:
                    continue
                line = lines[name]
                colour, dash = COLOURS[k % len(COLOURS)], DASHES[k % len(DASHES)]
                marker = "" if len(line) > 1 else "."
                axes.plot(line["epoch"], line["mean"], dash, color=colour, lw=1.5, marker=marker, label=plain(name, 40))
                axes.fill_between(line["epoch"], line["low"], line["high"], color=colour, alpha=0.15, lw=0)
            axes.set_title(plain(norm, 30), loc="left")
            axes.set_ylim(0, 102)
            axes.grid(color="0.92")
        found = {text: handle for axes in grid for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(found.values(), found.keys(), loc="outside upper left", ncols=min(len(found), 4), frameon=False)
        figure.supxlabel("epoch", fontsize=9)
        figure.supylabel("accuracy (%)", fontsize=9)
    return figure
