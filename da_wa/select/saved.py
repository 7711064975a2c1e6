"""Inputs of a score: saved arrays of one candidate, without target labels."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]


class NotSaved(ValueError):
    """An array that a score needs was not saved, or of too few images. The score has no value for this candidate."""


@dataclass(frozen=True, eq=False)
class Saved:
    """Outputs of one candidate: one network at one epoch, on the target and on held-out source images.

    Logits and features become read-only float64 copies, indices and labels read-only integers. Logits and features
    may cover different images: ``target_rows[i]`` is the row of ``target_logits`` of feature vector i.

    Args:
        target_logits: (n, k), k >= 2.
        target_features: (m, d), of all target images or of a sample.
        source_logits: (n_s, k), of the source images that were held out of training.
        source_labels: (n_s,), their labels, 0 ... k-1.
        source_features: (m_s, d).
        target_rows: (m,), rows of ``target_logits``; default: ``target_features`` covers all of them, in their order.
        source_rows: (m_s,), rows of ``source_logits``; default: likewise.
        mixed_logits: (p, k), of mixed target images .55 x_i + .45 x_j.
        mixed_rows: (p,), i, a row of ``target_logits`` each.

    Raises:
        ValueError: arrays that do not fit together, are empty, or hold NaN or infinity.

    >>> saved = Saved(target_logits=[[2.0, 0.0], [0.0, 1.0]])
    >>> saved.target_logits.shape
    (2, 2)
    >>> saved.need("source_labels")
    Traceback (most recent call last):
    da_wa.select.saved.NotSaved: needs source_labels, which was not saved
    """

    target_logits: Floats
    target_features: Floats | None = None
    source_logits: Floats | None = None
    source_labels: Integers | None = None
    source_features: Floats | None = None
    target_rows: Integers | None = None
    source_rows: Integers | None = None
    mixed_logits: Floats | None = None
    mixed_rows: Integers | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                index = field.name.endswith(("labels", "rows"))
                array = indices(field.name, value) if index else matrix(field.name, value)
                array.setflags(write=False)
                object.__setattr__(self, field.name, array)
        n, k = self.target_logits.shape
        if k < 2:
            raise ValueError(f"target_logits has {k} column; a score needs at least two classes")
        for name in ("source_logits", "mixed_logits"):
            if (other := getattr(self, name)) is not None and other.shape[1] != k:
                raise ValueError(f"{name} has {other.shape[1]} columns, target_logits {k}; both need one a class")
        self._pair("target_features", "target_rows", n)
        source = None if self.source_logits is None else len(self.source_logits)
        self._pair("source_features", "source_rows", source)
        if (self.mixed_logits is None) != (self.mixed_rows is None):
            raise ValueError("mixed_logits and mixed_rows go together")
        self._pair("mixed_logits", "mixed_rows", n)
        if self.source_labels is not None and source is not None:
            check_labels(self.source_labels, source, k)
        f, g = self.target_features, self.source_features
        if f is not None and g is not None and f.shape[1] != g.shape[1]:
            raise ValueError(f"target_features are {f.shape[1]} long, source_features {g.shape[1]}")

    def _pair(self, name: str, rows_name: str, n: int | None) -> None:
        values, rows = getattr(self, name), getattr(self, rows_name)
        if rows is not None and values is None:
            raise ValueError(f"{rows_name} without {name}")
        if values is None or n is None:
            return
        if rows is None and len(values) != n:
            raise ValueError(f"{name} has {len(values)} rows for {n} images; give {rows_name} for a sample")
        if rows is not None and len(rows) != len(values):
            raise ValueError(f"{rows_name} has {len(rows)} entries, {name} {len(values)} rows")
        if rows is not None and not (rows.min() >= 0 and rows.max() < n):
            raise ValueError(f"{rows_name} must lie in 0 ... {n - 1}; found {rows.min()} ... {rows.max()}")

    def need(self, name: str) -> npt.NDArray[np.float64]:
        """An array by name.

        Raises:
            NotSaved: it is None.
        """
        value: npt.NDArray[np.float64] | None = getattr(self, name)
        if value is None:
            raise NotSaved(f"needs {name}, which was not saved")
        return value

    def featured(self, domain: str) -> tuple[Floats, slice | Integers]:
        """Features of ``"target"`` or ``"source"`` images, and the rows of the logits that belong to them.

        Raises:
            NotSaved: there are no features.
        """
        rows = getattr(self, f"{domain}_rows")
        return self.need(f"{domain}_features"), slice(None) if rows is None else rows


def matrix(name: str, values: npt.ArrayLike) -> Floats:
    """A copy of ``values`` as (rows, columns) in float64.

    Raises:
        ValueError: another number of dimensions, an empty array, NaN or infinity.
    """
    array = np.array(values, dtype=np.float64, order="C")
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} must have shape (images, columns), both at least 1; found {array.shape}")
    bad = int((~np.isfinite(array)).any(axis=1).sum())
    if bad:
        raise ValueError(f"{name}: {bad} of {len(array)} rows contain NaN or infinity")
    return array


def indices(name: str, values: npt.ArrayLike) -> Integers:
    """A copy of ``values`` as a vector of integers.

    Raises:
        ValueError: another number of dimensions, an empty array, or numbers that are not integers.
    """
    array = np.array(values)
    if array.ndim != 1 or not array.size or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be integers of shape (images,); found {array.dtype} of shape {array.shape}")
    return array


def check_labels(labels: Integers, images: int, classes: int) -> None:
    """Check labels against the logits they belong to.

    Raises:
        ValueError: another number of images, or a label without a column.
    """
    if len(labels) != images:
        raise ValueError(f"{len(labels)} labels for the logits of {images} images")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must lie in 0 ... {classes - 1}; found {labels.min()} ... {labels.max()}")
