"""AdaBN: statistics of the target in place of the source's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from da_wa.adapt.domain_norm import has_running_statistics
from da_wa.adapt.method import Method, Phase
from da_wa.adapt.moments import Moments, blend, merge_moments, moments
from da_wa.adapt.options import fraction
from da_wa.models.backbone import Backbone


class AdaBN(Method):
    """Li et al. 2016, arXiv 1603.04779: mean and variance of every BatchNorm over all target images, exactly.

    Layers are updated in the order of the forward pass, each with the layers before it already updated: the result does
    not depend on batches, and is that of one batch of all images. It takes one partial pass over the images for every
    layer.

    Args:
        alpha: share of the target in the new statistics; 1 replaces the source's.
    """

    phase: ClassVar[Phase] = "target"
    trains: ClassVar[bool] = False

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = fraction("alpha", alpha)

    def calibrate(self, backbone: Backbone, batches: Callable[[], Iterable[Tensor]]) -> None:
        for layer in _in_order(backbone, next(iter(batches()))):
            found = _input_moments(backbone, layer, batches())
            for name, new in (("running_mean", found.mean), ("running_var", found.var)):
                running: Tensor = getattr(layer, name)
                running.copy_(blend(running, new.to(running.device), self.alpha))


class _Reached(Exception):
    """Ends a forward pass at a layer."""


def _in_order(backbone: Backbone, images: Tensor) -> list[nn.Module]:
    """Layers with running statistics in the order in which the forward pass reaches them."""
    found: list[nn.Module] = []
    layers = [m for m in backbone.modules() if has_running_statistics(m)]
    handles = [layer.register_forward_pre_hook(lambda module, inputs: found.append(module)) for layer in layers]
    try:
        backbone(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(found))


def _input_moments(backbone: Backbone, layer: nn.Module, batches: Iterable[Tensor]) -> Moments:
    """The moments of a layer's input over all images."""
    total: Moments | None = None

    def collect(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal total
        batch = moments(inputs[0])
        total = batch if total is None else merge_moments(total, batch)
        raise _Reached

    handle = layer.register_forward_pre_hook(collect)
    try:
        for images in batches:
            with torch.no_grad():
                try:
                    backbone(images)
                except _Reached:
                    continue
    finally:
        handle.remove()
    assert total is not None, "no images"
    return total
