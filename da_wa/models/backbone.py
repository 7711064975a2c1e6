"""The interface between networks and training: features, a head, and the smallest image size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class Expected:
    """The images that a trained network expects.

    Attributes:
        size: their side in pixels, as in its training.
        mean: of each channel, in units of 0…1.
        std: likewise.
        interpolation: for resizing, ``bilinear`` or ``bicubic``.
        crop: side of the central crop over the side of the resized image, e.g. 224/256.

    >>> Expected(224).crop
    0.875
    """

    size: int
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    crop: float = 0.875


@dataclass(frozen=True)
class Conversion:
    """What a norm changed of a network that was trained without it.

    Attributes:
        replaced: kinds of changes that keep all trained values, and the number of layers.
        kept: kinds of layers that are unchanged, likewise.
        lost: kinds of changes that lose trained values, likewise.
        reached: convolution and linear layers of the wanted kind.
        layers: all convolution and linear layers but the classifier.
        stale: BatchNorms, also those that were merged into convolutions, with running statistics of filters that have
            changed; training adapts them.
        changed: convolutions with other filters than before; gains that are matched change none by themselves.

    >>> Conversion({"Conv2d -> WeightAlignConv2d": 2}, {}, {}, reached=2, layers=2, stale=2, changed=2).stale
    2
    """

    replaced: Mapping[str, int]
    kept: Mapping[str, int]
    lost: Mapping[str, int]
    reached: int
    layers: int
    stale: int
    changed: int


def has_running_statistics(layer: nn.Module) -> bool:
    """Whether a layer has running statistics: BatchNorm, its relatives and norms of your own.

    >>> has_running_statistics(nn.BatchNorm2d(3)), has_running_statistics(nn.GroupNorm(1, 3))
    (True, False)
    """
    return isinstance(getattr(layer, "running_mean", None), Tensor)


class Backbone(nn.Module):
    """A network that ends in one linear head. Subclasses set the attributes and implement ``features``.

    Attributes:
        num_features: d, the length of a feature vector.
        min_size: the smallest side of an image in pixels.
        head: the classifier, ``nn.Linear(num_features, classes)``; never weight-normalised.
        expects: the images that a trained network expects; None: as the experiment's ``normalize`` says.
        weights: the digest of the file of its starting weights; None for its initialisation.
        conversion: what the norm changed of a network that was trained without it; None for others.

    >>> import torch
    >>> class Small(Backbone):
    ...     num_features, min_size = 8, 4
    ...
    ...     def __init__(self, norm, num_classes):
    ...         super().__init__()
    ...         self.conv = norm.conv(3, 8, 3, padding=1)
    ...         self.head = self.make_head(num_classes)
    ...
    ...     def features(self, x):
    ...         return self.conv(x).mean((2, 3))
    >>> from da_wa.norm import named
    >>> Small(named("wa"), 31)(torch.zeros(2, 3, 4, 4)).shape
    torch.Size([2, 31])
    """

    num_features: int
    min_size: int
    head: nn.Linear
    expects: Expected | None = None
    weights: str | None = None
    conversion: Conversion | None = None

    def features(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w) -> feature vectors (n, d)."""
        raise NotImplementedError

    def make_head(self, num_classes: int) -> nn.Linear:
        """A new classifier for ``num_classes`` classes, with the initialisation of this network."""
        return nn.Linear(self.num_features, num_classes)

    @property
    def needs_batch(self) -> bool:
        """Whether training needs batches of two images or more: a layer normalises by statistics over a batch."""
        return any(has_running_statistics(module) or isinstance(module, _BatchNorm) for module in self.modules())

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w) -> logits (n, classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
