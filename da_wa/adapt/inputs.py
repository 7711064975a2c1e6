"""Precision and shape checks that all losses share."""

from __future__ import annotations

import torch
from torch import Tensor

from da_wa.norm.precision import at_least_float32


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` in the type of ``a`` and ``b``, also under autocast, which would multiply in half precision.

    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     product(torch.ones(1, 2), torch.ones(2, 1)).dtype
    torch.float32
    """
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def batch(x: Tensor, name: str, *, rows: int = 1, columns: int = 1) -> Tensor:
    """``x`` after a check of its shape, in float32 at least.

    Args:
        x: (n, columns).
        name: what ``x`` is, for the message.
        rows: the smallest n.
        columns: the smallest number of columns.

    Raises:
        ValueError: ``x`` has another shape.

    >>> batch(torch.zeros(1, 3), "source features", rows=2)
    Traceback (most recent call last):
        ...
    ValueError: source features of shape (1, 3): expected two dimensions of at least (2, 1)
    """
    if x.ndim != 2 or x.shape[0] < rows or x.shape[1] < columns:
        raise ValueError(f"{name} of shape {tuple(x.shape)}: expected two dimensions of at least ({rows}, {columns})")
    return at_least_float32(x)


def pair(source: Tensor, target: Tensor, name: str, *, rows: int = 1, columns: int = 1) -> tuple[Tensor, Tensor]:
    """Two batches with the same number of columns, (n_s, d) and (n_t, d), see :func:`batch`.

    Raises:
        ValueError: a batch is too small, or the numbers of columns differ.

    >>> pair(torch.zeros(4, 3), torch.zeros(2, 5), "features")
    Traceback (most recent call last):
        ...
    ValueError: source features (4, 3) and target features (2, 5) must have the same number of columns
    """
    source = batch(source, f"source {name}", rows=rows, columns=columns)
    target = batch(target, f"target {name}", rows=rows, columns=columns)
    if source.shape[1] != target.shape[1]:
        raise ValueError(
            f"source {name} {tuple(source.shape)} and target {name} {tuple(target.shape)} "
            "must have the same number of columns"
        )
    return source, target
