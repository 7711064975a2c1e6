"""Networks at initialisation and trained, and what the values of their layers are like.

The measurements behind ``why_it_works.py``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file
from scipy import stats
from torch import Tensor, nn

from da_wa.config.tree import conf_dir
from da_wa.data.augment import Normalize
from da_wa.models.backbone import Backbone
from da_wa.models.checkpoint import load_backbone, read_header
from da_wa.models.resnet import init_kaiming
from da_wa.norm import Norm, NormalizedConv2d, fold, named

CLASSIFIER = "classifier"


@dataclass(frozen=True)
class Sizes:
    """How much is computed.

    Attributes:
        batch: images, of noise or real.
        side: of the plain network's input, in pixels; a residual network sees 32.
        width: channels of the plain network.
        layers: convolutions of the plain network, for the same.
        noise: images, of noise, for the growth with depth.
        depths: of the residual networks, for the same.
    """

    batch: int = 128
    side: int = 8
    width: int = 64
    layers: int = 20
    noise: int = 2
    depths: tuple[int, ...] = (18, 34, 50, 101, 152)


SMOKE = Sizes(batch=16, side=4, width=16, layers=4, noise=1, depths=(18,))


def plain_network(norm: Norm, *, layers: int, width: int, side: int, classes: int = 10) -> nn.Sequential:
    """Convolutions without shortcuts, then one linear classifier: Kaiming initialisation, no biases (Sec. III-D).

    The borders are circular, since zeros there would lower the second moment. All norms get the same raw weights,
    and leave torch's random state alike.

    Args:
        norm: how it normalises.
        layers: 3×3 convolutions.
        width: channels of each.
        side: of the images, in pixels. The classifier sees every pixel of the last map.
        classes: its outputs.

    Returns:
        ``[convolution and norm, non-linearity] · layers, flatten, classifier``.
    """
    modules: list[nn.Module] = []
    for c_in in (3, *[width] * (layers - 1)):
        conv = norm.conv(c_in, width, 3, padding=1, padding_mode="circular", bias=False)
        after = nn.Identity() if norm.activation is None else norm.activation(width)
        modules += [nn.Sequential(conv, after), norm.nonlinearity(width)]
    network = nn.Sequential(*modules, nn.Flatten(), nn.Linear(width * side**2, classes, bias=False))
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, NormalizedConv2d):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network


def residual_network(name: str, norm: str, classes: int = 10, gain_init: str = "one") -> Backbone:
    """The network of ``conf/model/<name>.yaml`` at its initialisation."""
    config = OmegaConf.load(conf_dir() / "model" / f"{name}.yaml")
    config.gain_init = gain_init
    model: Backbone = instantiate(config.build)(named(norm), classes)
    return model


def trained_network(path: Path, norm: str) -> Backbone:
    """The ResNet20 of a checkpoint with its classifier, in evaluation mode.

    Raises:
        CheckpointError: not a valid checkpoint, or of another architecture or norm.
    """
    read_header(path)
    weights = load_file(path)
    model = residual_network("resnet20", norm, len(weights["head.bias"]))
    load_backbone(path, model)
    model.load_state_dict(weights)  # the head, too
    return model.eval()


def blocks(model: nn.Module) -> list[nn.Module]:
    """The residual blocks from the first to the last."""
    return [block for stage in model.get_submodule("stages").children() for block in stage.children()]


def last_conv(block: nn.Module) -> nn.Conv2d:
    """The last convolution of a block's residual branch."""
    return [module for module in block.get_submodule("branch").modules() if isinstance(module, nn.Conv2d)][-1]


def last_response(block: nn.Module) -> nn.Module:
    """What gives the result of a block's residual branch: that convolution or, if there is one, the norm behind it."""
    return list(block.get_submodule("branch").children())[-1]


@torch.no_grad()
def outputs(model: nn.Module, modules: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """What each of ``modules`` gives while ``model`` sees ``x``, as rows of channels: (channels, values)."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, arguments: object, output: Tensor) -> None:
        kept.append(output.transpose(0, 1).flatten(1).clone())  # a ReLU may overwrite the output

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return kept


def measures(rows: Tensor) -> dict[str, float]:
    """What a distribution is like, from rows of channels (or filters) of equal length, (channels, values).

    ``second_moment``: mean of squares. ``offset``: the share of it that is the squares of the channels' means, 0
    when every channel is centred and 1 when all are constant. ``spread``: the standard deviation of the channels'
    standard deviations over their mean, 0 when all are equally wide. ``skewness``: its absolute value, the
    median over the channels that are not constant.
    """
    x = rows.double().numpy()
    second, std = np.square(x).mean(), x.std(1)
    wide = x[std > 1e-6 * np.sqrt(second)]
    return {
        "second_moment": float(second),
        "offset": float(np.square(x.mean(1)).mean() / second),
        "spread": float(std.std() / std.mean()),
        "skewness": float(np.median(np.abs(stats.skew(wide, axis=1)))),
    }


def top_class(logits: Tensor) -> float:
    """The share of the images, (classes, images), that get the most frequent answer."""
    return logits.argmax(0).bincount().max().item() / logits.shape[1]


@dataclass(frozen=True)
class Layer:
    """The values of one layer.

    Attributes:
        norm: the norm's label.
        layer: the layer's name.
        quantity: ``weights`` or ``activations``.
        rows: (channels, values).
    """

    norm: str
    layer: str
    quantity: str
    rows: Tensor


def initial_layers(names: Sequence[str], sizes: Sizes) -> Iterator[Layer]:
    """The responses of an 8-layer network to noise, before the non-linearity, and its classifier's outputs.

    BN takes the statistics of this batch.
    """
    for name in names:
        norm = named(name)
        network = plain_network(norm, layers=7, width=sizes.width, side=sizes.side)
        noise = torch.randn(sizes.batch, 3, sizes.side, sizes.side)
        *maps, logits = outputs(network, [*network[0:-2:2], network[-1]], noise)
        for number, rows in enumerate(maps, start=1):
            yield Layer(norm.label, f"layer {number}", "activations", rows)
        yield Layer(norm.label, CLASSIFIER, "activations", logits)


def trained_layers(checkpoints: dict[str, Path], images: Tensor) -> Iterator[Layer]:
    """The filters that a trained ResNet20 computes with, and its responses to ``images`` (n, 3, h, w) uint8.

    The layers are the last of the residual branch, in the middle block and in the last block, and the classifier.
    The weights of a residual layer are those it computes with: normalised, and a row for every filter.
    """
    for name, path in checkpoints.items():
        label, model = named(name).label, trained_network(path, name)
        count = len(blocks(model))
        numbers = (count // 2 + 1, count)
        for number in numbers:
            weight = last_conv(blocks(fold(model))[number - 1]).weight.detach()
            yield Layer(label, f"block {number}", "weights", weight.flatten(1))
        x = Normalize(**read_header(path).facts["normalize"])(images)
        *maps, logits = outputs(model, [*(last_response(blocks(model)[n - 1]) for n in numbers), model.head], x)
        for number, rows in zip(numbers, maps, strict=True):
            yield Layer(label, f"block {number}", "activations", rows)
        yield Layer(label, CLASSIFIER, "activations", logits)


def beginnings(sizes: Sizes) -> Iterator[tuple[str, str, nn.Module, Sequence[nn.Module]]]:
    """Networks at initialisation: name, how it starts, the network, and its layers or blocks in order."""
    for start, norm in {"Kaiming": "none", "WA, gain 1": "wa", "scaled WS": "scaled_ws", "BN": "bn"}.items():
        plain = plain_network(named(norm), layers=sizes.layers, width=sizes.width, side=32)
        yield f"plain, {sizes.layers} layers", start, plain, list(plain)[0:-2:2]
    for depth in sizes.depths:
        for start, make in RESIDUAL.items():
            torch.manual_seed(0)
            model = make(f"resnet{depth}")
            yield f"ResNet{depth}", start, model, blocks(model)


def kaiming(name: str) -> Backbone:
    """A residual network without norm, with Kaiming's initialisation instead of Fixup's."""
    model = residual_network(name, "none")
    init_kaiming(model)
    return model


RESIDUAL: Mapping[str, Callable[[str], Backbone]] = {
    "Kaiming": kaiming,
    "Fixup": partial(residual_network, norm="none"),
    "WA, gain 1": partial(residual_network, norm="wa"),
    "WA, Fixup's gain": partial(residual_network, norm="wa", gain_init="fixup"),
    "BN": partial(residual_network, norm="bn"),
}
"""How a residual network may start."""


def second_moments(sizes: Sizes) -> pd.DataFrame:
    """The second moment behind every layer or block at initialisation, for noise.

    Returns:
        Columns ``network``, ``start``, ``step`` (1, 2, …) and ``second_moment``.
    """
    noise = torch.randn(sizes.noise, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = []
    for network, start, model, steps in beginnings(sizes):
        for step, rows in enumerate(outputs(model.train(), steps, noise), start=1):
            found.append((network, start, step, rows.double().square().mean().item()))
    return pd.DataFrame(found, columns=["network", "start", "step", "second_moment"])
