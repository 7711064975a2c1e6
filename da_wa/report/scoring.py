"""Label-free scores of all candidates. Values are kept in ``scores.json`` by the content that they were made from."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from da_wa import select
from da_wa.records.files import read_bytes, write_bytes
from da_wa.records.outputs import Array, DomainOutputs, Outputs
from da_wa.records.schema import Record
from da_wa.report.candidates import Family
from da_wa.report.facts import Facts
from da_wa.select.catalogue import Score, value
from da_wa.select.saved import NotSaved, Saved

CACHE = "scores.json"

NO_LOGITS = "logits were not saved (keep=[logits] saves them, in new runs: use another out=DIR)"

Kept = dict[str, Any]
"""Values of one score for one unit by target and epoch, and why there are none where there are none."""


@dataclass(frozen=True)
class Scored:
    """Values of all scores.

    Attributes:
        values: by score, then for each family the value of each candidate; NaN where it has none.
        reasons: by score, why candidates have no value.
    """

    values: Mapping[str, Sequence[Sequence[float]]]
    reasons: Mapping[str, str]


def scored(facts: Facts, found: Sequence[Family], scores: Mapping[str, Score], out: Path | None = None) -> Scored:
    """Every score of every candidate; NaN in families where it has fewer than two candidates to compare.

    Args:
        facts: of the runs.
        found: the families of candidates.
        scores: functions by name.
        out: folder of :data:`CACHE`; ``None`` keeps nothing.

    Raises:
        ConfigError: a score fails; the message names it.
        DataError: outputs cannot be read, or the cache cannot be written.
    """
    records = {c.record.id: c.record for f in found for c in f.candidates if len(f.candidates) > 1}
    known = {} if out is None else _read(out / CACHE)
    used: dict[str, Kept] = {}
    units: dict[tuple[str, str], Kept] = {}
    for record in records.values():
        keys = {name: _key(record, score) for name, score in scores.items()}
        missing = {name: score for name, score in scores.items() if keys[name] not in known}
        fresh = _unit(record, facts.runs[record.id].outputs(record), missing) if missing else {}
        for name, key in keys.items():
            units[record.id, name] = used[key] = fresh[name] if name in fresh else known[key]
    if out is not None and used.keys() - known.keys():
        write_bytes(out / CACHE, json.dumps(known | used, allow_nan=False).encode())
    values: dict[str, list[list[float]]] = {}
    reasons: dict[str, str] = {}
    for name in scores:
        values[name] = []
        for family in found:
            row = [_value(units.get((c.record.id, name)), family.pair[1], c.epoch) for c in family.candidates]
            compared = sum(not math.isnan(each) for each in row) > 1
            values[name].append(row if compared else [math.nan] * len(row))
            for c in family.candidates:
                if reason := units.get((c.record.id, name), {}).get("reason"):
                    reasons.setdefault(name, reason)
    return Scored(values, reasons)


def identity(scores: Mapping[str, Score]) -> list[str]:
    """What the values of scores depend on, apart from the runs: names and code."""
    return [f"{name} {_code(score)}" for name, score in scores.items()]


def _unit(record: Record, outputs: Outputs, scores: Mapping[str, Score]) -> dict[str, Kept]:
    """Values of scores for every target and epoch of a unit."""
    found: dict[str, Kept] = {name: {"values": {}, "reason": ""} for name in scores}
    for target in record.targets:
        if target not in outputs.domains:
            continue
        for k, epoch in enumerate(outputs.epochs):
            saved = _saved(outputs, record.source, target, k)
            for name, score in scores.items():
                try:
                    if isinstance(saved, str):
                        raise NotSaved(saved)
                    number = value(name, score, saved)
                except NotSaved as error:
                    found[name]["reason"] = found[name]["reason"] or str(error)
                else:
                    if math.isfinite(number):
                        found[name]["values"].setdefault(target, {})[str(int(epoch))] = number
    return found


def _saved(outputs: Outputs, source: str, target: str, k: int) -> Saved | str:
    """The arrays of epoch number *k* without target labels, or why there are none."""
    domain, held_out = outputs.domains[target], outputs.domains.get(source)
    logits = _at(k, outputs, domain.logits)
    if logits is None:
        return NO_LOGITS
    arrays: dict[str, Any] = {"target_logits": logits} | _features("target", outputs, domain, k)
    if (mixed := _at(k, outputs, domain.mixed_logits)) is not None:
        arrays |= {"mixed_logits": mixed, "mixed_rows": _rows(domain, domain.mixed_index)}
    if held_out is not None and len(held_out.index) and (of_source := _at(k, outputs, held_out.logits)) is not None:
        arrays |= {"source_logits": of_source, "source_labels": held_out.labels}
        arrays |= _features("source", outputs, held_out, k)
    try:
        return Saved(**arrays)
    except ValueError as error:  # one class, or logits that are not finite
        return str(error)


def _at(k: int, outputs: Outputs, values: Array | None) -> Array | None:
    """What was saved of epoch number *k*: arrays are those of the last epochs."""
    if values is None:
        return None
    row = k - (len(outputs.epochs) - len(values))
    return np.asarray(values[row]) if row >= 0 else None


def _features(role: str, outputs: Outputs, domain: DomainOutputs, k: int) -> dict[str, Any]:
    """Features of the images that have logits as well."""
    features = _at(k, outputs, domain.features)
    if features is None:
        return {}
    rows = _rows(domain, domain.feature_index)
    known = rows >= 0
    return {f"{role}_features": features[known], f"{role}_rows": rows[known]} if known.any() else {}


def _rows(domain: DomainOutputs, index: Array | None) -> npt.NDArray[np.int64]:
    """Positions of images among the evaluated ones; -1 where an image was not evaluated."""
    row_of = {int(image): row for row, image in enumerate(domain.index)}
    return np.array([row_of.get(int(image), -1) for image in np.asarray(index)], np.int64)


def _value(kept: Kept | None, target: str, epoch: int) -> float:
    return math.nan if kept is None else float(kept["values"].get(target, {}).get(str(epoch), math.nan))


def _key(record: Record, score: Score) -> str:
    content = (record.outputs, record.source, record.targets, _code(score))
    return hashlib.sha256(repr(content).encode(errors="backslashreplace")).hexdigest()[:24]


@cache
def _code(score: Score) -> str:
    """A hash of the file that defines a score and of this package's own."""
    files = [Path(__file__), *sorted(Path(select.__file__).parent.glob("*.py"))]
    with suppress(TypeError):  # an object, or built in
        files.append(Path(inspect.getfile(score)))
    name = f"{getattr(score, '__module__', '')}.{getattr(score, '__qualname__', repr(type(score)))}"
    return hashlib.sha256(b"\0".join([name.encode(), *(file.read_bytes() for file in files)])).hexdigest()[:16]


def _read(path: Path) -> dict[str, Kept]:
    """The cache; empty where there is none or it cannot be used."""
    content = read_bytes(path)
    try:
        found = json.loads(content or b"{}")
        good = all(isinstance(kept["values"], dict) and isinstance(kept["reason"], str) for kept in found.values())
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
    return found if good else {}
