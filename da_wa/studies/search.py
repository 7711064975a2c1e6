"""Where a search over learning rates or numbers of epochs goes next."""

from __future__ import annotations

import math
from collections.abc import Mapping


def best_rate(accuracies: Mapping[float, float | None]) -> float | None:
    """The rate of the highest accuracy, the smallest of equal ones; None if all diverged.

    Args:
        accuracies: of every rate; None where the training diverged.

    >>> best_rate({0.1: 0.3, 0.2: 0.3, 0.4: None})
    0.1
    """
    finite = {rate: accuracy for rate, accuracy in accuracies.items() if accuracy is not None}
    return max(sorted(finite), key=finite.__getitem__) if finite else None


def next_rate(accuracies: Mapping[float, float | None]) -> float | None:
    """The rate to train next: half the smallest or twice the largest, while that one is the best; else None.

    Args:
        accuracies: see :func:`best_rate`; if all diverged, the next rate is smaller.

    >>> next_rate({0.1: 0.2, 0.2: 0.3, 0.4: 0.1}), next_rate({0.1: 0.2, 0.2: 0.3}), next_rate({0.1: None, 0.2: None})
    (None, 0.4, 0.05)
    """
    best, smallest, largest = best_rate(accuracies), min(accuracies), max(accuracies)
    if best is None or best == smallest:
        return smallest / 2
    return 2 * largest if best == largest else None


def next_epochs(
    accuracies: Mapping[int, float], level: float, tolerance: float, guesses: Mapping[int, float]
) -> int | None:
    """How long to train next to come nearer to ``level``; None if it is near enough, or no number lies between.

    Accuracy is taken to be linear in the logarithm of the epochs.

    Args:
        accuracies: by the number of epochs of a whole training; one of them or more.
        level: the accuracy that is wanted, at most that of the longest training.
        tolerance: a difference that is near enough.
        guesses: accuracies of similar trainings, for choosing the first.

    >>> next_epochs({20: 0.6}, 0.4, 0.01, {2: 0.3}), next_epochs({20: 0.6}, 0.4, 0.01, {})
    (4, 10)
    >>> next_epochs({20: 0.6}, 0.1, 0.01, {2: 0.3}), next_epochs({20: 0.6, 1: 0.2}, 0.1, 0.01, {})
    (1, None)
    >>> next_epochs({20: 0.6, 4: 0.44}, 0.4, 0.01, {2: 0.3}), next_epochs({20: 0.6, 4: 0.44, 3: 0.38}, 0.4, 0.01, {})
    (3, None)
    """
    if abs(accuracies[nearest_epochs(accuracies, level)] - level) <= tolerance:
        return None
    above = min((n for n, reached in accuracies.items() if reached >= level), default=0)
    below = max((n for n in accuracies if n < above), default=0)
    if above - below < 2:
        return None
    known = {n: reached for n, reached in guesses.items() if below < n < above} | dict(accuracies)
    upper = min(n for n, reached in known.items() if n > below and reached >= level)
    lower = max((n for n in known if n < upper), default=None)
    if lower is None:
        return max(upper // 2, 1)
    share = (level - known[lower]) / (known[upper] - known[lower])
    wanted = round(lower * math.exp(share * math.log(upper / lower)))
    return min(max(wanted, below + 1), above - 1)


def nearest_epochs(accuracies: Mapping[int, float], level: float) -> int:
    """The number of epochs whose accuracy is nearest to ``level``, the smallest of equally near ones.

    >>> nearest_epochs({20: 0.6, 4: 0.44, 3: 0.38}, 0.4)
    3
    """
    return min(sorted(accuracies), key=lambda n: abs(accuracies[n] - level))
