"""How stream methods set up a network: batch statistics, and affine parameters to train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from da_wa.adapt.adaptable import adaptable
from da_wa.errors import ConfigError
from da_wa.models.backbone import Backbone


def affine_parameters(backbone: Backbone) -> list[nn.Parameter]:
    """The parameters of :func:`~da_wa.adapt.adaptable.adaptable` that are not frozen.

    Raises:
        ConfigError: there are none.
    """
    found = [parameter for _, parameter in adaptable(backbone) if parameter.requires_grad]
    if not found:
        raise ConfigError(
            "this network has no affine parameters that a stream method could train; "
            "use methods=[shot], another norm, or a finetune=… that trains the whole network"
        )
    return found


def batch_statistics(backbone: Backbone) -> None:
    """Let BatchNorm use the statistics of each batch, everything else evaluation mode.

    The running statistics start anew and become the plain averages over all batches.
    """
    backbone.eval()
    for layer in backbone.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.train()
            layer.momentum = None
            layer.reset_running_stats()


@contextmanager
def frozen_statistics(backbone: Backbone) -> Iterator[None]:
    """Within it, BatchNorm in training mode does not update its running statistics."""
    layers = [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
