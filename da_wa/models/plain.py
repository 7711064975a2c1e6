"""A network without shortcuts at its initialisation, for measuring how norms act from layer to layer (Sec. III-D)."""

from __future__ import annotations

import torch
from torch import nn

from da_wa.norm import Norm, NormalizedConv2d


def plain_network(norm: Norm, *, layers: int, width: int, side: int, classes: int = 10) -> nn.Sequential:
    """Convolutions without shortcuts, then one linear classifier: Kaiming initialisation, no biases (Sec. III-D).

    The borders are circular, since zeros there would lower the second moment. All norms get the same raw weights,
    and leave torch's random state alike.

    Args:
        norm: how it normalises.
        layers: 3×3 convolutions.
        width: channels of each.
        side: of the images, in pixels. The classifier sees every pixel of the last map.
        classes: its outputs.

    Returns:
        ``[convolution and norm, non-linearity] · layers, flatten, classifier``.

    >>> from da_wa.norm import named
    >>> network = plain_network(named("wa"), layers=2, width=4, side=8)
    >>> len(network), network(torch.zeros(5, 3, 8, 8)).shape
    (6, torch.Size([5, 10]))
    """
    modules: list[nn.Module] = []
    for c_in in (3, *[width] * (layers - 1)):
        conv = norm.conv(c_in, width, 3, padding=1, padding_mode="circular", bias=False)
        after = nn.Identity() if norm.activation is None else norm.activation(width)
        modules += [nn.Sequential(conv, after), norm.nonlinearity(width)]
    network = nn.Sequential(*modules, nn.Flatten(), nn.Linear(width * side**2, classes, bias=False))
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, NormalizedConv2d):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network
