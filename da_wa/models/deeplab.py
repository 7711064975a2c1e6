"""DeepLabv3 (Chen et al. 2017, arXiv 1706.05587) with any norm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import ASPP, DeepLabHead

from da_wa.errors import ConfigError
from da_wa.models.checkpoint import load_backbone
from da_wa.models.libraries import Torchvision
from da_wa.models.pretrained import trained
from da_wa.models.resnet import ResNet
from da_wa.models.weights import PUBLISHED, given_file
from da_wa.norm.conversion import convert
from da_wa.norm.spec import Norm
from da_wa.shipped import CHECKPOINTS

ATROUS = {8: (12, 24, 36), 16: (6, 12, 18)}
"""The dilations of the pyramid by output stride (Sec. 4.1 of the paper)."""


class DeepLabV3(nn.Module):
    """A trunk, a head of atrous convolutions, and bilinear interpolation to the size of the image.

    Attributes:
        trunk: images (n, 3, h, w) -> maps (n, d, h / s, w / s) at output stride s.
        head: maps -> logits of the same size; its last layer is never weight-normalised.
    """

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w) -> logits (n, classes, h, w)."""
        return F.interpolate(self.head(self.trunk(x)), size=x.shape[-2:], mode="bilinear", align_corners=False)


def deeplabv3_resnet50(
    norm: Norm,
    num_classes: int,
    *,
    weights: str | None = None,
    output_stride: int = 16,
    multi_grid: Sequence[int] = (1, 1, 1),
) -> DeepLabV3:
    """ResNet50 and DeepLabv3 head of torchvision, converted to ``norm``.

    Args:
        norm: see :func:`~da_wa.norm.conversion.convert`.
        num_classes: of pixels.
        weights: of torchvision's ResNet50, see :func:`weights_file`, or None.
        output_stride: 8 or 16.
        multi_grid: relative dilations of the three blocks of the last stage.

    Raises:
        ConfigError: an unknown output stride, or a multi-grid that does not have three whole numbers, 1 or more.
        WeightsError: ``weights`` is missing or belongs to another network.

    >>> import torch
    >>> from da_wa.norm import named
    >>> with torch.device("meta"):
    ...     model = deeplabv3_resnet50(named("bn_wa"), 21)
    ...     model(torch.zeros(2, 3, 65, 65)).shape
    torch.Size([2, 21, 65, 65])
    """
    if output_stride not in ATROUS:
        raise ConfigError(f"model.output_stride={output_stride}: must be 8 or 16")
    whole = isinstance(multi_grid, Sequence) and all(type(factor) is int and factor >= 1 for factor in multi_grid)
    if not whole or len(multi_grid) != 3:
        raise ConfigError(f"model.multi_grid={multi_grid} must have three whole numbers, 1 or more, e.g. [1,1,1]")
    dilated = [False, output_stride == 8, True]
    library = Torchvision("resnet50", {"replace_stride_with_dilation": dilated})
    network = library.build(None) if weights is None else trained(library, weights_file(weights))
    stages = {3: (1, 1, 1, 1, 1, 1), 4: tuple(multi_grid)} if output_stride == 8 else {4: tuple(multi_grid)}
    for number, grid in stages.items():  # torchvision leaves the first block of a stage undilated
        rate = 2 if number == 3 or output_stride == 16 else 4
        for block, factor in zip(network.get_submodule(f"layer{number}").children(), grid, strict=True):
            conv = cast(nn.Conv2d, block.get_submodule("conv2"))
            conv.dilation = conv.padding = (rate * factor, rate * factor)
    trunk = nn.Sequential(*list(network.children())[:-2])  # without pooling and classifier
    model = DeepLabV3(trunk, DeepLabHead(2048, num_classes, ATROUS[output_stride]))
    return cast(DeepLabV3, convert(model, norm, skip=["head.4"]))


def deeplabv3_resnet20(
    norm: Norm,
    num_classes: int,
    *,
    weights: str | None = None,
    width: int = 64,
    atrous: Sequence[int] = (3, 6, 9),
    widths: Sequence[int] = (16, 32, 64),
) -> DeepLabV3:
    """A small DeepLabv3: the CIFAR ResNet20 of this package with a stem of stride 2, so output stride 8.

    Args:
        norm: of the trunk, as it was trained, and of the head.
        num_classes: of pixels.
        weights: of this package's ResNet20, see :func:`weights_file`, or None.
        width: channels of the head.
        atrous: dilations of its pyramid.
        widths: channels of the stages.

    Raises:
        WeightsError: ``weights`` is missing or belongs to another network.

    >>> import torch
    >>> from da_wa.norm import named
    >>> deeplabv3_resnet20(named("bn_wa"), 11, width=8)(torch.zeros(2, 3, 45, 60)).shape
    torch.Size([2, 11, 45, 60])
    """
    network = ResNet(norm, 1, block="basic", depths=(3, 3, 3), widths=widths)
    if weights is not None:
        load_backbone(weights_file(weights), network)
    next(module for module in network.stem.modules() if isinstance(module, nn.Conv2d)).stride = (2, 2)
    head = nn.Sequential(
        ASPP(network.num_features, atrous, width),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, num_classes, 1),
    )
    return DeepLabV3(nn.Sequential(network.stem, network.stages), convert(head, norm, skip=["4"]))


def weights_file(weights: str) -> Path:
    """The file of trained weights.

    Args:
        weights: ``imagenet`` for torchvision's ResNet50, the beginning of the name of a shipped network, e.g.
            ``resnet20-cifar100-bn``, or a path.

    Raises:
        WeightsError: there is no such file, or it cannot be downloaded.

    >>> weights_file("resnet20-cifar100-bn_wa").suffix
    '.safetensors'
    """
    if weights == PUBLISHED:
        return Torchvision("resnet50").published()
    shipped = [path for path in sorted(CHECKPOINTS.iterdir()) if path.name.startswith(f"{weights}-")]
    return shipped[0] if len(shipped) == 1 else given_file(weights)
