"""What layers inside a network hold and give: filters and responses, as rows of channels."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from da_wa.errors import ConfigError
from da_wa.norm import fold


def blocks(model: nn.Module) -> list[nn.Module]:
    """The residual blocks from the first to the last.

    Raises:
        ConfigError: the network is not one of ``models/resnet.py``.

    >>> from da_wa.models.resnet import ResNet
    >>> from da_wa.norm import named
    >>> len(blocks(ResNet(named("wa"), 10, block="basic", depths=[3, 3, 3], widths=[4, 4, 4])))
    9
    """
    stages = getattr(model, "stages", None)
    if not isinstance(stages, nn.Module):
        raise ConfigError(
            f"{type(model).__name__} has no residual blocks to measure; use one of the package's ResNets, e.g. "
            "model=resnet20"
        )
    return [block for stage in stages.children() for block in stage.children()]


def last_conv(block: nn.Module) -> nn.Conv2d:
    """The last convolution of a block's residual branch."""
    return [module for module in block.get_submodule("branch").modules() if isinstance(module, nn.Conv2d)][-1]


def last_response(block: nn.Module) -> nn.Module:
    """What gives the result of a block's residual branch: that convolution or, if there is one, the norm behind it."""
    return list(block.get_submodule("branch").children())[-1]


def branch_result(block: nn.Module) -> nn.Module:
    """What gives the term that a block adds to its shortcut: :func:`last_response`, or Fixup's multiplier behind it."""
    multiplier = getattr(block, "multiplier", None)
    return multiplier if isinstance(multiplier, nn.Module) else last_response(block)


def filters(model: nn.Module, number: int) -> Tensor:
    """The filters that the last convolution of block ``number`` (from 1) computes with: normalised, (filters, n).

    Raises:
        ConfigError: the network is in training mode, or has no blocks.
    """
    return last_conv(blocks(fold(model))[number - 1]).weight.detach().flatten(1)


@torch.no_grad()
def responses(model: nn.Module, modules: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """What each of ``modules`` gives while ``model`` sees ``x``, as rows of channels: (channels, values).

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(inplace=True))
    >>> [rows.shape for rows in responses(model, [model[0]], torch.zeros(2, 3, 4, 4))]
    [torch.Size([8, 32])]
    """
    wanted = list(modules)
    kept: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, arguments: object, output: Tensor) -> None:
        kept[module] = output.transpose(0, 1).flatten(1).clone()  # a ReLU may overwrite the output

    hooks = [module.register_forward_hook(keep) for module in wanted]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [kept[module] for module in wanted]
