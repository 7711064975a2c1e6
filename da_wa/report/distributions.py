"""What a distribution of weights or activations is like: measures of rows of channels, (channels, values)."""

from __future__ import annotations

import numpy as np
from scipy import stats


def measures(rows: np.ndarray) -> dict[str, float]:
    """What a distribution is like, from rows of channels (or filters) of equal length, (channels, values).

    ``second_moment``: mean of squares. ``offset``: the share of it that is the squares of the channels' means, 0
    when every channel is centred and 1 when all are constant. ``spread``: the standard deviation of the channels'
    standard deviations over their mean, 0 when all are equally wide. ``skewness``: its absolute value, the
    median over the channels that are not constant. A share of nothing is NaN: where all values are zero, as in Fixup's
    last layers at initialisation, or all channels constant.

    >>> measures(np.array([[1.0, 3.0], [-1.0, -3.0]]))
    {'second_moment': 5.0, 'offset': 0.8, 'spread': 0.0, 'skewness': 0.0}
    """
    x = np.asarray(rows, np.float64)
    second, std = np.square(x).mean(), x.std(1)
    wide = x[std > 1e-6 * np.sqrt(second)]
    return {
        "second_moment": float(second),
        "offset": float(np.square(x.mean(1)).mean() / second) if second else np.nan,
        "spread": float(std.std() / std.mean()) if len(wide) else np.nan,
        "skewness": float(np.median(np.abs(stats.skew(wide, axis=1)))) if len(wide) else np.nan,
    }


QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def quantiles(rows: np.ndarray) -> dict[str, float]:
    """Standard deviation and :data:`QUANTILES` of all values together, from rows of channels (channels, values).

    >>> quantiles(np.arange(101).reshape(1, -1))["q05"]
    5.0
    """
    x = np.asarray(rows, np.float64)
    found = dict(zip(map(column, QUANTILES), map(float, np.quantile(x, QUANTILES)), strict=True))
    return {"std": float(x.std()), **found}


def column(quantile: float) -> str:
    """The column of a quantile.

    >>> column(0.05)
    'q05'
    """
    return f"q{round(100 * quantile):02d}"


def top_class(logits: np.ndarray) -> float:
    """The share of the images that get the most frequent answer, from logits (classes, images).

    >>> top_class(np.array([[1, 1, 1, 0], [0, 0, 0, 1]]))
    0.75
    """
    return float(np.bincount(logits.argmax(0)).max() / logits.shape[1])
