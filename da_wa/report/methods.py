"""Methods × norms: average accuracy, change against training on the source only, and what methods log."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from da_wa.records.schema import Record
from da_wa.report.content import NONE, Part, Plot, Section, Table
from da_wa.report.contrasts import Effect, effects
from da_wa.report.facts import Facts
from da_wa.report.figures import heatmap
from da_wa.report.matrix import AVERAGE, Matrix
from da_wa.report.statistics import Interval
from da_wa.report.wording import arrow, counted, listed, signed

NOTHING = "="
"""Of a method that provably does nothing for a norm."""

LOGGED = ("used", "reset")
"""What streams log that stands beside their accuracy."""

Variant = tuple[str, Any]
"""(method, weight of its loss)."""

Level = tuple[Any, ...]
"""(norm, model, the levels of whatever else varies)."""


def section(facts: Facts) -> Section:
    """Which method goes with which norm?"""
    grid = _Grid(facts)
    parts: list[Part] = [_table(facts, grid), _figure(grid)]
    data = {"methods": grid.frame()}
    details: list[Part] = []
    online = _online(facts)
    if len(online):
        details.append(_online_table(online))
        data["online"] = online
    logged = _logged(facts)
    if len(logged):
        details.append(_logged_table(logged))
        data["logged"] = logged
    return Section("Which method goes with which norm?", parts, data, _summary(grid), details)


class _Grid:
    """Rows of the headline table by norm and by variant of a method."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        found = {facts.label(record): record for record in facts.records}
        self.records = {label: found[label] for label in facts.matrix.mean.index if label in found}
        self.others = [f for f in facts.rows.key if f not in ("norm", "model", "method", "method_weight")]
        self.norms = list(dict.fromkeys(self._norm(record) for record in self.records.values()))
        variants = {_variant(record) for record in self.records.values()}
        self.variants = sorted(variants, key=lambda v: (v[0] != "none", v[0], v[1] or 0.0))
        self.labels = {(self._norm(r), _variant(r)): label for label, r in self.records.items()}
        self.identities = {(self._norm(record), _variant(record)) for record in facts.identities}
        all_effects = effects(facts.levels, facts.matrix.pairs, facts.resamples, "method", facts.rows.labels)
        self.changes: dict[str, Effect] = {
            effect.contrast.rows[0][1]: effect for effect in all_effects if len(effect.contrast.rows) == 1
        }

    def _norm(self, record: Record) -> Level:
        factors = record.factors
        return (factors.norm, factors.model, *(getattr(factors, factor) for factor in self.others))

    def name(self, variant: Variant) -> str:
        """The display name of a variant."""
        method, weight = variant
        several = sum(known == method for known, _ in self.variants) > 1
        label = str(self.facts.rows.labels.get(("method", method), method))
        return f"{label} × {weight:g}" if several and weight is not None else label

    def norm_name(self, norm: Level) -> str:
        """The display name of a row of this table."""
        name, model, *levels = norm
        parts = [str(self.facts.rows.labels.get(("norm", name), name))]
        if len({each[1] for each in self.norms}) > 1:
            parts.append(model)
        named = zip(self.others, levels, strict=True)
        parts += [f"{factor.replace('_', ' ')} {level}" for factor, level in named if level is not None]
        return " · ".join(parts)

    def frame(self) -> pd.DataFrame:
        """Mean and change of every cell, in percent and points."""
        matrix, rows = self.facts.matrix, []
        for norm in self.norms:
            for variant in self.variants:
                label = self.labels.get((norm, variant))
                row: dict[str, Any] = {"norm": norm[0], "model": norm[1], "method": variant[0], "weight": variant[1]}
                row |= dict(zip(self.others, norm[2:], strict=True))
                if label is not None:
                    row |= {"mean": matrix.mean.at[label, AVERAGE], "low": matrix.low.at[label, AVERAGE]}
                    row |= {"high": matrix.high.at[label, AVERAGE], "seeds": matrix.seeds.at[label, AVERAGE]}
                if (effect := self.changes.get(str(label))) is not None:
                    interval = effect.estimate.interval
                    row |= {"change": interval.value, "change_low": interval.low, "change_high": interval.high}
                    row |= {"resolved": effect.resolved}
                rows.append(row | {"identity": (norm, variant) in self.identities})
        order = ["norm", "model", *self.others, "method", "weight", "mean", "low", "high", "seeds"]
        order += ["change", "change_low", "change_high", "resolved", "identity"]
        return pd.DataFrame(rows).reindex(columns=order)


def _variant(record: Record) -> Variant:
    return (record.factors.method, record.factors.method_weight)


def _table(facts: Facts, grid: _Grid) -> Table:
    matrix, rows, bold = facts.matrix, [], set()
    for i, norm in enumerate(grid.norms):
        cells = [grid.norm_name(norm)]
        for j, variant in enumerate(grid.variants, 1):
            label = grid.labels.get((norm, variant))
            if label is None or pd.isna(matrix.mean.at[label, AVERAGE]):
                cells.append(NOTHING if (norm, variant) in grid.identities else NONE)
                continue
            effect = grid.changes.get(label)
            if effect is None:
                half = matrix.half.at[label, AVERAGE]
                spread = "" if pd.isna(half) else f" ± {half:.1f}"
                cells.append(f"{matrix.mean.at[label, AVERAGE]:.1f}{spread}")
                continue
            fewer = len(effect.pairs) < len(matrix.pairs)
            over = f" ({counted(len(effect.pairs), 'pair')})" if fewer else ""
            cells.append(f"{matrix.mean.at[label, AVERAGE]:.1f}\n{_change(effect.estimate.interval)}{over}")
            if effect.resolved:
                bold.add((i, j))
        rows.append(cells)
    return Table(
        "methods",
        f"Average accuracy on the target (%), and its change against training on the source only "
        f"({counted(len(matrix.pairs), 'pair')})",
        ["Norm", *(grid.name(variant) for variant in grid.variants)],
        rows,
        frozenset(bold),
        [
            "Second line: change in points at the same norm, paired over seeds, pairs and images; ± is half of its "
            "95 % interval; brackets: over fewer pairs, because the source-only runs of others are missing. Bold: "
            "significant after Holm's correction. "
            f"{NOTHING}: the method does nothing for this norm. {NONE}: no result.",
            *_fewer_seeds(matrix),
        ],
    ).transposed_if_wide("Method")


def _fewer_seeds(matrix: Matrix) -> list[str]:
    """A sentence about rows whose numbers are of fewer seeds than others."""
    seeds = matrix.seeds[AVERAGE]
    fewer = [f"{label} ({counted(int(n), 'seed')})" for label, n in seeds.items() if 0 < n < seeds.max()]
    if not fewer:
        return []
    return [
        f"Fewer than {int(seeds.max())} seeds: {listed(fewer, 5)}. Changes are over common seeds, so there they are "
        "not differences of the averages shown; with one seed, ± is over images alone."
    ]


def _figure(grid: _Grid) -> Plot:
    mean = grid.facts.matrix.mean[AVERAGE]
    values = [
        [mean.get(grid.labels.get((norm, variant), ""), math.nan) for variant in grid.variants] for norm in grid.norms
    ]
    frame = pd.DataFrame(values, [grid.norm_name(norm) for norm in grid.norms], [grid.name(v) for v in grid.variants])
    return Plot(
        "methods",
        heatmap(frame, "Average accuracy on the target (%)", "{:.1f}"),
        "Norm by method. Hatched: no result, or the method does nothing for the norm.",
        wide=False,
    )


def _change(interval: Interval) -> str:
    return signed(interval.value) + (f" ± {interval.half:.1f}" if interval.known else "")


def _summary(grid: _Grid) -> str:
    matrix = grid.facts.matrix
    known = [
        (matrix.mean.at[label, AVERAGE], norm, variant)
        for (norm, variant), label in grid.labels.items()
        if pd.notna(matrix.mean.at[label, AVERAGE])
    ]
    if not known:
        return "No method has a result for every pair yet."
    best, norm, variant = max(known, key=lambda row: row[0])
    text = f"Best combination: {grid.norm_name(norm)} with {grid.name(variant)}, {best:.1f} %"
    text += f", a maximum over {len(known)} that uses target labels." if len(known) > 1 else "."
    clear = [effect for effect in grid.changes.values() if effect.resolved]
    up = sum(effect.estimate.interval.value > 0 for effect in clear)
    total = counted(len(grid.changes), "combination")
    return (
        f"{text} Against training on the source only, {up} of {total} of norm and method significantly higher, "
        f"{len(clear) - up} significantly lower."
    )


def _online(facts: Facts) -> pd.DataFrame:
    """Streams: accuracy when the images arrived and after the pass, one row for each label and pair; fractions."""
    rows = []
    for record in facts.records:
        if record.online is not None and record.target is not None:
            after = next(r.accuracy for r in record.results if (r.domain, r.selection) == (record.target, "last"))
            terms = record.curve[-1].terms if record.curve else {}
            logged = [terms.get(name, math.nan) for name in LOGGED]
            rows.append((facts.label(record), record.source, record.target, record.online.accuracy, after, *logged))
    names, means = ["label", "source", "target"], ["online", "after", *LOGGED]
    by_pair = pd.DataFrame(rows, columns=[*names, *means]).groupby(names, sort=False)
    return by_pair.agg(runs=("online", "size"), **{name: (name, "mean") for name in means}).reset_index()


def _online_table(online: pd.DataFrame) -> Table:
    rows = [
        [
            row["label"],
            arrow(row["source"], row["target"]),
            f"{100 * row['online']:.1f}",
            f"{100 * row['after']:.1f}",
            *(NONE if pd.isna(row[name]) else f"{100 * row[name]:.0f}" for name in LOGGED),
        ]
        for row in online.to_dict("records")
    ]
    return Table(
        "online",
        "Streams: accuracy when images arrived, and after the pass (%)",
        ["Norm and method", "Pair", "Online", "After", *(f"{name.capitalize()} (%)" for name in LOGGED)],
        rows,
        notes=[
            "Means over seeds. Used: share of images that the method trained on. Reset: share of images after whose "
            "batch it went back to the source network. Other tables show `after`."
        ],
    )


def _logged(facts: Facts) -> pd.DataFrame:
    """What methods logged in the first and last epoch, means over runs; one row for each label and name."""
    rows = []
    for record in facts.records:
        if len(record.curve) > 1:
            first, last = record.curve[0].terms, record.curve[-1].terms
            rows += [(facts.label(record), name, first[name], last[name]) for name in first.keys() & last.keys()]
    by_name = pd.DataFrame(rows, columns=["label", "quantity", "first", "last"]).groupby(["label", "quantity"])
    return by_name.agg(runs=("first", "size"), first=("first", "mean"), last=("last", "mean")).reset_index()


def _logged_table(logged: pd.DataFrame) -> Table:
    rows = [
        [row["label"], row["quantity"].replace("_", " "), f"{row['first']:.3g}", f"{row['last']:.3g}"]
        for row in logged.to_dict("records")
    ]
    return Table(
        "logged",
        "What methods logged: first and last epoch",
        ["Norm and method", "Quantity", "First epoch", "Last epoch"],
        rows,
        notes=[
            "Means over runs. Domain accuracy: of the discriminator, 0.5 where it cannot separate the domains. Feature "
            "scale: root mean square of the features."
        ],
    )
