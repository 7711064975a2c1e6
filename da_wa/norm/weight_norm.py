"""Weight Normalization (Salimans & Kingma, NeurIPS 2016, arXiv 1602.07868)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from da_wa.norm.normalized_conv import GainConv2d, filter_size
from da_wa.norm.precision import at_least_float32


def normalize_weight(weight: Tensor, gain: Tensor) -> Tensor:
    """``gain · W / ‖W‖`` for every filter (Eq. 2), as ``torch.nn.utils.parametrizations.weight_norm`` computes it.

    Args:
        weight: (c_out, c_in/groups, k, k), the paper's v.
        gain: (c_out,), the paper's g: the norm of each filter of the result.

    Returns:
        The normalised weight, of the same shape; a filter of zeros stays zero.

    Raises:
        ConfigError: a filter has fewer than two weights, or the weights are not real floating-point numbers.

    >>> import torch
    >>> normalize_weight(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1), torch.ones(1)).flatten()
    tensor([0.6000, 0.8000])
    """
    filter_size(weight)
    unit = F.normalize(at_least_float32(weight).flatten(1), eps=1e-12).view_as(weight)
    return (gain.view(-1, 1, 1, 1) * unit).to(weight.dtype)


class WeightNormConv2d(GainConv2d):
    """A convolution whose filters are normalised by :func:`normalize_weight`.

    A subclass of ``nn.Conv2d``: torch's parametrization renames ``weight``, so plain checkpoints would not load.

    >>> import torch
    >>> conv = WeightNormConv2d(3, 16, kernel_size=3)
    >>> torch.allclose(conv.normalized_weight(), conv.weight)  # the gain starts at the norm of the raw filters
    True
    """

    def reset_gain(self) -> None:
        """Set the gain to the norm of the raw filters, as torch does: the network starts as without the norm."""
        self.match_gain()

    def normalized_weight(self) -> Tensor:
        """The normalised weight, (c_out, c_in/groups, k, k)."""
        return normalize_weight(self.weight, self.gain)
