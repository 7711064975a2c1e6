"""Cost, hardware, software and reproduction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from da_wa.records.schema import Record
from da_wa.report.content import NONE, Section, Table
from da_wa.report.facts import Facts
from da_wa.report.wording import counted, listed

TITLE = "Cost, hardware and reproduction"

NUMBERS = ("total_s", "train_s", "eval_s", "images_per_s", "mfu", "peak_memory_mb", "parameters")
"""Columns of :func:`per_run` that are numbers."""

MACHINE = ("device", "cpu", "precision", "commit")
"""Entries of a record's provenance that :func:`per_run` repeats."""

_TIMES = ("started", "finished")
_SHOWN = 6
"""Different values of one entry that are listed."""


def section(facts: Facts) -> Section:
    """Seconds, images per second and memory of every norm; hardware, versions, commit, command, data."""
    if not facts.records:
        return Section(TITLE, ["No run is finished yet."])
    data = per_run(facts)
    hours = data["total_s"].sum() / 3600
    time = f"{hours:.1f} hours" if hours >= 0.95 else f"{hours * 60:.0f} minutes"
    devices = listed(list(dict.fromkeys(str(value) for value in data["device"].dropna()))) or "an unknown device"
    answer = f"{counted(len(data), 'run')} took {time} in all on {devices}, without pre-training."
    details = [_costs(data), _environment(facts.records), _images(facts)]
    return Section(TITLE, [answer], {"cost": data}, details=details)


def per_run(facts: Facts) -> pd.DataFrame:
    """One row per run; empty where the record has no entry."""
    rows = [
        {
            "label": facts.label(record),
            "source": record.source,
            "target": record.target,
            "seed": record.factors.seed,
            **{name: record.cost.get(name) for name in NUMBERS[:-1]},
            "parameters": record.parameters,
            **{name: record.provenance.get(name) for name in (*MACHINE, "finished")},
            "run_id": record.id,
        }
        for record in facts.records
    ]
    frame = pd.DataFrame(rows)
    frame[list(NUMBERS)] = frame[list(NUMBERS)].astype(float)
    return frame


def _costs(data: pd.DataFrame) -> Table:
    rows = [
        [
            str(label),
            str(len(runs)),
            _spread(runs["total_s"], "{:.0f}"),
            _spread(runs["train_s"], "{:.0f}"),
            _spread(runs["images_per_s"], "{:.0f}"),
            _spread(100 * runs["mfu"], "{:.0f}"),
            _spread(runs["peak_memory_mb"], "{:.0f}"),
            _spread(runs["parameters"], "{:.0f}"),
        ]
        for label, runs in data.groupby("label", sort=False)
    ]
    return Table(
        "cost",
        "Cost of a run",
        ["Norm", "Runs", "Total (s)", "Training (s)", "Images per s", "MFU (%)", "Memory (MB)", "Parameters"],
        rows,
        notes=[
            "Median over runs, the range below it. Sources have different numbers of images.",
            "Total: training and evaluation. Runs may have shared the machine.",
            "MFU (model FLOP utilization): the time that convolutions and matrix products need at this device's "
            "measured rate of matrix multiplication, divided by the time taken.",
            "Memory: the peak on a GPU during the run; on a CPU the peak of the process so far.",
        ],
    )


def _spread(values: pd.Series, form: str) -> str:
    known = values.dropna()
    if known.empty:
        return NONE
    low, high = form.format(known.min()), form.format(known.max())
    return form.format(known.median()) + ("" if low == high else f"\n{low} to {high}")


def _environment(records: Sequence[Record]) -> Table:
    found: dict[str, list[Any]] = {}
    for record in records:
        for name, value in record.provenance.items():
            if value is not None and name not in _TIMES:
                found.setdefault(name, []).append(value)
    rows = [[_readable(name), _values(values, len(records))] for name, values in found.items()]
    started, ended = (sorted(str(r.provenance[key]) for r in records if r.provenance.get(key)) for key in _TIMES)
    if started and ended:
        rows.append(["First start, last end", f"{started[0]}, {ended[-1]}"])
    rows.append(["Experiment", _values([record.experiment for record in records], len(records))])
    return Table("environment", "Hardware and software", ["", "Value"], rows)


def _readable(name: str) -> str:
    return {"cpu": "CPU", "dirty": "Uncommitted changes"}.get(name, name.replace("_", " ").capitalize())


def _values(values: Sequence[Any], runs: int) -> str:
    counts = pd.Series(
        [{True: "yes", False: "no"}[v] if isinstance(v, bool) else str(v) for v in values]
    ).value_counts()
    if len(counts) == 1 and counts.iloc[0] == runs:
        return str(counts.index[0])
    named = "; ".join(f"{value} ({counted(n, 'run')})" for value, n in list(counts.items())[:_SHOWN])
    return named + (f"; and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else "")


def _images(facts: Facts) -> Table:
    records, rows = facts.records, []
    for domain in facts.domains:
        found = [record.images[domain] for record in records if domain in record.images]
        if found:
            n = NONE if found[0].n is None else str(found[0].n)
            rows.append([domain, n, listed(list(dict.fromkeys(images.digest for images in found)))])
    classes = counted(len(records[0].classes), "class", "classes")
    return Table(
        "data",
        f"Images: {records[0].factors.dataset}, {classes}",
        ["Domain", "Images", "Digest of pixels and labels"],
        rows,
    )
