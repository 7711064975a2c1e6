"""The interface between networks and training: features, a head, and the smallest image size."""

from __future__ import annotations

from torch import Tensor, nn


class Backbone(nn.Module):
    """A network that ends in one linear head. Subclasses set the attributes and implement ``features``.

    Attributes:
        num_features: d, the length of a feature vector.
        min_size: the smallest side of an image in pixels.
        head: the classifier, ``nn.Linear(num_features, classes)``; never weight-normalised.

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

    def features(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w) -> feature vectors (n, d)."""
        raise NotImplementedError

    def make_head(self, num_classes: int) -> nn.Linear:
        """A new classifier for ``num_classes`` classes, with the initialisation of this network."""
        return nn.Linear(self.num_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w) -> logits (n, classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
