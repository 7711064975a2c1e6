"""The second moment of activations against depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from da_wa.report.figures.style import COLOURS, plain_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def growth(found: pd.DataFrame) -> Figure:
    """The second moment against the layer or block, relative to the first; a panel per network.

    Args:
        found: columns ``network``, ``start``, ``step`` and ``second_moment``.
    """
    import seaborn as sns

    first = found.groupby(["network", "start"])["second_moment"].transform("first")
    with plain_style():
        grid = sns.relplot(
            found.assign(relative=found["second_moment"] / first),
            x="step", y="relative", hue="start", style="start", col="network", col_wrap=3, kind="line",
            palette=COLOURS[: found["start"].nunique()], height=2.2, aspect=1.15, linewidth=1.4,
            facet_kws={"sharex": False, "sharey": False},
        )  # fmt: skip
        grid.set(yscale="log").set_axis_labels("layer or block", "second moment / first")
        grid.set_titles("{col_name}")
        sns.move_legend(grid, "upper center", bbox_to_anchor=(0.45, 0), ncols=3, title="")
        figure: Figure = grid.figure
    return figure
