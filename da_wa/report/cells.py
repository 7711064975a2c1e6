"""The cells of a study, from the records of all its folders, with one set of resamples.

A cell is one level of every factor; its runs differ in seeds alone. All cells share the resampled images, and runs of
equal seeds are paired, so any linear combination of cells has one interval (:mod:`da_wa.report.resampling`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from da_wa.errors import DataError
from da_wa.records.contrasts import Pair
from da_wa.records.design import Design, Key, level_text, read_design
from da_wa.records.schema import Factors, Record
from da_wa.records.store import Store
from da_wa.report.collection import mixed, twice
from da_wa.report.measures import MEASURES
from da_wa.report.outcomes import Outcome, outcomes
from da_wa.report.resampling import Replicate, Resamples
from da_wa.report.statistics import ALPHA, Precision

Terms = Sequence[tuple[float, Key]]
"""A linear combination of the errors of cells."""


@dataclass
class Cell:
    """The runs of one cell.

    Attributes:
        levels: of every factor, and ``weight`` and ``activation`` of the norm.
        refused: why it cannot be trained, or nothing.
        seeds: of the finished runs, with those of their pre-training.
        diverged: likewise of the runs that diverged.
        planned: seeds of planned runs without a result, with those of their pre-training.
        networks: the pre-training seeds that its finished runs start from; none if they are trained from scratch.
        pairs: (source, target) that were evaluated.
        images: how many images were evaluated, all targets together.
        unranked: how many finished runs do not say how likely the true class was, so that top-5 is not known.
    """

    levels: Mapping[str, str]
    refused: str = ""
    seeds: list[Replicate] = field(default_factory=list)
    diverged: list[Replicate] = field(default_factory=list)
    planned: set[Replicate] = field(default_factory=set)
    networks: set[int] = field(default_factory=set)
    pairs: list[Pair] = field(default_factory=list)
    images: int = 0
    unranked: int = 0

    @property
    def open(self) -> int:
        """How many planned runs have no result. A plan of other settings whose seed has a result is not counted."""
        return len(self.planned - {*self.seeds, *self.diverged})

    @property
    def fails(self) -> bool:
        """Whether it has runs, and all have diverged; false while one has no result."""
        return bool(self.diverged) and not self.seeds and not self.open

    def known(self, top: int) -> bool:
        """Whether it has one value: of the runs that are finished, with ``top`` guesses, or because all diverged."""
        finished = bool(self.seeds) and not self.diverged and (top == 1 or not self.unranked)
        return finished or self.fails


@dataclass(frozen=True)
class Measured:
    """A combination of errors in percent; infinite where a training diverged.

    Attributes:
        value: the mean over seeds.
        precision: behind its interval; nothing where it is infinite.
        seeds: how many seeds all its cells have.
    """

    value: float
    precision: Precision | None = None
    seeds: int = 1

    def bounds(self, alpha: float = ALPHA) -> tuple[float, float]:
        """The interval at level 1 − ``alpha``."""
        half = self.precision.half_width(alpha) if self.precision else 0.0
        return self.value - half, self.value + half


@dataclass(frozen=True)
class Cells:
    """All cells of a study.

    Attributes:
        design: of the study.
        cells: by their levels, in display order.
        resamples: of all finished runs, by how many guesses a network has: 1, and 5 where the study shows top-5.
        classes: how many there are; 0 without a run.
        mixed: a sentence about code, hardware or precision that differ among runs, or nothing.
    """

    design: Design
    cells: Mapping[Key, Cell]
    resamples: Mapping[int, Resamples]
    classes: int
    mixed: str

    @property
    def levels(self) -> Mapping[Key, Mapping[str, str]]:
        """The levels of all cells that can be trained."""
        return {key: cell.levels for key, cell in self.cells.items() if not cell.refused}

    @property
    def refused(self) -> Mapping[Key, Mapping[str, str]]:
        """The levels of the others."""
        return {key: cell.levels for key, cell in self.cells.items() if cell.refused}

    def chance(self, top: int = 1) -> float:
        """Error of guessing in percent; NaN without a run."""
        return 100 * (1 - min(top, self.classes) / self.classes) if self.classes else math.nan

    def measure(self, terms: Terms, top: int = 1) -> Measured | None:
        """Σ factor · error over cells, in points; None if a cell has no result, or two diverged ones cancel.

        Args:
            terms: factors and cells.
            top: the true class is among the ``top`` most likely.
        """
        found = [self.cells.get(key) for _, key in terms]
        if any(cell is None or not cell.known(top) for cell in found):
            return None
        cells = [cell for cell in found if cell is not None]
        infinite = {math.copysign(1.0, factor) for (factor, _), cell in zip(terms, cells, strict=True) if cell.fails}
        if len(infinite) > 1:
            return None
        if infinite:
            value = infinite.pop() * math.inf
            return Measured(value, seeds=min(len(cell.seeds or cell.diverged) for cell in cells))
        right = [
            (-100 * factor / len(cell.pairs), (_name(key), *pair))
            for (factor, key), cell in zip(terms, cells, strict=True)
            for pair in cell.pairs
        ]
        estimate = self.resamples[top].estimate(right) if top in self.resamples else None
        if estimate is None:
            return None
        whole = 100 * sum(factor for factor, _ in terms)
        return Measured(whole + estimate.interval.value, estimate.precision, estimate.seeds)


def read_cells(out: Path) -> Cells:
    """Read the records of a study.

    Args:
        out: its folder, with ``study.json``.

    Raises:
        DataError: it is not the folder of a study, a file cannot be read, or two runs give the same cell and seed.
    """
    design = read_design(out)
    cells = {key: _cell(design, key) for key in product(*design.factors.values())}
    for refusal, cell in product(design.refused, cells.values()):
        if refusal.levels.items() <= cell.levels.items():
            cell.refused = refusal.reason
    found: list[Outcome] = []
    records: list[Record] = []
    classes: set[int] = set()
    for folder in design.folders:
        for run in Store(out / folder).runs():
            record = run.verified()
            factors = (record or run.planned()).factors
            key = _key(design, factors)
            if key not in cells:  # of an earlier command with more levels
                continue
            if record is None:
                cells[key].planned.add(_replicate(factors))
                continue
            records.append(record)
            classes.add(len(record.classes))
            _add(cells[key], record, out / folder)
            if record.error is None:
                of_run = outcomes(record, run.outputs(record), _name(key), record.targets)
                cells[key].unranked += any(outcome.rank is None for outcome in of_run)
                found += of_run
    if len(classes) > 1:
        raise DataError(f"{out}: its runs have {sorted(classes)} classes and cannot stand in one table.")
    tops = {1, *(MEASURES[measure].top for measure in design.measures)}
    resamples = {
        top: Resamples([outcome.top(top) for outcome in found if top == 1 or outcome.rank is not None])
        for top in sorted(tops)
    }
    computed = " ".join(filter(None, [mixed([record.provenance for record in records]), twice(records)]))
    return Cells(design, cells, resamples, classes.pop() if classes else 0, computed)


def _cell(design: Design, key: Key) -> Cell:
    levels = dict(zip(design.factors, key, strict=True))
    return Cell(levels | design.norms.get(levels.get("norm", ""), {}))


def _key(design: Design, factors: Factors) -> Key:
    return tuple(level_text(getattr(factors, factor)) for factor in design.factors)


def _replicate(factors: Factors) -> Replicate:
    return (factors.pretraining_seed or 0, factors.seed)


def _name(key: Key) -> str:
    return "\0".join(key)  # a level may have spaces


def _add(cell: Cell, record: Record, folder: Path) -> None:
    """Count a run."""
    seed = _replicate(record.factors)
    if seed in (*cell.seeds, *cell.diverged):
        raise DataError(
            f"{folder} contains two runs of {', '.join(cell.levels.values())} with seed {record.factors.seed}. "
            "Use a separate out=DIR per study."
        )
    if record.error is not None:
        cell.diverged.append(seed)
        return
    cell.seeds.append(seed)
    if record.factors.pretraining_seed is not None:
        cell.networks.add(record.factors.pretraining_seed)
    last = [row for row in record.results if (row.role, row.selection) == ("target", "last")]
    cell.pairs = list(dict.fromkeys([*cell.pairs, *((record.source, row.domain) for row in last)]))
    cell.images = max(cell.images, sum(row.n for row in last))
