"""One BatchNorm for each domain, chosen by the domain of the batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import Tensor, nn

from da_wa.models.backbone import has_running_statistics

Domain = Literal["source", "target"]


class DomainNorm(nn.Module):
    """Two copies of a BatchNorm, statistics and affine parameters; :func:`routed` chooses one.

    >>> import torch
    >>> norm = DomainNorm(nn.BatchNorm2d(3))
    >>> with routed(norm, "target"):
    ...     _ = norm(torch.randn(4, 3, 2, 2))
    >>> norm.source.num_batches_tracked.item(), norm.target.num_batches_tracked.item()
    (0, 1)
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.source, self.target = norm, copy.deepcopy(norm)
        self.domain: Domain = "source"

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (self.source if self.domain == "source" else self.target)(x)
        return out


def separate_domains(model: nn.Module) -> None:
    """Replace every layer with running statistics by a :class:`DomainNorm`, in place and wherever it is used."""
    separate = {layer: DomainNorm(layer) for layer in model.modules() if has_running_statistics(layer)}
    for path, layer in list(model.named_modules(remove_duplicate=False)):
        if layer in separate:
            model.set_submodule(path, separate[layer])


@contextmanager
def routed(model: nn.Module, domain: Domain) -> Iterator[None]:
    """Within it, every :class:`DomainNorm` of ``model`` uses the layer of ``domain``; it is the source's otherwise."""
    layers = [m for m in model.modules() if isinstance(m, DomainNorm)]
    for layer in layers:
        layer.domain = domain
    try:
        yield
    finally:
        for layer in layers:
            layer.domain = "source"
