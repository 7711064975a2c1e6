from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import ScaledStdConv2d, StdConv2d
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from da_wa.errors import ConfigError
from da_wa.norm import (
    CenteredWeightNormConv2d,
    GainConv2d,
    MeanOnlyConv2d,
    NormalizedConv2d,
    ScaledWeightStandardConv2d,
    StdOnlyConv2d,
    WeightAlignConv2d,
    WeightNormConv2d,
    WeightStandardConv2d,
    align_weight,
    center_weight,
    center_weight_norm,
    normalize_weight,
    rescale_weight,
    scaled_standardize_weight,
    standardize_weight,
)
from da_wa.norm.scaled_weight_standard import GAMMA_RELU

WITH_GAIN: list[type[GainConv2d]] = [
    WeightAlignConv2d,
    MeanOnlyConv2d,
    StdOnlyConv2d,
    CenteredWeightNormConv2d,
    WeightNormConv2d,
    ScaledWeightStandardConv2d,
]
ALL: list[type[NormalizedConv2d]] = [*WITH_GAIN, WeightStandardConv2d]


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "align": align_weight,
    "centre": center_weight,
    "rescale": rescale_weight,
    "center_weight_norm": center_weight_norm,
    "normalise": normalize_weight,
    "scale_standardise": scaled_standardize_weight,
    "standardise": lambda weight, gain: standardize_weight(weight),
}


@pytest.fixture
def weight() -> Tensor:
    return 0.3 * torch.randn(5, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1


@pytest.fixture
def gain() -> Tensor:
    return torch.linspace(0.5, 1.5, 5, dtype=torch.float64)


def filters(weight: Tensor) -> np.ndarray:
    return weight.detach().flatten(1).double().numpy()


def test_weight_standardization_is_the_authors(weight: Tensor) -> None:
    """(W - mean) / (std + 1e-5), unbiased, as in the authors' repository."""
    w = filters(weight)
    expected = (w - w.mean(1, keepdims=True)) / (w.std(1, ddof=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(filters(standardize_weight(weight)), expected, rtol=1e-12)


def test_weight_standardization_differs_from_timms_in_bias_alone() -> None:
    ours, theirs = WeightStandardConv2d(4, 5, 3, bias=False).double(), StdConv2d(4, 5, 3, padding=0).double()
    theirs.load_state_dict(ours.state_dict())
    x, n = torch.randn(2, 4, 6, 6).double(), 36
    torch.testing.assert_close(ours(x), math.sqrt((n - 1) / n) * theirs(x), rtol=1e-3, atol=1e-3)


def test_centered_weight_norm(weight: Tensor, gain: Tensor) -> None:
    w = filters(weight)
    centred = w - w.mean(1, keepdims=True)
    expected = gain.numpy()[:, None] * centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(filters(center_weight_norm(weight, gain, eps=1e-16)), expected, rtol=1e-10)


def test_weight_norm_is_torchs(weight: Tensor, gain: Tensor) -> None:
    theirs = parametrizations.weight_norm(nn.Conv2d(4, 5, 3, bias=False).double())
    theirs.parametrizations.weight.original0 = nn.Parameter(gain.view(-1, 1, 1, 1))
    theirs.parametrizations.weight.original1 = nn.Parameter(weight)
    torch.testing.assert_close(normalize_weight(weight, gain), theirs.weight, rtol=1e-12, atol=0)


def test_weight_norm_starts_at_the_raw_weight_as_torchs_does() -> None:
    conv = WeightNormConv2d(4, 5, 3)
    torch.testing.assert_close(conv.normalized_weight(), conv.weight)
    theirs = parametrizations.weight_norm(nn.Conv2d(4, 5, 3))
    torch.testing.assert_close(theirs.parametrizations.weight.original0.flatten(), theirs.weight.flatten(1).norm(dim=1))
    conv.reset_parameters()
    torch.testing.assert_close(conv.gain, conv.weight.flatten(1).norm(dim=1))


def test_weight_norm_of_a_zero_filter_is_zero() -> None:
    assert not normalize_weight(torch.zeros(2, 3, 3, 3), torch.ones(2)).any()


def test_scaled_weight_standardization(weight: Tensor, gain: Tensor) -> None:
    w = filters(weight)
    centred = w - w.mean(1, keepdims=True)
    expected = gain.numpy()[:, None] * GAMMA_RELU * centred / (6 * np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6))
    np.testing.assert_allclose(filters(scaled_standardize_weight(weight, gain)), expected, rtol=1e-12)


def test_scaled_weight_standardization_is_timms() -> None:
    ours = ScaledWeightStandardConv2d(4, 5, 3).double()
    theirs = ScaledStdConv2d(4, 5, 3, padding=0, gamma=GAMMA_RELU).double()
    theirs.load_state_dict({**ours.state_dict(), "gain": ours.gain.view(-1, 1, 1, 1)})
    x = torch.randn(2, 4, 6, 6).double()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_gamma_relu_restores_the_variance_that_a_relu_takes() -> None:
    """A centred filter passes on Var[x], of which a ReLU leaves (1 - 1/π)/2 to a standard normal."""
    torch.manual_seed(0)
    x = torch.relu(torch.randn(400_000, 64))
    weight = scaled_standardize_weight(torch.randn(64, 64, 1, 1), torch.ones(64))
    assert (x @ weight.flatten(1).T).var().item() == pytest.approx(1.0, rel=0.02)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("conv", ALL)
@pytest.mark.parametrize("sizes", [(8, 8, 1, {"groups": 8}), (8, 0, 3, {}), (1, 4, 1, {})], ids=str)
def test_a_filter_needs_two_weights(conv: type[nn.Conv2d], sizes: tuple[int, int, int, dict[str, int]]) -> None:
    c_in, c_out, kernel, options = sizes
    with pytest.raises(ConfigError, match=r"two weights or more; use a plain nn\.Conv2d"):
        conv(c_in, c_out, kernel, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_refuse_what_cannot_be_normalised(name: str) -> None:
    for dtype in (torch.int64, torch.complex64):
        with pytest.raises(ConfigError, match=str(dtype)):
            FUNCTIONS[name](torch.ones(2, 3, 3, 3, dtype=dtype), torch.ones(2))
    for shape in ((2, 1, 1, 1), (0, 3, 3, 3)):
        with pytest.raises(ConfigError, match="two weights or more"):
            FUNCTIONS[name](torch.ones(shape), torch.ones(shape[0]))


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(sorted(FUNCTIONS)),
    dtype=st.sampled_from([torch.float16, torch.bfloat16]),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 8), st.integers(1, 3), st.integers(2, 3)),
    mean=st.floats(0, 1),
)
def test_half_precision_weights_have_single_precision_statistics(
    name: str, dtype: torch.dtype, shape: tuple[int, ...], mean: float
) -> None:
    """The result is that of the same weights in float64, rounded."""
    draw = torch.Generator().manual_seed(math.prod(shape))
    weight = (0.3 * torch.randn(shape, generator=draw) + mean).to(dtype)
    gain = (torch.rand(shape[0], generator=draw) + 0.5).to(dtype)
    result, expected = FUNCTIONS[name](weight, gain), FUNCTIONS[name](weight.double(), gain.double())
    ulp = torch.finfo(dtype).eps
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, rtol=ulp, atol=ulp * 0.01)


@pytest.mark.parametrize("conv", ALL)
def test_gradients_reach_every_parameter(conv: type[NormalizedConv2d]) -> None:
    layer = conv(4, 6, 3, groups=2).double()
    x = torch.randn(2, 4, 5, 5).double()
    y = layer(x)
    torch.testing.assert_close(y, nn.functional.conv2d(x, layer.normalized_weight(), layer.bias, groups=2))
    y.sin().sum().backward()
    assert all(p.grad is not None and p.grad.any() and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("conv", ALL)
def test_gradcheck(conv: type[NormalizedConv2d]) -> None:
    layer = conv(2, 3, 3).double()
    names, values = zip(*layer.named_parameters(), strict=True)
    x = torch.randn(1, 2, 4, 4).double()

    def run(*parameters: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))
        return y

    assert torch.autograd.gradcheck(run, values)


@pytest.mark.parametrize("conv", ALL)
def test_a_filter_of_constants_gives_finite_numbers(conv: type[NormalizedConv2d]) -> None:
    for value in (0.0, 0.5):
        layer = conv(2, 3, 3)
        nn.init.constant_(layer.weight, value)
        y = layer(torch.randn(1, 2, 4, 4))
        y.sum().backward()
        assert y.isfinite().all() and layer.weight.grad is not None and layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("conv", ALL)
def test_plain_checkpoints_load_but_for_the_gain(conv: type[NormalizedConv2d]) -> None:
    missing, unexpected = conv(2, 3, 3).load_state_dict(nn.Conv2d(2, 3, 3).state_dict(), strict=False)
    assert not unexpected and set(missing) <= {"gain"}


@pytest.mark.parametrize("conv", ALL)
def test_compiles_and_copies(conv: type[NormalizedConv2d]) -> None:
    layer, x = conv(2, 3, 3), torch.randn(1, 2, 4, 4)
    expected = layer(x)
    torch.testing.assert_close(torch.compile(layer, backend="eager", fullgraph=True)(x), expected)
    assert torch.equal(copy.deepcopy(layer)(x), expected)


@pytest.mark.parametrize("conv", WITH_GAIN)
def test_the_weight_is_proportional_to_the_gain(conv: type[GainConv2d]) -> None:
    layer = conv(2, 3, 3)
    before = layer.normalized_weight()
    with torch.no_grad():
        layer.gain.mul_(-2.5)
    torch.testing.assert_close(layer.normalized_weight(), -2.5 * before)


@pytest.mark.parametrize("conv", WITH_GAIN)
@pytest.mark.parametrize("size", [1.0, 1e-9])
def test_match_gain(conv: type[GainConv2d], size: float) -> None:
    """Norms that centre give W - mean(W) back, the others W, even for filters that are all but dead."""
    layer = conv(4, 5, 3).double()
    with torch.no_grad():
        layer.weight.copy_(size * (torch.randn_like(layer.weight) + 0.2))
    layer.match_gain()
    keeps_mean = isinstance(layer, WeightNormConv2d | StdOnlyConv2d)
    raw = layer.weight if keeps_mean else layer.weight - layer.weight.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(layer.normalized_weight(), raw, rtol=1e-9, atol=0)


@pytest.mark.parametrize("conv", WITH_GAIN)
@pytest.mark.parametrize(("channels", "value"), [(3, 0.7), (64, 0.1)])
def test_a_filter_of_equal_weights_is_dead_where_its_mean_is_removed(conv, channels: int, value: float) -> None:
    """Else its direction would be the rounding error of the mean, with a gain of thousands."""
    layer = conv(channels, 2, 3)
    with torch.no_grad():
        layer.weight[0] = value
    layer.match_gain()
    if isinstance(layer, WeightNormConv2d | StdOnlyConv2d):
        torch.testing.assert_close(layer.normalized_weight()[0], torch.full((channels, 3, 3), value))
    else:
        assert layer.gain[0] == 0
        assert layer.weight[0].std() > 0.01
    assert layer.gain[1].abs() > 0.01


@pytest.mark.parametrize("conv", [WeightAlignConv2d, WeightNormConv2d])
def test_a_dead_filter_gets_a_direction_and_computes_the_same(conv: type[GainConv2d]) -> None:
    """Without it the gradient of its raw weights would be divided by the square root of eps."""
    layer = conv(4, 5, 3).double()
    with torch.no_grad():
        layer.weight[1::2] = 0
    before = layer.weight.detach().clone()
    layer.match_gain()
    assert torch.equal(layer.weight[0::2], before[0::2])
    assert torch.equal(layer.gain == 0, torch.tensor([False, True, False, True, False]))
    assert not layer.normalized_weight()[1::2].any()
    x, alive = torch.randn(2, 4, 6, 6, dtype=torch.float64), conv(4, 5, 3).double()
    layer(x).square().sum().backward()
    assert not layer.weight.grad[1::2].any()
    layer(x).sum().backward()
    assert layer.gain.grad[1::2].all()
    assert layer.weight[1::2].std().item() == pytest.approx(alive.weight.std().item(), rel=0.5)
