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
from da_wa.errors import DataError
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
            DataError: a file cannot be read, or ``files`` is one file instead of a list.
        """
        if isinstance(files, (str, Path)):
            raise DataError(f"{files} is one file; write a list of it: decode([{str(files)!r}]).")
        images = Fitted(ImageFiles(Path(), tuple(map(str, files))), self.way, self.interpolation)
        decoded = np.array([images.decode(k, self.size) for k in range(len(images))], np.uint8)
        return torch.from_numpy(decoded.reshape(len(images), 3, self.size, self.size))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (n, k) of images (n, 3, size, size) uint8, on the device of the model.

        A network with statistics of each domain uses those of the target.

        Raises:
            DataError: the images are not such ones.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (3, self.size, self.size):
            raise DataError(
                f"The images are {images.dtype} of shape {tuple(images.shape)}, and this network takes torch.uint8 of "
                f"shape (n, 3, {self.size}, {self.size}); `decode` makes them of image files."
            )
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
