"""Folding: convert to plain convolutions with the same outputs in evaluation mode."""

from __future__ import annotations

from collections.abc import Container, Iterable

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from da_wa.errors import ConfigError
from da_wa.norm.normalized_conv import NormalizedConv2d
from da_wa.norm.tracing import (
    BATCH_NORMS,
    computes_as_conv2d,
    copied,
    in_series,
    layers_after_norm,
    rebuild,
    replace_modules,
    trace,
)


def fold(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in which plain convolutions hold the normalised weights.

    The outputs are the same, at the cost of a plain network. The copy can be trained, but its weights are no longer
    normalised.

    Fold before you save weights for another library, or use a tool that reads ``weight`` (fusing, quantization,
    re-parameterisation). Without folding, ``weight`` is the raw weight: ``state_dict()`` and ``save_pretrained()``
    of Hugging Face save it together with the gains, nothing is dropped. But a plain network that loads that file
    with ``strict=False``, as ``from_pretrained`` does, ignores the gains, uses raw weights, and gives other outputs
    without an error. The folded state dict has the keys and shapes of the plain network and loads with
    ``strict=True``.

    Args:
        model: a network in evaluation mode.

    Raises:
        ConfigError: the network is in training mode, or cannot be copied.

    >>> from da_wa.norm import WeightAlignConv2d
    >>> model = nn.Sequential(WeightAlignConv2d(3, 8, 3), nn.ReLU()).eval()
    >>> plain, x = fold(model), torch.randn(2, 3, 8, 8)
    >>> list(plain.state_dict()), torch.allclose(plain(x), model(x), atol=1e-5)
    (['0.weight', '0.bias'], True)
    """
    if model.training:
        raise ConfigError("the network is in training mode; call model.eval() before folding it")
    model = copied(model)
    return replace_modules(model, {m: _plain(m) for m in model.modules() if isinstance(m, NormalizedConv2d)})


@torch.no_grad()
def _plain(conv: NormalizedConv2d) -> nn.Conv2d:
    plain = rebuild(conv, nn.Conv2d)
    plain.weight = nn.Parameter(conv.normalized_weight(), requires_grad=conv.weight.requires_grad)
    return plain


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """:func:`fold`, then merge every BatchNorm that directly follows a convolution into it.

    The outputs are the same up to rounding. Convolutions gain a bias, so the state dict has other keys. A submodule
    whose control flow depends on its input keeps its norms, as does a BatchNorm in training mode, which normalises by
    the statistics of each batch.

    Args:
        model: a network in evaluation mode that ``torch.fx`` can trace.

    Raises:
        ConfigError: the network is in training mode, cannot be copied, or its control flow depends on its input.

    >>> from da_wa.norm import WeightAlignConv2d
    >>> model = nn.Sequential(WeightAlignConv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    >>> [type(layer).__name__ for layer in fold_batch_norm(model)]
    ['Conv2d', 'Identity', 'ReLU']
    """
    model = fold(model)
    flow = trace(model)
    if model in flow.opaque:
        raise ConfigError(
            f"{type(model).__name__} cannot be traced ({flow.opaque[model]}), so its BatchNorms cannot be folded; "
            "use fold(model), which keeps them"
        )
    return replace_modules(model, absorb_batch_norms(pair for pair in flow.conv_norms if not pair[1].training))


@torch.no_grad()
def absorb_batch_norms(
    conv_norms: Iterable[tuple[nn.Conv2d, nn.Module]], keep: Container[nn.Module] = ()
) -> dict[nn.Module, nn.Module]:
    """Multiply BatchNorms into the plain convolutions before them, in place.

    Args:
        conv_norms: pairs of a convolution and the norm that follows, see :class:`~da_wa.norm.tracing.Flow`.
        keep: convolutions and norms to leave alone.

    Returns:
        The replacement of each absorbed norm: ``nn.Identity``, or the activation that it contains.

    >>> conv, norm = nn.Conv2d(3, 8, 3).eval(), nn.BatchNorm2d(8).eval()
    >>> x = torch.randn(2, 3, 5, 5)
    >>> expected = norm(conv(x))
    >>> absorb_batch_norms([(conv, norm)])[norm], torch.allclose(conv(x), expected, atol=1e-5)
    (Identity(), True)
    """
    remains: dict[nn.Module, nn.Module] = {}
    for conv, norm in conv_norms:
        if not isinstance(norm, BATCH_NORMS) or not computes_as_conv2d(conv) or conv in keep or norm in keep:
            continue
        rest, mean, var = layers_after_norm(norm), norm.running_mean, norm.running_var
        if rest is None or mean is None or var is None:
            continue
        conv.weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, mean, var, norm.eps, norm.weight, norm.bias)
        conv.bias = bias.requires_grad_(conv.weight.requires_grad)
        remains[norm] = in_series(*rest)
    return remains


@torch.no_grad()
def batch_norm_affine(norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> nn.Conv2d | None:
    """``norm`` in evaluation as a depthwise 1×1 convolution with weight γ/σ and bias β - μγ/σ, (c,) each.

    Returns:
        The convolution, or ``None`` if ``norm`` has no running statistics μ and σ².

    >>> norm, x = nn.BatchNorm2d(8).eval(), torch.randn(2, 8, 4, 4)
    >>> torch.allclose(batch_norm_affine(norm)(x), norm(x))
    True
    """
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        return None
    conv = nn.Conv2d(len(mean), len(mean), 1, groups=len(mean), device="meta")
    ones = torch.ones_like(mean).view(-1, 1, 1, 1)
    conv.weight, conv.bias = fuse_conv_bn_weights(ones, None, mean, var, norm.eps, norm.weight, norm.bias)
    return conv.requires_grad_(norm.weight is None or norm.weight.requires_grad).train(norm.training)
