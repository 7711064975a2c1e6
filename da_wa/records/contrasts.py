"""What is compared: rows of a table that differ in one factor only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np

BASES: Mapping[str, str] = {"weight": "plain", "method": "none"}
"""The level that the other levels of a factor are compared with, unless another is asked for."""

IMPLIED = {
    "norm": ("weight", "activation"),
    "weight": ("norm",),
    "activation": ("norm",),
    "method": ("method_weight",),
}
"""What else may differ where a factor is compared: a norm has two parts, and only a method has a weight of its own."""

LEVELS = {
    ("weight", "align"): "WA",
    ("weight", "standardize"): "WS",
    ("weight", "scaled_standardize"): "scaled WS",
    ("weight", "center"): "CWN",
    ("weight", "weight_norm"): "WN",
    ("weight", "align_mean"): "WA (mean only)",
    ("weight", "align_std"): "WA (deviation only)",
    ("weight", "align_half"): "WA (half)",
    ("weight", "align_double"): "WA (double)",
    ("weight", "align_tenth"): "WA (tenth)",
    ("weight", "align_tenfold"): "WA (tenfold)",
}
"""Names of levels, in the order in which they are reported; a level without a name is its own."""

Pair = tuple[str, str]
"""(source, target)."""

Cell = tuple[str, str, str]
"""(label of the row, source, target)."""

Row = Mapping[str, Any]
"""The level of every factor that may differ among rows, see :attr:`da_wa.report.facts.Facts.levels`."""


@dataclass(frozen=True)
class Contrast:
    """A factor at one level against its base, with every other factor equal.

    Attributes:
        factor: ``norm``, ``weight``, ``activation`` or ``method``.
        value: the level.
        base: the level that it is compared with.
        rows: (label at the base, label at the level) of each comparison that is averaged.
        name: for display, e.g. ``BN → BN + WA``.
    """

    factor: str
    value: str
    base: str
    rows: Sequence[tuple[str, str]]
    name: str

    def terms(self, pairs: Sequence[Pair]) -> list[tuple[float, Cell]]:
        """The mean over ``pairs`` and rows of level - base, in points."""
        share = 100.0 / (len(pairs) * len(self.rows))
        return [
            (factor, (label, *pair))
            for base, changed in self.rows
            for pair in pairs
            for factor, label in ((share, changed), (-share, base))
        ]


def level_name(factor: str, level: str, labels: Mapping[tuple[str, Any], str] = MappingProxyType({})) -> str:
    """How a level is called, e.g. ``WA`` for ``weight=align``.

    Args:
        factor: ``norm``, ``weight``, ``activation`` or ``method``.
        level: of it.
        labels: display names by (factor, level).
    """
    return LEVELS.get((factor, level)) or labels.get((factor, level), level)


def contrasts(
    rows: Mapping[str, Row], factor: str = "weight", base: str | None = None, levels: Sequence[str] | None = None
) -> list[Contrast]:
    """Every level of a factor against its base, at equal levels of the other factors.

    Two methods are compared at equal weights of their losses, if they have such.

    Args:
        rows: the levels of ``norm``, ``weight``, ``activation``, ``method`` and whatever else varies, by label.
        factor: ``norm``, ``weight``, ``activation`` or ``method``.
        base: the level that the others are compared with; default: that of :data:`BASES`.
        levels: the others; default: all.

    >>> levels = {"BN": ("plain", "bn"), "BN + WA": ("align", "bn"), "LN": ("plain", "ln")}
    >>> rows = {label: {"weight": w, "activation": a, "method": "none"} for label, (w, a) in levels.items()}
    >>> [contrast.name for contrast in contrasts(rows)]
    ['BN → BN + WA']
    >>> [contrast.name for contrast in contrasts(rows, "activation", base="ln")]
    ['LN → BN']
    """
    base = BASES[factor] if base is None else base
    found, places = [], [_others(row, factor) for row in rows.values() if row[factor] == base]
    wanted = [value for value in _levels(rows, factor, base) if levels is None or value in levels]
    for value, at in product(wanted, [place for k, place in enumerate(places) if place not in places[:k]]):
        here = {label: row[factor] for label, row in rows.items() if _others(row, factor) == at}
        compared = [(a, b) for a, b in product(here, repeat=2) if (here[a], here[b]) == (base, value)]
        alike = [pair for pair in compared if len({rows[label].get(n) for label in pair for n in IMPLIED[factor]}) == 1]
        found += [Contrast(factor, value, base, [pair], " → ".join(pair)) for pair in alike or compared]
    return found


def _levels(rows: Mapping[str, Row], factor: str, base: str) -> list[str]:
    present = list(dict.fromkeys(str(row[factor]) for row in rows.values() if row[factor] != base))
    known = [level for name, level in LEVELS if name == factor]
    return sorted(present, key=lambda level: known.index(level) if level in known else len(known))


def _others(row: Row, factor: str) -> Row:
    """What has to be equal."""
    ignored = {factor, *IMPLIED[factor]}
    return {name: level for name, level in row.items() if name not in ignored}


def of_interest(rows: Mapping[str, Row], wanted: Sequence[str] | None = None) -> list[Contrast]:
    """Contrasts of two rows that a decision is asked for.

    Args:
        rows: see :func:`contrasts`.
        wanted: levels that are compared with their base, e.g. ``["align", "dann"]``; default: WeightAlign at each norm,
            and each method against none.

    >>> levels = {"BN": ("plain", "none"), "BN + WA": ("align", "none"), "BN + WS": ("standardize", "none")}
    >>> rows = {label: {"weight": w, "activation": "bn", "method": m} for label, (w, m) in levels.items()}
    >>> [contrast.name for contrast in of_interest(rows)]
    ['BN → BN + WA']
    >>> [contrast.name for contrast in of_interest(rows, ["standardize"])]
    ['BN → BN + WS']
    """
    found = [contrast for factor in BASES for contrast in contrasts(rows, factor)]
    if wanted is not None:
        return [contrast for contrast in found if contrast.value in wanted]
    return [contrast for contrast in found if contrast.factor == "method" or contrast.value == "align"]


def by_seed(
    contrast: Contrast, pairs: Sequence[Pair], accuracies: Mapping[Cell, Mapping[tuple[int, int], float]]
) -> dict[int, float]:
    """The mean difference over the pairs for each seed that has them all, in points, in the order of seeds.

    Differences are rounded to 1e-9 points: those that cancel are 0, not a rest of rounding, which a t statistic would
    take for evidence.

    Args:
        contrast: of rows.
        pairs: over which pairs.
        accuracies: fractions by cell, then by (pre-training seed, seed). A difference is the mean over the pre-training
            seeds that all of its cells have.

    >>> accuracies = {("BN", "A", "W"): {(0, 0): 0.5, (0, 1): 0.4}, ("BN + WA", "A", "W"): {(0, 0): 0.75}}
    >>> contrast = Contrast("weight", "align", "plain", [("BN", "BN + WA")], "")
    >>> by_seed(contrast, [("A", "W")], accuracies)
    {0: 25.0}
    """
    terms = contrast.terms(pairs)
    cells = [accuracies.get(cell, {}) for _, cell in terms]
    networks = sorted(set.intersection(*({p for p, _ in cell} for cell in cells))) if cells else []
    found = {}
    for seed in sorted({seed for cell in cells for _, seed in cell}):
        if networks and all((p, seed) in cell for cell in cells for p in networks):
            of_networks = [
                sum(factor * cell[p, seed] for (factor, _), cell in zip(terms, cells, strict=True)) for p in networks
            ]
            found[seed] = round(float(np.mean(of_networks)), 9)
    return found
