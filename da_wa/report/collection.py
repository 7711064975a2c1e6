"""Read the records of an ``out`` folder: check that they are comparable, list missing ones, assign table rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from da_wa.errors import DataError, NewerVersion
from da_wa.records.schema import Factors, Plan, Record
from da_wa.records.store import RunDir, Store
from da_wa.report import paper
from da_wa.report.matrix import Missing
from da_wa.report.wording import listed

SHARED = ("protocol", "size")
"""Factors that all records of one table share, with their experiment, domains, classes and images."""

RECIPE = ("batch_size", "epochs", "lr", "pretraining", "pretraining_epochs")
"""Factors that name what differs where experiments differ."""

REPLICATES = ("seed", "pretraining_seed")
"""Factors that repeat a measurement; never rows of a table."""

ALWAYS: Mapping[str, frozenset[str]] = {"method": frozenset({"none"}), "model": frozenset()}
"""Factors that are part of a row's label wherever they vary, or have another level than the one given here."""

MOST = 3
"""Different values that a sentence lists."""


@dataclass(frozen=True)
class Rows:
    """Which row of the headline table a unit belongs to.

    Attributes:
        key: the factors that identify a row: the norm and whatever else varies.
        labels: display names by (factor, level).
    """

    key: Sequence[str]
    labels: Mapping[tuple[str, Any], str]

    def label(self, unit: Record | Plan) -> str:
        """Name of the unit's row, e.g. ``BN + WA · DANN``; of several weights ``BN + WA · DANN × 0.1``."""
        factors = unit.factors
        named = [self.labels.get(("norm", factors.norm), factors.norm)]
        for factor in self.key[1:]:
            level = getattr(factors, factor)
            if level is None or (factor, level) == ("method", "none"):
                continue
            plain = str(level) if factor in ALWAYS else f"{factor.replace('_', ' ')} {level}"
            name = self.labels.get((factor, level), plain)
            if factor == "method" and "method_weight" in self.key and factors.method_weight is not None:
                name += f" × {factors.method_weight:g}"
            if factor != "method_weight" or "method" not in self.key:  # else named with its method
                named.append(name)
        return " · ".join(named)

    def order(self, factors: Factors) -> tuple[Any, ...]:
        """Sorts norms as the paper does, others after them by name; then by the other factors, ``none`` first."""
        label = self.labels.get(("norm", factors.norm), factors.norm)
        rank = paper.ROWS.index(label) if label in paper.ROWS else len(paper.ROWS)
        return (rank, label, factors.norm, *(_place(getattr(factors, factor)) for factor in self.key[1:]))


def _place(level: Any) -> tuple[bool, float, str]:
    """Sorts the levels of a factor: ``none`` first, numbers by their size, text by its letters."""
    return (level not in (None, "none"), level if isinstance(level, int | float) else 0.0, str(level))


@dataclass(frozen=True)
class Collection:
    """What an ``out`` folder holds.

    Attributes:
        records: of finished units, comparable with each other, in display order.
        runs: the directory of each, by id.
        missing: planned results without a usable record.
        unreadable: units of which not even the plan can be read, one sentence each.
        domains: of records and plans, in the order of the first record; tables and figures show them in it.
        rows: which row of the table a unit belongs to.
        planned: the sort keys of the rows of missing results, by label.
    """

    records: list[Record]
    runs: Mapping[str, RunDir]
    missing: list[Missing]
    unreadable: list[str]
    domains: list[str]
    rows: Rows
    planned: Mapping[str, tuple[Any, ...]]

    @property
    def mixed(self) -> str:
        """See :func:`mixed` and :func:`twice`."""
        told = [mixed([record.provenance for record in self.records]), twice(self.records)]
        return " ".join(filter(None, told))


def twice(records: Sequence[Record]) -> str:
    """A sentence about networks of one name that have several results, or nothing."""
    results: dict[str, set[tuple[Any, ...]]] = {}
    for network in (record.pretraining for record in records if record.pretraining):
        results.setdefault(network.name, set()).add((network.correct, network.n))
    names = [name for name, found in results.items() if len(found) > 1]
    return (
        f"Trained more than once with different results, and counted as one network: {listed(names)}." if names else ""
    )


def mixed(provenances: Sequence[Mapping[str, Any]]) -> str:
    """A sentence about what computed the runs, where it differs and can change results; or nothing."""
    found = []
    for field in ("commit", "torch", "device", "precision"):
        counts = Counter(_computed(provenance, field) for provenance in provenances)
        if len(counts) > 1:
            known = listed([f"{value} {n}" for value, n in sorted(counts.items())])
            found.append(f"{field} ({known if len(counts) <= MOST else f'{len(counts)} of them'})")
    return f"Runs differ in {listed(found)}, which can change results." if found else ""


def _computed(provenance: Mapping[str, Any], field: str) -> str:
    """A value of the provenance as it is shown; a commit in short, with a mark where files had been changed."""
    value = str(provenance.get(field) or "unknown")
    if field != "commit":
        return value
    return value[:7] + (" with changes" if provenance.get("dirty") else "")


def collect(store: Store) -> Collection:
    """Read every unit of a store.

    Raises:
        DataError: there are no runs, or their results are not comparable.
    """
    records: list[Record] = []
    runs: dict[str, RunDir] = {}
    failed: list[tuple[Record | Plan, str]] = []
    awaited: list[tuple[Plan, str, float]] = []
    unreadable: list[str] = []
    for run in store.runs():
        try:
            record, flaw = _checked(run)
            if record is None:
                plan = run.planned()
                if flaw:
                    failed.append((plan, flaw))
                else:
                    awaited.append((plan, _unfinished(run), run.last_modified()))
            elif record.error is not None:
                failed.append((record, f"diverged at epoch {record.error.epoch}: {record.error.message}"))
            else:
                records.append(record)
                runs[record.id] = run
        except DataError as error:
            unreadable.append(f"{run.id}: {error}")
    if not (records or failed or awaited):
        details = "\n".join(unreadable) or "Check out=DIR: it must be the folder of an earlier command."
        raise DataError(f"There are no runs to report in {store.path}.\n{details}")
    _refuse_mixture(store, records)
    records = _of_one_dataset(records)
    units = [*records, *(unit for unit, _ in failed), *(plan for plan, _, _ in awaited)]
    rows = _rows(units, records)
    _refuse_duplicates(store, records, rows)
    missing, order = _missing(records, failed, awaited, rows)
    domains = list(dict.fromkeys(domain for unit in units for domain in unit.domains))
    place = {domain: k for k, domain in enumerate(domains)}
    missing.sort(key=lambda m: (order[m.label], place[m.source], place[m.target], m.seed, m.reason))
    records.sort(key=lambda r: (rows.order(r.factors), place[r.source], *_replicate(r), r.id))
    planned = {hole.label: order[hole.label] for hole in missing}
    return Collection(records, runs, missing, unreadable, domains, rows, planned)


def _checked(run: RunDir) -> tuple[Record | None, str]:
    """The record of a unit, if there is one, and why it cannot be used, if it cannot."""
    try:
        return run.verified(), ""
    except NewerVersion as error:
        return None, str(error)
    except DataError as error:
        return None, f"{error} Rerun the command."


def _unfinished(run: RunDir) -> str:
    lines = (run.failure() or "").splitlines()
    if not lines:
        return "not finished"
    return f"failed: {lines[-1] if lines[0].startswith('Traceback') else lines[0]}"


def _replicate(unit: Record | Plan) -> tuple[int, int]:
    seed = unit.factors.pretraining_seed
    return (-1 if seed is None else seed, unit.factors.seed)


def _rows(units: Sequence[Record | Plan], records: Sequence[Record]) -> Rows:
    """The norm, :data:`ALWAYS`, and any other factor that these do not determine."""
    levels_of = {f: known.union(getattr(unit.factors, f) for unit in units) for f, known in ALWAYS.items()}
    key = ["norm", *(f for f, levels in levels_of.items() if len(levels) > 1)]
    for factor in Factors.model_fields:
        if factor not in (*key, *REPLICATES):
            levels: dict[tuple[Any, ...], set[Any]] = defaultdict(set)
            for record in records:
                levels[tuple(getattr(record.factors, f) for f in key)].add(getattr(record.factors, factor))
            if any(len(found) > 1 for found in levels.values()):
                key.append(factor)
    return Rows(key, _display_names(units))


def _display_names(units: Iterable[Record | Plan]) -> dict[tuple[str, Any], str]:
    """The commonest name of every level; a name that two levels share is followed by the level."""
    seen: dict[tuple[str, Any], Counter[str]] = defaultdict(Counter)
    for unit in units:
        for factor, name in {"norm": unit.factors.norm, **unit.labels}.items():
            if factor in Factors.model_fields:
                seen[factor, getattr(unit.factors, factor)][name] += 1
    names = {level: counts.most_common(1)[0][0] for level, counts in seen.items()}
    shared = Counter((factor, name) for (factor, _), name in names.items())
    return {
        (factor, level): f"{name} ({level})" if shared[factor, name] > 1 else name
        for (factor, level), name in names.items()
    }


def _missing(
    records: Sequence[Record],
    failed: Sequence[tuple[Record | Plan, str]],
    awaited: Sequence[tuple[Plan, str, float]],
    rows: Rows,
) -> tuple[list[Missing], dict[str, tuple[Any, ...]]]:
    """Planned results that do not exist, and the order of their rows; of unfinished plans for one cell the latest."""
    units = [*records, *(unit for unit, _ in failed), *(plan for plan, _, _ in awaited)]
    several = len({unit.factors.pretraining_seed for unit in units}) > 1
    order: dict[str, tuple[Any, ...]] = {}

    def holes(unit: Record | Plan, reason: str) -> list[Missing]:
        label, factors = rows.label(unit), unit.factors
        order[label] = rows.order(factors)
        if several:
            reason = f"{reason} (pre-training seed {factors.pretraining_seed})"
        return [Missing(label, unit.source, t, factors.seed, reason, factors.pretraining_seed) for t in unit.targets]

    def cell(label: str, source: str, target: str, factors_seed: int, pretraining_seed: int | None) -> tuple[Any, ...]:
        return (label, source, target, factors_seed, pretraining_seed if several else None)

    filled = {
        cell(rows.label(r), r.source, t, r.factors.seed, r.factors.pretraining_seed) for r in records for t in r.targets
    }
    latest: dict[tuple[Any, ...], tuple[float, Missing]] = {}
    for plan, reason, time in awaited:
        for hole in holes(plan, reason):
            key = cell(hole.label, hole.source, hole.target, hole.seed, hole.pretraining_seed)
            if key not in filled:
                latest[key] = max(latest.get(key, (0.0, hole)), (time, hole), key=itemgetter(0))
    missing = [hole for unit, reason in failed for hole in holes(unit, reason)]
    return [*missing, *(hole for _, hole in latest.values())], order


def _refuse_mixture(store: Store, records: Sequence[Record]) -> None:
    """Raise where records were made with different settings."""
    values: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        facts = {"experiment": record.experiment, "domains": sorted(record.domains), "classes": record.classes}
        facts |= {field: getattr(record.factors, field) for field in SHARED}
        facts |= {f"images of {domain}": images.digest for domain, images in record.images.items()}
        for field, value in facts.items():
            values[field][str(value)].append(record.id)
    differing = {field: found for field, found in values.items() if len(found) > 1}
    if set(differing) == {"experiment"}:
        for record in records:
            for field in RECIPE:
                values[field][str(getattr(record.factors, field))].append(record.id)
        differing = {field: found for field, found in values.items() if len(found) > 1}
    if differing:
        lines = [
            f"  {field}: " + "; ".join(f"{_short(value)} in {_few(ids)}" for value, ids in found.items())
            for field, found in differing.items()
        ]
        head = f"{store.path} contains runs with different settings; results are not comparable. Use another out=DIR."
        raise DataError("\n".join([head, *lines]))


def _of_one_dataset(records: Sequence[Record]) -> list[Record]:
    """The records with the first one's name of the dataset, which is for display: they have the same images."""

    def named(factors: Factors) -> Factors:
        return factors.model_copy(update={"dataset": records[0].factors.dataset})

    return [record.model_copy(update={"factors": named(record.factors)}) for record in records]


def _refuse_duplicates(store: Store, records: Sequence[Record], rows: Rows) -> None:
    """Raise where two units gave the same cell of the table for the same seeds."""
    seen: dict[tuple[Any, ...], str] = {}
    for record in records:
        for target in record.targets:
            cell = (rows.label(record), record.source, target, *_replicate(record))
            if (twin := seen.setdefault(cell, record.id)) != record.id:
                raise DataError(
                    f"{store.path} contains two runs of {cell[0]}, {record.source} to {target}, with seed "
                    f"{record.factors.seed}: {twin} and {record.id}.\nDelete one of the two folders."
                )


def _short(value: str, length: int = 40) -> str:
    return value if len(value) <= length else f"{value[:length]}…"


def _few(ids: Sequence[str], limit: int = 6) -> str:
    return ", ".join(ids[:limit]) + (f" and {len(ids) - limit} more" if len(ids) > limit else "")
