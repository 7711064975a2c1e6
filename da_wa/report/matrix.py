"""Accuracy of every row on every pair of domains, with its interval: the types that tables and figures read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from da_wa.records.contrasts import Pair

AVERAGE = "Avg"
HEADLINE = "last"
"""The selection rule of tables and figures: the last epoch, which uses no target labels."""

BOUNDS = ("low", "high")
"""Of an interval; the words that follow a column's name where each has its own column."""


@dataclass(frozen=True)
class Missing:
    """A planned result that does not exist.

    Attributes:
        label: the row of the table.
        source: the domain with labels.
        target: the domain to evaluate.
        seed: of the unit.
        reason: why it is missing.
        pretraining_seed: of the network it starts from; printed where there are several.
    """

    label: str
    source: str
    target: str
    seed: int
    reason: str
    pretraining_seed: int | None = None

    def __str__(self) -> str:
        return f"{self.label}  {self.source}->{self.target}  seed {self.seed}: {self.reason}"


@dataclass(frozen=True)
class Setting:
    """What all numbers of one table share.

    Attributes:
        dataset: its display name.
        model: the backbone; several are joined by "or".
        size: side of the images in pixels.
        protocol: which images train and which are evaluated.
        pretraining: the dataset of the pre-training, ``None`` without any.
        images: how many images of each target are evaluated.
        seeds: the seeds of the runs.
        pretraining_seeds: the seeds of the networks that runs started from, empty if unknown.
        majority: percent of each target's images that are of its largest class, by target.
        chance: percent right by guessing uniformly, 100 / number of classes.
    """

    dataset: str
    model: str
    size: int
    protocol: str
    pretraining: str | None
    images: Mapping[str, int]
    seeds: Sequence[int]
    pretraining_seeds: Sequence[int] = ()
    majority: Mapping[str, float] = field(default_factory=dict)
    chance: float = float("nan")


@dataclass(frozen=True)
class Matrix:
    """A pivot of accuracies: frames of the same shape, rows × columns.

    In the headline table rows are norms (and other factors that vary), columns are pairs and ``Avg``.

    Attributes:
        mean: percent, mean over runs; ``Avg`` is the unweighted mean of the pairs. NaN where a pair is missing.
        std: sample standard deviation over runs, NaN for fewer than two; for ``Avg`` that of the averages
            of those runs that have every pair.
        seeds: distinct seeds behind a cell; for ``Avg`` the smallest number of its pairs.
        pairs: (source, target) of the columns before ``Avg``; empty for other columns.
        selection: the rule that selected the epoch.
        setting: what the numbers share, ``None`` if there are none.
        low: lower bound of the 95 % interval (two-level bootstrap), NaN if unknown.
        high: upper bound.
        runs: trained networks behind a cell: seeds × pre-training seeds.
    """

    mean: pd.DataFrame
    std: pd.DataFrame
    seeds: pd.DataFrame
    pairs: Sequence[Pair]
    selection: str
    setting: Setting | None
    low: pd.DataFrame
    high: pd.DataFrame
    runs: pd.DataFrame

    def only(self, rows: Sequence[str]) -> Matrix:
        """Some rows, in the order given."""
        names = ("mean", "std", "seeds", "low", "high", "runs")
        return replace(self, **{name: getattr(self, name).loc[list(rows)] for name in names})

    @property
    def half(self) -> pd.DataFrame:
        """Half the width of each interval; NaN if unknown."""
        return (self.high - self.low) / 2

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
    def networks(self) -> int:
        """How many pre-training seeds there are; 1 if no cell has several."""
        several = int(self.runs.to_numpy().max(initial=0)) > self.most_seeds
        return len(self.setting.pretraining_seeds) if several and self.setting else 1

    @property
    def uneven(self) -> bool:
        """Whether some cells have fewer seeds than others; empty cells do not count."""
        return self.least_seeds < self.most_seeds


def column_names(pairs: Sequence[Pair]) -> list[str]:
    """Unique column names, ``A->W``; quoted where names with ``->`` in them would coincide, or one with a bound.

    >>> column_names([("A", "W"), ("W", "A")])
    ['A->W', 'W->A']
    >>> column_names([("A->B", "C"), ("A", "B->C")])
    ["'A->B'->'C'", "'A'->'B->C'"]
    >>> column_names([("A", "W"), ("A", "W low")])  # matrix.csv has a column "A->W low": the bound of A->W
    ["'A'->'W'", "'A'->'W low'"]
    """
    plain = [f"{source}->{target}" for source, target in pairs]
    bounds = [f"{name} {bound}" for name in plain for bound in BOUNDS]
    clear = len({*plain, *bounds}) == len([*plain, *bounds]) and AVERAGE not in plain
    return plain if clear else [f"{source!r}->{target!r}" for source, target in pairs]
