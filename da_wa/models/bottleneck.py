"""A network with a bottleneck before its head, to train on features of the frozen network."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from da_wa.models.backbone import Backbone


class OnFeatures(Backbone):
    """Bottleneck and head as a network of their own: its images have one pixel, and features as channels.

    Args:
        bottleneck: d -> width.
        head: width -> classes.

    >>> import torch
    >>> OnFeatures(nn.Linear(8, 4), nn.Linear(4, 31))(torch.zeros(2, 8, 1, 1)).shape
    torch.Size([2, 31])
    """

    min_size = 1

    def __init__(self, bottleneck: nn.Linear, head: nn.Linear) -> None:
        super().__init__()
        self.num_features = bottleneck.out_features
        self.bottleneck, self.head = bottleneck, head

    def features(self, x: Tensor) -> Tensor:
        """Features (n, d, 1, 1) -> max(W x + b, 0), (n, width)."""
        return F.relu(self.bottleneck(x.flatten(1)))


class Bottleneck(Backbone):
    """A network whose features go through a linear layer and a ReLU before the head.

    Args:
        network: the network; its head is dropped.
        width: of the bottleneck.

    >>> import torch
    >>> from da_wa.models.resnet import ResNet
    >>> from da_wa.norm import named
    >>> model = Bottleneck(ResNet(named("bn"), 31, block="basic", depths=[1, 1], widths=[4, 8]), 6)
    >>> model.features(torch.zeros(2, 3, 8, 8)).shape, model(torch.zeros(2, 3, 8, 8)).shape
    (torch.Size([2, 6]), torch.Size([2, 31]))
    """

    def __init__(self, network: Backbone, width: int) -> None:
        super().__init__()
        self.num_features, self.min_size = width, network.min_size
        self.expects, self.weights, self.conversion = network.expects, network.weights, network.conversion
        self.bottleneck = nn.Linear(network.num_features, width)
        self.head = self.make_head(network.head.out_features)
        self.network = network
        del network.head

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.bottleneck(self.network.features(x)))

    def on_features(self) -> OnFeatures:
        """The part after the network; it shares its layers with this one."""
        return OnFeatures(self.bottleneck, self.head)
