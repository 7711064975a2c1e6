"""The parameters that test-time methods train: the affine parameters of any normalisation."""

from __future__ import annotations

from torch import nn

from da_wa.models.backbone import Backbone

FILTERS = (nn.modules.conv._ConvNd, nn.Linear)
MIXERS = (nn.MultiheadAttention, nn.RNNBase, nn.Bilinear, nn.Embedding, nn.EmbeddingBag)
ELEMENTWISE = (nn.LayerNorm, nn.RMSNorm)
PLAIN = {"weight", "bias"}


def adaptable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The affine parameters of ``model`` with their names, in the order of ``named_parameters``.

    A parameter scales, shifts or thresholds single channels (or all of them) if it has at most one dimension and is
    neither the weight nor the bias of a convolution, a linear or another mixing layer. This is a rule about roles, so
    it holds for norms of your own:

    - weight and bias of BatchNorm, Batch Renorm, GroupNorm, LayerNorm, InstanceNorm, FRN; v, weight, bias of EvoNorm;
    - τ of the TLU (and the slope of a PReLU), which follow a norm;
    - ``gain`` of weight-normalised convolutions: WeightAlign, CWN, Scaled WS, weight norm;
    - Fixup's scalar biases and multipliers.

    LayerNorms over several dimensions count too. The head of a :class:`~da_wa.models.backbone.Backbone` never does.
    TENT (Wang et al. 2021, arXiv 2006.10726) and SAR (Niu et al. 2023, arXiv 2302.12400) train such parameters only.

    Args:
        model: any network.

    Returns:
        Names and parameters; empty for a plain network without norms.

    >>> from da_wa.norm import WeightAlignConv2d
    >>> model = nn.Sequential(WeightAlignConv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
    >>> [name for name, _ in adaptable(model)]
    ['0.gain', '1.weight', '1.bias']
    """
    head = {id(p) for p in model.head.parameters()} if isinstance(model, Backbone) else set()
    return [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if id(parameter) not in head and _is_affine(model, name, parameter)
    ]


def _is_affine(model: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    path, _, own = name.rpartition(".")
    owner = model.get_submodule(path)
    if isinstance(owner, ELEMENTWISE):
        return True
    if isinstance(owner, MIXERS) or (isinstance(owner, FILTERS) and own in PLAIN):
        return False
    if own.endswith("bias") and any(isinstance(child, FILTERS) for child in owner.children()):
        return False  # of a filter that the module calls itself, as timm's attentions with q_bias and v_bias
    return parameter.ndim <= 1
