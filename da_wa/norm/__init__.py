"""Normalisation layers, and how to give them to a network."""

from da_wa.norm.spec import Norm, group_norm, instance_norm, layer_norm, named
from da_wa.norm.weight_align import WeightAlignConv2d, align_weight

__all__ = ["Norm", "WeightAlignConv2d", "align_weight", "group_norm", "instance_norm", "layer_norm", "named"]
