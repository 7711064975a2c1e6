"""What a study's table can show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from da_wa.records.design import Measure


@dataclass(frozen=True)
class Shown:
    """A measure, in percent.

    Attributes:
        title: in the header of a column.
        top: how many guesses a network has: the true class is among the ``top`` most likely.
        accuracy: images that are right, not those that are wrong.

    >>> MEASURES["top5_error"].of_error(7.0), MEASURES["accuracy"].of_error(7.0)
    (7.0, 93.0)
    """

    title: str
    top: int
    accuracy: bool

    def of_error(self, error: float) -> float:
        """The value for an error in percent."""
        return 100 - error if self.accuracy else error


MEASURES: Mapping[Measure, Shown] = {
    "error": Shown("error", 1, accuracy=False),
    "accuracy": Shown("accuracy", 1, accuracy=True),
    "top5_error": Shown("top-5 error", 5, accuracy=False),
    "top5_accuracy": Shown("top-5 accuracy", 5, accuracy=True),
}
"""All of them by name."""
