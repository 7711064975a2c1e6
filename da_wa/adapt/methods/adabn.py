"""AdaBN: statistics of the target in place of the source's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from da_wa.adapt.method import Method, Phase
from da_wa.adapt.moments import Moments, blend, merge_moments, moments
from da_wa.adapt.options import flag, fraction
from da_wa.errors import ConfigError
from da_wa.models.backbone import Backbone, has_running_statistics


class AdaBN(Method):
    """Li et al. 2016, arXiv 1603.04779: mean and variance of every BatchNorm over all target images, exactly.

    Layers are updated in the order of the forward pass, each with the layers before it already updated: the result does
    not depend on batches, and is that of one batch of all images. It takes one partial pass over the images for every
    layer, hours for a deep network on a CPU.

    With ``exact=False`` it takes one pass: until the statistics of all images are known, every layer normalizes a batch
    with the batch's own, as most implementations do. The result depends on the batches, the less the larger they are.

    Args:
        alpha: share of the target in the new statistics; 1 replaces the source's.
        exact: one pass for every layer instead of one for all.
    """

    phase: ClassVar[Phase] = "target"
    trains: ClassVar[bool] = False

    def __init__(self, alpha: float = 1.0, exact: bool = True) -> None:
        super().__init__()
        self.alpha, self.exact = fraction("alpha", alpha), flag("exact", exact)

    def calibrate(self, backbone: Backbone, batches: Callable[[], Iterable[Tensor]]) -> None:
        layers = _in_order(backbone, next(iter(batches())))
        for group in [[layer] for layer in layers] if self.exact else [layers]:
            self._update(backbone, group, batches())

    def _update(self, backbone: Backbone, layers: Sequence[nn.Module], batches: Iterable[Tensor]) -> None:
        """Give ``layers`` the statistics of all images, in one pass to the last of them.

        The others normalize each batch with its own statistics.
        """
        before = {layer: [running.clone() for running in _statistics(layer)] for layer in layers}
        total: dict[nn.Module, Moments] = {}

        def use(layer: nn.Module, found: Moments) -> None:
            for running, old, new in zip(_statistics(layer), before[layer], (found.mean, found.var), strict=True):
                running.copy_(blend(old, new.to(old.device), self.alpha))

        def collect(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            batch = moments(inputs[0])
            total[layer] = merge_moments(total[layer], batch) if layer in total else batch
            if layer is layers[-1]:
                raise _Reached
            use(layer, batch)

        handles = [layer.register_forward_pre_hook(collect) for layer in layers]
        try:
            for images in batches:
                with torch.no_grad(), suppress(_Reached):
                    backbone(images)
        finally:
            for handle in handles:
                handle.remove()
        for layer, found in total.items():
            use(layer, found)


class _Reached(Exception):
    """Ends a forward pass at a layer."""


def _in_order(backbone: Backbone, images: Tensor) -> list[nn.Module]:
    """Layers with running statistics in the order in which the forward pass reaches them.

    Raises:
        ConfigError: one is used twice, so it has inputs at two places.
    """
    found: list[nn.Module] = []
    layers = [m for m in backbone.modules() if has_running_statistics(m)]
    handles = [layer.register_forward_pre_hook(lambda module, inputs: found.append(module)) for layer in layers]
    try:
        backbone(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    if twice := {name for name, layer in backbone.named_modules() if found.count(layer) > 1}:
        raise ConfigError(
            f"AdaBN gives a BatchNorm the statistics of one place in the network; {', '.join(sorted(twice))} is used "
            "twice or more. Use a BatchNorm of its own at each place, or methods=[bn_stats]"
        )
    return found


def _statistics(layer: nn.Module) -> tuple[Tensor, Tensor]:
    mean, var = layer.running_mean, layer.running_var
    assert isinstance(mean, Tensor) and isinstance(var, Tensor)
    return mean, var
