"""Distributions of weights or activations: a curve for every channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from da_wa.report.figures.style import plain_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


TAILS = 0.005
"""The share of a layer's values, over all norms, that lies outside at either end."""


def densities(values: pd.DataFrame) -> Figure:
    """A row for every norm, a column for every layer, a curve for every channel.

    Args:
        values: columns ``norm``, ``layer``, ``channel`` and ``value``.
    """
    import seaborn as sns

    limits = values.groupby("layer")["value"].quantile([TAILS, 1 - TAILS]).unstack()

    def draw(data: pd.DataFrame, **_: object) -> None:
        ends = tuple(limits.loc[data["layer"].iloc[0]])
        palette = sns.color_palette("cividis", data["channel"].nunique())
        sns.kdeplot(
            data, x="value", hue="channel", palette=palette, clip=ends, common_norm=False, warn_singular=False,
            legend=False, linewidth=0.8,
        )  # fmt: skip

    with plain_style():
        grid = sns.FacetGrid(
            values, row="norm", col="layer", sharex="col", sharey=False, height=1.0, aspect=3.6, margin_titles=True
        )
        grid.map_dataframe(draw)
        grid.set_titles(row_template="{row_name}", col_template="{col_name}")
        grid.set(yticks=[], ylabel="", xlabel="")
        grid.refline(x=0, color="0.6", linestyle=":", linewidth=0.8)
        figure: Figure = grid.figure
    return figure
