from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import EvoNorm2dS0, FilterResponseNormTlu2d
from torch import Tensor, nn

from da_wa.norm import TLU, BatchRenorm2d, EvoNormS0, FilterResponseNorm2d, group_norm, instance_norm, layer_norm
from da_wa.norm.compiled import fused_group_norm
from da_wa.norm.spec import InstanceNorm2d, group_count


@pytest.fixture
def x() -> Tensor:
    return 2 * torch.randn(4, 6, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5


def shuffled(layer: nn.Module) -> nn.Module:
    """``layer`` in float64 with parameters that are not those of the start."""
    draw = torch.Generator().manual_seed(1)
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=draw) + 0.5)
    return layer


def test_filter_response_norm_with_tlu_is_timms(x: Tensor) -> None:
    theirs = shuffled(FilterResponseNormTlu2d(6, eps=1e-6))
    theirs.inv_rms = None
    norm, tlu = FilterResponseNorm2d(6).double(), TLU(6).double()
    state = theirs.state_dict()
    tlu.load_state_dict({"tau": state.pop("tau")})
    norm.load_state_dict(state)
    torch.testing.assert_close(tlu(norm(x)), theirs(x), rtol=1e-5, atol=1e-5)  # timm takes the mean in float32


def test_filter_response_norm_in_float64(x: Tensor) -> None:
    norm = shuffled(FilterResponseNorm2d(6, eps=1e-3))
    y = x.numpy() / np.sqrt((x.numpy() ** 2).mean((2, 3), keepdims=True) + 1e-3)
    weight, bias = (p.detach().numpy()[:, None, None] for p in (norm.weight, norm.bias))
    np.testing.assert_allclose(norm(x).detach().numpy(), weight * y + bias, rtol=1e-12)


def test_tlu_starts_as_a_relu_and_learns() -> None:
    tlu, x = TLU(2), torch.tensor([-1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 3, 3)
    assert torch.equal(tlu(x), torch.relu(x))
    tlu(x).sum().backward()
    assert torch.equal(tlu.tau.grad, torch.tensor([9.0, 0.0]))


def test_evonorm_s0_is_timms(x: Tensor) -> None:
    theirs = shuffled(EvoNorm2dS0(6, groups=3))
    ours = EvoNormS0(6, groups=3).double()
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)  # timm takes the variance in float32


def test_evonorm_s0_in_float64(x: Tensor) -> None:
    norm = shuffled(EvoNormS0(6, groups=2))
    weight, bias, v = (p.detach().numpy()[:, None, None] for p in (norm.weight, norm.bias, norm.v))
    z = x.numpy()
    std = np.sqrt(z.reshape(4, 2, 3, 5, 3).var((2, 3, 4)) + 1e-5).repeat(3, axis=1)[:, :, None, None]
    np.testing.assert_allclose(norm(x).detach().numpy(), z / (1 + np.exp(-v * z)) / std * weight + bias, rtol=1e-12)


def renorm_step(norm: BatchRenorm2d, x: np.ndarray, r_max: float, d_max: float) -> np.ndarray:
    """Algorithm 1 of the paper with the norm's present averages."""
    mean, std = x.mean((0, 2, 3)), np.sqrt(x.var((0, 2, 3)) + norm.eps)
    sigma = np.sqrt(norm.running_var.numpy() + norm.eps)
    r = np.clip(std / sigma, 1 / r_max, r_max)[:, None, None]
    d = np.clip((mean - norm.running_mean.numpy()) / sigma, -d_max, d_max)[:, None, None]
    z = (x - mean[:, None, None]) / std[:, None, None] * r + d
    return z * norm.weight.detach().numpy()[:, None, None] + norm.bias.detach().numpy()[:, None, None]


@pytest.mark.parametrize(("steps", "r_max", "d_max"), [(0, 1.0, 0.0), (10, 1.0, 0.0), (20, 1.5, 0.625), (99, 3.0, 5.0)])
def test_batch_renorm_follows_the_paper(x: Tensor, steps: int, r_max: float, d_max: float) -> None:
    norm = BatchRenorm2d(6, momentum=0.1, start=10, r_end=50, d_end=90).double()
    shuffled(norm)
    norm.running_mean.uniform_(-20, 20)
    norm.running_var.uniform_(0.5, 40)
    norm.num_batches_tracked.fill_(steps)
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    expected = renorm_step(norm, x.numpy(), r_max, d_max)
    np.testing.assert_allclose(norm(x).detach().numpy(), expected, rtol=1e-10)
    torch.testing.assert_close(norm.running_mean, 0.9 * mean + 0.1 * x.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, 0.9 * var + 0.1 * x.var((0, 2, 3), correction=0))
    assert norm.num_batches_tracked == steps + 1


def test_batch_renorm_starts_as_batch_norm_and_evaluates_as_one(x: Tensor) -> None:
    norm, plain = BatchRenorm2d(6).double(), nn.BatchNorm2d(6).double()
    torch.testing.assert_close(norm(x), plain(x))
    plain.load_state_dict(norm.state_dict())
    assert torch.equal(norm.eval()(x), plain.eval()(x))


def test_batch_renorm_trains_with_what_it_evaluates_within_its_limits(x: Tensor) -> None:
    norm = BatchRenorm2d(6, start=0, r_end=1, d_end=1).double()
    norm.num_batches_tracked.fill_(1)
    norm.running_mean.copy_(x.mean((0, 2, 3)) + 0.1)
    norm.running_var.copy_(2 * x.var((0, 2, 3)))
    evaluated = copy.deepcopy(norm).eval()(x)
    torch.testing.assert_close(norm(x), evaluated)


def test_batch_renorm_that_does_not_track_leaves_its_averages_alone(x: Tensor) -> None:
    norm, tracking = (BatchRenorm2d(6, start=0, r_end=5, d_end=5).double() for _ in range(2))
    norm(x)
    tracking(x)
    before = copy.deepcopy(norm.state_dict())
    norm.track_running_stats = False
    torch.testing.assert_close(norm(2 * x), tracking(2 * x))
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    assert tracking.num_batches_tracked == 2


def test_batch_renorm_corrections_are_constants_to_the_gradient(x: Tensor) -> None:
    norm = BatchRenorm2d(6, start=0, r_end=1, d_end=1).double()
    norm.num_batches_tracked.fill_(1)
    norm.running_var.fill_(9.0)
    x.requires_grad_()
    norm(x).sin().sum().backward()
    gradient, x.grad = x.grad, None
    reference = BatchRenorm2d(6, start=0, r_end=1, d_end=1).double()
    reference.num_batches_tracked.fill_(1)
    reference.running_var.fill_(9.0)
    r, d = (t.view(1, -1, 1, 1) for t in reference._corrections(x.detach()))
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    ((x - mean) / torch.sqrt(var + 1e-5) * r + d).sin().sum().backward()
    torch.testing.assert_close(gradient, x.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_renorm_in_half_precision_is_that_of_single_precision(dtype: torch.dtype, momentum: float | None) -> None:
    wide = BatchRenorm2d(6, momentum=momentum, start=0, r_end=3, d_end=3)  # type: ignore[arg-type]
    half = copy.deepcopy(wide).to(dtype)
    draw = torch.Generator().manual_seed(0)
    for _ in range(4):
        x = (2 * torch.randn(4, 6, 5, 3, generator=draw) + 1).to(dtype)
        y = half(x)
        torch.testing.assert_close(y.float(), wide(x.float()), rtol=0.05, atol=0.05)
    assert y.dtype == half.running_mean.dtype == dtype
    torch.testing.assert_close(half.running_var.float(), wide.running_var, rtol=0.03, atol=0)


@pytest.mark.parametrize("make", [FilterResponseNorm2d, TLU, EvoNormS0, BatchRenorm2d, group_norm, layer_norm])
def test_gradients_types_and_compilation(make: type[nn.Module]) -> None:
    layer, x = make(8), torch.randn(2, 8, 4, 4, requires_grad=True)
    layer(x).sin().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    for _ in range(2):
        torch.compile(copy.deepcopy(layer), backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(
        copy.deepcopy(layer)(x.to(memory_format=torch.channels_last)), copy.deepcopy(layer)(x), rtol=1e-4, atol=1e-5
    )


def test_instance_norm_is_torchs_and_makes_the_bias_of_a_single_pixel(x: Tensor) -> None:
    norm = shuffled(instance_norm(6))
    assert torch.equal(norm(x), nn.functional.instance_norm(x, weight=norm.weight, bias=norm.bias))
    pixel = x[:, :, :1, :1].requires_grad_()
    torch.testing.assert_close(norm(pixel), norm.bias.view(1, -1, 1, 1).expand_as(pixel))
    norm(pixel).sum().backward()
    assert pixel.grad is not None and not pixel.grad.any()


def test_instance_norm_of_one_map_without_a_batch_is_torchs() -> None:
    x = torch.randn(6, 6, 5)
    norm = shuffled(instance_norm(6)).float()
    torch.testing.assert_close(norm(x), nn.InstanceNorm2d.forward(norm, x))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: group_norm(6, affine=False), (2, 6, 4, 3)),
        (lambda: InstanceNorm2d(6), (2, 6, 4, 3)),
        (lambda: instance_norm(6), (6, 4, 3)),
        (lambda: group_norm(6), (2, 6, 5)),
    ],
)
def test_what_the_fused_kernel_does_not_take_compiles(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    norm, x = make(), torch.randn(shape)
    torch.testing.assert_close(torch.compile(norm, backend="eager", fullgraph=True)(x), norm(x))


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_values_and_gradients_of_the_fused_kernel_are_torchs(x: Tensor, groups: int) -> None:
    inputs = [3 * x, torch.linspace(0.5, 2, 6, dtype=torch.float64), torch.linspace(-1, 1, 6, dtype=torch.float64)]
    found = []
    for norm in (fused_group_norm, lambda x, w, b, groups, eps: nn.functional.group_norm(x, groups, w, b, eps)):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        y = norm(*leaves, groups, 0.1)
        found.append((y, *torch.autograd.grad(y.sin().sum(), leaves)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [FilterResponseNorm2d, EvoNormS0])
def test_statistics_are_never_taken_in_half_precision(make: type[nn.Module]) -> None:
    """Squares of 1000 are beyond float16."""
    x = 1000 * torch.randn(2, 8, 4, 4).half()
    y = make(8)(x)
    assert y.dtype == torch.float16 and y.isfinite().all()
    torch.testing.assert_close(y.float(), make(8)(x.float()), rtol=2e-2, atol=2e-2)


@given(channels=st.integers(1, 300), groups=st.integers(1, 64))
def test_group_count(channels: int, groups: int) -> None:
    count = group_count(channels, groups)
    allowed = [g for g in range(1, groups + 1) if channels % g == 0 and (channels // g >= 2 or g == 1)]
    assert count == max(allowed)


def test_usual_layers() -> None:
    x = torch.randn(2, 64, 4, 4)
    torch.testing.assert_close(group_norm(64)(x), nn.functional.group_norm(x, 32))
    torch.testing.assert_close(layer_norm(64)(x), nn.functional.layer_norm(x, x.shape[1:]))
    torch.testing.assert_close(instance_norm(64)(x), nn.functional.instance_norm(x))
    assert sum(p.numel() for p in instance_norm(64).parameters()) == 128
    assert not list(instance_norm(64).buffers())
