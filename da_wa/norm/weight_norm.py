"""Weight Normalization (Salimans & Kingma, NeurIPS 2016, arXiv 1602.07868)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from da_wa.norm.normalised_conv import GainConv2d, filter_size
from da_wa.norm.spec import at_least_float32


def normalise_weight(weight: Tensor, gain: Tensor) -> Tensor:
    """``gain · W / ‖W‖`` for every filter (Eq. 2), what ``torch.nn.utils.parametrizations.weight_norm`` computes.

    Args:
        weight: (c_out, c_in/groups, k, k), the paper's v.
        gain: (c_out,), the paper's g: the norm of each filter of the result.

    Returns:
        The normalised weight, of the same shape; a filter of zeros stays zero.

    Raises:
        ConfigError: weights that are not real floating-point numbers, or fewer than two in a filter.
    """
    filter_size(weight)
    unit = F.normalize(at_least_float32(weight).flatten(1), eps=1e-12).view_as(weight)
    return (gain.view(-1, 1, 1, 1) * unit).to(weight.dtype)


class WeightNormConv2d(GainConv2d):
    """A convolution whose filters are normalised by :func:`normalise_weight`.

    Written as a subclass, since torch's parametrization renames ``weight`` and plain checkpoints would not load.
    """

    def reset_gain(self) -> None:
        """The norm of the raw filters, as torch does it: the network starts as if it were not normalised."""
        self.match_gain()

    def normalised_weight(self) -> Tensor:
        """The normalised weight, (c_out, c_in/groups, k, k)."""
        return normalise_weight(self.weight, self.gain)
