from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from da_wa.config.tree import conf_dir
from da_wa.errors import ConfigError
from da_wa.norm import NormalizedConv2d, WeightAlignConv2d, named

PLANE = {
    "none": ("Baseline", type(None)),
    "bn": ("BN", nn.BatchNorm2d),
    "gn": ("GN", nn.GroupNorm),
    "in": ("IN", nn.InstanceNorm2d),
    "ln": ("LN", nn.GroupNorm),
}
FILES = sorted(path.stem for path in (conf_dir() / "norm").glob("*.yaml"))


@pytest.mark.parametrize("name", PLANE)
def test_the_ten_rows_of_the_paper(name: str) -> None:
    label, kind = PLANE[name]
    plain = named(name)
    aligned = named("wa" if name == "none" else f"{name}_wa")
    assert plain.label == label and aligned.label == ("WA" if name == "none" else f"{label} + WA")
    assert type(plain.conv(4, 8, 3)) is nn.Conv2d and type(aligned.conv(4, 8, 3)) is WeightAlignConv2d
    for norm in (plain, aligned):
        assert isinstance(norm.activation and norm.activation(64), kind)
    if plain.activation is not None:
        groups = getattr(plain.activation(64), "num_groups", None)
        assert groups == {"gn": 32, "ln": 1}.get(name)


@pytest.mark.parametrize("name", FILES)
def test_every_file_makes_layers_that_learn(name: str) -> None:
    norm = copy.deepcopy(named(name))
    conv = norm.conv(8, 16, 3, stride=1, padding=1, bias=False)
    activation = norm.activation(16) if norm.activation is not None else nn.Identity()
    network = nn.Sequential(conv, activation, norm.nonlinearity(16))
    y = network(torch.randn(4, 8, 6, 6))
    assert y.shape == (4, 16, 6, 6) and y.isfinite().all()
    y.sin().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_labels_tell_files_apart() -> None:
    labels = {name: named(name).label for name in FILES}
    assert len(set(labels.values())) == len(labels) >= 20
    assert any(isinstance(named(name).conv(2, 2, 3), NormalizedConv2d) for name in FILES)


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match="bn_wa"):
        named("bnwa")
    with pytest.raises(ConfigError, match="unknown norm"):
        named("../norm/bn")
