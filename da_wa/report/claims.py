"""Whether the claims of the paper hold in the records of a study.

A claim is one or several comparisons, each a linear combination of errors with one interval. A comparison is as claimed
where its whole interval is, contrary where the whole interval lies outside (Bonferroni-corrected over the comparisons
of the claim), and open otherwise. A claim **holds** if all its comparisons are as claimed and none that it names is
absent, **does not** if one is contrary, and is **open** otherwise. Comparisons of several cells need two seeds or more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from da_wa.records.design import Design, Key
from da_wa.report.cells import Measured, Terms
from da_wa.report.rules import Comparison, Levels, absent, comparisons
from da_wa.report.statistics import ALPHA
from da_wa.report.wording import number, signed

Verdict = Literal["holds", "does not", "open"]

HERE = Path(__file__).parent


class Evidence(Protocol):
    """What a study measured, e.g. :class:`da_wa.report.cells.Cells`."""

    @property
    def design(self) -> Design:
        """Of the study."""
        ...

    @property
    def levels(self) -> Mapping[Key, Levels]:
        """The levels of all cells that can be trained."""
        ...

    @property
    def refused(self) -> Mapping[Key, Levels]:
        """The levels of the others."""
        ...

    def chance(self, top: int = 1) -> float:
        """Error of guessing in percent."""
        ...

    def measure(self, terms: Terms, top: int = 1) -> Measured | None:
        """Σ factor · value over cells, in points; None without a result."""
        ...


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        id: unique.
        table: the study that decides it.
        statement: one sentence.
        rule: see :mod:`da_wa.report.rules`.
        top: errors are top-1 or top-5.
    """

    id: str
    table: str
    statement: str
    rule: Mapping[str, Any]
    top: int = 1


@dataclass(frozen=True)
class Printed:
    """Numbers of the paper for one study.

    Attributes:
        title: where they stand, e.g. ``Table II``.
        factors: that name a number.
        errors: in percent as printed, ``None`` for "–", by the levels of ``factors``; top-1 and top-5. Of segmentation,
            mean intersections over union.
        note: what to know about them, or nothing.
    """

    title: str
    factors: Sequence[str]
    errors: Mapping[int, Mapping[Key, str | None]]
    note: str = ""

    def of(self, levels: Levels, top: int = 1) -> str | None:
        """The number of a cell, ``–`` where the paper has a dash, None where it has nothing.

        >>> printed()["table2"].of({"norm": "bn", "batch_size": "64", "model": "resnet50"})
        '4.30'
        """
        key = tuple(levels.get(factor, "") for factor in self.factors)
        errors = self.errors.get(top, {})
        return (errors[key] or "–") if key in errors else None


@dataclass(frozen=True)
class Finding:
    """What the records of one study say about a claim.

    Attributes:
        claim: of the paper.
        scope: of the study.
        verdict: see the module docstring.
        as_claimed: how many comparisons have the claimed sign or size, whatever their interval.
        measured: how many comparisons have results.
        planned: how many there are, those included that the study has no cells for.
        seeds: the smallest number of seeds of a comparison.
        evidence: the comparison that supports the claim least, of those that decide the verdict.
        paper: how many comparisons are as claimed in the paper's own numbers, and of how many.
    """

    claim: Claim
    scope: str
    verdict: Verdict
    as_claimed: int
    measured: int
    planned: int
    seeds: int
    evidence: str
    paper: tuple[int, int]


@cache
def claims() -> tuple[Claim, ...]:
    """All claims, in the order of ``claims.yaml``.

    >>> claims()[0].table
    'table1'
    """
    return tuple(Claim(**node) for node in yaml.safe_load((HERE / "claims.yaml").read_text(encoding="utf-8")))


@cache
def printed() -> Mapping[str, Printed]:
    """The paper's numbers by study."""
    found = yaml.safe_load((HERE / "paper.yaml").read_text(encoding="utf-8"))
    return {
        study: Printed(
            node["title"],
            node.get("factors", ()),
            {top: dict(_flat(node[cells], ())) for top, cells in ((1, "cells"), (5, "top5")) if cells in node},
            node.get("note", ""),
        )
        for study, node in found.items()
    }


def _flat(node: Any, key: Key) -> list[tuple[Key, str | None]]:
    if not isinstance(node, Mapping):
        return [(key, node)]
    return [row for level, child in node.items() for row in _flat(child, (*key, str(level)))]


def findings(found: Evidence) -> list[Finding]:
    """What a study says about each claim of its table.

    Raises:
        ConfigError: a claim has an unknown rule.
    """
    return [finding(claim, found) for claim in claims() if claim.table == found.design.study]


def finding(claim: Claim, found: Evidence) -> Finding:
    """What a study says about one claim.

    Raises:
        ConfigError: the claim has an unknown rule.
    """
    levels = found.levels
    missing = absent(claim.rule, {**levels, **found.refused})
    wanted = comparisons(claim.rule, levels, found.chance(claim.top))
    results = [(comparison, found.measure(comparison.terms, claim.top)) for comparison in wanted]
    known = [(comparison, measured) for comparison, measured in results if measured is not None]
    states = [_state(comparison, measured, len(wanted)) for comparison, measured in known]
    verdict: Verdict = "open"
    if "contrary" in states:
        verdict = "does not"
    elif known and len(known) == len(wanted) and not missing and set(states) == {"as claimed"}:
        verdict = "holds"
    deciding = {"holds": {"as claimed"}, "does not": {"contrary"}, "open": {"contrary", "open"}}[verdict]
    shown = [each for each, state in zip(known, states, strict=True) if state in deciding] or known
    return Finding(
        claim=claim,
        scope=found.design.scope,
        verdict=verdict,
        as_claimed=sum(c.margin(m.value) > 0 for c, m in known),
        measured=len(known),
        planned=len(wanted) + len(missing),
        seeds=min((measured.seeds for _, measured in known), default=0),
        evidence=_evidence(shown, found.design),
        paper=_in_the_paper(wanted, levels, printed().get(claim.table), claim.top),
    )


def _state(comparison: Comparison, measured: Measured, family: int) -> Literal["as claimed", "contrary", "open"]:
    if len(comparison.terms) > 1 and measured.seeds < 2:
        return "open"
    if min(map(comparison.margin, measured.bounds())) > 0:
        return "as claimed"
    low, high = measured.bounds(ALPHA / family)
    return "contrary" if high < comparison.low or low > comparison.high else "open"


def _evidence(known: Sequence[tuple[Comparison, Measured]], design: Design) -> str:
    """The comparison that is deepest outside, or nearest to the bounds of the claim."""
    if not known:
        return ""
    comparison, measured = min(known, key=lambda each: each[0].margin(each[1].value))
    shown = signed if len(comparison.terms) > 1 else number
    what = _compared([design.label(key) for _, key in comparison.terms])
    if math.isinf(measured.value):
        return f"{what}: diverged"
    low, high = measured.bounds()
    return f"{what}: {shown(measured.value)} ({shown(low)} to {shown(high)})"


def _compared(cells: Sequence[str]) -> str:
    """The terms of a comparison: a cell, a difference, or a difference of differences (:func:`rules._gap`)."""
    if len(cells) == 4:
        return f"({cells[1]} − {cells[0]}) − ({cells[3]} − {cells[2]})"
    return " against ".join(cells)


def _in_the_paper(
    wanted: Sequence[Comparison], levels: Mapping[Key, Levels], paper: Printed | None, top: int
) -> tuple[int, int]:
    """How many comparisons are as claimed in the paper's numbers, and how many can be made from them."""
    right = possible = 0
    for comparison in wanted:
        errors = [(factor, paper.of(levels[key], top) if paper else None) for factor, key in comparison.terms]
        if any(text is None for _, text in errors):
            continue
        value = sum(factor * (math.inf if text == "–" else float(str(text))) for factor, text in errors)
        if not math.isnan(value):
            possible += 1
            right += comparison.margin(value) > 0
    return right, possible
