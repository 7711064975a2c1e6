"""A trained network with what it does to images before: image files in, logits out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from da_wa.adapt.domain_norm import routed, separate_domains
from da_wa.data.augment import Normalize
from da_wa.data.fitting import Fitted, Way
from da_wa.data.images import ImageFiles
from da_wa.models.backbone import Backbone
from da_wa.models.checkpoint import load_network


@dataclass(frozen=True)
class Predictor:
    """A trained network: image files in, logits out.

    Attributes:
        model: the network in evaluation mode; it takes normalized images.
        classes: their names, in the order of the logits.
        size: side of decoded images in pixels.
        way: how rectangular images are made square, see :mod:`da_wa.data.fitting`.
        interpolation: likewise.
        view: uint8 images as they are stored -> as the network sees them in evaluation.
        normalize: uint8 images -> what the network takes.
    """

    model: Backbone
    classes: tuple[str, ...]
    size: int
    way: Way
    interpolation: str
    view: Callable[[Tensor], Tensor]
    normalize: Normalize

    def decode(self, files: Sequence[str | Path]) -> Tensor:
        """Images as (n, 3, size, size) uint8, decoded as those of the run.

        Raises:
            DataError: a file cannot be read.
        """
        images = Fitted(ImageFiles(Path(), tuple(map(str, files))), self.way, self.interpolation)
        return torch.from_numpy(np.stack([images.decode(k, self.size) for k in range(len(images))]))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (n, k) of images (n, 3, size, size) uint8, on the device of the model.

        A network with statistics of each domain uses those of the target.
        """
        with routed(self.model, "target"):
            logits: Tensor = self.model(self.normalize(self.view(images)))
        return logits.float()


def load_trained(weights: Path, model: Backbone, statistics: str | None) -> None:
    """Load the network that a training kept into a new one, in place.

    Args:
        weights: the file.
        model: of the same architecture, norm and number of classes.
        statistics: the option of the adaptation method; with ``domain`` every BatchNorm is there twice.

    Raises:
        CheckpointError: the file is damaged, or of another network.
    """
    if statistics == "domain":
        separate_domains(model)
    load_network(weights, model)
