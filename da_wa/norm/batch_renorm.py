"""Batch Renormalization (Ioffe, NeurIPS 2017, arXiv 1702.03275)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from da_wa.norm.precision import at_least_float32


class BatchRenorm2d(nn.BatchNorm2d):
    """Batch normalisation that trains with (nearly) the function it evaluates: ``weight · (z·r + d) + bias``.

    ``z`` is the input normalised by its batch; with the running mean μ and standard deviation σ,
    ``r = clip(σ_batch/σ, 1/r_max, r_max)`` and ``d = clip((μ_batch - μ)/σ, -d_max, d_max)`` are constants to the
    gradient (Alg. 1). The limits grow linearly with the steps taken, from (1, 0), which is BatchNorm. In
    evaluation, and in its state dict, it is a BatchNorm. The running average is that of the variance, as in
    BatchNorm; the paper averages σ.

    Args:
        num_features: c.
        eps: added to variances.
        momentum: of the running averages, the paper's α.
        r_max: the final limit of r.
        d_max: the final limit of d.
        start: steps of plain BatchNorm.
        r_end: the step at which ``r_max`` is reached.
        d_end: the step at which ``d_max`` is reached.

    >>> x = torch.randn(4, 8, 5, 5)
    >>> torch.allclose(BatchRenorm2d(8)(x), nn.BatchNorm2d(8)(x), atol=1e-5)  # the first ``start`` steps
    True
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.01,
        *,
        r_max: float = 3.0,
        d_max: float = 5.0,
        start: int = 5_000,
        r_end: int = 40_000,
        d_end: int = 25_000,
    ) -> None:
        super().__init__(num_features, eps, momentum)
        self.r_max, self.d_max = r_max, d_max
        self.start, self.r_end, self.d_end = start, r_end, d_end

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h, w)."""
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        r, d = self._corrections(x)
        return F.batch_norm(x, None, None, self.weight * r, self.weight * d + self.bias, training=True, eps=self.eps)

    @torch.no_grad()
    def _corrections(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The corrections r and d, (c,) each, of this step; updates the running averages if they are tracked."""
        var, mean = torch.var_mean(at_least_float32(x), (0, 2, 3), correction=0)
        sigma = torch.sqrt(at_least_float32(self.running_var) + self.eps)
        r_max = 1 + (self.r_max - 1) * self._progress(self.r_end)
        d_max = self.d_max * self._progress(self.d_end)
        r = (torch.sqrt(var + self.eps) / sigma).clamp(1 / r_max, r_max)
        d = ((mean - self.running_mean) / sigma).clamp(-d_max, d_max)
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)
            share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            for running, found in ((self.running_mean, mean), (self.running_var, var)):
                running.copy_(torch.lerp(at_least_float32(running), found, share))
        return r, d

    def _progress(self, end: int) -> Tensor:
        """From 0 at ``start`` to 1 at ``end``, in steps taken; a tensor, to avoid synchronising with the device."""
        steps = (self.num_batches_tracked - self.start).to(at_least_float32(self.running_var).dtype)
        return (steps / max(end - self.start, 1)).clamp(0, 1)
