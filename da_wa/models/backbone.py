"""What every network of this package offers to training: features, a head, and the image size it needs."""

from __future__ import annotations

from torch import Tensor, nn


class Backbone(nn.Module):
    """A network that ends in one linear head.

    Attributes:
        num_features: d, the length of a feature vector.
        min_size: the smallest image side in pixels it takes.
        head: the classifier, ``nn.Linear(num_features, classes)``; never weight-normalised.
    """

    num_features: int
    min_size: int
    head: nn.Linear

    def features(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w) -> feature vectors (n, d)."""
        raise NotImplementedError

    def make_head(self, num_classes: int) -> nn.Linear:
        """A fresh classifier for ``num_classes`` classes, initialised as this network wants it."""
        return nn.Linear(self.num_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w) -> logits (n, classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
