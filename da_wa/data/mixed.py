"""Mixtures of two images of a domain, for scores that read how stable predictions are (MixVal)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from da_wa.data.datamodule import Subset

SHARE = 0.55
"""Of the first image, see Hu et al. 2023 (MixVal)."""


@dataclass(frozen=True)
class Mixed:
    """Mixtures of images of one subset.

    Attributes:
        images: the mixtures, a domain of their own with the name of the one they are made from, and no true classes.
        first: (p,) int64, positions in the subset of the images that make up most of each mixture.
    """

    images: Subset
    first: np.ndarray


def mixed(subset: Subset, most: int) -> Mixed:
    """Mixtures .55 x_i + .45 x_j of random images i != j, the same for every network and seed.

    Args:
        subset: at least two images.
        most: the number of mixtures, if the subset has as many images.

    >>> from da_wa.data.cache import DecodedDomain
    >>> pixels = np.array([0, 100], np.uint8).reshape(2, 1, 1, 1)
    >>> domain = DecodedDomain("W", pixels, np.zeros(2, int), ("a", "b"), "digest", ("mug", "pen"))
    >>> made = mixed(Subset(domain, np.arange(2)), most=10)
    >>> made.first.tolist(), made.images.domain.pixels.ravel().tolist()
    ([0, 1], [45, 55])
    """
    n, draw = len(subset), np.random.default_rng(0)
    first = np.sort(draw.choice(n, min(most, n), replace=False))
    second = (first + draw.integers(1, n, len(first))) % n
    x, y = (subset.domain.pixels[subset.index[rows]].astype(np.float32) for rows in (first, second))
    pixels = np.rint(SHARE * x + (1 - SHARE) * y).astype(np.uint8)
    domain = replace(subset.domain, pixels=pixels, labels=np.zeros(len(first), subset.domain.labels.dtype))
    return Mixed(Subset(domain, np.arange(len(first))), first)
