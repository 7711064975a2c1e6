"""How stream methods set up a network: batch statistics, and affine parameters to train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from da_wa.adapt.adaptable import adaptable
from da_wa.adapt.moments import Moments, merge_moments, moments
from da_wa.errors import ConfigError
from da_wa.models.backbone import Backbone, has_running_statistics


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

    Its running statistics become those of all images so far, exactly, whatever the order and the size of batches.
    """
    backbone.eval()
    for layer in backbone.modules():
        if has_running_statistics(layer):
            layer.train()
            layer.register_forward_hook(_Pool())
            if isinstance(steps := getattr(layer, "num_batches_tracked", None), Tensor):
                steps.zero_()  # Batch Renorm starts as BatchNorm


class _Pool:
    """After each forward pass, gives a layer the mean and the variance of all its inputs.

    An average of the variances of batches, as torch keeps it, lacks the variance between them.
    """

    total: Moments | None = None

    def __call__(self, layer: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        if layer.training:
            if self.total is None or getattr(layer, "track_running_stats", True):
                batch = moments(inputs[0])
                self.total = batch if self.total is None else merge_moments(self.total, batch)
            # New tensors: the backward pass needs the old ones, and the layer writes to its own in the next pass.
            layer.running_mean = self.total.mean.to(layer.running_mean, copy=True)
            layer.running_var = self.total.var.to(layer.running_var, copy=True)


@contextmanager
def frozen_statistics(backbone: Backbone) -> Iterator[None]:
    """Within it, BatchNorm in training mode does not update its running statistics."""
    layers: list[Any] = [m for m in backbone.modules() if has_running_statistics(m)]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
