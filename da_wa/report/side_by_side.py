"""Several experiments beside each other. Nothing is averaged over them, and what differs is named first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from da_wa.errors import ConfigError
from da_wa.report.content import NONE, Plot, Section, Table
from da_wa.report.matrix import AVERAGE, COMPARABLE, Matrix, collect, pretraining, transfer_matrix
from da_wa.report.start import start_plot, start_points
from da_wa.report.statistics import half_width
from da_wa.report.wording import arrow, counted, listed
from da_wa.runs.ledger import Ledger, Record

Experiment = tuple[str, list[Record], Matrix]
"""(name, records, matrix)."""


def section(out: Path, compare: Sequence[Path]) -> Section:
    """The averages of this and other folders, norm by norm.

    Args:
        out: this experiment.
        compare: the ``out`` folders of others.

    Raises:
        ConfigError: a folder is named twice.
        DataError: a folder holds no runs, or runs that cannot stand in one table.
    """
    folders = [Path(out), *map(Path, compare)]
    resolved = [folder.resolve() for folder in folders]
    if twice := [str(folder) for k, folder in enumerate(folders) if resolved[k] in resolved[:k]]:
        raise ConfigError(f"report.compare names {listed(twice)} twice; {out} itself is always among the columns.")
    experiments: list[Experiment] = []
    for name, folder in zip(_names(resolved), folders, strict=True):
        runs = collect(Ledger(folder))
        experiments.append((name, runs.records, transfer_matrix(runs)))
    settings = _settings(experiments)
    differing = [name for name, values in settings.items() if len(set(values)) > 1]
    summary = (
        f"The experiments differ in {listed([name.lower() for name in differing])}, so their averages are not ranked."
        if differing
        else "The experiments agree in all that makes their averages comparable."
    )
    parts: list[str | Table | Plot] = [
        summary,
        _settings_table(experiments, settings, differing),
        _averages(experiments, ranked=not differing),
        *_starts(experiments),
    ]
    return Section("Beside other experiments", parts, {"compare": _long(experiments)}, summary)


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that differ from each other."""
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _settings(experiments: Sequence[Experiment]) -> dict[str, list[str]]:
    """What has to be equal for the averages to be comparable: the values of each experiment."""
    found = {
        field.capitalize(): [_one(records, field) for _, records, _ in experiments]
        for field in COMPARABLE
        if field not in ("classes", "domains")  # the digests tell
    }
    found["Images"] = [
        listed([f"{d} {v['digest'][:8]}" for d, v in records[0]["data"].items()]) if records else NONE
        for _, records, _ in experiments
    ]
    found["Pairs"] = [listed([arrow(*pair) for pair in matrix.pairs]) or NONE for _, _, matrix in experiments]
    return found


def _settings_table(
    experiments: Sequence[Experiment], settings: Mapping[str, Sequence[str]], differing: Sequence[str]
) -> Table:
    rows = [[name + (" (differs)" if name in differing else ""), *values] for name, values in settings.items()]
    rows.append(["Seeds", *(_seeds(records) for _, records, _ in experiments)])
    return Table(
        "compare_settings",
        "What the experiments are",
        ["", *(name for name, _, _ in experiments)],
        rows,
        notes=["Numbers whose settings differ stand beside each other here; they are never put into one cell."],
    )


def _one(records: Sequence[Record], field: str) -> str:
    return str(records[0][field]) if records else NONE


def _seeds(records: Sequence[Record]) -> str:
    return counted(len({record["seed"] for record in records}), "seed")


def _averages(experiments: Sequence[Experiment], ranked: bool) -> Table:
    labels = list(dict.fromkeys(label for _, _, matrix in experiments for label in matrix.mean.index))
    rows, bold = [], set()
    for i, label in enumerate(labels):
        row, values = [label], []
        for _, _, matrix in experiments:
            mean = float(matrix.mean[AVERAGE].get(label, float("nan")))
            values.append(mean)
            row.append(_average(matrix, label) if mean == mean else NONE)
        known = [value for value in values if value == value]
        if ranked and len(known) > 1:
            bold |= {(i, j + 1) for j, value in enumerate(values) if value == max(known)}
        rows.append(row)
    return Table(
        "compare",
        "Average accuracy in percent over the pairs",
        ["Norm", *(name for name, _, _ in experiments)],
        rows,
        frozenset(bold),
        [
            "± is half of the 95 % interval over seeds where there are several.",
            *(["Bold: best of its row."] if ranked else []),
        ],
    )


def _starts(experiments: Sequence[Experiment]) -> list[Table | Plot]:
    """How good the pre-trained networks were: what transfers worse may have started from less."""
    columns = [
        {
            row.label: f"{100 - row.error:.1f}\n{row.dataset}, {counted(int(row.epochs), 'epoch')}"
            for row in pretraining(records).itertuples()
        }
        for _, records, _ in experiments
    ]
    labels = dict.fromkeys(label for _, _, matrix in experiments for label in matrix.mean.index)
    rows = [[label, *(column.get(label, NONE) for column in columns)] for label in labels]
    caption = "Accuracy in percent of the pre-trained networks, on the test images of what they were trained on"
    header = ["Norm", *(name for name, _, _ in experiments)]
    if not any(columns):
        return []
    points = pd.concat([start_points(matrix, pretraining(records)) for _, records, matrix in experiments])
    plot = [start_plot("compare_start", points)] if len(points) > 2 else []
    return [Table("compare_pretraining", caption, header, rows), *plot]


def _average(matrix: Matrix, label: str) -> str:
    mean, std, n = (frame.at[label, AVERAGE] for frame in (matrix.mean, matrix.std, matrix.seeds))
    half = half_width(std, int(n))
    spread = "" if math.isnan(half) else f" ± {half:.1f}"
    return f"{mean:.1f}{spread}\n{counted(int(n), 'seed')}"


def _long(experiments: Sequence[Experiment]) -> pd.DataFrame:
    frames = []
    for name, _, matrix in experiments:
        long = [
            frame.rename_axis("label").reset_index().melt(id_vars="label", var_name="pair", value_name=value)
            for frame, value in ((matrix.mean, "mean"), (matrix.std, "std"), (matrix.seeds, "seeds"))
        ]
        merged = long[0].merge(long[1], on=["label", "pair"]).merge(long[2], on=["label", "pair"])
        merged.insert(0, "experiment", name)
        frames.append(merged)
    return pd.concat(frames, ignore_index=True)
