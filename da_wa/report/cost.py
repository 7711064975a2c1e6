"""What the runs took, on what, and all that is needed to do them again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from da_wa.report.content import NONE, Section, Table
from da_wa.report.wording import counted, listed
from da_wa.runs.ledger import Record

TITLE = "What did it cost, and how can it be repeated?"


def section(records: Sequence[Record]) -> Section:
    """Seconds, images per second and memory of every norm; hardware, versions, commit, command, data."""
    if not records:
        return Section(TITLE, ["No run is finished yet."])
    data = per_run(records)
    hours = data["total_s"].sum() / 3600
    time = f"{hours:.1f} hours" if hours >= 0.95 else f"{hours * 60:.0f} minutes"
    told = (
        f"The seconds of {counted(len(records), 'run')} add up to {time}, pre-training aside; runs may have overlapped."
    )
    return Section(TITLE, [told, _costs(data), _environment(records), _images(records)], {"cost": data})


def per_run(records: Sequence[Record]) -> pd.DataFrame:
    """One row per run; empty where the record does not tell."""
    rows = []
    for record in records:
        timing, environment = record.get("timing") or {}, record.get("environment") or {}
        rows.append(
            {
                "label": record["label"],
                "source": record["source"],
                "seed": record["seed"],
                **{name: timing.get(name) for name in ("total_s", "train_s", "eval_s", "images_per_s", "mfu")},
                "peak_memory_mb": record.get("peak_memory_mb"),
                "parameters": record.get("parameters"),
                **{name: environment.get(name) for name in ("device", "cpu", "precision", "commit")},
                "finished": record.get("finished"),
                "run_id": record["id"],
            }
        )
    numbers = ["total_s", "train_s", "eval_s", "images_per_s", "mfu", "peak_memory_mb", "parameters"]
    frame = pd.DataFrame(rows)
    frame[numbers] = frame[numbers].astype(float)
    return frame


def _costs(data: pd.DataFrame) -> Table:
    rows = []
    for label, runs in data.groupby("label", sort=False):
        rows.append(
            [
                str(label),
                str(len(runs)),
                _spread(runs["total_s"], "{:.0f}"),
                _spread(runs["train_s"], "{:.0f}"),
                _spread(runs["images_per_s"], "{:.0f}"),
                _spread(100 * runs["mfu"], "{:.0f}"),
                _spread(runs["peak_memory_mb"], "{:.0f}"),
                _spread(runs["parameters"], "{:,.0f}"),
            ]
        )
    return Table(
        "cost",
        "What a run took",
        ["Norm", "Runs", "Seconds", "of them training", "Images per second", "MFU, %", "Peak memory, MB", "Parameters"],
        rows,
        notes=[
            "Medians, below them the range over runs. Sources differ in size, so seconds span them. MFU is the least "
            "time that the convolutions and products could take, at the rate at which this device multiplies large "
            "matrices, over the time that training and evaluation took. Memory is a GPU's during the run, or the peak "
            "of the whole process so far, so that later runs of one process cannot show less than earlier ones.",
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
        for name, value in (record.get("environment") or {}).items():
            if value is not None:
                found.setdefault(name, []).append(value)
    rows = [[_readable(name), _values(values, len(records))] for name, values in found.items()]
    started, ended = (sorted(str(r[key]) for r in records if r.get(key)) for key in ("started", "finished"))
    if started and ended:
        rows.append(["From, to", f"{started[0]}, {ended[-1]}"])
    rows.append(["Recipe", _values([r["recipe"] for r in records], len(records))])
    return Table("environment", "What the runs ran on and with", ["", "Value"], rows)


def _readable(name: str) -> str:
    return {"cpu": "CPU", "dirty": "Uncommitted changes"}.get(name, name.replace("_", " ").capitalize())


def _values(values: Sequence[Any], runs: int) -> str:
    counts = pd.Series(
        [{True: "yes", False: "no"}.get(v, str(v)) if isinstance(v, bool) else str(v) for v in values]
    ).value_counts()
    if len(counts) == 1 and counts.iloc[0] == runs:
        return str(counts.index[0])
    return "; ".join(f"{value} ({counted(n, 'run')})" for value, n in list(counts.items())[:6]) + (
        f"; and {len(counts) - 6} more" if len(counts) > 6 else ""
    )


def _images(records: Sequence[Record]) -> Table:
    rows = []
    for domain in records[0]["domains"]:
        data = [r["data"][domain] for r in records if domain in r["data"]]
        if data:
            rows.append([domain, str(data[0].get("n", NONE)), _few(str(d["digest"]) for d in data)])
    classes = counted(len(records[0]["classes"]), "class", "classes")
    return Table(
        "data",
        f"The images: {records[0]['dataset']}, {classes}",
        ["Domain", "Images", "Digest of pixels and labels"],
        rows,
    )


def _few(values: Iterable[str]) -> str:
    return listed(list(dict.fromkeys(values)))
