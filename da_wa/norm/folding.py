"""Folding: what a network computes in evaluation, with ordinary convolutions."""

from __future__ import annotations

import copy
from collections.abc import Container

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from da_wa.errors import ConfigError
from da_wa.norm.anatomy import behind_norm, computes_as_conv2d, in_series, rebuild, replace, trace
from da_wa.norm.normalised_conv import NormalisedConv2d


def fold(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in which plain convolutions hold the normalised weights.

    The outputs are the same and cost nothing extra; the state dict is that of the ordinary network, without
    gains, and loads into it. The copy can be trained, but its weights are no longer normalised.

    Args:
        model: a network in evaluation mode.

    Raises:
        ConfigError: the network is in training mode.
    """
    if model.training:
        raise ConfigError("only a network in evaluation mode can be folded; call model.eval() first")
    model = copy.deepcopy(model)
    return replace(model, {m: _plain(m) for m in model.modules() if isinstance(m, NormalisedConv2d)})


@torch.no_grad()
def _plain(conv: NormalisedConv2d) -> nn.Conv2d:
    plain = rebuild(conv, nn.Conv2d)
    plain.weight = nn.Parameter(conv.normalised_weight(), requires_grad=conv.weight.requires_grad)
    return plain


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """:func:`fold`, and every BatchNorm that directly follows a convolution becomes part of it.

    The outputs are the same up to rounding. Convolutions gain a bias, so the state dict is another one.

    Args:
        model: a network in evaluation mode that ``torch.fx`` can trace.

    Raises:
        ConfigError: the network is in training mode, or its data flow depends on its input.
    """
    model = fold(model)
    return replace(model, absorb_batch_norms(model))


@torch.no_grad()
def absorb_batch_norms(model: nn.Module, keep: Container[nn.Module] = ()) -> dict[nn.Module, nn.Module]:
    """Multiply the BatchNorms of ``model`` into the plain convolutions before them, in place.

    Args:
        model: a network that ``torch.fx`` can trace.
        keep: convolutions and norms to leave alone.

    Returns:
        What remains to be done in each absorbed norm's stead: ``nn.Identity``, or the activation it holds.

    Raises:
        ConfigError: the data flow depends on the input.
    """
    remains: dict[nn.Module, nn.Module] = {}
    for conv, norm in trace(model).conv_norms:
        if not isinstance(norm, nn.BatchNorm2d) or not computes_as_conv2d(conv) or conv in keep or norm in keep:
            continue
        rest, mean, var = behind_norm(norm), norm.running_mean, norm.running_var
        if rest is None or mean is None or var is None:
            continue
        conv.weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, mean, var, norm.eps, norm.weight, norm.bias)
        conv.bias = bias.requires_grad_(conv.weight.requires_grad)
        remains[norm] = in_series(*rest)
    return remains
