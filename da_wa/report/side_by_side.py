"""Compare several experiments in one table, without averaging over them; differing settings are listed first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import pandas as pd

from da_wa.errors import ConfigError
from da_wa.records.identity import digest
from da_wa.report.checkpoints import checkpoints
from da_wa.report.collection import SHARED
from da_wa.report.content import NONE, Plot, Section, Table
from da_wa.report.facts import Facts, load_facts
from da_wa.report.matrix import AVERAGE, Matrix
from da_wa.report.start import start_plot, start_points
from da_wa.report.statistics import Interval
from da_wa.report.wording import arrow, counted, listed, number, spanned, within

Experiment = tuple[str, Facts]
"""(name, facts)."""

UNKNOWN = "not recorded"
"""A setting that records of earlier versions do not have."""


def section(out: Path, facts: Facts, compare: Sequence[Path]) -> Section:
    """The averages of this and other folders, norm by norm.

    Args:
        out: the folder of this experiment.
        facts: of this experiment.
        compare: the ``out`` folders of others.

    Raises:
        ConfigError: a folder is named twice.
        DataError: a folder contains no runs, or runs that are not comparable.
    """
    folders = [Path(out), *map(Path, compare)]
    resolved = [folder.resolve() for folder in folders]
    if twice := [str(folder) for k, folder in enumerate(folders) if resolved[k] in resolved[:k]]:
        raise ConfigError(f"report.compare names {listed(twice)} twice; {out} itself is always included.")
    loaded = [facts, *(load_facts(folder) for folder in folders[1:])]
    experiments = list(zip(_names(resolved), loaded, strict=True))
    settings = _settings(experiments)
    differing = [name for name, values in settings.items() if len({*values} - {UNKNOWN}) > 1]
    told = ", as far as the records tell" if any(UNKNOWN in values for values in settings.values()) else ""
    summary = (
        f"The experiments differ in {listed([name.lower() for name in differing])}, so their averages are not ranked."
        if differing
        else f"The experiments have the same settings{told}, so their averages are comparable."
    )
    parts: list[str | Table | Plot] = [summary, _averages(experiments, ranked=not differing)]
    details = [_settings_table(experiments, settings, differing), *_starts(experiments)]
    return Section("Comparison with other experiments", parts, {"compare": _long(experiments)}, summary, details)


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
        field.replace("_", " ").capitalize(): [_factor(facts, field) for _, facts in experiments]
        for field in (*SHARED, "model")
    }
    found["Recipe"] = [facts.records[0].experiment if facts.records else NONE for _, facts in experiments]
    found["Methods"] = [_methods(facts) for _, facts in experiments]
    found["Images"] = [
        listed([f"{domain} {images.digest[:8]}" for domain, images in sorted(facts.records[0].images.items())])
        if facts.records
        else NONE
        for _, facts in experiments
    ]
    common = set.intersection(*(set(facts.matrix.mean.index) for _, facts in experiments))
    found["Starting networks"] = [_networks(facts, common) for _, facts in experiments]
    found["Parameters of norms and models"] = [_parameters(facts, common) for _, facts in experiments]
    found["Pairs"] = [listed([arrow(*pair) for pair in sorted(facts.matrix.pairs)]) or NONE for _, facts in experiments]
    return found


def _factor(facts: Facts, field: str) -> str:
    return " or ".join(dict.fromkeys(str(getattr(record.factors, field)) for record in facts.records)) or NONE


def _methods(facts: Facts) -> str:
    """The methods, each with a digest of its parameters if it has some."""
    found = set()
    for record in facts.records:
        parameters = {name: value for name, value in record.method.items() if name != "name"}
        found.add(record.factors.method + (f" {digest(parameters)}" if parameters else ""))
    return listed(sorted(found)) or NONE


def _networks(facts: Facts, labels: Set[str]) -> str:
    """The pre-trained networks of some rows."""
    started = (record.pretraining for record in facts.records if facts.label(record) in labels)
    return listed(sorted({network.name for network in started if network})) or NONE


def _parameters(facts: Facts, labels: Set[str]) -> str:
    """A digest of the parameters of norm and model in some rows, as they were planned."""
    found = set()
    for record in facts.records:
        if (label := facts.label(record)) in labels:
            known = facts.runs[record.id].config().get("facts")
            if known is None:
                return UNKNOWN
            found.add((label, digest([known["norm"], known["model"]])))
    return digest(sorted(found)) if found else NONE


def _settings_table(
    experiments: Sequence[Experiment], settings: Mapping[str, Sequence[str]], differing: Sequence[str]
) -> Table:
    rows = [[name + (" (differs)" if name in differing else ""), *values] for name, values in settings.items()]
    rows.append(["Dataset", *(_factor(facts, "dataset") for _, facts in experiments)])
    rows.append(["Seeds", *(_seeds(facts) for _, facts in experiments)])
    return Table("compare_settings", "Settings of the experiments", ["", *(name for name, _ in experiments)], rows)


def _seeds(facts: Facts) -> str:
    return counted(len({record.factors.seed for record in facts.records}), "seed")


def _averages(experiments: Sequence[Experiment], ranked: bool) -> Table:
    labels = list(dict.fromkeys(label for _, facts in experiments for label in facts.matrix.mean.index))
    rows, bold = [], set()
    for i, label in enumerate(labels):
        row, values = [label], []
        for _, facts in experiments:
            mean = float(facts.matrix.mean[AVERAGE].get(label, float("nan")))
            values.append(mean)
            row.append(_average(facts.matrix, label) if mean == mean else NONE)
        known = [value for value in values if value == value]
        if ranked and len(known) > 1:
            bold |= {(i, j + 1) for j, value in enumerate(values) if value == max(known)}
        rows.append(row)
    return Table(
        "compare",
        "Average accuracy over the pairs (%)",
        ["Norm", *(name for name, _ in experiments)],
        rows,
        frozenset(bold),
        [
            "± is half of the 95 % interval over seeds and images, over images alone for one seed.",
            *(["Bold: best of its row."] if ranked else []),
        ],
    )


def _starts(experiments: Sequence[Experiment]) -> list[Table | Plot]:
    """The accuracy of the pre-trained networks: a norm may transfer worse because it started from less."""
    columns = [_started(facts) for _, facts in experiments]
    labels = dict.fromkeys(label for _, facts in experiments for label in facts.matrix.mean.index)
    rows = [[label, *(column.get(label, NONE) for column in columns)] for label in labels]
    caption = "Accuracy of the pre-trained networks on the test images of their pre-training (%)"
    header = ["Norm", *(name for name, _ in experiments)]
    if not any(columns):
        return []
    points = pd.concat([start_points(facts) for _, facts in experiments])
    plot = [start_plot("compare_start", points, tested=False)] if len(points) > 2 else []  # they may share networks
    return [Table("compare_pretraining", caption, header, rows), *plot]


def _started(facts: Facts) -> dict[str, str]:
    """The mean accuracy of the networks of each row, their dataset and epochs, by label."""
    found = {}
    for label, networks in checkpoints(facts).groupby("label", sort=False):
        datasets, epochs = listed(list(networks["dataset"].unique())), sorted(map(int, networks["epochs"].unique()))
        several = f", {len(networks)} networks" if len(networks) > 1 else ""
        accuracy = number(100 - float(networks["error"].mean()))
        found[str(label)] = f"{accuracy}\n{datasets}, {spanned(epochs[0], epochs[-1], 'epoch')}{several}"
    return found


def _average(matrix: Matrix, label: str) -> str:
    mean, low, high = (float(frame.at[label, AVERAGE]) for frame in (matrix.mean, matrix.low, matrix.high))
    return f"{within(Interval(mean, low, high))}\n{counted(int(matrix.seeds.at[label, AVERAGE]), 'seed')}"


def _long(experiments: Sequence[Experiment]) -> pd.DataFrame:
    frames = []
    for name, facts in experiments:
        matrix = facts.matrix
        values = {"mean": matrix.mean, "low": matrix.low, "high": matrix.high, "std": matrix.std, "seeds": matrix.seeds}
        long = [
            frame.rename_axis("label").reset_index().melt(id_vars="label", var_name="pair", value_name=value)
            for value, frame in values.items()
        ]
        merged = long[0]
        for other in long[1:]:
            merged = merged.merge(other, on=["label", "pair"], sort=False)
        merged.insert(0, "experiment", name)
        frames.append(merged)
    return pd.concat(frames, ignore_index=True)
