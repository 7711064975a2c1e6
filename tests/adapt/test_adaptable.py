"""The affine parameters of every norm of the catalogue, by name, in ResNet20."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from da_wa.adapt.adaptable import adaptable
from da_wa.models.resnet import ResNet
from da_wa.norm import EvoNormS0, WeightAlignConv2d, named
from da_wa.norm.configs import norm_files

BLOCKS = [f"stages.{stage}.{block}" for stage in range(3) for block in range(3)]
SHORTCUTS = {"stages.1.0", "stages.2.0"}  # where the width changes

AFFINE = ["weight", "bias"]
ACTIVATION = {
    "bn": AFFINE,
    "gn": AFFINE,
    "in": AFFINE,
    "ln": AFFINE,
    "brn": AFFINE,
    "frn": AFFINE,
    "evonorm_s0": ["v", *AFFINE],
}
GAINS = {
    "align",
    "center",
    "scaled_standardize",
    "weight_norm",
    "align_mean",
    "align_std",
    "align_half",
    "align_tenfold",
    "align_tenth",
    "align_double",
}


def expected(weight: str, activation: str) -> set[str]:
    """Written from the papers: which layers a network has, and what each of them learns per channel."""
    gain = ["gain"] if weight in GAINS else []
    if activation == "none":  # Fixup: a bias before and after each convolution, a multiplier for each block
        names = {"stem.1.value", "pooled.value", *(f"stem.0.{p}" for p in gain)}
        for block in BLOCKS:
            names |= {f"{block}.{where}.{i}.value" for where in ("before", "after") for i in (0, 1)}
            names |= {f"{block}.multiplier.value", *(f"{block}.branch.{i}.{p}" for i in (0, 1) for p in gain)}
            names |= {f"{block}.shortcut.{p}" for p in gain if block in SHORTCUTS}
        return names
    convs, norms, ends = ["stem.0"], ["stem.1"], ["stem.2"]
    for block in BLOCKS:
        convs += [f"{block}.branch.0", f"{block}.branch.3"]
        norms += [f"{block}.branch.1", f"{block}.branch.4"]
        ends += [f"{block}.branch.2", f"{block}.nonlinearity"]
        if block in SHORTCUTS:
            convs.append(f"{block}.shortcut.0")
            norms.append(f"{block}.shortcut.1")
    names = {f"{conv}.{p}" for conv in convs for p in gain}
    names |= {f"{norm}.{p}" for norm in norms for p in ACTIVATION[activation]}
    if activation == "frn":
        names |= {f"{end}.tau" for end in ends}
    return names


def resnet20(name: str) -> ResNet:
    return ResNet(named(name), 31, block="basic", depths=[3, 3, 3], widths=[16, 32, 64])


@pytest.mark.parametrize("name", sorted(norm_files().keys() - {"keep"}))  # `keep` builds no network
def test_names_for_every_norm(name):
    model = resnet20(name)
    found = adaptable(model)
    assert {n for n, _ in found} == expected(**named(name).factors)
    assert len({id(p) for _, p in found}) == len(found)
    parameters = dict(model.named_parameters())
    assert all(parameters[n] is p for n, p in found)
    weights = {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)} | {id(model.head.bias)}
    assert not weights & {id(p) for _, p in found}


def test_fixup_has_its_scalars_only():
    found = adaptable(resnet20("none"))
    assert len(found) == 2 + 9 * 5
    assert all(parameter.ndim == 0 for _, parameter in found)


def test_the_count_of_a_network_with_batch_norm_and_gains():
    assert len(adaptable(resnet20("bn_wa"))) == 21 * 3  # 19 convolutions and 2 shortcuts: gain, weight, bias


def test_a_norm_of_ones_own_and_torchs_other_norms():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(8))

    class Gained(nn.Conv2d):
        def __init__(self):
            super().__init__(8, 8, 3)
            self.scale = nn.Parameter(torch.ones(8))

    model = nn.Sequential(
        Gained(), Mine(), EvoNormS0(8), nn.LayerNorm([8, 4, 4]), nn.BatchNorm1d(8), nn.PReLU(8), nn.RMSNorm(8)
    )
    names = {name for name, _ in adaptable(model)}
    assert names == {
        "0.scale", "1.gamma",
        "2.v", "2.weight", "2.bias", "3.weight", "3.bias", "4.weight", "4.bias", "5.weight", "6.weight",
    }  # fmt: skip


def test_layers_that_mix_channels_and_tables_are_left_out():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
            self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
            self.embedding = nn.Embedding(4, 8)
            self.recurrent = nn.LSTM(8, 8)
            self.conv = nn.ConvTranspose2d(8, 8, 3)
            self.linear = nn.Linear(8, 8)

    assert adaptable(Tokens()) == []


def test_biases_of_filters_that_a_module_calls_itself_are_left_out():
    """timm's attentions of BEiT and Swin v2 keep the bias of their linear layer beside it."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(8, 24, bias=False)
            self.q_bias = nn.Parameter(torch.zeros(8))
            self.v_bias = nn.Parameter(torch.zeros(8))
            self.gamma = nn.Parameter(torch.ones(8))

    assert [name for name, _ in adaptable(Attention())] == ["gamma"]


def test_a_head_with_a_gain_is_left_out():
    model = resnet20("wa")
    model.head.gain = nn.Parameter(torch.ones(31))
    assert "head.gain" not in {name for name, _ in adaptable(model)}


def test_a_shared_parameter_comes_once():
    norm = nn.BatchNorm2d(8)
    assert [name for name, _ in adaptable(nn.Sequential(WeightAlignConv2d(3, 8, 3), norm, norm))] == [
        "0.gain", "1.weight", "1.bias",
    ]  # fmt: skip
