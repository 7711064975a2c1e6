"""VGG16 (Simonyan & Zisserman 2015) for small images, with two hidden linear layers as in the original."""

from __future__ import annotations

from torch import Tensor, nn

from da_wa.errors import ConfigError
from da_wa.models.backbone import Backbone
from da_wa.models.resnet import init_kaiming
from da_wa.norm.spec import Norm

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(Backbone):
    """Thirteen 3×3 convolutions in five stages with max-pooling, then linear layers of 4096, 4096, classes.

    Convolutions keep their bias, as in the original. The hidden linear layers are not weight-normalised.

    Args:
        norm: how the network normalises.
        num_classes: outputs of the head.
        hidden: width of the two hidden linear layers.
        dropout: probability of zeroing their outputs, from 0 up to but excluding 1.

    Raises:
        ConfigError: ``hidden`` is not a whole number from 1, or ``dropout`` is not in [0, 1).

    >>> import torch
    >>> from da_wa.norm import named
    >>> model = VGG16(named("bn"), 31, hidden=16).eval()
    >>> model(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 31])
    """

    min_size = 32

    def __init__(self, norm: Norm, num_classes: int, *, hidden: int = 4096, dropout: float = 0.5) -> None:
        super().__init__()
        if type(hidden) is not int or hidden < 1:
            raise ConfigError(f"model.build.hidden={hidden} must be a whole number, 1 or more")
        if type(dropout) not in (int, float) or not 0 <= dropout < 1:
            raise ConfigError(f"model.build.dropout={dropout} must be a number from 0 up to but excluding 1")
        self.num_features = hidden
        layers: list[nn.Module] = []
        c_in = 3
        for widths in STAGES:
            for width in widths:
                layers.append(norm.conv(c_in, width, 3, padding=1))
                if norm.activation is not None:
                    layers.append(norm.activation(width))
                layers.append(norm.nonlinearity(width))
                c_in = width
            layers.append(nn.MaxPool2d(2))
        self.stages = nn.Sequential(*layers)
        self.hidden = nn.Sequential(
            nn.Linear(c_in, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout),
        )  # fmt: skip
        self.head = self.make_head(num_classes)
        init_kaiming(self)

    def features(self, x: Tensor) -> Tensor:
        features: Tensor = self.hidden(self.stages(x).mean((2, 3)))
        return features
