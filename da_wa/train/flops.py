"""Lower bound of the training time: arithmetic operations over the matrix rate of the device.

Convolutions and matrix products are counted, a multiply-add as two operations. Norms, activations and augmentation are
not counted; they are limited by memory. The lower bound over the measured time is the model-FLOPs utilisation, MFU
(Chowdhery et al. 2022, PaLM, appendix B).
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

_TYPES = {"bf16": torch.bfloat16, "16": torch.float16}


@dataclass(frozen=True)
class Flops:
    """Operations for one image: of a training step, and of a prediction."""

    training: int
    prediction: int


def count_flops(model: nn.Module, image: Sequence[int]) -> Flops:
    """Count operations on the meta device, without computing.

    Networks of one structure are counted once per process: counting takes about as long as a small training.

    Args:
        model: images (n, c, h, w) -> logits (n, classes); unchanged.
        image: (c, h, w).
    """
    key = (_structure(model), tuple(image))
    if key not in _counted:
        _counted[key] = _count(model, image)
    return _counted[key]


_counted: dict[Hashable, Flops] = {}


def _structure(model: nn.Module) -> Hashable:
    """Everything that the operations depend on: modules, their plain attributes, shapes, what is trained."""
    modules = dict(model.named_modules(remove_duplicate=False))
    attributes = [[item for item in vars(module).items() if isinstance(item[1], _PLAIN)] for module in modules.values()]
    tensors = [
        (name, tuple(tensor.shape), tensor.requires_grad)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    ]
    return tuple(type(module) for module in modules.values()), repr((list(modules), attributes, tensors))


_PLAIN = (bool, int, float, str, tuple, list, type(None))


def _backward(
    grad: Sequence[int],
    x: Sequence[int],
    weight: Sequence[int],
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    *_: Any,
    out_shape: Sequence[Sequence[int] | None],
) -> int:
    """Of the gradients of a convolution: each has as many as the forward pass. torch counts grouped ones as dense."""
    of_one: int = conv_flop_count(list(x), list(weight), list(grad), transposed)
    return of_one * sum(shape is not None for shape in out_shape[:2])


def _count(model: nn.Module, image: Sequence[int]) -> Flops:
    state = {
        name: torch.empty_like(tensor, device="meta", requires_grad=tensor.requires_grad)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    n = 2  # a batch of one has no variance
    images = torch.empty(n, *image, device="meta")
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _backward}) as counter:
        logits = functional_call(model, state, (images,))
        prediction = counter.get_total_flops()
        logits.sum().backward()
    return Flops(counter.get_total_flops() // n, prediction // n)


def matrix_type(precision: str) -> torch.dtype:
    """The type that products are computed in under Lightning's ``precision``, e.g. ``bf16-mixed``."""
    return _TYPES.get(precision.partition("-")[0], torch.float32)


@cache
def matrix_rate(device: str, dtype: torch.dtype, threads: int) -> float:
    """Operations per second of this device in a large matrix product, measured once per process.

    The best of several measurements, because other processes only slow it down. On a GPU, float32 products are exact
    here but convolutions use TF32 by default, so MFU can exceed 1.

    Args:
        device: ``cpu``, ``cuda``, …
        dtype: of the matrices.
        threads: torch's, which the rate of a CPU depends on; only a key of the cache.
    """
    side, repeats = (8192, 60) if device == "cuda" else (768, 8)
    generator = torch.Generator(device).manual_seed(0)
    a, b = torch.randn(2, side, side, generator=generator, device=device, dtype=dtype)
    product = a @ b  # the first call sets up the library

    def seconds() -> float:
        wait(device)
        started = time.perf_counter()
        torch.mm(a, b, out=product)
        wait(device)
        return time.perf_counter() - started

    return 2 * side**3 / min(seconds() for _ in range(repeats))


def wait(device: str) -> None:
    """Block until the device has finished all queued work; only a GPU queues any."""
    if device == "cuda":
        torch.cuda.synchronize()
