"""Folding: what a network computes in evaluation, with ordinary convolutions."""

from __future__ import annotations

import copy
from collections.abc import Container, Iterable

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from da_wa.errors import ConfigError
from da_wa.norm.anatomy import BATCH_NORMS, behind_norm, computes_as_conv2d, in_series, rebuild, replace, trace
from da_wa.norm.normalised_conv import NormalisedConv2d


def fold(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in which plain convolutions hold the normalised weights.

    The outputs are the same and cost nothing extra; the state dict is that of the ordinary network, without
    gains, and loads into it. The copy can be trained, but its weights are no longer normalised. Fold before any
    other tool that reads ``weight`` (one that fuses or re-parameterises convolutions, say): it finds the raw one.

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

    The outputs are the same up to rounding. Convolutions gain a bias, so the state dict is another one. A module
    inside whose path depends on its input keeps its norms.

    Args:
        model: a network in evaluation mode that ``torch.fx`` can trace.

    Raises:
        ConfigError: the network is in training mode, or its data flow depends on its input.
    """
    model = fold(model)
    flow = trace(model)
    if model in flow.opaque:
        raise ConfigError(
            f"the data flow of {type(model).__name__} cannot be traced: {flow.opaque[model]}; "
            "so its norms cannot be folded: use fold(model), which keeps them"
        )
    return replace(model, absorb_batch_norms(flow.conv_norms))


@torch.no_grad()
def absorb_batch_norms(
    conv_norms: Iterable[tuple[nn.Conv2d, nn.Module]], keep: Container[nn.Module] = ()
) -> dict[nn.Module, nn.Module]:
    """Multiply BatchNorms into the plain convolutions before them, in place.

    Args:
        conv_norms: pairs of a convolution and the norm that follows, see :class:`~da_wa.norm.anatomy.Flow`.
        keep: convolutions and norms to leave alone.

    Returns:
        What remains to be done in each absorbed norm's stead: ``nn.Identity``, or the activation it holds.
    """
    remains: dict[nn.Module, nn.Module] = {}
    for conv, norm in conv_norms:
        if not isinstance(norm, BATCH_NORMS) or not computes_as_conv2d(conv) or conv in keep or norm in keep:
            continue
        rest, mean, var = behind_norm(norm), norm.running_mean, norm.running_var
        if rest is None or mean is None or var is None:
            continue
        conv.weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, mean, var, norm.eps, norm.weight, norm.bias)
        conv.bias = bias.requires_grad_(conv.weight.requires_grad)
        remains[norm] = in_series(*rest)
    return remains


@torch.no_grad()
def affine_of(norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> nn.Conv2d | None:
    """What ``norm`` is in evaluation: a depthwise 1×1 convolution with weight γ/σ and bias β - μγ/σ, (c,) each.

    ``None`` if it has no running statistics μ and σ².
    """
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        return None
    conv = nn.Conv2d(len(mean), len(mean), 1, groups=len(mean), device="meta")
    ones = torch.ones_like(mean).view(-1, 1, 1, 1)
    conv.weight, conv.bias = fuse_conv_bn_weights(ones, None, mean, var, norm.eps, norm.weight, norm.bias)
    return conv.requires_grad_(norm.weight is None or norm.weight.requires_grad).train(norm.training)
