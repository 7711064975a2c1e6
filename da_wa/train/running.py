"""The mean of an epoch's values at the cost of two small kernels a step.

At a batch size of 1 a step takes a few milliseconds; the host's work for torchmetrics' metrics is a good part of it.
"""

from __future__ import annotations

import torch
from torch import Tensor


class RunningMean:
    """The mean over all values since the last reset, added up in float32 on their device.

    >>> mean = RunningMean()
    >>> mean.update(torch.tensor([1.0, 0.0])); mean.update(torch.tensor(5.0))
    >>> mean.compute()
    2.0
    >>> mean.update(torch.tensor(6.0), weight=3); mean.compute()
    4.0
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all values."""
        self.total: Tensor | None = None
        self.count = 0

    def update(self, values: Tensor, weight: int = 1) -> None:
        """Add values of any shape, each counted ``weight`` times, without a gradient."""
        added = values.detach().sum(dtype=torch.float32)
        self.total = added * weight if self.total is None else self.total.add(added, alpha=weight)
        self.count += values.numel() * weight

    def compute(self) -> float:
        """The mean; NaN without a value. Waits for the device."""
        return float("nan") if self.total is None else float(self.total / self.count)
