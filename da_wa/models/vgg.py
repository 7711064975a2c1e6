"""VGG16 (Simonyan & Zisserman 2015), by default for small images, with two hidden linear layers as in the original."""

from __future__ import annotations

from torch import Tensor, nn

from da_wa.errors import ConfigError
from da_wa.models.backbone import Backbone
from da_wa.models.resnet import init_kaiming
from da_wa.norm.spec import Norm

STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
"""Channels of every convolution, in units of ``width``."""


class VGG16(Backbone):
    """Thirteen 3×3 convolutions in five stages with max-pooling, then linear layers of 4096, 4096, classes.

    Convolutions keep their bias, as in the original. The hidden linear layers are not weight-normalised.

    Args:
        norm: how the network normalises.
        num_classes: outputs of the head.
        width: channels of the first stage; the original has 64.
        hidden: width of the two hidden linear layers.
        dropout: probability of zeroing their outputs, from 0 up to but excluding 1.
        grid: side of the grid of means over the map that they see; the original has 7, for 224 pixels. Sides of
            images are multiples of 32·grid.

    Raises:
        ConfigError: ``width``, ``hidden`` or ``grid`` is not a whole number from 1, or ``dropout`` is not in [0, 1).

    >>> import torch
    >>> from da_wa.norm import named
    >>> model = VGG16(named("bn"), 31, hidden=16).eval()
    >>> model(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 31])
    """

    def __init__(
        self,
        norm: Norm,
        num_classes: int,
        *,
        width: int = 64,
        hidden: int = 4096,
        dropout: float = 0.5,
        grid: int = 1,
    ) -> None:
        super().__init__()
        for option, value in (("width", width), ("hidden", hidden), ("grid", grid)):
            if type(value) is not int or value < 1:
                raise ConfigError(f"model.build.{option}={value} must be a whole number, 1 or more")
        if type(dropout) not in (int, float) or not 0 <= dropout < 1:
            raise ConfigError(f"model.build.dropout={dropout} must be a number from 0 up to but excluding 1")
        self.num_features, self.grid, self.min_size = hidden, grid, 32 * grid
        layers: list[nn.Module] = []
        c_in = 3
        for stage in STAGES:
            for channels in (multiple * width for multiple in stage):
                layers.append(norm.conv(c_in, channels, 3, padding=1))
                if norm.activation is not None:
                    layers.append(norm.activation(channels))
                layers.append(norm.nonlinearity(channels))
                c_in = channels
            layers.append(nn.MaxPool2d(2))
        self.stages = nn.Sequential(*layers)
        self.hidden = nn.Sequential(
            nn.Linear(c_in * grid**2, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout),
        )  # fmt: skip
        self.head = self.make_head(num_classes)
        init_kaiming(self)

    def features(self, x: Tensor) -> Tensor:
        maps = self.stages(x).unflatten(3, (self.grid, -1)).unflatten(2, (self.grid, -1))
        features: Tensor = self.hidden(maps.mean((3, 5)).flatten(1))
        return features
