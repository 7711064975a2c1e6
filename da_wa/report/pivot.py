"""Rows of results -> a matrix over any factors."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from da_wa.errors import ConfigError, nearest
from da_wa.records.contrasts import Cell, Pair
from da_wa.report.matrix import AVERAGE, HEADLINE, Matrix, Missing, Setting, column_names
from da_wa.report.resampling import Replicate, Resamples

_Level = tuple[Any, ...]
_STATISTICS = ("mean", "std", "low", "high", "seeds", "runs")


def pivot(
    frame: pd.DataFrame,
    rows: Sequence[str] = ("label",),
    columns: Sequence[str] = ("source", "target"),
    *,
    selection: str = HEADLINE,
    value: str = "accuracy",
    resamples: Resamples | None = None,
    pairs: Sequence[Pair] | None = None,
    setting: Setting | None = None,
) -> Matrix:
    """Accuracy on targets over any factors.

    A cell is the unweighted mean over everything that it spans: labels × pairs, each the mean over its runs. It is NaN
    unless every label that it spans has every pair.

    Args:
        frame: one row per result, see :class:`da_wa.report.facts.Facts`.
        rows: columns of ``frame``, such as ``["weight"]`` or ``["norm", "method"]``.
        columns: likewise; empty for a single column, the average.
        selection: the rule that selected the epoch.
        value: ``accuracy`` or ``balanced_accuracy``.
        resamples: of the same value; without them there are no intervals.
        pairs: the pairs that every average needs; all that are in ``frame`` by default.
        setting: what all numbers share.

    Raises:
        ConfigError: ``rows`` or ``columns`` name no column of ``frame``, or one that a cell averages over (seeds).
    """
    for name in (*rows, *columns):
        if name not in frame.columns:
            raise ConfigError(f"{name!r} is not a factor. {nearest(name, map(str, frame.columns))}")
    results = frame[(frame["selection"] == selection) & (frame["role"] == "target")]
    for name in {*rows, *columns} - {"source", "target"}:
        if results.groupby("label")[name].nunique(dropna=False).gt(1).any():
            raise ConfigError(f"{name!r} differs within a cell, which is a mean over it; group `frame` by it instead.")
    values = _values(results, value)
    pairs = list(dict.fromkeys((s, t) for _, s, t in values)) if pairs is None else pairs
    spans: dict[tuple[_Level, _Level], dict[str, None]] = {}
    places: dict[tuple[_Level, _Level], Mapping[str, str]] = {}
    ends = [name for name in (*rows, *columns) if name in ("source", "target")]
    for result in results.to_dict("records"):
        cell = (_level(result, rows), _level(result, columns))
        spans.setdefault(cell, {})[result["label"]] = None
        places[cell] = {name: result[name] for name in ends}
    table = {
        cell: _statistics(labels, _matching(pairs, places[cell]), values, resamples) for cell, labels in spans.items()
    }
    row_levels = list(dict.fromkeys(row for row, _ in table))
    column_levels = list(dict.fromkeys(column for _, column in table))
    frames = {
        name: pd.DataFrame(
            [[table.get((row, column), _NOTHING)[name] for column in column_levels] for row in row_levels],
            index=_index(row_levels, rows),
            columns=_index(column_levels, columns),
            dtype=int if name in ("seeds", "runs") else float,
        )
        for name in _STATISTICS
    }
    is_pairs = tuple(columns) == ("source", "target")
    if is_pairs:
        frames = {name: found.set_axis(column_names(column_levels), axis=1) for name, found in frames.items()}
    return Matrix(**frames, pairs=column_levels if is_pairs else [], selection=selection, setting=setting)


def headline(
    frame: pd.DataFrame,
    domains: Sequence[str],
    missing: Sequence[Missing] = (),
    order: Sequence[str] = (),
    **options: Any,
) -> Matrix:
    """Every planned row on every planned pair, and the average over pairs.

    Args:
        frame: one row per result.
        domains: in display order; pairs stand in the order A->B, B->A for every two domains A, B.
        missing: planned results that do not exist.
        order: all labels in display order.
        options: of :func:`pivot`.
    """
    targets = frame[frame["role"] == "target"]
    planned = {*zip(targets["source"], targets["target"], strict=True), *((m.source, m.target) for m in missing)}
    both_ways = ((s, t) for a, b in combinations(domains, 2) for s, t in ((a, b), (b, a)))
    pairs = [pair for pair in both_ways if pair in planned]
    names = column_names(pairs)
    by_pair = pivot(frame, ("label",), ("source", "target"), pairs=pairs, **options)
    average = pivot(frame, ("label",), (), pairs=pairs, **options)
    known = dict(zip(by_pair.pairs, by_pair.mean.columns, strict=True))
    frames = {}
    for name in _STATISTICS:
        cells = getattr(by_pair, name).rename(
            columns={known[pair]: names[k] for k, pair in enumerate(pairs) if pair in known}
        )
        whole = getattr(average, name)
        cells[AVERAGE] = whole.iloc[:, 0] if whole.shape[1] else math.nan
        empty = 0 if name in ("seeds", "runs") else math.nan
        frames[name] = cells.reindex(index=pd.Index(order, name="label"), columns=[*names, AVERAGE]).fillna(empty)
        if name in ("seeds", "runs"):
            frames[name] = frames[name].astype(int)
    return Matrix(**frames, pairs=pairs, selection=by_pair.selection, setting=by_pair.setting)


_NOTHING: Mapping[str, float] = {name: 0 if name in ("seeds", "runs") else math.nan for name in _STATISTICS}


def _values(results: pd.DataFrame, value: str) -> dict[Cell, dict[Replicate, float]]:
    """Percent by cell and (pre-training seed, seed)."""
    found: dict[Cell, dict[Replicate, float]] = {}
    pretraining = results["pretraining_seed"].fillna(-1).astype(int)
    names = zip(results["label"], results["source"], results["target"], strict=True)
    for cell, p, seed, each in zip(names, pretraining, results["seed"], results[value], strict=True):
        found.setdefault(cell, {})[int(p), int(seed)] = 100 * float(each)
    return found


def _level(result: Mapping[Hashable, Any], names: Sequence[str]) -> _Level:
    """Factors of a result; ``None`` for those without a level, which compares equal where NaN does not."""
    return tuple(None if pd.isna(result[name]) else result[name] for name in names)


def _matching(pairs: Sequence[Pair], place: Mapping[str, str]) -> list[Pair]:
    return [(s, t) for s, t in pairs if place.get("source", s) == s and place.get("target", t) == t]


def _statistics(
    labels: Iterable[str],
    pairs: Sequence[Pair],
    values: Mapping[Cell, Mapping[Replicate, float]],
    resamples: Resamples | None,
) -> Mapping[str, float]:
    cells: list[Cell] = [(label, *pair) for label in labels for pair in pairs]
    if not cells or any(cell not in values for cell in cells):
        return _NOTHING
    mean = float(np.mean([_mean(values[cell]) for cell in cells]))
    common = sorted(set.intersection(*(set(values[cell]) for cell in cells)))
    averages = [float(np.mean([values[cell][run] for cell in cells])) for run in common]
    estimate = resamples.estimate([(100.0 / len(cells), cell) for cell in cells]) if resamples else None
    half = estimate.interval.half if estimate and not math.isnan(mean) else math.nan
    return {
        "mean": mean,
        "std": float(np.std(averages, ddof=1)) if len(averages) > 1 else math.nan,
        "low": mean - half,
        "high": mean + half,
        "seeds": min(len({seed for _, seed in values[cell]}) for cell in cells),
        "runs": min(len(values[cell]) for cell in cells),
    }


def _mean(runs: Mapping[Replicate, float]) -> float:
    """The mean over pre-training seeds of the mean over the seeds of each."""
    by_pretraining: dict[int, list[float]] = {}
    for (p, _), percent in runs.items():
        by_pretraining.setdefault(p, []).append(percent)
    return float(np.mean([np.mean(percents) for percents in by_pretraining.values()]))


def _index(levels: Sequence[_Level], names: Sequence[str]) -> pd.Index:
    if not names:
        return pd.Index([AVERAGE] * len(levels))
    if len(names) == 1:
        return pd.Index([level for (level,) in levels], name=names[0])
    return pd.MultiIndex.from_tuples(levels, names=list(names))
