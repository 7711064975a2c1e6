"""Records -> accuracy of every norm on every source-target pair, with its spread, and what is missing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import itemgetter
from typing import Any

import pandas as pd

from da_wa.errors import DataError
from da_wa.report import paper
from da_wa.report.wording import listed
from da_wa.runs.ledger import Ledger, Record, RunDir

AVERAGE = "Avg"
HEADLINE = "last"
"""The selection rule of tables and figures: the last epoch, which no label of any target has chosen."""

COMPARABLE = ("dataset", "domains", "classes", "model", "size", "protocol", "recipe")
"""Fields in which all records of one table agree; norm, source and seed are what the table varies."""

_MEND = "Move the folders of one kind to the runs/ of another out=DIR, then write the report again."


@dataclass(frozen=True)
class Missing:
    """A planned result that is not there."""

    label: str
    source: str
    target: str
    seed: int
    reason: str

    def __str__(self) -> str:
        return f"{self.label}  {self.source}->{self.target}  seed {self.seed}: {self.reason}"


@dataclass(frozen=True)
class Collection:
    """What a ledger holds.

    Attributes:
        records: of the finished runs, comparable with each other.
        missing: planned results without a record that can be used.
        unreadable: runs of which not even the plan can be read, one sentence each.
        domains: of records and plans, in the order of the dataset.
    """

    records: list[Record]
    missing: list[Missing]
    unreadable: list[str]
    domains: list[str]

    @property
    def mixed(self) -> str:
        """In what the runs were computed differently, which changes the rounding, as a sentence; or nothing."""
        told = []
        for field in ("device", "precision"):
            counts = Counter(str((r.get("environment") or {}).get(field, "not told")) for r in self.records)
            if len(counts) > 1:
                told.append(f"{field} ({listed([f'{value} {n}' for value, n in sorted(counts.items())])})")
        return f"Runs differ in {listed(told)}: their numbers differ for that reason, too." if told else ""


@dataclass(frozen=True)
class Setting:
    """What all numbers of one table share.

    Attributes:
        dataset: its display name.
        model: the backbone.
        size: side of the images, in pixels.
        protocol: which images are trained on and evaluated.
        pretraining: the dataset of the pre-training, None without any.
        images: how many images each target is evaluated on.
        seeds: the seeds of which there is any result.
    """

    dataset: str
    model: str
    size: int
    protocol: str
    pretraining: str | None
    images: Mapping[str, int]
    seeds: Sequence[int]


@dataclass(frozen=True)
class Matrix:
    """Accuracy of every norm on every pair: three frames of the same shape, norms × (pairs and ``Avg``).

    Attributes:
        mean: percent, mean over seeds; ``Avg`` is the unweighted mean of the pairs. NaN where a pair is missing.
        std: sample standard deviation over seeds, NaN for fewer than two; for ``Avg`` that of the averages
            of those seeds that have every pair.
        seeds: number of seeds behind a cell; for ``Avg`` the smallest of its pairs.
        pairs: (source, target) of the columns before ``Avg``.
        selection: the rule that chose the epoch.
        setting: what the numbers share, None while there are none.
    """

    mean: pd.DataFrame
    std: pd.DataFrame
    seeds: pd.DataFrame
    pairs: Sequence[tuple[str, str]]
    selection: str
    setting: Setting | None

    @property
    def most_seeds(self) -> int:
        """The largest number of seeds behind any cell."""
        return int(self.seeds.to_numpy().max(initial=0))

    @property
    def least_seeds(self) -> int:
        """The smallest number of seeds behind any cell that has some."""
        counts = self.seeds.to_numpy()
        return int(counts[counts > 0].min(initial=self.most_seeds))

    @property
    def uneven(self) -> bool:
        """Whether some cells have fewer seeds than others; cells without any do not count."""
        return self.least_seeds < self.most_seeds


def collect(ledger: Ledger) -> Collection:
    """Read every run of a ledger.

    Raises:
        DataError: there are no runs, or their results cannot stand in one table.
    """
    records: list[Record] = []
    spoilt: list[Missing] = []
    awaited: dict[tuple[str, str, str, int], tuple[float, Missing]] = {}  # of other options' runs only the latest
    unreadable: list[str] = []
    domains: dict[str, None] = {}
    for run in ledger.runs():
        record, flaw = _checked(run)
        try:
            plan = record or run.config()
            domains |= dict.fromkeys(plan.get("domains") or ())
            if flaw:
                spoilt += _planned(plan, flaw)
            elif record is None:
                for hole in _planned(plan, _unfinished(run)):
                    cell = (hole.label, hole.source, hole.target, hole.seed)
                    awaited[cell] = max(awaited.get(cell, (0.0, hole)), (run.last_modified(), hole), key=itemgetter(0))
            elif record["status"] == "diverged":
                spoilt += _planned(plan, _divergence(record))
            else:
                records.append(record)
        except DataError as error:
            unreadable.append(f"{run.id}: {error}")
    if not (records or spoilt or awaited):
        told = "\n".join(unreadable) or "Give the folder that was out=DIR of the command."
        raise DataError(f"There are no runs to report in {ledger.path}.\n{told}")
    _refuse_mixture(ledger, records)
    filled = {(r["label"], r["source"], target, r["seed"]) for r in records for target in r["targets"]}
    missing = spoilt + [hole for cell, (_, hole) in awaited.items() if cell not in filled]
    domains |= dict.fromkeys(domain for m in missing for domain in (m.source, m.target))
    place = {domain: k for k, domain in enumerate(domains)}
    missing.sort(key=lambda m: (_rank(m.label), place[m.source], place[m.target], m.seed, m.reason))
    return Collection(sorted(records, key=_record_order), missing, unreadable, list(domains))


def accuracy(records: Iterable[Record]) -> pd.DataFrame:
    """Every result as a row: norm, label, source, target, seed, selection, correct, n, accuracy, run_id.

    The rows whose target is the source itself are about its held-out part. ``accuracy`` is a fraction.
    """
    rows = [
        {
            "norm": record["norm"],
            "label": record["label"],
            "source": record["source"],
            "target": result["domain"],
            "seed": record["seed"],
            "selection": result["selection"],
            "correct": result["correct"],
            "n": result["n"],
            "accuracy": result["correct"] / result["n"],
            "run_id": record["id"],
        }
        for record in records
        for result in sorted(record["results"], key=lambda r: (record["domains"].index(r["domain"]), r["selection"]))
    ]
    columns = ["norm", "label", "source", "target", "seed", "selection", "correct", "n", "accuracy", "run_id"]
    return pd.DataFrame(rows, columns=columns)


def transfer_matrix(collection: Collection, selection: str = HEADLINE) -> Matrix:
    """Mean and spread over seeds of every planned norm on every planned pair.

    Rows stand in the paper's order, further norms after them by name; pairs in the order A->B, B->A for
    every two domains A, B.
    """
    planned = {(r["label"], r["source"], target) for r in collection.records for target in r["targets"]}
    planned |= {(m.label, m.source, m.target) for m in collection.missing}
    labels = sorted({label for label, _, _ in planned}, key=_rank)
    asked = {(source, target) for _, source, target in planned}
    both_ways = ((s, t) for a, b in combinations(collection.domains, 2) for s, t in ((a, b), (b, a)))
    ends = [(source, target) for source, target in both_ways if (source, target) in asked]
    pairs = [f"{source}->{target}" for source, target in ends]

    rows = accuracy(collection.records)
    rows = rows[(rows["selection"] == selection) & (rows["source"] != rows["target"])]
    rows = rows.assign(pair=rows["source"] + "->" + rows["target"], percent=100 * rows["accuracy"])
    by_seed = rows.pivot(index=["label", "seed"], columns="pair", values="percent").reindex(columns=pairs)
    by_seed[AVERAGE] = by_seed.mean(axis=1, skipna=False)
    by_label = by_seed.astype(float).groupby(level="label")
    mean = by_label.mean().reindex(labels)
    mean[AVERAGE] = mean[pairs].mean(axis=1, skipna=False)
    seeds = by_label.count().reindex(labels, fill_value=0)
    seeds[AVERAGE] = seeds[pairs].min(axis=1)
    std = by_label.std().reindex(labels)
    return Matrix(mean, std, seeds, ends, selection, _setting(collection.records, rows))


def pretraining(records: Iterable[Record]) -> pd.DataFrame:
    """The checkpoints that runs started from: label, dataset, epochs, correct, n, error (percent), checkpoint."""
    found = {(r["label"], p["name"]): {"label": r["label"], **p} for r in records if (p := r.get("pretrain"))}
    rows = pd.DataFrame([found[key] for key in sorted(found, key=lambda key: (_rank(key[0]), key[1]))])
    rows = rows.rename(columns={"name": "checkpoint"})
    rows = rows.reindex(columns=["label", "dataset", "epochs", "correct", "n", "error", "checkpoint"])
    rows[["epochs", "correct", "n"]] = rows[["epochs", "correct", "n"]].astype("Int64")
    rows["error"] = 100 * (1 - rows["correct"] / rows["n"]).astype(float)
    return rows


def _checked(run: RunDir) -> tuple[Record | None, str]:
    """The record of a run, if there is one, and why it cannot be used, if it cannot."""
    try:
        return run.verified(), ""
    except DataError as error:
        return None, f"{error} Run the same command again."


def _planned(plan: Mapping[str, Any], reason: str) -> list[Missing]:
    label, source, targets, seed = (plan.get(key) for key in ("label", "source", "targets", "seed"))
    if not (isinstance(label, str) and isinstance(source, str) and isinstance(targets, list) and isinstance(seed, int)):
        raise DataError(f"config.yaml does not tell label, source, targets and seed. {reason}")
    return [Missing(label, source, target, seed, reason) for target in targets]


def _unfinished(run: RunDir) -> str:
    lines = (run.failure() or "").splitlines()
    if not lines:
        return "not finished"
    return f"failed: {lines[-1] if lines[0].startswith('Traceback') else lines[0]}"


def _divergence(record: Record) -> str:
    error = record.get("error") or {}
    return f"diverged at epoch {error.get('epoch', '?')}: {error.get('message', 'no message')}"


def _rank(label: str) -> tuple[int, str]:
    """Sorts norms as the paper does, others after them by name."""
    return (paper.ROWS.index(label) if label in paper.ROWS else len(paper.ROWS), label)


def _record_order(record: Record) -> tuple[Any, ...]:
    return _rank(record["label"]), record["domains"].index(record["source"]), record["seed"], record["id"]


def _setting(records: Sequence[Record], rows: pd.DataFrame) -> Setting | None:
    if not records:
        return None
    first = records[0]
    pretrained_on = {p.get("dataset") or "an unknown dataset" for record in records if (p := record.get("pretrain"))}
    images = rows.groupby("target")["n"].max()
    return Setting(
        dataset=first["dataset"],
        model=first["model"],
        size=first["size"],
        protocol=first["protocol"],
        pretraining=" or ".join(sorted(pretrained_on)) or None,
        images={domain: int(images[domain]) for domain in first["domains"] if domain in images},
        seeds=sorted({record["seed"] for record in records}),
    )


def _refuse_mixture(ledger: Ledger, records: Sequence[Record]) -> None:
    """Raise where records would make one table of numbers that cannot be compared."""
    values: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        for field in COMPARABLE:
            values[field][str(record[field])].append(record["id"])
        for domain, data in record["data"].items():
            values[f"images of {domain}"][str(data["digest"])].append(record["id"])
        values[f"the norm called {record['label']}"][record["norm"]].append(record["id"])
    differences = [
        f"  {field}: " + "; ".join(f"{_short(value)} in {_few(ids)}" for value, ids in found.items())
        for field, found in values.items()
        if len(found) > 1
    ]
    if differences:
        head = f"{ledger.path} holds runs that cannot stand in one table. They differ in"
        raise DataError("\n".join([head, *differences, _MEND]))
    runs: dict[tuple[str, str, int], str] = {}
    for record in records:
        twin = runs.setdefault((record["label"], record["source"], record["seed"]), record["id"])
        if twin != record["id"]:
            raise DataError(
                f"{ledger.path} holds two runs of {record['label']} from {record['source']} with seed "
                f"{record['seed']}: {twin} and {record['id']}.\n{_MEND}"
            )


def _short(value: str, length: int = 40) -> str:
    return value if len(value) <= length else f"{value[:length]}…"


def _few(ids: Sequence[str], limit: int = 6) -> str:
    return ", ".join(ids[:limit]) + (f" and {len(ids) - limit} more" if len(ids) > limit else "")
