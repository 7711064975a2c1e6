"""Splits into training and evaluation images: seeded hold-outs and the protocols.

``full`` is the usual protocol of Office-31. ``paper`` follows the paper's Table VI, whose percentages are multiples of
1/415, 1/73 and 1/130: random 15 % subsets of the domains. ``whole`` holds nothing out, as on CIFAR.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from da_wa.errors import ConfigError, DataError, nearest, printable


class Split(NamedTuple):
    """Images of a source domain, by number: ``train`` and ``holdout``, sorted int64, disjoint.

    >>> Split(np.array([0, 2]), np.array([1])).holdout.tolist()
    [1]
    """

    train: np.ndarray
    holdout: np.ndarray


class Evaluation(Protocol):
    """An evaluation protocol: which images of a source train, and which of a target are evaluated."""

    @property
    def name(self) -> str:
        """Its name in records."""

    def source(self, name: str, labels: np.ndarray, seed: int) -> Split:
        """Training and held-out images of the domain ``name`` with ``labels`` (n,)."""

    def target(self, name: str, labels: np.ndarray, seed: int) -> np.ndarray:
        """The images of the domain ``name`` that are evaluated, sorted int64."""


def stratified_holdout(labels: np.ndarray, fraction: float, seed: int) -> Split:
    """Hold out the same fraction of every class.

    A class of *n* images gives ``fraction · n`` of them, rounded half up, but always keeps one.

    Args:
        labels: (n,) int64.
        fraction: between 0 and 1.
        seed: the same seed gives the same split.

    Raises:
        ConfigError: ``fraction`` is not a number between 0 and 1.

    >>> split = stratified_holdout(np.array([0] * 10 + [1] * 20), 0.1, seed=0)
    >>> len(split.train), len(split.holdout)
    (27, 3)
    """
    _check_fraction(fraction)
    draw = np.random.default_rng(seed)
    holdout = [np.empty(0, np.int64)]
    for images in _by_class(labels):
        members = draw.permutation(images)
        holdout.append(members[: min(_rounded(fraction * len(members)), len(members) - 1)])
    return _split(len(labels), np.concatenate(holdout))


@dataclass(frozen=True)
class Full:
    """Train on the source less a small stratified hold-out; evaluate on every image of a target.

    Args:
        holdout: the fraction of the source that is held out.
        name: the protocol's name in records.

    >>> Full().target("W", np.array([0, 1, 1]), seed=0).tolist()
    [0, 1, 2]
    """

    holdout: float = 0.1
    name: str = "full"

    def source(self, name: str, labels: np.ndarray, seed: int) -> Split:
        """Training and held-out images; every class keeps at least one for training.

        Raises:
            DataError: the hold-out would be empty.
        """
        split = stratified_holdout(labels, self.holdout, seed)
        if len(split.holdout) == 0:
            raise DataError(
                f"{printable(name)}: no class has enough images to hold out {self.holdout:.0%} for validation. "
                "Add images, or raise protocol.holdout (0.5 needs two images in a class)."
            )
        return split

    def target(self, name: str, labels: np.ndarray, seed: int) -> np.ndarray:
        """Every image."""
        return np.arange(len(labels))


@dataclass(frozen=True)
class Whole:
    """Train on every image of the source and evaluate every image of a target; nothing is held out.

    Args:
        name: the protocol's name in records.

    >>> split = Whole().source("train", np.array([0, 1, 1]), seed=0)
    >>> split.train.tolist(), split.holdout.tolist()
    ([0, 1, 2], [])
    """

    name: str = "whole"

    def source(self, name: str, labels: np.ndarray, seed: int) -> Split:
        """Every image for training."""
        return Split(np.arange(len(labels)), np.empty(0, np.int64))

    def target(self, name: str, labels: np.ndarray, seed: int) -> np.ndarray:
        """Every image."""
        return np.arange(len(labels))


@dataclass(frozen=True)
class Paper:
    """Hold out a random subset of every domain; train on the rest of the source, evaluate on a target's subset.

    Args:
        holdout: the fraction of a domain that is held out, rounded half up; unstratified.
        sizes: the number of images held out of each domain instead, e.g. the paper's A 415, D 73, W 130.
        name: the protocol's name in records.

    >>> labels = np.zeros(795, np.int64)
    >>> len(Paper().target("W", labels, seed=0)), len(Paper(sizes={"W": 130}).target("W", labels, seed=0))
    (119, 130)
    """

    holdout: float = 0.15
    sizes: Mapping[str, int] | None = None
    name: str = "paper"

    def source(self, name: str, labels: np.ndarray, seed: int) -> Split:
        """Training and held-out images.

        Raises:
            ConfigError: ``sizes`` does not fit the domain.
            DataError: the hold-out would be empty, or a class would lose all its training images.
        """
        split = self._split(name, labels, seed)
        lost = np.setdiff1d(labels, labels[split.train])
        if len(lost):
            raise DataError(
                f"{printable(name)}: the random hold-out leaves no training image of the labels {lost.tolist()}. "
                "Add images, lower protocol.holdout, or use protocol=full, which holds out per class."
            )
        return split

    def target(self, name: str, labels: np.ndarray, seed: int) -> np.ndarray:
        """The domain's hold-out: the same images as when the domain is the source."""
        return self._split(name, labels, seed).holdout

    def _split(self, name: str, labels: np.ndarray, seed: int) -> Split:
        size = self._size(name, len(labels))
        draw = np.random.default_rng([seed, zlib.crc32(name.encode(errors="surrogateescape"))])
        return _split(len(labels), draw.permutation(len(labels))[:size])

    def _size(self, name: str, n: int) -> int:
        if self.sizes is not None and not isinstance(self.sizes, Mapping):
            raise ConfigError(f"protocol.sizes={self.sizes}: give images per domain, e.g. protocol.sizes={{A: 415}}.")
        if self.sizes:
            if name not in self.sizes:
                raise ConfigError(f"protocol.sizes has no number for domain {name!r}. {nearest(name, self.sizes)}")
            size = self.sizes[name]
            if not isinstance(size, int) or isinstance(size, bool) or not 0 < size < n:
                raise ConfigError(
                    f"protocol.sizes.{printable(name)}={size}: the domain has {n} images; "
                    f"hold out a whole number from 1 to {n - 1}."
                )
            return size
        _check_fraction(self.holdout)
        size = _rounded(self.holdout * n)
        if size == 0:
            raise DataError(
                f"{printable(name)}: {self.holdout:.0%} of {n} images is none. Add images or raise protocol.holdout."
            )
        return size


def check_batch(
    name: str, images: int, batch_size: int, kind: str = "training", key: str = "finetune.batch_size"
) -> None:
    """Raise a ConfigError when the images of a domain do not fill one batch.

    Args:
        name: of the domain.
        images: how many there are.
        batch_size: how many are needed.
        kind: what they are for.
        key: the option that sets the batch size.

    >>> check_batch("W", images=80, batch_size=80)
    """
    if images >= batch_size:
        return
    if images == 0:
        raise ConfigError(f"{printable(name)} has no {kind} images. Choose other domains or another protocol.")
    raise ConfigError(
        f"{printable(name)} has {images} {kind} images, fewer than one batch of {batch_size}. "
        f"Set the batch size to {images} or less ({key}=…)."
    )


def _split(n: int, holdout: np.ndarray) -> Split:
    return Split(np.setdiff1d(np.arange(n), holdout), np.sort(holdout))


def _by_class(labels: np.ndarray) -> list[np.ndarray]:
    """The images of each class, ascending, by one sort: cheap for thousands of classes."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(order) else []


def _rounded(x: float) -> int:
    """Round half up, also where a fraction like 0.15 is a little less than it says."""
    return math.floor(x + 0.5 + 1e-9)


def _check_fraction(fraction: float) -> None:
    if not isinstance(fraction, int | float) or not 0 < fraction < 1:  # neither True nor nan is between 0 and 1
        raise ConfigError(f"protocol.holdout={fraction}: give a fraction between 0 and 1, e.g. 0.1.")
