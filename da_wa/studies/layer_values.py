"""Networks at initialisation and trained, and the values of their layers: the measurements of ``why.py``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from da_wa.config.make import make
from da_wa.config.tree import read_node
from da_wa.data.augment import Normalize
from da_wa.data.domains import Domain
from da_wa.errors import DataError
from da_wa.models.backbone import Backbone
from da_wa.models.checkpoint import load_network, read_header
from da_wa.models.plain import plain_network
from da_wa.models.resnet import init_kaiming
from da_wa.models.responses import blocks, branch_result, filters, last_response, responses
from da_wa.report.distributions import measures, quantiles, top_class
from da_wa.runs.networks import built
from da_wa.shipped import conf_dir

CLASSIFIER = "classifier"
NetworkNode = Mapping[str, Any]
"""``build`` of a file of ``conf/model``."""


@dataclass(frozen=True)
class Sizes:
    """How much is computed.

    Attributes:
        batch: images, of noise or real.
        side: of the plain network's input, in pixels; a residual network sees 32.
        width: channels of the plain network.
        layers: convolutions of the plain network, for the growth with depth.
        noise: images, of noise, for the same.
        depths: of the residual networks, for the same.
    """

    batch: int
    side: int
    width: int
    layers: int
    noise: int
    depths: Sequence[int]


@dataclass(frozen=True)
class Layer:
    """The values of one layer.

    Attributes:
        layer: its name.
        quantity: ``weights`` or ``activations``.
        rows: (channels, values).
    """

    layer: str
    quantity: str
    rows: Tensor

    def measures(self) -> dict[str, Any]:
        """Its name and what its values are like, see :func:`da_wa.report.distributions.measures`."""
        rows = self.rows.numpy()
        answers = {"top_class": top_class(rows)} if self.layer == CLASSIFIER else {}
        return {"layer": self.layer, "quantity": self.quantity, **measures(rows), **answers}

    def quantiles(self) -> dict[str, float]:
        """Of all its values, see :func:`da_wa.report.distributions.quantiles`."""
        return quantiles(self.rows.numpy())

    def curves(self, channels: int = 8, most: int = 1000) -> pd.DataFrame:
        """At most ``most`` random values of the first channels: ``layer``, ``quantity``, ``channel`` and ``value``."""
        chosen = torch.randperm(self.rows.shape[1], generator=torch.Generator().manual_seed(0))[:most]
        shown = self.rows[:channels, chosen].numpy()
        channel = np.repeat(np.arange(len(shown)), shown.shape[1])
        values = pd.DataFrame({"channel": channel, "value": shown.ravel()})
        return values.assign(layer=self.layer, quantity=self.quantity)


def initial_layers(norm: Any, sizes: Sizes) -> Iterator[Layer]:
    """The responses of an 8-layer network to noise, before the non-linearity, and its classifier's outputs.

    BN takes the statistics of this batch.
    """
    network = plain_network(norm, layers=7, width=sizes.width, side=sizes.side)
    noise = torch.randn(sizes.batch, 3, sizes.side, sizes.side)
    *maps, logits = responses(network, [*network[0:-2:2], network[-1]], noise)
    for number, rows in enumerate(maps, start=1):
        yield Layer(f"layer {number}", "activations", rows)
    yield Layer(CLASSIFIER, "activations", logits)


def trained_network(path: Path, build: Callable[[int], Backbone]) -> Backbone:
    """The network of a checkpoint with its classifier, in evaluation mode.

    Args:
        path: the file.
        build: number of classes -> network.

    Raises:
        CheckpointError: not a valid checkpoint, or of another architecture or norm.
    """
    read_header(path)
    model = build(len(load_file(path)["head.bias"]))
    load_network(path, model)
    return model.eval()


def middle_and_last(model: nn.Module) -> list[int]:
    """The numbers (from 1) of the residual blocks that are measured."""
    count = len(blocks(model))
    return list(dict.fromkeys([count // 2 + 1, count]))


def network_layers(model: Backbone, x: Tensor, *, training: bool = False) -> Iterator[Layer]:
    """The filters that a residual network computes with, and its responses to ``x`` (n, 3, h, w).

    The layers are the last of the residual branch, in the middle block and in the last block, and the classifier.
    The weights of a residual layer are those it computes with: normalised, and a row for every filter.

    Args:
        model: with a classifier.
        x: normalised images.
        training: norms take the statistics of ``x``, as in training.

    Raises:
        ConfigError: the network has no residual blocks.
    """
    numbers = middle_and_last(model)
    for number in numbers:
        yield Layer(f"block {number}", "weights", filters(model.eval(), number))
    inside = [*(last_response(blocks(model)[number - 1]) for number in numbers), model.head]
    *maps, logits = responses(model.train(training), inside, x)
    for number, rows in zip(numbers, maps, strict=True):
        yield Layer(f"block {number}", "activations", rows)
    yield Layer(CLASSIFIER, "activations", logits)


def branch_shares(model: Backbone, x: Tensor) -> list[float]:
    """How much every residual block does, in evaluation mode: var(branch) / (var(branch) + var(shortcut)).

    The variances are around the mean of each channel, over images and pixels. 0: the branch is constant, the block only
    passes its input on.

    Args:
        model: with residual blocks.
        x: (n, 3, h, w) normalised images.

    Raises:
        ConfigError: the network has no residual blocks.
    """
    inside = [module for block in blocks(model) for module in (branch_result(block), block.get_submodule("shortcut"))]
    rows = responses(model.eval(), inside, x)
    variances = [values.double().var(1, correction=0).sum().item() for values in rows]
    terms = zip(variances[::2], variances[1::2], strict=True)
    return [branch / (branch + shortcut) if branch + shortcut else math.nan for branch, shortcut in terms]


def trained_branches(path: Path, build: NetworkNode, norm: Any, images: Tensor) -> list[float]:
    """The :func:`branch_shares` of a trained network for ``images`` (n, 3, h, w) uint8.

    Raises:
        CheckpointError: not a valid checkpoint, or of another architecture or norm.
        ConfigError: the network has no residual blocks.
    """
    x = Normalize(**read_header(path).facts["normalize"])(images)
    return branch_shares(trained_network(path, partial(make(build), norm)), x)


def trained_layers(path: Path, build: NetworkNode, norm: Any, images: Tensor) -> Iterator[Layer]:
    """The layers of a trained network, in evaluation mode, for ``images`` (n, 3, h, w) uint8.

    Raises:
        CheckpointError: not a valid checkpoint, or of another architecture or norm.
        ConfigError: the network has no residual blocks.
    """
    x = Normalize(**read_header(path).facts["normalize"])(images)
    yield from network_layers(trained_network(path, partial(make(build), norm)), x)


def kept_layers(path: Path, config: Mapping[str, Any], images: Tensor) -> Iterator[Layer]:
    """The layers of the network that a run kept after an epoch; norms take the statistics of ``images``.

    Args:
        path: the file.
        config: of the run's job.
        images: (n, 3, h, w) uint8.

    Raises:
        CheckpointError: not a valid checkpoint.
    """
    model = trained_network(path, partial(built, config))
    yield from network_layers(model, Normalize(**config["normalize"])(images), training=True)


def check_blocks(build: NetworkNode, norm: Any) -> None:
    """Raise a ConfigError if a network has no residual blocks."""
    middle_and_last(make(build)(norm, 2))


def image_batch(domain: Domain, count: int, size: int) -> Tensor:
    """Images of a domain at random: (count, 3, size, size) uint8.

    Raises:
        DataError: the domain has too few images.
    """
    if len(domain.images) < count:
        raise DataError(f"{domain.name} holds {len(domain.images)} images; {count} are needed. Choose another source.")
    chosen = np.random.default_rng(0).permutation(len(domain.images))[:count]
    return torch.from_numpy(np.stack([domain.images.decode(index, size) for index in chosen]))


def shipped(group: str, name: str) -> Any:
    """A node of ``conf/<group>``."""
    return read_node(group, name, [conf_dir()])


def residual_network(name: str, norm: str, classes: int = 10, gain_init: str = "one") -> Backbone:
    """The network of ``conf/model/<name>.yaml`` at its initialisation."""
    node = shipped("model", name)
    node.gain_init = gain_init
    model: Backbone = make(node.build)(make(shipped("norm", norm)), classes)
    return model


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

PLAIN = {"Kaiming": "none", "WA, gain 1": "wa", "scaled WS": "scaled_ws", "BN": "bn"}
"""How a plain network may start, and the norm."""


def beginnings(sizes: Sizes) -> Iterator[tuple[str, str, nn.Module, Sequence[nn.Module]]]:
    """Networks at initialisation: name, how it starts, the network, and its layers or blocks in order."""
    for start, norm in PLAIN.items():
        plain = plain_network(make(shipped("norm", norm)), layers=sizes.layers, width=sizes.width, side=32)
        yield f"plain, {sizes.layers} layers", start, plain, list(plain)[0:-2:2]
    for depth in sizes.depths:
        for start, begin in RESIDUAL.items():
            torch.manual_seed(0)
            model = begin(f"resnet{depth}")
            yield f"ResNet{depth}", start, model, blocks(model)


def second_moments(sizes: Sizes) -> pd.DataFrame:
    """The second moment behind every layer or block at initialisation, for noise.

    Returns:
        Columns ``network``, ``start``, ``step`` (1, 2, …) and ``second_moment``.
    """
    noise = torch.randn(sizes.noise, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = []
    for network, start, model, steps in beginnings(sizes):
        for step, rows in enumerate(responses(model.train(), steps, noise), start=1):
            found.append((network, start, step, rows.double().square().mean().item()))
    return pd.DataFrame(found, columns=["network", "start", "step", "second_moment"])
