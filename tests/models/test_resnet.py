"""Backbones against the published shapes, parameter counts and formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchvision
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from da_wa.errors import ConfigError
from da_wa.models.fixup import Bias, FixupBasicBlock, FixupBottleneck, Multiplier, init_fixup, scalar_parameters
from da_wa.models.resnet import BLOCKS, BasicBlock, ResNet
from da_wa.models.vgg import VGG16
from da_wa.norm.spec import Norm, group_norm, instance_norm, layer_norm
from da_wa.norm.weight_align import WeightAlignConv2d
from da_wa.shipped import conf_dir

BN = Norm("BN", nn.Conv2d, nn.BatchNorm2d)
WA = Norm("WA", WeightAlignConv2d)
NONE = Norm("Baseline")
TEN = {
    norm: instantiate(OmegaConf.load(conf_dir() / "norm" / f"{norm}.yaml"))
    for norm in ("none", "wa", "bn", "bn_wa", "gn", "gn_wa", "in", "in_wa", "ln", "ln_wa")
}
MODELS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
OURS = [name for name in MODELS if name not in ("timm", "torchvision")]


def configured(name: str):
    return instantiate(OmegaConf.load(conf_dir() / "model" / f"{name}.yaml")).build


def tiny(norm: Norm, block="basic", **kwargs) -> ResNet:
    return ResNet(norm, 5, block=block, depths=[2, 2], widths=[8, 16], **kwargs)


# Counts of the usual CIFAR ResNets with 100 classes, from weiaicunzai/pytorch-cifar100's networks.
@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet18", 11.22), ("resnet34", 21.33), ("resnet50", 23.71), ("resnet101", 42.70), ("resnet152", 58.34)],
)
def test_parameter_counts_are_those_of_the_usual_cifar_resnets(name, millions):
    with torch.device("meta"):
        model = configured(name)(BN, 100)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize("norm", [BN, NONE], ids=["bn", "none"])
def test_vgg16_for_imagenet_is_torchvisions(norm):
    with torch.device("meta"):
        model = VGG16(norm, 1000, grid=7)
        theirs = torchvision.models.vgg16_bn() if norm is BN else torchvision.models.vgg16()
        assert model(torch.empty(1, 3, 224, 224)).shape == (1, 1000)
    assert [p.shape for p in model.parameters()] == [p.shape for p in theirs.parameters()]
    assert model.min_size == 224


def test_vgg16_sees_places_in_the_order_of_torchvision():
    torch.manual_seed(0)
    model, images = VGG16(NONE, 5, width=2, hidden=4, grid=2).eval(), torch.rand(2, 3, 128, 128)
    maps = nn.AdaptiveAvgPool2d(2)(model.stages(images))
    torch.testing.assert_close(model(images), model.head(model.hidden(maps.flatten(1))))
    one = VGG16(NONE, 5, width=2, hidden=4).eval()
    assert torch.equal(one.features(images), one.hidden(one.stages(images).mean((2, 3))))  # as before


def test_resnet_with_the_stem_for_imagenet_is_torchvisions():
    torch.manual_seed(0)
    theirs = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=7).eval()
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
    model = ResNet(
        BN, 7, block="bottleneck", depths=[1, 1, 1, 1], widths=[64, 128, 256, 512], stem="imagenet"
    ).eval()  # fmt: skip
    ours = model.state_dict()
    assert [v.shape for v in ours.values()] == [v.shape for v in theirs.state_dict().values()]
    model.load_state_dict(dict(zip(ours, theirs.state_dict().values(), strict=True)))
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(model(images), theirs(images))
    assert model.min_size == 64
    with pytest.raises(ConfigError, match=r"model\.build\.stem=imagnet is unknown\. Did you mean 'imagenet'"):
        tiny(BN, stem="imagnet")


def test_resnet20_has_the_papers_quarter_million_parameters():
    """He et al. 2016, Table 6: 0.27 M for ten classes (identity shortcuts; ours add two 1×1 projections)."""
    model = configured("resnet20")(BN, 10)
    projections = sum(p.numel() for n, p in model.named_parameters() if "shortcut" in n)
    assert sum(p.numel() for p in model.parameters()) - projections == pytest.approx(269_722, abs=1)
    convolutions = [m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and "shortcut" not in n]
    assert len(convolutions) + 1 == 20  # and the head


@pytest.mark.parametrize("norm", TEN)
@pytest.mark.parametrize("name", ["resnet20", "resnet18"])
def test_every_norm_trains_every_parameter(name, norm):
    torch.manual_seed(0)
    model = configured(name)(TEN[norm], 5)
    nn.init.normal_(model.head.weight)  # Fixup's zero head passes no gradient in the first step
    images = torch.randn(4, 3, model.min_size, model.min_size)
    logits = model(images)
    assert logits.shape == (4, 5)
    assert logits.isfinite().all()
    logits.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


def test_stage_shapes_of_resnet50():
    model = configured("resnet50")(BN, 31)
    x = torch.randn(1, 3, 32, 32)
    shapes = []
    x = model.stem(x)
    for stage in model.stages:
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4)]
    assert model.num_features == 2048
    assert not any(isinstance(m, nn.MaxPool2d) for m in model.modules())


@pytest.mark.parametrize("norm", ["bn_wa", "wa"])
@pytest.mark.parametrize("name", OURS)
def test_wa_is_everywhere_but_in_the_head(name, norm):
    with torch.device("meta"):
        model = configured(name)(TEN[norm], 31)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions
    assert all(type(m) is WeightAlignConv2d for m in convolutions)
    assert type(model.head) is nn.Linear


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_a_fixup_network_starts_as_its_stem_and_shortcuts(block):
    """With the last convolution of every branch zero, a block is relu of its shortcut."""
    model = tiny(NONE, block)
    x = torch.randn(2, 3, 8, 8)
    y = model.stem(x)
    for b in [b for stage in model.stages for b in stage]:
        expected = torch.relu(b.shortcut(y))
        y = b(y)
        torch.testing.assert_close(y, expected)
    assert model(x).abs().max() == 0  # zero head


@pytest.mark.parametrize("kind", [FixupBasicBlock, FixupBottleneck])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_fixup_block_is_that_of_the_authors_code(kind, stride):
    """A convolutional shortcut sees the input with the first bias, an identity the input itself."""
    width = 8 if kind is FixupBasicBlock else 2
    block, x = kind(8, width, stride, NONE), torch.randn(2, 8, 6, 6)
    for number, scalar in enumerate(scalar_parameters(block)):
        nn.init.constant_(scalar, 0.3 + 0.1 * number)
    before, after = ([bias.value for bias in biases] for biases in (block.before, block.after))
    out = x
    for conv, b, a in zip(block.branch[:-1], before, after, strict=False):
        out = torch.relu(conv(out + b) + a)
    out = block.branch[-1](out + before[-1]) * block.multiplier.value + after[-1]
    identity = x if isinstance(block.shortcut, nn.Identity) else block.shortcut(x + before[0])
    assert (identity is x) == (stride == 1)
    torch.testing.assert_close(block(x), torch.relu(out + identity))


@pytest.mark.parametrize(("block", "m"), [(FixupBasicBlock, 2), (FixupBottleneck, 3)])
def test_fixup_scales_the_branch_by_depth(block, m):
    """std = sqrt(2/(k·k·c_out)) · L^(-1/(2m-2)), the official code's initialisation."""
    torch.manual_seed(0)
    kind = {FixupBasicBlock: "basic", FixupBottleneck: "bottleneck"}[block]
    model = ResNet(NONE, 5, block=kind, depths=[3, 3], widths=[64, 128])
    blocks = [b for b in model.modules() if isinstance(b, block)]
    for b in blocks:
        first = b.branch[0]
        k = math.prod(first.kernel_size)
        expected = math.sqrt(2 / (k * first.out_channels)) * 6 ** (-1 / (2 * m - 2))
        assert first.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert b.branch[-1].weight.abs().max() == 0


@pytest.mark.parametrize("block", [FixupBasicBlock, FixupBottleneck])
def test_fixup_does_not_scale_the_shortcut(block):
    """std = sqrt(2/c_out) whatever the depth, the official code's initialisation for ImageNet."""
    torch.manual_seed(0)
    blocks = [block(64, 256, 2, NONE) for _ in range(3)]
    init_fixup(blocks, "one")
    for b in blocks:
        expected = math.sqrt(2 / b.shortcut.out_channels)
        assert b.shortcut.weight.std().item() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    "make",
    [
        lambda norm: ResNet(norm, 5, block="basic", depths=[1, 1], widths=[32, 64]),
        lambda norm: VGG16(norm, 5, width=32, hidden=8),
    ],
)
def test_networks_with_activation_norms_start_with_the_initialisation_of_he_et_al(make):
    """std = sqrt(2/(k·k·c_in)): He et al. 2015, Eq. 10."""
    torch.manual_seed(0)
    model = make(Norm("BN", nn.Conv2d, nn.BatchNorm2d))
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    for conv in convs:
        expected = math.sqrt(2 / (math.prod(conv.kernel_size) * conv.in_channels))
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.1 if conv.in_channels == 3 else 0.03)
    assert any(conv.in_channels != conv.out_channels for conv in convs)


@pytest.mark.parametrize(("gain_init", "first", "last"), [("one", 1.0, 1.0), ("fixup", 4 ** (-1 / 2), 0.0)])
def test_gain_init_of_weight_align(gain_init, first, last):
    model = tiny(WA, gain_init=gain_init)  # L = 4 blocks of m = 2
    for block in (b for b in model.modules() if isinstance(b, FixupBasicBlock)):
        torch.testing.assert_close(block.branch[0].gain, torch.full_like(block.branch[0].gain, first))
        torch.testing.assert_close(block.branch[1].gain, torch.full_like(block.branch[1].gain, last))
        assert block.branch[1].weight.std() > 0  # a zero filter would have no direction
    assert model.stem[0].gain.eq(1).all()
    torch.manual_seed(0)
    assert model.features(torch.randn(2, 3, 8, 8)).isfinite().all()


@pytest.mark.parametrize(("block", "m"), [("basic", 2), ("bottleneck", 3)])
@pytest.mark.parametrize("norm", [NONE, WA])
def test_scalar_parameters_are_all_biases_and_multipliers(norm, block, m):
    """Zhang et al. 2019, Sec. 4: a bias before and after each of the m convolutions, a multiplier; stem and head."""
    model = tiny(norm, block)
    blocks = 4
    scalars = scalar_parameters(model)
    assert len(scalars) == len({id(p) for p in scalars}) == blocks * (2 * m + 1) + 2
    assert sum(isinstance(layer, Multiplier) for layer in model.modules()) == blocks
    assert sum(isinstance(layer, Bias) for layer in model.modules()) == blocks * 2 * m + 2
    # Nothing else of a network has one element, so the scalars are complete, whatever holds them.
    assert {id(p) for p in scalars} == {id(p) for p in model.parameters() if p.numel() == 1}


@pytest.mark.parametrize("norm", [BN, Norm("GN", nn.Conv2d, group_norm)])
def test_networks_with_activation_norms_have_no_fixup_scalars(norm):
    assert scalar_parameters(tiny(norm)) == []


def test_blocks_have_a_name_or_are_classes():
    """Two 3×3 convolutions, and 1×1, 3×3, 1×1 at four times the width (He et al. 2016, Fig. 5)."""

    def kernels(block) -> list[int]:
        first = tiny(BN, block).stages[0][0]
        return [layer.kernel_size[0] for layer in first.branch if isinstance(layer, nn.Conv2d)]

    assert {name: kernels(name) for name in BLOCKS} == {"basic": [3, 3], "bottleneck": [1, 3, 1]}
    assert tiny(BN, "bottleneck").num_features == 4 * tiny(BN, "basic").num_features == 64

    class Own(BasicBlock):
        pass

    assert type(tiny(BN, Own).stages[0][0]) is Own


def test_a_nonlinearity_that_fixup_blocks_would_ignore_is_refused():
    own = Norm("WA + GELU", WeightAlignConv2d, nonlinearity=lambda channels: nn.GELU())
    with pytest.raises(ConfigError, match=r"WA \+ GELU: .*Fixup"):
        tiny(own)
    assert any(isinstance(layer, nn.GELU) for layer in VGG16(own, 5, width=1, hidden=4).modules())


BAD: list[tuple[dict[str, Any], str]] = [
    ({"depths": [0, 0, 0]}, r"model\.build\.depths=\[0, 0, 0\] .*1 or more.*model\.build\.depths=\[3,3,3\]"),
    ({"depths": [3, 0, 3]}, r"model\.build\.depths=\[3, 0, 3\]"),
    ({"depths": [3, -1, 3]}, r"model\.build\.depths"),
    ({"depths": [3, 1.5, 3]}, r"model\.build\.depths"),
    ({"depths": [True, True, True]}, r"model\.build\.depths"),
    ({"depths": None}, r"model\.build\.depths=None"),
    ({"depths": 3}, r"model\.build\.depths=3"),
    ({"depths": "333"}, r"model\.build\.depths=333"),
    ({"depths": []}, r"model\.build\.depths=\[\]"),
    ({"widths": [16, 0, 64]}, r"model\.build\.widths=\[16, 0, 64\].*model\.build\.widths=\[16,32,64\]"),
    ({"depths": [3, 3]}, r"model\.build\.depths=\[3, 3\] has 2 stages and model\.build\.widths=.* has 3"),
    ({"block": "botleneck"}, r"model\.build\.block=botleneck .*Did you mean 'bottleneck'"),
    ({"block": None}, r"model\.build\.block=None .*Known: basic, bottleneck"),
    ({"block": nn.Conv2d}, r"model\.build\.block=.*Known: basic, bottleneck"),
    ({"gain_init": "foo"}, r"model\.gain_init=foo .*one, fixup"),
    ({"gain_init": None}, r"model\.gain_init=None .*one, fixup"),
]


@pytest.mark.parametrize("norm", [BN, NONE])
@pytest.mark.parametrize(("options", "message"), BAD, ids=lambda value: str(value)[:40])
def test_wrong_options_are_refused_by_name(norm, options, message):
    good = {"block": "basic", "depths": [3, 3, 3], "widths": [16, 32, 64]}
    with pytest.raises(ConfigError, match=message):
        ResNet(norm, 5, **{**good, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, r"model\.build\.hidden=0"),
        ({"hidden": 1.5}, r"model\.build\.hidden=1\.5"),
        ({"dropout": 1.0}, r"model\.build\.dropout=1\.0"),
        ({"dropout": float("nan")}, r"model\.build\.dropout=nan"),
        ({"dropout": "half"}, r"model\.build\.dropout=half"),
    ],
)
def test_wrong_options_of_vgg16_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message), torch.device("meta"):
        VGG16(BN, 5, **options)


@pytest.mark.parametrize("name", MODELS)
def test_model_files_name_blocks_without_classes(name):
    text = (conf_dir() / "model" / f"{name}.yaml").read_text()
    assert "hydra.utils" not in text
    assert OmegaConf.create(text).get("version", 1) == 1


def test_vgg16_has_thirteen_convolutions_with_bias():
    with torch.device("meta"):
        model = VGG16(BN, 100)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 13
    assert all(m.bias is not None for m in convolutions)
    # torchvision's vgg16_bn has 14,723,136 parameters in its features.
    assert sum(p.numel() for p in model.stages.parameters()) == 14_723_136


def test_layer_norm_is_per_sample_over_everything():
    x = torch.randn(3, 8, 4, 4, dtype=torch.float64)
    expected = torch.nn.functional.layer_norm(x, x.shape[1:])
    torch.testing.assert_close(layer_norm(8).double()(x), expected)


@pytest.mark.parametrize(
    ("channels", "groups"), [(64, 32), (256, 32), (2048, 32), (32, 16), (16, 8), (48, 24), (7, 1), (1, 1)]
)
def test_group_norm_leaves_two_channels_in_a_group(channels, groups):
    assert group_norm(channels).num_groups == groups


def test_instance_norm_is_affine_without_running_statistics():
    layer = instance_norm(4)
    assert layer.affine
    assert layer.running_mean is None
