"""Batch statistics: BatchNorm normalises every batch of a stream by the batch's own statistics, without training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from da_wa.adapt.method import Method, Phase
from da_wa.adapt.streams import batch_statistics
from da_wa.models.backbone import Backbone


class BatchStatistics(Method):
    """Nado et al. 2020, arXiv 2006.10963; Schneider et al., NeurIPS 2020, arXiv 2006.16971, without source statistics.

    The baseline of TENT and SAR, which use the statistics of each batch too: what they gain over it is due to training.
    """

    phase: ClassVar[Phase] = "stream"

    def build(self, backbone: Backbone, classes: int, images: int) -> None:
        batch_statistics(backbone)

    def trained(self, backbone: Backbone) -> Iterable[nn.Parameter]:
        return []

    @torch.no_grad()
    def observe(self, backbone: Backbone, images: Tensor) -> Tensor:
        logits: Tensor = backbone(images).float()
        return logits
