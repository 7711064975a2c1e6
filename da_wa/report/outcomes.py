"""Predictions of a unit for one domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from da_wa.records.outputs import DomainOutputs, Outputs
from da_wa.records.schema import Record

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Outcome:
    """Predictions of one unit for the images of one target after the last epoch.

    Attributes:
        label: the row of the table, e.g. ``BN + WA``.
        source: the domain with labels.
        target: the domain of the images.
        seed: of the unit.
        index: (n,) the images' numbers in the domain.
        truth: (n,) their classes.
        predicted: (n,) the predicted classes.
        confidence: (n,) softmax probability of the predicted class, ``None`` if it was not saved.
        pretraining_seed: of the network that the unit started from.
        unit_target: the target of a unit trained for one pair; ``None`` for a network evaluated on every target.
        rank: (n,) how many classes are more likely than the true one, ``None`` if it was not saved.
        network: the name of the pre-trained network that the unit started from, ``None`` without pre-training.
    """

    label: str
    source: str
    target: str
    seed: int
    index: Array
    truth: Array
    predicted: Array
    confidence: Array | None
    pretraining_seed: int | None = None
    unit_target: str | None = None
    rank: Array | None = None
    network: str | None = None

    @property
    def right(self) -> Array:
        """(n,) bool."""
        return np.asarray(self.predicted == self.truth)

    @property
    def replicate(self) -> tuple[int, int]:
        """(pre-training seed, seed); a pre-training without a seed counts as -1."""
        return (-1 if self.pretraining_seed is None else self.pretraining_seed, self.seed)

    def top(self, k: int) -> Outcome:
        """Of k guesses instead of one: the true class counts as predicted where it is among the k most likely.

        >>> truth, predicted, rank = np.array([0, 1, 2]), np.array([0, 2, 1]), np.array([0, 1, 2])
        >>> Outcome("BN", "A", "W", 0, np.arange(3), truth, predicted, None, rank=rank).top(2).right.tolist()
        [True, True, False]
        """
        if k == 1:
            return self
        assert self.rank is not None, "ranks were not saved"
        return replace(self, predicted=np.where(self.rank < k, self.truth, self.predicted))


def outcomes(record: Record, outputs: Outputs, label: str, domains: Sequence[str]) -> list[Outcome]:
    """The unit's predictions for each of ``domains`` after the last epoch; none for a domain without outputs."""
    found = []
    for name in domains:
        if (domain := outputs.domains.get(name)) is not None:
            last = int(np.argmax(outputs.epochs))
            confidence = None if domain.confidence is None else domain.confidence.astype(np.float32)
            found.append(
                Outcome(
                    label,
                    record.source,
                    name,
                    record.factors.seed,
                    domain.index,
                    domain.labels,
                    domain.predicted[last],
                    confidence,
                    rank=domain.rank,
                    **origin(record),
                )
            )
    return found


def origin(record: Record) -> dict[str, Any]:
    """What an :class:`Outcome` says of the networks that its unit trained and started from."""
    return {
        "pretraining_seed": record.factors.pretraining_seed,
        "unit_target": record.target,
        "network": None if record.pretraining is None else record.pretraining.name,
    }


def balanced_accuracy(truth: Array, predicted: Array) -> float:
    """Mean of the recalls of the classes that are present, a fraction (Brodersen et al. 2010).

    Args:
        truth: (n,) classes.
        predicted: (n,) predicted classes.

    >>> balanced_accuracy(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0]))
    0.5
    """
    _, position, size = np.unique(truth, return_inverse=True, return_counts=True)
    right = np.bincount(position, weights=predicted == truth, minlength=len(size))
    return float((right / size).mean())


def balanced_by_epoch(domain: DomainOutputs, epochs: Array) -> dict[int, float]:
    """Balanced accuracy after each evaluated epoch, by epoch."""
    return {int(e): balanced_accuracy(domain.labels, p) for e, p in zip(epochs, domain.predicted, strict=True)}
