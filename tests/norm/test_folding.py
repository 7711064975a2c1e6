from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from da_wa.errors import ConfigError
from da_wa.norm import (
    BatchRenorm2d,
    CenteredWeightNormConv2d,
    MeanOnlyConv2d,
    NormalizedConv2d,
    ScaledWeightStandardConv2d,
    StdOnlyConv2d,
    WeightAlignConv2d,
    WeightNormConv2d,
    WeightStandardConv2d,
    convert,
    fold,
    fold_batch_norm,
    named,
)

CONVS: list[type[NormalizedConv2d]] = [
    WeightAlignConv2d,
    MeanOnlyConv2d,
    StdOnlyConv2d,
    CenteredWeightNormConv2d,
    WeightNormConv2d,
    ScaledWeightStandardConv2d,
    WeightStandardConv2d,
]


def shuffle(model: nn.Module) -> nn.Module:
    """Give ``model`` gains, affines and statistics that are not those of the start; evaluation mode."""
    for module in model.modules():
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if tensor.dim() == 1:
                low, high = (-0.2, 0.2) if name in ("bias", "running_mean") else (0.5, 1.5)
                nn.init.uniform_(tensor, low, high)
    return model.eval()


def classes(model: nn.Module) -> set[type[nn.Module]]:
    return {type(module) for module in model.modules()}


@settings(deadline=None, max_examples=40)
@given(
    conv=st.sampled_from(CONVS),
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.sampled_from([1, 2, 3, (3, 1)]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    padding_mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_folding_is_exact(
    conv: type[NormalizedConv2d],
    groups: int,
    kernel: int | tuple[int, int],
    stride: int,
    dilation: int,
    padding_mode: str,
    bias: bool,
    dtype: torch.dtype,
) -> None:
    options = {"groups": groups, "stride": stride, "dilation": dilation, "padding_mode": padding_mode, "bias": bias}
    layer = shuffle(conv(8, 8, kernel, padding=1, dtype=dtype, **options))
    plain = fold(layer)
    x = torch.randn(2, 8, 7, 7, dtype=dtype)
    assert type(plain) is nn.Conv2d
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(plain(x), layer(x), rtol=tolerance, atol=tolerance)


def test_the_folded_state_dict_is_that_of_the_ordinary_model() -> None:
    for make in (torchvision.models.resnet18, lambda: timm.create_model("test_efficientnet")):
        model = shuffle(convert(make(), named("bn_wa"))).double()
        ordinary = make().eval().double()
        ordinary.load_state_dict(fold(model).state_dict())
        x = torch.randn(1, 3, 64, 64).double()
        torch.testing.assert_close(ordinary(x), model(x), rtol=1e-12, atol=1e-12)


def test_another_library_needs_the_folded_weights(tmp_path: Path) -> None:
    """What ``save_pretrained`` writes is ``state_dict()``, and ``from_pretrained`` loads it with ``strict=False``."""
    make = torchvision.models.resnet18
    model = shuffle(convert(make(), named("bn_wa")))
    x = torch.randn(1, 3, 64, 64)
    save_file(model.state_dict(), tmp_path / "raw.safetensors")
    save_file(fold(model).state_dict(), tmp_path / "folded.safetensors")
    raw, folded = load_file(tmp_path / "raw.safetensors"), load_file(tmp_path / "folded.safetensors")
    convs = [path for path, module in model.named_modules() if isinstance(module, NormalizedConv2d)]
    assert raw.keys() == model.state_dict().keys()  # nothing is dropped on saving
    again = shuffle(convert(make(), named("bn_wa")))
    again.load_state_dict(raw)
    torch.testing.assert_close(again(x), model(x))

    plain = make().eval()
    missing, unexpected = plain.load_state_dict(raw, strict=False)
    assert not missing and set(unexpected) == {f"{path}.gain" for path in convs}  # ignored without an error
    assert (plain(x) - model(x)).norm() > 0.1 * model(x).norm()
    with pytest.raises(RuntimeError, match="gain"):
        plain.load_state_dict(raw)
    plain.load_state_dict(folded)
    torch.testing.assert_close(plain(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["wa", "bn_wa", "gn_wa", "in_wa", "ln_wa", "wn", "gn_ws", "scaled_ws"])
def test_whole_networks_fold_to_single_precision(norm: str) -> None:
    model = shuffle(convert(torchvision.models.resnet18(), named(norm)))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        y, folded = model(x), fold(model)(x)
    assert y.isfinite().all() and (folded - y).norm() <= 1e-5 * y.norm()


def test_the_model_itself_is_not_changed() -> None:
    model = nn.Sequential(WeightAlignConv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    before = copy.deepcopy(model.state_dict())
    plain = fold_batch_norm(model)
    for parameter in plain.parameters():
        nn.init.zeros_(parameter)
    assert classes(model) == {nn.Sequential, WeightAlignConv2d, nn.BatchNorm2d}
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_frozen_filters_stay_frozen_and_others_can_be_trained() -> None:
    model = nn.Sequential(WeightAlignConv2d(3, 4, 3), WeightAlignConv2d(4, 4, 3)).eval()
    model[0].requires_grad_(False)
    plain = fold(model)
    plain(torch.randn(1, 3, 6, 6)).sum().backward()
    assert plain[0].weight.grad is None and plain[1].weight.grad is not None


def test_a_layer_used_twice_is_folded_once() -> None:
    conv = WeightAlignConv2d(4, 4, 3, padding=1)
    model = nn.ModuleDict({"a": nn.Sequential(conv, nn.ReLU()), "b": conv}).eval()
    plain = fold(model)
    assert plain["a"][0] is plain["b"] and type(plain["b"]) is nn.Conv2d


@pytest.mark.parametrize("folding", [fold, fold_batch_norm])
def test_a_network_in_training_mode_is_refused(folding: object) -> None:
    with pytest.raises(ConfigError, match=r"model\.eval\(\)"):
        folding(nn.Sequential(WeightAlignConv2d(3, 4, 3)))  # type: ignore[operator]


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_byobnet", "densenet121"])
def test_batch_norms_fold_into_convolutions(name: str) -> None:
    """Of timm's models, whose norms hold the activation; DenseNet's norms mostly stand before convolutions."""
    model = shuffle(convert(timm.create_model(name), named("bn_wa"))).double()
    plain = fold_batch_norm(model)
    x = torch.randn(1, 3, 64, 64).double()
    torch.testing.assert_close(plain(x), model(x), rtol=1e-9, atol=1e-9)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    assert left == (62 if name == "densenet121" else 0)
    assert NormalizedConv2d not in {base for cls in classes(plain) for base in cls.__mro__}


def test_batch_renorm_folds_like_batch_norm() -> None:
    model = shuffle(nn.Sequential(nn.Conv2d(3, 4, 3), BatchRenorm2d(4), nn.ReLU())).double()
    plain, x = fold_batch_norm(model), torch.randn(1, 3, 6, 6).double()
    assert classes(plain) == {nn.Sequential, nn.Conv2d, nn.Identity, nn.ReLU}
    torch.testing.assert_close(plain(x), model(x), rtol=1e-12, atol=1e-12)


class Entangled(nn.Module):
    """Norms that must not be folded: a result used twice, a shared convolution, a norm without statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.shared, self.bare = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)])
        self.unaware = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.twice(x)
        x = y + self.norms[0](y)
        x = self.norms[1](self.shared(x)) + self.norms[2](self.shared(x + 1))
        out: Tensor = self.unaware(self.bare(x))
        return out


def test_what_cannot_be_folded_is_left_alone() -> None:
    model, x = shuffle(Entangled()).double(), torch.randn(2, 3, 4, 4).double()
    plain = fold_batch_norm(model)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in plain.modules()) == 4
    assert torch.equal(plain(x), model(x))


def test_a_batch_norm_in_training_mode_is_left_alone() -> None:
    """Test-time adaptation leaves networks like this: evaluation mode, but statistics of the batch."""
    model, x = shuffle(nn.Sequential(WeightAlignConv2d(3, 8, 3), nn.BatchNorm2d(8))), torch.randn(4, 3, 6, 6)
    model[1].train()
    torch.testing.assert_close(fold_batch_norm(model)(x), model(x))


class Siamese(nn.Module):
    """A network that uses the filters of a layer outside of its call, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.norm(self.conv(x)) + F.conv2d(x, self.conv.weight)
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


def test_filters_that_are_used_elsewhere_are_left_alone() -> None:
    model, x = shuffle(Siamese()).double(), torch.randn(2, 3, 6, 6).double()
    torch.testing.assert_close(fold_batch_norm(model)(x), model(x))
    torch.testing.assert_close(convert(model, named("none"))(x), model(x))


@pytest.mark.parametrize(
    "parametrize",
    [
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        lambda conv: nn.utils.parametrize.register_parametrization(conv, "gain", nn.Softplus()),
        lambda conv: nn.utils.parametrize.register_parametrization(conv, "bias", nn.Tanh()),
    ],
)
def test_parametrized_convolutions_fold_at_their_present_values(parametrize: Callable[[nn.Module], nn.Module]) -> None:
    layer = WeightAlignConv2d(3, 8, 3)
    nn.init.normal_(layer.bias)
    parametrize(layer.eval())
    plain, x = fold(layer), torch.randn(2, 3, 5, 5)
    assert list(plain.state_dict()) == ["weight", "bias"]
    torch.testing.assert_close(plain(x), layer(x))


class Undecided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = WeightAlignConv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x)) if x.sum() > 0 else x
        return out


def test_a_network_that_cannot_be_traced_is_refused_where_that_matters() -> None:
    model = Undecided().eval()
    assert type(fold(model).conv) is nn.Conv2d
    with pytest.raises(ConfigError, match="Undecided cannot be traced"):
        fold_batch_norm(model)


@pytest.fixture
def network() -> nn.Module:
    return shuffle(
        nn.Sequential(
            WeightAlignConv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            WeightNormConv2d(8, 8, 3, groups=2, dilation=2),
            nn.GroupNorm(2, 8),
            nn.Flatten(),
            nn.Linear(8 * 16, 5),
        )
    )


def test_torch_export_gives_the_same_outputs(network: nn.Module) -> None:
    x = torch.randn(2, 3, 8, 8)
    for model in (network, fold(network), fold_batch_norm(network)):
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), network(x), rtol=1e-5, atol=1e-5)


def test_onnx_gives_the_same_outputs(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    whole = shuffle(convert(timm.create_model("test_resnet"), named("in_wa")))
    for model, x in ((network, torch.randn(2, 3, 8, 8)), (whole, torch.randn(1, 3, 64, 64))):
        torch.onnx.export(fold_batch_norm(model), (x,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), model(x), rtol=1e-3, atol=1e-3)


def test_meta_networks_fold() -> None:
    with torch.device("meta"):
        model = nn.Sequential(WeightAlignConv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    assert F.relu(fold_batch_norm(model)(torch.empty(1, 3, 5, 5, device="meta"))).shape == (1, 4, 3, 3)
