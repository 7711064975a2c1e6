"""The report of ``study=why``: csv files, figures, and Markdown tables of distributions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from da_wa.records.files import write_bytes
from da_wa.report.distributions import QUANTILES, column
from da_wa.report.figures.bands import bands
from da_wa.report.figures.densities import densities
from da_wa.report.figures.growth import growth
from da_wa.report.figures.style import few_colours, plain_style, rendered

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Shown = Mapping[str, tuple[str, Sequence[str]]]
"""Name of a figure and table -> the quantity and the layers it shows."""


def initial(found: pd.DataFrame) -> Shown:
    """What is shown of a plain network at initialisation, as in Fig. 2."""
    return {"initial": ("activations", ["layer 3", "classifier"])}


def trained(found: pd.DataFrame) -> Shown:
    """What is shown of trained networks, as in Figs. 4 and 5: the middle block, the last one, the classifier."""
    measured = list(map(str, found.loc[found["quantity"] == "weights", "layer"].unique()))
    return {
        "trained_weights": ("weights", measured),
        "trained_activations": ("activations", [measured[0], "classifier"]),
    }


SHOWN = {"initial": initial, "trained": trained}


def write_distributions(out: Path, name: str, found: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Write ``<name>.csv`` and figures; returns the tables.

    Args:
        out: the folder of the study.
        name: one of :data:`SHOWN`.
        found: columns ``norm``, ``layer``, ``quantity`` and the measures of
            :func:`~da_wa.report.distributions.measures`.
        curves: columns ``norm``, ``layer``, ``quantity``, ``channel`` and ``value``.

    Raises:
        DataError: ``out`` cannot be written.
    """
    shown = SHOWN[name](found)
    figures = {figure: densities(rows) for figure, rows in selections(curves, shown).items()}
    return _write(out, name, found, figures, distribution_tables(found, shown))


def write_growth(out: Path, found: pd.DataFrame) -> str:
    """Write ``growth.csv`` and its figure; returns its table.

    Args:
        out: the folder of the study.
        found: columns ``network``, ``start``, ``step`` and ``second_moment``.

    Raises:
        DataError: ``out`` cannot be written.
    """
    return _write(out, "growth", found, {"growth": growth(found)}, {"growth": growth_table(found)})


def write_branches(out: Path, found: pd.DataFrame) -> str:
    """Write ``branches.csv``; returns its table.

    Args:
        out: the folder of the study.
        found: columns ``norm``, ``block`` (from 1) and ``branch_share``, see
            :func:`~da_wa.studies.layer_values.branch_shares`.

    Raises:
        DataError: ``out`` cannot be written.
    """
    return _write(out, "branches", found, {}, {"branches": branch_table(found)})


def write_over_epochs(out: Path, found: pd.DataFrame) -> str:
    """Write ``over_epochs.csv`` and figures of the middle block; returns tables of it. As in Figs. 4 and 9 to 12.

    Args:
        out: the folder of the study.
        found: columns ``norm``, ``source``, ``seed``, ``epoch``, ``layer``, ``quantity``, and the measures of
            :mod:`da_wa.report.distributions`. Figures and tables show the first source and seed.

    Raises:
        DataError: ``out`` cannot be written.
    """
    first = found.iloc[0]
    shown = found[(found[["source", "seed", "layer"]] == first[["source", "seed", "layer"]]).all(axis=1)]
    of = {quantity: shown[shown["quantity"] == quantity] for quantity in ("weights", "activations")}
    columns = list(map(column, QUANTILES))
    figures = {f"over_epochs_{quantity}": bands(rows, columns) for quantity, rows in of.items()}
    tables = {
        f"{first['layer']}, {quantity}: {measure} after epoch": epoch_table(of[quantity], measure)
        for quantity, measure in (("weights", "skewness"), ("activations", "skewness"), ("activations", "offset"))
    }
    return _write(out, "over_epochs", found, figures, tables)


def _write(out: Path, name: str, found: pd.DataFrame, figures: Mapping[str, Figure], tables: Mapping[str, str]) -> str:
    """Write the table as csv and the figures as png; returns the Markdown tables below their names."""
    write_bytes(out / f"{name}.csv", found.to_csv(index=False, float_format="%.5g", lineterminator="\n").encode())
    with plain_style():
        files = {figure: few_colours(rendered(drawn, "png")) for figure, drawn in figures.items()}
    for figure, png in files.items():
        write_bytes(out / "figures" / f"{figure}.png", png)
    return "\n\n".join(f"{table}\n\n{markdown}" for table, markdown in tables.items())


def selections(frame: pd.DataFrame, shown: Shown) -> dict[str, pd.DataFrame]:
    """The rows of ``frame`` that each figure and table shows."""
    return {
        name: frame[(frame["quantity"] == quantity) & frame["layer"].isin(layers)]
        for name, (quantity, layers) in shown.items()
    }


def distribution_tables(found: pd.DataFrame, shown: Shown) -> dict[str, str]:
    """Tables of measures, in Markdown, by name."""
    return {name: distribution_table(rows) for name, rows in selections(found, shown).items()}


def distribution_table(found: pd.DataFrame) -> str:
    """A row for every norm, the measures of every layer."""
    layers = found["layer"].unique()
    wide = found.pivot(index="norm", columns="layer", values=["offset", "spread", "skewness", "top_class"])
    wide = wide.swaplevel(axis=1).reindex(found["norm"].unique())[layers].dropna(axis=1, how="all")
    wide = wide.map(_cell)
    wide.columns = [f"{layer}: {measure.replace('_', ' ')}" for layer, measure in wide.columns]
    return pipe_table(wide)


def branch_table(found: pd.DataFrame) -> str:
    """A row for every norm, a column for every residual block."""
    wide = found.pivot(index="norm", columns="block", values="branch_share").reindex(found["norm"].unique())
    wide.columns = [f"block {number}" for number in wide.columns]
    return pipe_table(wide.map(_cell))


def _cell(value: float) -> str:
    """Two decimals, or a dash where nothing is defined."""
    return "–" if math.isnan(value) else f"{value:.2f}"


def epoch_table(found: pd.DataFrame, measure: str) -> str:
    """A row for every norm, a column for every epoch."""
    wide = found.pivot(index="norm", columns="epoch", values=measure).reindex(found["norm"].unique())
    return pipe_table(wide.map("{:.2f}".format, na_action="ignore"))


def growth_table(found: pd.DataFrame) -> str:
    """The factor of the second moment per step, the geometric mean, and from the first step to the last."""
    ends = found.groupby(["network", "start"], sort=False)["second_moment"].agg(["first", "last", "size"])
    total = ends["last"] / ends["first"]
    text = (total ** (1 / (ends["size"] - 1))).map("{:.3f}".format) + total.map(" ({:.2g})".format)
    wide = text.unstack("start")
    return pipe_table(wide.loc[found["network"].unique(), found["start"].unique()])


def pipe_table(frame: pd.DataFrame) -> str:
    """A Markdown table with the index as its first columns; what is not there is a dash."""
    cells = frame.reset_index().astype(object).fillna("–")
    rule = ["---", *["---:"] * (len(cells.columns) - 1)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in [cells.columns, rule, *cells.to_numpy()])
