"""EvoNorm-S0 (Liu, Brock, Simonyan & Le, NeurIPS 2020, arXiv 2004.02967): a norm and a non-linearity in one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from da_wa.norm.precision import at_least_float32
from da_wa.norm.spec import group_count


def evonorm_s0(x: Tensor, v: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """``weight · x · sigmoid(v·x) / sqrt(var(x) + eps) + bias``, the biased variance over a group (Table 2).

    Args:
        x: (n, c, h, w).
        v: (c,), the slope of the gate.
        weight: (c,), the paper's γ.
        bias: (c,), the paper's β.
        groups: a divisor of c; an image's variance is taken over (c/groups, h, w).
        eps: added to the variance.

    Returns:
        (n, c, h, w), with the type of ``x``.

    >>> x, ones = torch.randn(2, 4, 3, 3), torch.ones(4)
    >>> evonorm_s0(x, v=ones, weight=ones, bias=ones, groups=2).shape
    torch.Size([2, 4, 3, 3])
    """
    var = at_least_float32(x).reshape(len(x), groups, -1).var(2, correction=0)
    scale = torch.rsqrt(var + eps).repeat_interleave(x.shape[1] // groups, 1)[:, :, None, None]
    v, weight, bias = (p.view(1, -1, 1, 1) for p in (v, weight, bias))
    return (x * torch.sigmoid(v * x) * scale * weight + bias).to(x.dtype)


class EvoNormS0(nn.Module):
    """:func:`evonorm_s0` with learnable v (1), weight (1) and bias (0). Use no ReLU after it.

    Args:
        num_features: c.
        groups: number of groups, reduced as in :func:`da_wa.norm.spec.group_count` where c does not allow it.
        eps: added to the variance.

    >>> EvoNormS0(8)(torch.randn(2, 8, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """

    def __init__(self, num_features: int, groups: int = 32, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups = group_count(num_features, groups)
        self.eps = eps
        self.v = nn.Parameter(torch.ones(num_features))
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h, w)."""
        return evonorm_s0(x, self.v, self.weight, self.bias, self.groups, self.eps)
