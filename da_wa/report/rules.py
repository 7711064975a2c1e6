"""Rules of claims: which linear combinations of errors a claim is about, and where it says that they lie.

Of segmentation, it is mean intersection over union in the place of errors.

A selection is a mapping of factors to levels, one or a list of them. Cells that a rule compares are equal in every
factor that it does not name. A norm is compared by its ``weight`` and ``activation``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from da_wa.errors import ConfigError, nearest
from da_wa.records.design import Key

TRAINED = 0.9
"""A network that trains has less than this share of the error of guessing."""

Levels = Mapping[str, str]
"""The level of every factor of a cell, of ``weight`` and ``activation``, too."""

Selection = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Σ factor · error over cells, which the claim says lies between two bounds, in points.

    Attributes:
        terms: (factor, cell).
        low: lower bound, exclusive.
        high: upper bound, exclusive.
    """

    terms: tuple[tuple[float, Key], ...]
    low: float = -math.inf
    high: float = math.inf

    def margin(self, value: float) -> float:
        """How far inside the bounds a value lies, in points; negative outside, 0 on a bound.

        >>> Comparison((), high=0.0).margin(-math.inf), Comparison((), -1.0, 1.0).margin(3.0)
        (inf, -2.0)
        """
        below = math.inf if self.high == math.inf else self.high - value
        above = math.inf if self.low == -math.inf else value - self.low
        return min(below, above)


def comparisons(rule: Mapping[str, Any], cells: Mapping[Key, Levels], chance: float) -> list[Comparison]:
    """What a rule compares.

    Args:
        rule: of ``claims.yaml``.
        cells: the levels of each cell.
        chance: the error of guessing in percent.

    Raises:
        ConfigError: an unknown rule.

    >>> cells = {("bn",): {"norm": "bn", "weight": "plain", "activation": "bn"},
    ...          ("wa",): {"norm": "wa", "weight": "align", "activation": "none"}}
    >>> comparisons({"lower": {"norm": "bn"}, "than": {"norm": "wa"}}, cells, 99.0)[0].terms
    ((1.0, ('bn',)), (-1.0, ('wa',)))
    """
    kind = next(iter(rule))
    if kind not in RULES:
        raise ConfigError(f"a claim has the unknown rule {kind!r}. {nearest(kind, RULES)}")
    return list(RULES[kind](rule, cells, chance))


def absent(rule: Mapping[str, Any], cells: Mapping[Key, Levels]) -> list[str]:
    """Levels that a rule names and no cell has, and cells that have nothing to be compared with.

    Args:
        rule: of ``claims.yaml``.
        cells: the levels of each cell, also of those that cannot be trained.

    >>> absent({"lower": {"norm": "wa"}, "than": {"norm": ["bn", "ln"]}}, {("wa",): {"norm": "wa"}})
    ['bn', 'ln']
    """
    found = [
        level
        for selection in rule.values()
        if isinstance(selection, Mapping)
        for factor, chosen in _wanted(selection).items()
        for level in chosen
        if next(_matching({**selection, factor: level}, cells), None) is None
    ]
    compared = {key for comparison in comparisons(rule, cells, 100.0) for _, key in comparison.terms}
    alone = [" ".join(key) for key in _matching(rule[next(iter(rule))], cells) if key not in compared]
    return list(dict.fromkeys(found)) or alone


def _lower(rule: Mapping[str, Any], cells: Mapping[Key, Levels], chance: float) -> Iterator[Comparison]:
    for first, second in _paired(rule["lower"], rule["than"], cells):
        yield Comparison(((1.0, first), (-1.0, second)), high=0.0)


def _higher(rule: Mapping[str, Any], cells: Mapping[Key, Levels], chance: float) -> Iterator[Comparison]:
    for first, second in _paired(rule["higher"], rule["than"], cells):
        yield Comparison(((1.0, first), (-1.0, second)), low=0.0)


def _equal(rule: Mapping[str, Any], cells: Mapping[Key, Levels], chance: float) -> Iterator[Comparison]:
    for first, second in _paired(rule["equal"], rule["to"], cells):
        yield Comparison(((1.0, first), (-1.0, second)), -rule["within"], rule["within"])


def _gap(rule: Mapping[str, Any], cells: Mapping[Key, Levels], chance: float) -> Iterator[Comparison]:
    below, other = rule["below"], rule["than_at"]
    for first, second in _paired({**rule["gap"], **rule["smaller_at"]}, below, cells):
        for third in _partners(cells[first], other, cells):
            for fourth in _partners(cells[third], below, cells):
                yield Comparison(((-1.0, first), (1.0, second), (1.0, third), (-1.0, fourth)), high=0.0)


def _trains(rule: Mapping[str, Any], cells: Mapping[Key, Levels], chance: float) -> Iterator[Comparison]:
    for key in _matching(rule["trains"], cells):
        yield Comparison(((1.0, key),), high=TRAINED * chance)


def _fails(rule: Mapping[str, Any], cells: Mapping[Key, Levels], chance: float) -> Iterator[Comparison]:
    for key in _matching(rule["fails"], cells):
        yield Comparison(((1.0, key),), low=TRAINED * chance)


RULES: Mapping[str, Callable[[Mapping[str, Any], Mapping[Key, Levels], float], Iterator[Comparison]]] = {
    "lower": _lower,
    "higher": _higher,
    "equal": _equal,
    "gap": _gap,
    "trains": _trains,
    "fails": _fails,
}
"""The kinds of rules by their first key; ``claims.yaml`` describes them."""


def _paired(first: Selection, second: Selection, cells: Mapping[Key, Levels]) -> Iterator[tuple[Key, Key]]:
    for key in _matching(first, cells):
        for partner in _partners(cells[key], second, cells):
            yield key, partner


def _partners(cell: Levels, changes: Selection, cells: Mapping[Key, Levels]) -> Iterator[Key]:
    """Cells with the levels of ``changes`` that equal ``cell`` in all other factors."""
    free = set(changes) | {"norm"} | ({"weight", "activation"} if "norm" in changes else set())
    equal = {factor: level for factor, level in cell.items() if factor not in free}
    yield from _matching({**equal, **changes}, cells)


def _matching(selection: Selection, cells: Mapping[Key, Levels]) -> Iterator[Key]:
    wanted = _wanted(selection)
    for key, levels in cells.items():
        if all(levels.get(factor) in chosen for factor, chosen in wanted.items()):
            yield key


def _wanted(selection: Selection) -> dict[str, list[str]]:
    """The levels of a selection as lists."""
    return {factor: level if isinstance(level, list) else [level] for factor, level in selection.items()}
