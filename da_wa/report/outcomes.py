"""What the finished runs of a ledger predicted: saved predictions -> arrays over the images of a domain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from da_wa.runs.ledger import Ledger, Record, RunDir

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Outcome:
    """What one run predicted for the images of one domain after its last epoch.

    Attributes:
        label: the norm.
        source: the domain that was trained on.
        target: the domain of the images.
        seed: of the run.
        index: (n,) the images' numbers in the domain.
        truth: (n,) their classes.
        predicted: (n,) the classes that were predicted.
        confidence: (n,) softmax probability of the predicted class, None where the run did not save it.
    """

    label: str
    source: str
    target: str
    seed: int
    index: Array
    truth: Array
    predicted: Array
    confidence: Array | None

    @property
    def right(self) -> Array:
        """(n,) bool."""
        return np.asarray(self.predicted == self.truth)


def saved(ledger: Ledger, records: Sequence[Record]) -> Iterator[tuple[Record, dict[str, Array]]]:
    """Every record beside the arrays that its run saved, one at a time: features can be large."""
    for record in records:
        yield record, RunDir(ledger.path / record["id"]).predictions()


def outcomes(record: Record, arrays: dict[str, Array]) -> list[Outcome]:
    """The run's predictions for each of its targets; nothing for a target whose predictions were not saved."""
    found = []
    for k, domain in enumerate(record["domains"]):
        if domain in record["targets"] and f"predicted_{k}" in arrays:
            confidence = arrays.get(f"confidence_{k}")
            found.append(
                Outcome(
                    record["label"],
                    record["source"],
                    domain,
                    record["seed"],
                    arrays[f"index_{k}"],
                    arrays[f"label_{k}"],
                    arrays[f"predicted_{k}"][int(np.argmax(arrays["epochs"]))],
                    None if confidence is None else confidence.astype(np.float32),
                )
            )
    return found


def features(record: Record, arrays: dict[str, Array]) -> dict[str, Array]:
    """(m, d) features after the last epoch of a fixed sample of every domain, by domain; empty if not saved."""
    return {
        domain: arrays[f"feature_{k}"].astype(np.float32)
        for k, domain in enumerate(record["domains"])
        if f"feature_{k}" in arrays
    }
