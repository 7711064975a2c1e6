from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map
from torchvision.ops import FrozenBatchNorm2d

from da_wa.errors import ConfigError
from da_wa.norm import (
    BatchRenorm2d,
    FilterResponseNorm2d,
    MeanOnlyConv2d,
    Norm,
    NormalizedConv2d,
    Survey,
    WeightAlignConv2d,
    WeightNormConv2d,
    convert,
    fold,
    named,
    survey,
)
from da_wa.norm.tracing import BATCH_NORMS, layers_after_norm

TORCHVISION = {
    "resnet50": torchvision.models.resnet50,
    "vgg16_bn": torchvision.models.vgg16_bn,
    "mobilenet_v3_large": torchvision.models.mobilenet_v3_large,
    "deeplabv3_resnet50": partial(
        torchvision.models.segmentation.deeplabv3_resnet50, weights=None, weights_backbone=None, aux_loss=True
    ),
}
TEN = ["none", "wa", "bn", "bn_wa", "gn", "gn_wa", "in", "in_wa", "ln", "ln_wa"]
TIMM = {
    name: partial(timm.create_model, name)
    for name in [
        "convnext_tiny",
        "darknet53",
        "densenet121",
        "dla34",
        "efficientnet_b0",
        "ghostnet_100",
        "mobilenetv3_large_100",
        "regnety_004",
        "res2net50_26w_4s",
        "resnet50",
        "resnetv2_50",
        "seresnet50",
        "tf_efficientnet_b0",
    ]
}
MAKERS: dict[str, Callable[[], nn.Module]] = {**{f"timm {k}": v for k, v in TIMM.items()}, **TORCHVISION}
CLASSIFIERS = {"classifier.4", "aux_classifier.4", "head.fc", "fc", "classifier"}  # those that are convolutions


def shuffle(model: nn.Module) -> nn.Module:
    """Affines and statistics as after some training."""
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.uniform_(tensor, -0.2, 0.2)
    return model


def of_class(model: nn.Module, kind: type[nn.Module]) -> list[str]:
    return [path for path, module in model.named_modules() if isinstance(module, kind)]


def converted_on_meta(name: str, norm: str) -> tuple[nn.Module, nn.Module]:
    """A network without numbers, before and after: nothing is computed, so it is quick."""
    with torch.device("meta"):
        model = MAKERS[name]().eval()
        converted = convert(model, named(norm))
        shapes = [tree_map(lambda t: t.shape, network(torch.empty(2, 3, 96, 96))) for network in (model, converted)]
    assert shapes[0] == shapes[1]
    return model, converted


@pytest.mark.filterwarnings("ignore:.*convolution and linear layers")
@pytest.mark.parametrize("name", MAKERS)
def test_converts_the_models_of_torchvision_and_timm(name: str) -> None:
    model, converted = converted_on_meta(name, "gn_wa")
    same_padding = {path for path, module in model.named_modules() if type(module).__name__ == "Conv2dSame"}
    plain = set(of_class(converted, nn.Conv2d)) - set(of_class(converted, NormalizedConv2d))
    assert plain - same_padding <= CLASSIFIERS
    assert len(of_class(converted, WeightAlignConv2d)) >= 20 or name == "vgg16_bn"
    assert not of_class(converted, nn.BatchNorm2d) and of_class(converted, nn.GroupNorm)
    assert of_class(converted, nn.Linear) == of_class(model, nn.Linear)


@pytest.mark.parametrize("norm", TEN)
def test_networks_with_pooled_maps_run_with_each_norm_of_the_paper(norm: str) -> None:
    """DeepLab normalises a 1×1 map in one of its branches."""
    _, converted = converted_on_meta("deeplabv3_resnet50", norm)
    assert bool(of_class(converted, WeightAlignConv2d)) == norm.endswith("wa")


FEATURES: dict[str, Callable[[], nn.Module]] = {
    "no classes": partial(timm.create_model, "resnet18", num_classes=0),
    "features": partial(timm.create_model, "resnet18", features_only=True),
    "no head": lambda: torchvision.models.resnet18().eval(),
}


@pytest.mark.parametrize("name", FEATURES)
def test_a_network_of_features_has_no_classifier(name: str) -> None:
    with torch.device("meta"):
        model = FEATURES[name]()
        if name == "no head":
            model.fc = nn.Identity()
        converted = convert(model, named("gn_wa"))
    assert not of_class(converted, nn.BatchNorm2d)
    assert of_class(converted, WeightAlignConv2d) == of_class(model, nn.Conv2d)


def test_a_layer_that_others_build_on_is_no_classifier() -> None:
    with torch.device("meta"):
        converted = convert(timm.create_model("vgg11", features_only=True), named("wa"))
    plain = set(of_class(converted, nn.Conv2d)) - set(of_class(converted, NormalizedConv2d))
    assert plain == {of_class(converted, nn.Conv2d)[-1]}


@pytest.mark.parametrize("name", TORCHVISION)
def test_trained_checkpoints_load_but_for_the_gains(name: str) -> None:
    model, converted = converted_on_meta(name, "bn_wa")
    assert of_class(converted, nn.BatchNorm2d) == of_class(model, nn.BatchNorm2d)
    new, gone = (
        converted.state_dict().keys() - model.state_dict().keys(),
        model.state_dict().keys() - converted.state_dict().keys(),
    )
    assert not gone and new == {f"{path}.gain" for path in of_class(converted, WeightAlignConv2d)}


@pytest.mark.filterwarnings("ignore:.*convolution and linear layers")
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_byobnet", "test_convnext"])
def test_converted_models_learn(name: str) -> None:
    model = convert(timm.create_model(name, num_classes=5), named("gn_wa")).train()
    y = model(torch.randn(4, 3, 64, 64))
    F.cross_entropy(y, torch.tensor([0, 1, 2, 3])).backward()
    assert y.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_converted_models_compile_without_graph_breaks() -> None:
    model = convert(timm.create_model("test_resnet", num_classes=5), named("bn_wa")).train()
    x = torch.randn(4, 3, 32, 32)
    twin = copy.deepcopy(model)
    twin(x).square().sum().backward()
    torch.compile(model, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, twin.get_parameter(name).grad, rtol=1e-3, atol=1e-4)


def test_converted_models_train_in_mixed_precision_with_averaged_weights() -> None:
    model = convert(timm.create_model("test_resnet", num_classes=5), named("gn_wa")).train()
    average = torch.optim.swa_utils.AveragedModel(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.update_parameters(model)
    (gain, *_) = (path for path in model.state_dict() if path.endswith("gain"))
    assert not torch.equal(average.module.get_parameter(gain), model.get_parameter(gain))
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(fold(average.eval())(x), average(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_byobnet", "densenet121"])
def test_weights_are_kept(name: str) -> None:
    """Weight Normalization with matched gain is the identity, so nothing may change."""
    model = shuffle(timm.create_model(name)).eval().double()
    x = torch.randn(1, 3, 64, 64).double()
    converted = convert(model, Norm("BN + WN", WeightNormConv2d, nn.BatchNorm2d))
    assert len(of_class(converted, WeightNormConv2d)) == len(of_class(model, nn.Conv2d))
    torch.testing.assert_close(converted(x), model(x), rtol=1e-9, atol=1e-9)


def test_match_keeps_the_function_but_for_the_removed_means() -> None:
    model = shuffle(timm.create_model("test_resnet")).eval().double()
    centred = copy.deepcopy(model)
    for module in centred.modules():
        if isinstance(module, nn.Conv2d):
            with torch.no_grad():
                module.weight.sub_(module.weight.mean((1, 2, 3), keepdim=True))
    x = torch.randn(1, 3, 64, 64).double()
    converted = convert(model, named("bn_wa"))
    torch.testing.assert_close(converted(x), centred(x), rtol=1e-7, atol=1e-7)


def test_a_block_that_starts_at_zero_can_learn() -> None:
    """timm sets γ of the last BatchNorm of a block to 0; merged into the convolution, no direction would be left."""
    model = timm.create_model("resnet18", num_classes=2)
    assert not model.layer1[0].bn2.weight.any()
    converted = convert(model, named("wa")).eval()
    x = torch.randn(2, 3, 32, 32)
    converted(x).sum().backward()
    last = converted.layer1[0].conv2
    assert not last.gain.any() and last.gain.grad.any()
    assert last.weight.flatten(1).std(1).min() > 0
    assert not last.weight.grad.any()  # not a gradient divided by the square root of eps


def test_gain_init_one() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    converted = convert(model, named("bn_wa"), gain_init="one")
    assert torch.equal(converted[0].gain, torch.ones(4)) and torch.equal(converted[0].weight, model[0].weight)
    assert torch.equal(
        convert(model, Norm("", WeightNormConv2d, nn.BatchNorm2d), gain_init="one")[0].gain, torch.ones(4)
    )
    with pytest.raises(ConfigError, match=r"gain_init 'ones'.*'one'"):
        convert(model, named("bn_wa"), gain_init="ones")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_byobnet"])
def test_without_activation_norm_batch_norm_lives_on_in_the_convolutions(name: str) -> None:
    model = shuffle(timm.create_model(name)).eval().double()
    x = torch.randn(1, 3, 64, 64).double()
    plain = convert(model, named("none"))
    assert not of_class(plain, nn.BatchNorm2d)
    torch.testing.assert_close(plain(x), model(x), rtol=1e-9, atol=1e-9)
    assert all(p.requires_grad for p in plain.parameters())
    aligned = fold(convert(model, named("wa")))
    for path, conv in plain.named_modules():
        if isinstance(conv, nn.Conv2d):
            centred = conv.weight - conv.weight.mean((1, 2, 3), keepdim=True)
            torch.testing.assert_close(aligned.get_parameter(f"{path}.weight"), centred, rtol=1e-6, atol=1e-9)
            assert torch.equal(aligned.get_parameter(f"{path}.bias"), conv.bias)


@pytest.mark.parametrize(
    ("name", "norm", "skip"),
    [
        ("densenet121", "none", []),  # norms in front of convolutions
        ("tf_efficientnet_b0", "none", []),  # convolutions that pad by themselves
        ("test_resnet", "none", ["layer2.0.conv1"]),
        ("test_resnet", "wn", ["layer2.0.conv1"]),
        ("test_efficientnet", "wn", ["conv_stem", "blocks.0.0.bn1"]),
    ],
)
def test_a_batch_norm_that_no_convolution_can_take_becomes_its_affine(name: str, norm: str, skip: list[str]) -> None:
    model = shuffle(timm.create_model(name)).eval().double()
    converted, changes = convert(model, named(norm), skip=skip), survey(model, named(norm), skip=skip)
    x = torch.randn(1, 3, 64, 64).double()
    torch.testing.assert_close(converted(x), model(x), rtol=1e-9, atol=1e-9)
    assert set(of_class(converted, nn.BatchNorm2d)) <= set(skip)
    affine = [c for c in changes.changes if "the affine that it computes in evaluation" in c.note]
    assert affine and all((c.after or "").startswith("Conv2d") for c in affine)
    assert all(p.requires_grad for p in converted.parameters())


def test_an_affine_is_frozen_like_its_norm_and_knows_norms_without_one() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3, affine=False), nn.Flatten(), nn.Linear(12, 2))
    model[0].requires_grad_(False)
    for i in (0, 2):
        nn.init.uniform_(model[i].running_var, 0.5, 1.5)
        nn.init.uniform_(model[i].running_mean)
    model.eval()
    converted, x = convert(model, named("none")), torch.randn(2, 3, 2, 2)
    torch.testing.assert_close(converted(x), model(x))
    assert [converted[i].weight.requires_grad for i in (0, 2)] == [False, True]


def network(norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"),
        norm(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1, groups=8, bias=False),  # one weight per filter
        nn.Conv2d(8, 8, 3, groups=4, dilation=2),
        norm(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(8, 5, 1),
        nn.Flatten(),
    )


def test_what_norms_have_in_common_is_kept() -> None:
    model = shuffle(network())
    grouped = convert(model, named("gn"))[1]
    assert isinstance(grouped, nn.GroupNorm)
    assert torch.equal(grouped.weight, model[1].weight) and torch.equal(grouped.bias, model[1].bias)
    renorm = convert(model, named("brn"))[1]
    assert isinstance(renorm, BatchRenorm2d)
    torch.testing.assert_close(renorm.state_dict(), model[1].state_dict(), rtol=0, atol=0)
    coarse = shuffle(network(lambda c: nn.BatchNorm2d(c, eps=0.1))).eval()
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(convert(coarse, named("brn"))(x), coarse(x))
    even = shuffle(network(lambda c: nn.GroupNorm(4, c, eps=0.1)))
    torch.testing.assert_close(convert(even, named("gn"))(x), even(x))
    response = convert(network(nn.InstanceNorm2d), named("frn"))[1]
    assert isinstance(response, FilterResponseNorm2d) and torch.equal(response.weight, torch.ones(8))


def test_the_kind_of_norm_decides_whether_it_is_replaced() -> None:
    model = network(lambda c: nn.GroupNorm(1, c))
    assert convert(model, named("ln"))[1].num_groups == 1
    assert convert(model, named("gn"))[1].num_groups == 4
    batch = shuffle(network(lambda c: nn.BatchNorm2d(c, eps=1e-3, momentum=0.01)))
    kept = convert(batch, named("bn_wa"))[1]
    assert kept.eps == 1e-3 and torch.equal(kept.running_mean, batch[1].running_mean)


def test_batch_renorm_becomes_batch_norm() -> None:
    """They agree in evaluation, but not in training."""
    model = shuffle(network(BatchRenorm2d)).eval()
    plain = convert(model, named("bn"))
    assert type(plain[1]) is nn.BatchNorm2d
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(plain(x), model(x))
    (same,) = (change for change in survey(model, named("brn")).changes if change.path == "1")
    assert same.after is None and same.reached


def test_survey_lists_every_layer() -> None:
    changes = survey(network(), named("gn_wa"))
    by_path = {change.path: change for change in changes.changes}
    assert (by_path["0"].before, by_path["0"].after, by_path["0"].note) == ("Conv2d", "WeightAlignConv2d", "")
    assert by_path["1"].after == "GroupNorm" and "lost: num_batches_tracked, running_mean" in by_path["1"].note
    assert by_path["3"].after is None and "two weights" in by_path["3"].note
    assert by_path["7"].after is None and by_path["7"].note == "the classifier"
    text = str(changes)
    assert "2 × Conv2d -> WeightAlignConv2d: 0, 4" in text and len(text.splitlines()) == 4
    assert str(survey(nn.ReLU(), named("bn"))) == "nothing to convert"


def test_synchronised_and_frozen_norms() -> None:
    model = shuffle(nn.SyncBatchNorm.convert_sync_batchnorm(network())).eval()
    assert type(convert(model, named("bn_wa"))[1]) is nn.SyncBatchNorm
    assert torch.equal(convert(model, named("gn_wa"))[1].weight, model[1].weight)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(convert(model, named("none"))(x), model(x), rtol=1e-4, atol=1e-4)
    (change,) = (c for c in survey(network(FrozenBatchNorm2d), named("gn_wa")).changes if c.path == "1")
    assert (change.before, change.after) == ("FrozenBatchNorm2d", None) and change.note


def test_convert_logs_the_changes_of_survey(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "da_wa"):
        convert(network(), named("bn_wa"))
    assert str(survey(network(), named("bn_wa"))) in caplog.text


def coverage_warnings(make: Callable[[], nn.Module], norm: str, **options: Any) -> tuple[Survey, list[str]]:
    with torch.device("meta"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = make()
        convert(model, named(norm), **options)
        texts = [str(w.message) for w in caught if issubclass(w.category, UserWarning) and w.filename == __file__]
        return survey(model, named(norm), **options), texts


@pytest.mark.parametrize("norm", ["bn_wa", "wa", "gn"])
@pytest.mark.parametrize(
    ("name", "reached", "percent"),
    [
        ("nf_resnet26", "0 of 29", "0%"),  # its convolutions are ScaledStdConv2d
        ("vit_tiny_patch16_224", "1 of 49", "3%"),  # the patch embedding
        ("swin_tiny_patch4_window7_224", "1 of 52", "0%"),
        ("convnext_tiny", "22 of 58", "7%"),  # pointwise convolutions are linear layers
        ("resnetv2_50x1_bit", "0 of 53", "0%"),
    ],
)
def test_a_conversion_that_reaches_little_warns_once(name: str, reached: str, percent: str, norm: str) -> None:
    changes, texts = coverage_warnings(partial(timm.create_model, name, pretrained=False), norm)
    (text,) = texts
    assert f"reaches {reached} convolution and linear layers" in text and f"({percent} of their weights)" in text
    assert "survey(model, norm)" in text and "skip=" in text
    share = changes.weights[0] / changes.weights[1]
    assert f"{share:.0%}" == percent and "{} of {}".format(*changes.layers) == reached


@pytest.mark.parametrize("norm", ["bn_wa", "wa", "gn"])
@pytest.mark.parametrize("name", ["resnet50", "densenet121", "mobilenetv3_large_100", "tf_efficientnet_b0", "vgg11"])
def test_a_conversion_that_reaches_most_does_not_warn(name: str, norm: str) -> None:
    changes, texts = coverage_warnings(partial(timm.create_model, name, pretrained=False), norm)
    assert not texts and changes.weights[0] > 0.9 * changes.weights[1]


def test_hidden_linear_layers_of_a_classifier_alone_do_not_warn() -> None:
    """VGG16 (Simonyan & Zisserman 2015): 13 convolutions, 14.7 M weights; two hidden linear layers, 119.5 M."""
    changes, texts = coverage_warnings(torchvision.models.vgg16_bn, "bn_wa")
    assert not texts and changes.layers == (13, 15)
    assert changes.weights == (14_710_464, 14_710_464 + 25_088 * 4096 + 4096 * 4096)


def test_what_skip_names_is_left_alone_without_a_warning() -> None:
    half = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 64, 3), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(64, 2))
    changes, texts = coverage_warnings(lambda: half, "bn_wa", skip=["1", "2"])
    assert not texts and changes.layers == (1, 1) and changes.weights == (108, 108)
    changes, texts = coverage_warnings(lambda: nn.ReLU(), "bn_wa")
    assert not texts and changes.layers == (0, 0)


def test_skip() -> None:
    converted = convert(network(), named("gn_wa"), skip=["0", "1"])
    assert type(converted[0]) is nn.Conv2d and type(converted[1]) is nn.BatchNorm2d
    assert type(converted[4]) is WeightAlignConv2d and type(converted[7]) is nn.Conv2d
    nested = convert(nn.Sequential(network(), nn.Flatten()), named("wa"), skip=["0"])
    assert not of_class(nested, NormalizedConv2d) and len(of_class(nested, nn.BatchNorm2d)) == 2
    with pytest.raises(ConfigError, match=r"skip is one text; write a list of it: \['0'\]"):
        convert(network(), named("wa"), skip="0")
    with pytest.raises(ConfigError, match="skip contains 'layer9'"):
        convert(network(), named("gn_wa"), skip=["layer9"])


class Undecided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = network()
        self.head = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(x)[:, :, None, None]) if x.sum() > 0 else x
        return out


def test_a_classifier_that_cannot_be_found_must_be_named() -> None:
    with pytest.raises(
        ConfigError, match=r"Undecided cannot be traced.*name it in skip=\[…\] \(head is the last layer\)"
    ):
        convert(Undecided(), named("bn_wa"))
    converted = convert(Undecided(), named("bn_wa"), skip=["head"])
    assert type(converted.head) is nn.Conv2d and type(converted.features[0]) is WeightAlignConv2d


@pytest.mark.parametrize("skip", [[], ["head.fc"]])
@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn"])
def test_a_module_that_cannot_be_looked_into_hides_nothing_else(name: str, skip: list[str]) -> None:
    """What timm's VGG does in ``pre_logits`` depends on the size of its input."""
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        converted = convert(model, named("wa"), skip=skip)
        assert converted(torch.empty(1, 3, 32, 32)).shape == (1, 1000)
    assert type(converted.head.fc) is nn.Linear and not of_class(converted, nn.BatchNorm2d)
    assert of_class(converted, WeightAlignConv2d) == of_class(model, nn.Conv2d)
    if not skip:
        assert "(the classifier): head.fc" in str(survey(model, named("wa")))


def test_a_classifier_inside_a_module_that_cannot_be_looked_into_must_be_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Undecided())
    with pytest.raises(ConfigError, match=r"Undecided cannot be traced.*\(1\.head is the last layer\)"):
        convert(model, named("bn_wa"), skip=["0"])
    assert type(convert(model, named("bn_wa"), skip=["1.head"])[1].head) is nn.Conv2d


def test_what_cannot_be_looked_into_keeps_its_function() -> None:
    model, x = shuffle(Undecided()).double().eval(), torch.ones(1, 3, 8, 8).double()
    torch.testing.assert_close(convert(model, named("none"), skip=["head"])(x), model(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("wrap", "inner"), [(torch.optim.swa_utils.AveragedModel, "module"), (torch.compile, "_orig_mod")]
)
def test_of_a_wrapper_the_network_inside_is_asked_for(wrap: Callable[[nn.Module], nn.Module], inner: str) -> None:
    with pytest.raises(ConfigError, match=rf"or convert the network that it wraps: model\.{inner}"):
        convert(wrap(network()), named("bn_wa"))


def test_hooks_stay_and_see_no_symbols() -> None:
    seen: list[tuple[str, type, torch.Size]] = []

    def watch(kind: str) -> Callable[..., None]:
        return lambda module, args, *rest: seen.append((kind, type(args[0]), args[0].shape))

    inner = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    for layer, kind in ((inner, "block"), (inner[0], "conv"), (inner[1], "norm")):
        layer.register_forward_hook(watch(kind))
        layer.register_forward_pre_hook(watch(f"before {kind}"))
        layer.register_full_backward_hook(watch(f"gradient of {kind}"))
    model = nn.Sequential(inner, nn.Conv2d(8, 4, 3), nn.Flatten()).eval()
    x = torch.randn(1, 3, 6, 6, requires_grad=True)
    model(x).sum().backward()
    expected = seen.copy()
    assert len(expected) == 9
    for norm in ("gn_wa", "none"):
        converted = convert(model, named(norm)).eval()
        for same in (converted, fold(converted)):
            seen.clear()
            same(x).sum().backward()
            assert seen == expected


def test_features_that_hooks_collect() -> None:
    model = timm.create_model("test_efficientnet", features_only=True, feature_location="expansion").eval()
    x = torch.randn(1, 3, 64, 64)
    shapes = [y.shape for y in model(x)]
    converted = convert(model, named("bn_wa"))
    assert shapes and [y.shape for y in converted(x)] == shapes == [y.shape for y in fold(converted)(x)]


def test_random_numbers_are_not_used_up() -> None:
    model, state = network(), torch.get_rng_state()
    fold(convert(model, named("wa")).eval())
    assert torch.equal(torch.get_rng_state(), state)


def test_converting_twice_is_refused() -> None:
    once = convert(network(), named("bn_wa"))
    with pytest.raises(ConfigError, match=r"0 is already a WeightAlignConv2d.*fold"):
        convert(once, named("bn_wa"))
    again = convert(fold(once.eval()), named("gn_ws"))
    assert len(of_class(again, NormalizedConv2d)) == 2


def test_a_name_in_place_of_a_norm_is_refused() -> None:
    for function in (convert, survey):
        with pytest.raises(ConfigError, match=r"'bn_wa' is not a Norm; write named\('bn_wa'\)"):
            function(network(), "bn_wa")  # type: ignore[arg-type]


def test_the_model_itself_is_not_changed() -> None:
    model = shuffle(network())
    before, shape = copy.deepcopy(model.state_dict()), repr(model)
    for name in ("wa", "gn_wa"):
        converted = convert(model, named(name))
        survey(model, named(name))
        for tensor in converted.state_dict().values():
            tensor.zero_()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert repr(model) == shape


def test_device_type_mode_and_frozen_layers_stay() -> None:
    model = network().bfloat16().eval()
    model[0].requires_grad_(False)
    converted = convert(model, named("gn_wa"))
    assert {t.dtype for t in converted.state_dict().values() if t.is_floating_point()} == {torch.bfloat16}
    assert not any(module.training for module in converted.modules())
    assert not converted[0].weight.requires_grad and not converted[0].gain.requires_grad
    assert converted[4].weight.requires_grad and converted[4].gain.requires_grad
    with torch.device("meta"):
        placed = convert(network(), named("in_wa"))
    assert {t.device.type for t in placed.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("norm", ["evonorm_s0", "brn", "frn"])
def test_what_a_new_norm_adds_has_the_type_of_the_network(norm: str) -> None:
    converted = convert(network().double(), named(norm))
    assert {t.dtype for t in converted.state_dict().values() if t.is_floating_point()} == {torch.float64}


def test_a_layer_used_twice_is_converted_once() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(conv, nn.BatchNorm2d(4), conv, nn.Flatten(), nn.Linear(64, 2))
    converted = convert(model, named("wa"))
    assert converted[0] is converted[2] and type(converted[0]) is WeightAlignConv2d
    assert converted(torch.randn(1, 4, 4, 4)).shape == (1, 2)


def test_a_single_convolution() -> None:
    assert type(convert(nn.Conv2d(3, 4, 3), named("wa"))) is WeightAlignConv2d


class Same(nn.Conv2d):
    """Pads by itself, as the convolutions that come from TensorFlow do."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class Named(nn.Conv2d):
    """Nothing but another name."""


@pytest.mark.filterwarnings("ignore:.*convolution and linear layers")
def test_subclasses_of_conv2d() -> None:
    model = nn.Sequential(
        Same(3, 4, 2),
        Named(4, 4, 3),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    biased = nn.utils.parametrize.register_parametrization(nn.Conv2d(4, 4, 3), "bias", nn.Tanh())
    assert type(convert(nn.Sequential(biased, nn.Flatten(), nn.Linear(4, 2)), named("wa"))[0]) is type(biased)
    converted = convert(model, Norm("", MeanOnlyConv2d))
    assert [type(layer).__name__ for layer in converted[:3]] == ["Same", "MeanOnlyConv2d", "ParametrizedConv2d"]
    assert type(convert(model, Norm(""))[1]) is Named


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize(
    "change",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        lambda conv: nn.utils.prune.random_unstructured(conv, "weight", 0.5),
    ],
)
def test_tensors_that_torch_cannot_copy_are_named(change: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(change(nn.Conv2d(3, 4, 3)), nn.Flatten(), nn.Linear(4, 2))
    model(torch.randn(2, 3, 3, 3))
    for use in (convert, survey):
        with pytest.raises(ConfigError, match=r"0\.weight is computed from its parameters"):
            use(model, named("bn_wa"))
    with pytest.raises(ConfigError, match=r"0\.weight is computed from its parameters"):
        fold(model.eval())


def test_layers_without_a_shape_are_refused() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(ConfigError, match=r"0\.weight has no shape yet"):
        convert(model, named("wa"))
    model(torch.zeros(1, 3, 5, 5))
    assert type(convert(model, named("wa"))[0]) is WeightAlignConv2d


def test_layers_inside_norms() -> None:
    """timm's norms hold an activation; their LayerNorm2d takes maps, nn.LayerNorm does not."""
    act = timm.layers.BatchNormAct2d(4, act_layer=nn.SiLU)
    (silu,) = layers_after_norm(act) or []
    assert silu is act.act
    assert layers_after_norm(timm.layers.GroupNormAct(4, 2, apply_act=False)) == []
    assert layers_after_norm(timm.layers.LayerNorm2d(4)) == []
    assert layers_after_norm(BatchRenorm2d(4)) == []
    assert layers_after_norm(nn.LayerNorm(4)) is None and layers_after_norm(nn.LayerNorm(3)) is None
    converted = convert(nn.Sequential(act, nn.Flatten(), nn.Linear(36, 2)), named("gn"))[0]
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(converted(x), F.silu(F.group_norm(x, 2)))
