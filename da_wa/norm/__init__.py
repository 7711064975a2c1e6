"""Normalisation of weights and activations, and conversion of existing networks.

::

    model = convert(torchvision.models.resnet50(weights="DEFAULT"), named("bn_wa"))  # keeps the trained weights
    ...  # fine-tune
    plain = fold(model.eval())  # ordinary convolutions, the same outputs
"""

from da_wa.norm.batch_renorm import BatchRenorm2d
from da_wa.norm.centered_weight_norm import CenteredWeightNormConv2d, center_weight_norm
from da_wa.norm.configs import named
from da_wa.norm.conversion import Change, Survey, convert, survey
from da_wa.norm.evonorm import EvoNormS0, evonorm_s0
from da_wa.norm.filter_response import TLU, FilterResponseNorm2d, filter_response_norm
from da_wa.norm.folding import fold, fold_batch_norm
from da_wa.norm.normalized_conv import GainConv2d, NormalizedConv2d
from da_wa.norm.scaled_weight_standard import ScaledWeightStandardConv2d, scaled_standardize_weight
from da_wa.norm.spec import Norm, group_norm, instance_norm, layer_norm
from da_wa.norm.weight_align import (
    MeanOnlyConv2d,
    StdOnlyConv2d,
    WeightAlignConv2d,
    align_weight,
    center_weight,
    rescale_weight,
)
from da_wa.norm.weight_norm import WeightNormConv2d, normalize_weight
from da_wa.norm.weight_standard import WeightStandardConv2d, standardize_weight

__all__ = [
    "TLU",
    "BatchRenorm2d",
    "CenteredWeightNormConv2d",
    "Change",
    "EvoNormS0",
    "FilterResponseNorm2d",
    "GainConv2d",
    "MeanOnlyConv2d",
    "Norm",
    "NormalizedConv2d",
    "ScaledWeightStandardConv2d",
    "StdOnlyConv2d",
    "Survey",
    "WeightAlignConv2d",
    "WeightNormConv2d",
    "WeightStandardConv2d",
    "align_weight",
    "center_weight",
    "center_weight_norm",
    "convert",
    "evonorm_s0",
    "filter_response_norm",
    "fold",
    "fold_batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "named",
    "normalize_weight",
    "rescale_weight",
    "scaled_standardize_weight",
    "standardize_weight",
    "survey",
]
