"""Normalisation: of weights, of activations, and how to give it to any network.

::

    model = convert(torchvision.models.resnet50(weights="DEFAULT"), named("bn_wa"))  # keeps the trained weights
    ...  # fine-tune
    plain = fold(model.eval())  # ordinary convolutions, the same outputs
"""

from da_wa.norm.batch_renorm import BatchRenorm2d
from da_wa.norm.centered_weight_norm import CenteredWeightNormConv2d, center_weight_norm
from da_wa.norm.conversion import Account, Change, convert, survey
from da_wa.norm.evonorm import EvoNormS0, evonorm_s0
from da_wa.norm.filter_response import TLU, FilterResponseNorm2d, filter_response_norm
from da_wa.norm.folding import fold, fold_batch_norm
from da_wa.norm.normalised_conv import GainConv2d, NormalisedConv2d
from da_wa.norm.scaled_weight_standard import ScaledWeightStandardConv2d, scale_standardise_weight
from da_wa.norm.spec import Norm, group_norm, instance_norm, layer_norm, named
from da_wa.norm.weight_align import (
    MeanOnlyConv2d,
    StdOnlyConv2d,
    WeightAlignConv2d,
    align_weight,
    centre_weight,
    rescale_weight,
)
from da_wa.norm.weight_norm import WeightNormConv2d, normalise_weight
from da_wa.norm.weight_standard import WeightStandardConv2d, standardise_weight

__all__ = [
    "TLU",
    "Account",
    "BatchRenorm2d",
    "CenteredWeightNormConv2d",
    "Change",
    "EvoNormS0",
    "FilterResponseNorm2d",
    "GainConv2d",
    "MeanOnlyConv2d",
    "Norm",
    "NormalisedConv2d",
    "ScaledWeightStandardConv2d",
    "StdOnlyConv2d",
    "WeightAlignConv2d",
    "WeightNormConv2d",
    "WeightStandardConv2d",
    "align_weight",
    "center_weight_norm",
    "centre_weight",
    "convert",
    "evonorm_s0",
    "filter_response_norm",
    "fold",
    "fold_batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "named",
    "normalise_weight",
    "rescale_weight",
    "scale_standardise_weight",
    "standardise_weight",
    "survey",
]
