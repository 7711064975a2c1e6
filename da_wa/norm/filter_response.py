"""Filter Response Normalization and the Thresholded Linear Unit (Singh & Krishnan, CVPR 2020, arXiv 1911.09737)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from da_wa.norm.precision import at_least_float32


def filter_response_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-6) -> Tensor:
    """``weight · x / sqrt(mean(x²) + eps) + bias``, with the mean over each image's map (Eqs. 1–2).

    On 1×1 maps only the sign of x remains; the paper then learns ``eps``, which is not implemented here.

    Args:
        x: (n, c, h, w).
        weight: (c,), the paper's γ.
        bias: (c,), the paper's β.
        eps: added to the mean square.

    Returns:
        (n, c, h, w), with the type of ``x``.

    >>> x = 7 * torch.randn(2, 4, 8, 8)
    >>> y = filter_response_norm(x, weight=torch.ones(4), bias=torch.zeros(4))
    >>> torch.allclose(y.square().mean((2, 3)), torch.ones(2, 4))
    True
    """
    power = at_least_float32(x).square().mean((2, 3), keepdim=True)
    return (x * torch.rsqrt(power + eps) * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)).to(x.dtype)


class FilterResponseNorm2d(nn.Module):
    """:func:`filter_response_norm` with learnable weight (1) and bias (0); use :class:`TLU` after it.

    Args:
        num_features: c.
        eps: added to the mean square.

    >>> FilterResponseNorm2d(8)(torch.randn(2, 8, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """

    def __init__(self, num_features: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h, w)."""
        return filter_response_norm(x, self.weight, self.bias, self.eps)


class TLU(nn.Module):
    """``max(x, tau)`` with one learnable threshold per channel, initially 0 (Eq. 3): replaces the ReLU.

    Use no ReLU after it: ``tau`` would get no gradient while it is at or below 0.

    >>> x = torch.randn(2, 8, 4, 4)
    >>> torch.equal(TLU(8)(x), torch.relu(x))
    True
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.tau = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h, w)."""
        return torch.maximum(x, self.tau.view(1, -1, 1, 1).to(x.dtype))
