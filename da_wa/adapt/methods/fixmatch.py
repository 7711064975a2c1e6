"""FixMatch: the prediction for a strongly augmented target image equals the confident one for a weak view."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from da_wa.adapt.method import Method, Phase, Step
from da_wa.adapt.options import flag, fraction
from da_wa.adapt.pseudo_labels import align_distribution, confident, fixmatch, relative_threshold


class FixMatch(Method):
    """Sohn et al., NeurIPS 2020, arXiv 2001.07685; see :func:`~da_wa.adapt.pseudo_labels.fixmatch`.

    Logs ``used``, the share of target images that are confident enough.

    Args:
        threshold: of the confidence.
        relative: multiply the threshold by the mean confidence on the source batch (AdaMatch, Berthelot et al.,
            ICLR 2022, arXiv 2106.04732).
        align: align the mean prediction on the target with that on the source (AdaMatch, without its running averages
            and its warm-up); see :func:`~da_wa.adapt.pseudo_labels.align_distribution` for small batches.
    """

    phase: ClassVar[Phase] = "joint"
    views: ClassVar[bool] = True

    def __init__(self, threshold: float = 0.9, relative: bool = False, align: bool = False) -> None:
        super().__init__()
        self.threshold = fraction("threshold", threshold)
        self.relative, self.align = flag("relative", relative), flag("align", align)

    def loss(self, step: Step) -> dict[str, Tensor]:
        source, target = step.pair
        weak = align_distribution(target.logits, source.logits) if self.align else target.logits.detach()
        threshold = relative_threshold(source.logits, self.threshold) if self.relative else self.threshold
        self.watched = {"used": confident(weak, threshold).float().mean()}
        return {"fixmatch": fixmatch(step.strong().logits, weak, threshold)}
