"""Warnings about imbalanced targets and collapsed predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from da_wa.records.contrasts import Pair
from da_wa.report.outcomes import Array, Outcome
from da_wa.report.wording import arrow, counted, listed

UNEVEN = 0.1
"""A target is imbalanced if its largest class has this share of its images more than 1 / number of classes."""

MOST = 4
"""Sentences about collapsed rows; more rows are summarised in the last."""


def warnings(outcomes: Sequence[Outcome], classes: Sequence[str]) -> list[str]:
    """One sentence about imbalanced targets and one for each row with collapsed predictions.

    Args:
        outcomes: of all units.
        classes: their names.
    """
    return [*_imbalanced(outcomes, classes), *_collapsed(outcomes, classes)]


def class_counts(predicted: Iterable[Outcome]) -> dict[str, Array]:
    """How many evaluated images of each target are of each class, by target."""
    found: dict[str, Array] = {}
    by_target: dict[str, list[Outcome]] = {}
    for outcome in predicted:
        by_target.setdefault(outcome.target, []).append(outcome)
    for target, here in by_target.items():
        truth = np.full(1 + max(int(outcome.index.max()) for outcome in here), -1)
        for outcome in here:
            truth[outcome.index] = outcome.truth
        found[target] = np.bincount(truth[truth >= 0])
    return found


def collapsed(outcome: Outcome) -> tuple[int, int] | None:
    """The class that a unit predicts for too many images, and for how many; or ``None``.

    Predictions are collapsed if more than half of them are of one class and those of all other classes together are
    less than half as many as their images.

    >>> truth = np.array([0] * 7 + [1] * 3)
    >>> collapsed(Outcome("BN", "A", "W", 0, np.arange(10), truth, np.zeros(10, int), None))
    (0, 10)
    >>> collapsed(Outcome("BN", "A", "W", 0, np.arange(10), truth, truth, None))
    """
    n = len(outcome.predicted)
    counts = np.bincount(outcome.predicted.astype(np.int64))
    top = int(counts.argmax())
    others, wanted = n - int(counts[top]), int((outcome.truth != top).sum())
    return (top, int(counts[top])) if 2 * others < n and 2 * others < wanted else None


def _imbalanced(outcomes: Sequence[Outcome], classes: Sequence[str]) -> list[str]:
    found = []
    for target, counts in class_counts(outcomes).items():
        share = counts.max() / counts.sum()
        if share - 1 / len(classes) > UNEVEN:
            found.append(f"{target} ({classes[int(counts.argmax())]}: {100 * share:.1f} %)")
    if not found:
        return []
    return [f"Imbalanced targets, with the share of the largest class: {listed(found)}. Compare balanced accuracies."]


def _collapsed(outcomes: Sequence[Outcome], classes: Sequence[str]) -> list[str]:
    by_label: dict[str, dict[Pair, list[tuple[Outcome, int, int]]]] = {}
    for outcome in outcomes:
        if (found := collapsed(outcome)) is not None:
            by_label.setdefault(outcome.label, {}).setdefault((outcome.source, outcome.target), []).append(
                (outcome, *found)
            )
    lines: list[tuple[float, str, str]] = []
    for label, by_pair in by_label.items():
        collapses = [run for runs in by_pair.values() for run in runs]
        outcome, top, count = max(collapses, key=lambda run: run[2] / len(run[0].predicted))
        where = listed([f"{arrow(*pair)} ({counted(len(runs), 'run')})" for pair, runs in by_pair.items()], 4)
        text = (
            f"{label} predicts one class for most images on {where}; at worst class {classes[top]} for {count} of "
            f"{len(outcome.predicted)} images. Its accuracy there says little: compare balanced accuracies."
        )
        lines.append((count / len(outcome.predicted), label, text))
    if len(lines) <= MOST:
        return [text for _, _, text in lines]
    worst = sorted(lines, key=lambda line: -line[0])[: MOST - 1]
    rest = [label for _, label, text in lines if text not in {text for _, _, text in worst}]
    return [
        *(text for _, _, text in worst),
        f"{len(rest)} more rows predict one class for most images of a pair: {listed(rest, 8)}.",
    ]
