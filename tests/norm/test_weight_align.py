from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import ScaledStdConv2d
from torch import Tensor, nn
from torch.nn import functional as F

from da_wa.norm import (
    MeanOnlyConv2d,
    StdOnlyConv2d,
    WeightAlignConv2d,
    align_weight,
    center_weight,
    center_weight_norm,
    rescale_weight,
    scaled_standardize_weight,
)

quick = settings(deadline=None, max_examples=40)
sizes = st.tuples(*[st.integers(1, 6)] * 2, *[st.integers(1, 3)] * 2).filter(lambda s: s[1] * s[2] * s[3] > 1)


def explicit(weight: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Eq. (10), filter by filter, in float64."""
    filters = []
    for w, g in zip(weight.detach().double().numpy(), gain.detach().double().numpy(), strict=True):
        filters.append(g * math.sqrt(2 / w.size) * (w - w.mean()) / math.sqrt(np.mean((w - w.mean()) ** 2) + eps))
    return torch.from_numpy(np.stack(filters))


def drawn(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(math.prod(shape))
    weight = 0.3 * torch.randn(shape, generator=draw, dtype=torch.float64) + 0.1
    return weight.to(dtype), (torch.rand(shape[0], generator=draw, dtype=torch.float64) + 0.5).to(dtype)


@quick
@given(shape=sizes, eps=st.sampled_from([1e-14, 1e-10, 1e-2]), channels_last=st.booleans(), single=st.booleans())
def test_eq_10(shape: tuple[int, ...], eps: float, channels_last: bool, single: bool) -> None:
    weight, gain = drawn(shape, torch.float32 if single else torch.float64)
    if channels_last:
        weight = weight.to(memory_format=torch.channels_last)
    aligned = align_weight(weight, gain, eps)
    assert (aligned.shape, aligned.dtype) == (weight.shape, weight.dtype)
    assert aligned.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    tolerance = 1e-4 if single else 1e-11
    torch.testing.assert_close(aligned.double(), explicit(weight, gain, eps), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients(memory_format: torch.memory_format) -> None:
    weight, gain = drawn((3, 2, 3, 3))
    weight = weight.to(memory_format=memory_format)
    inputs = (weight.requires_grad_(), gain.requires_grad_())
    assert torch.autograd.gradcheck(lambda w, g: align_weight(w, g, eps=1e-3), inputs)
    assert torch.autograd.gradcheck(center_weight, inputs)
    assert torch.autograd.gradcheck(lambda w, g: rescale_weight(w, g, eps=1e-3), inputs)


@quick
@given(scale=st.floats(1e-2, 1e2), shift=st.floats(-10, 10))
def test_invariant_to_scale_and_shift(scale: float, shift: float) -> None:
    weight, gain = drawn((4, 3, 3, 3))
    moved = align_weight(scale * weight + shift, gain, eps=1e-14)
    torch.testing.assert_close(moved, align_weight(weight, gain, eps=1e-14), rtol=0, atol=1e-8)


def test_mean_and_deviation_of_filters() -> None:
    weight, gain = drawn((5, 8, 3, 3))
    aligned = align_weight(weight, gain).flatten(1)
    torch.testing.assert_close(aligned.mean(1), torch.zeros(5).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(aligned.std(1, correction=0), gain * math.sqrt(2 / 72))


def test_multiple_of_the_scale() -> None:
    weight, gain = drawn((4, 3, 3, 3))
    torch.testing.assert_close(align_weight(weight, gain, multiple=2.0), 2 * align_weight(weight, gain))


def test_a_filter_of_constants_becomes_zero() -> None:
    weight = torch.full((2, 3, 3, 3), 0.7, requires_grad=True)
    aligned = align_weight(weight, torch.ones(2))
    assert aligned.abs().max() < 1e-2  # 0.7 is rounded, and eps is small
    zero = align_weight(torch.zeros(2, 3, 3, 3), torch.ones(2))
    assert torch.equal(zero, torch.zeros_like(zero))
    aligned.square().sum().backward()
    assert weight.grad is not None and weight.grad.isfinite().all()


def test_mean_and_std_parts_make_the_whole() -> None:
    weight, gain = drawn((4, 3, 3, 3))
    ones = torch.ones_like(gain)
    torch.testing.assert_close(rescale_weight(center_weight(weight, ones), gain), align_weight(weight, gain))
    torch.testing.assert_close(center_weight(weight, gain).mean((1, 2, 3)), torch.zeros(4).double(), atol=1e-12, rtol=0)
    kept = rescale_weight(weight, gain)
    torch.testing.assert_close(kept.flatten(1).std(1, correction=0), gain * math.sqrt(2 / 27))
    torch.testing.assert_close(kept / weight, (kept / weight)[:, :1, :1, :1].expand_as(weight))


def test_identities_of_the_docstring() -> None:
    weight, gain = drawn((4, 6, 3, 3))
    aligned = align_weight(weight, gain, eps=1e-14)
    torch.testing.assert_close(math.sqrt(2) * center_weight_norm(weight, gain, eps=1e-14), aligned, rtol=1e-12, atol=0)
    scaled = scaled_standardize_weight(weight, gain, gamma=math.sqrt(2), eps=1e-14)
    torch.testing.assert_close(scaled, aligned, rtol=1e-12, atol=0)


def test_is_timms_scaled_std_conv_with_gamma_root_2() -> None:
    ours = WeightAlignConv2d(6, 4, 3, padding=1, eps=1e-6).double()
    theirs = ScaledStdConv2d(6, 4, 3, padding=1, gamma=math.sqrt(2), eps=1e-6).double()
    nn.init.uniform_(ours.gain, 0.5, 1.5)
    theirs.load_state_dict({**ours.state_dict(), "gain": ours.gain.view(-1, 1, 1, 1)})
    x = torch.randn(2, 6, 5, 5).double()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_have_single_precision_statistics(dtype: torch.dtype) -> None:
    weight, gain = drawn((4, 256, 3, 3), dtype)
    aligned = align_weight(weight, gain)
    assert aligned.dtype == dtype
    ulp = torch.finfo(dtype).eps
    torch.testing.assert_close(aligned.double(), explicit(weight, gain, 1e-10), rtol=2 * ulp, atol=ulp * 0.01)


def test_autocast_leaves_the_statistics_alone() -> None:
    conv = WeightAlignConv2d(8, 4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        aligned, y = conv.normalized_weight(), conv(torch.randn(2, 8, 5, 5))
    assert torch.equal(aligned, conv.normalized_weight()) and aligned.dtype == torch.float32
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"groups": 2, "bias": False},
        {"groups": 4, "stride": 2},
        {"dilation": 2, "padding": 2},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": "same", "padding_mode": "circular"},
    ],
    ids=str,
)
@pytest.mark.parametrize("kernel", [1, 3, (3, 1)], ids=str)
def test_convolves_with_the_aligned_weight(kernel: int | tuple[int, int], options: dict[str, object]) -> None:
    conv = WeightAlignConv2d(8, 12, kernel, **options).double()
    plain = nn.Conv2d(8, 12, kernel, **options).double()  # type: ignore[arg-type]
    plain.load_state_dict(conv.state_dict() | {"weight": explicit(conv.weight, conv.gain, conv.eps)}, strict=False)
    x = torch.randn(2, 8, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(conv(x), plain(x), rtol=1e-11, atol=1e-11)


def test_a_contiguous_1x1_weight_does_not_make_its_convolution_channels_last() -> None:
    weight = torch.randn(8, 4, 1, 1)
    assert align_weight(weight, torch.ones(8)).stride() == weight.stride()
    x = torch.randn(2, 4, 5, 5)
    assert WeightAlignConv2d(4, 8, 1)(x).is_contiguous()


def test_channels_last_changes_nothing_but_the_format() -> None:
    conv, x = WeightAlignConv2d(8, 8, 3).double(), torch.randn(2, 8, 5, 5).double()
    y = conv(x)
    conv, x = conv.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(conv(x), y, rtol=1e-12, atol=1e-12)
    assert conv.normalized_weight().is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("conv", [WeightAlignConv2d, MeanOnlyConv2d, StdOnlyConv2d])
def test_initialisation(conv: type[WeightAlignConv2d | MeanOnlyConv2d | StdOnlyConv2d]) -> None:
    """Sec. III-C: N(0, 2/n); the bias is 0."""
    torch.manual_seed(0)
    with torch.device("meta"):
        layer = conv(64, 256, 3, groups=2)
    layer = layer.to_empty(device="cpu")
    layer.reset_parameters()
    n = 32 * 9
    assert layer.weight.mean().abs() < 3 * math.sqrt(2 / n / layer.weight.numel())
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / n), rel=0.01)
    assert layer.bias is not None and not layer.bias.any() and torch.equal(layer.gain, torch.ones(256))


def test_state_dict_and_copies() -> None:
    conv, x = WeightAlignConv2d(4, 6, 3), torch.randn(1, 4, 5, 5)
    other = WeightAlignConv2d(4, 6, 3)
    other.load_state_dict(conv.state_dict())
    for same in (other, copy.deepcopy(conv)):
        assert torch.equal(same(x), conv(x))
    missing, unexpected = conv.load_state_dict(nn.Conv2d(4, 6, 3).state_dict(), strict=False)
    assert (missing, unexpected) == (["gain"], [])


def test_moving_average_of_weights() -> None:
    conv = WeightAlignConv2d(4, 6, 3)
    average = torch.optim.swa_utils.AveragedModel(conv, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    average.update_parameters(conv)
    with torch.no_grad():
        conv.gain.fill_(3.0)
    average.update_parameters(conv)
    torch.testing.assert_close(average.module.gain, torch.full((6,), 2.0))


def test_compiles_without_graph_breaks() -> None:
    conv, x = WeightAlignConv2d(4, 6, 3), torch.randn(1, 4, 5, 5)
    compiled = torch.compile(conv, backend="eager", fullgraph=True)
    compiled(x).square().sum().backward()
    gradient, conv.weight.grad = conv.weight.grad, None
    conv(x).square().sum().backward()
    assert gradient is not None
    torch.testing.assert_close(gradient, conv.weight.grad)


def test_distributed_data_parallel(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        conv = WeightAlignConv2d(4, 6, 3)
        nn.parallel.DistributedDataParallel(conv)(torch.randn(2, 4, 5, 5)).square().sum().backward()
        assert conv.weight.grad is not None and conv.gain.grad is not None
    finally:
        torch.distributed.destroy_process_group()


def test_repeated_steps_keep_the_deviation() -> None:
    """What weight decay and learning rate do to the raw weight does not reach the aligned one."""
    conv = WeightAlignConv2d(4, 6, 3, bias=False)
    optimiser = torch.optim.SGD([conv.weight], lr=1.0, weight_decay=0.1)
    for _ in range(5):
        optimiser.zero_grad()
        F.relu(conv(torch.randn(8, 4, 6, 6))).mean().backward()
        optimiser.step()
    deviation = conv.normalized_weight().flatten(1).std(1, correction=0)
    torch.testing.assert_close(deviation, torch.full((6,), math.sqrt(2 / 36)))
