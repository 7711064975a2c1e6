"""Operations are those counted by hand and in the literature; the rate is one that the device can have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from da_wa.config.compose import compose
from da_wa.config.make import make
from da_wa.train.flops import count_flops, matrix_rate, matrix_type

CONF = Path(__file__).parents[2] / "conf" / "norm"
NORMS = sorted({path.stem for path in CONF.glob("*.yaml")} - {"keep"})  # keep: of networks trained elsewhere


def test_a_small_network_counted_by_hand():
    """Products: 8·8·16·3·3·3 and 4·4·32·3·3·16, then 32·10. Going back costs each twice, the first once."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    first, second, head = 8 * 8 * 16 * 27, 4 * 4 * 32 * 144, 32 * 10
    flops = count_flops(model, (3, 8, 8))
    assert flops.prediction == 2 * (first + second + head)
    assert flops.training == 2 * (2 * first + 3 * second + 3 * head)


def test_grouped_convolutions():
    """Two of 8·4·4·9 products; going back, the first has a gradient of its filters, the second of its input, too."""
    flops = count_flops(
        nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1, groups=8) for _ in range(2)), nn.Flatten()), (8, 4, 4)
    )
    one = 2 * 8 * 16 * 9
    assert (flops.prediction, flops.training) == (2 * one, 2 * one + (1 + 2) * one)


class Repeated(nn.Module):
    """A convolution that is applied several times: nothing but a number tells two of them apart."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.conv, self.times = nn.Conv2d(4, 4, 1, bias=False), times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.times):
            x = self.conv(x)
        return x.mean((2, 3))


def test_networks_of_one_structure_are_counted_once_and_others_apart(monkeypatch):
    class Redefined(Repeated):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(super().forward(x)[..., None, None])

    first, redefined = type("Net", (Repeated,), {}), type("Net", (Redefined,), {})
    once = 2 * 5 * 5 * 4 * 4  # a multiply-add is two operations
    assert count_flops(first(1), (4, 5, 5)).prediction == once
    assert count_flops(first(3), (4, 5, 5)).prediction == 3 * once  # another attribute
    assert count_flops(first(1), (4, 10, 5)).prediction == 2 * once  # another size
    assert count_flops(redefined(1), (4, 5, 5)).prediction == once + 2 * 4 * 4  # another class of the same name
    frozen = first(1)
    frozen.conv.requires_grad_(False)
    trained = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), frozen)
    before = count_flops(trained, (4, 5, 5)).training
    frozen.conv.requires_grad_(True)
    assert count_flops(trained, (4, 5, 5)).training == before + once  # its gradient
    monkeypatch.setattr("da_wa.train.flops._count", lambda *_: pytest.fail("counted again"))
    assert count_flops(first(3), (4, 5, 5)).prediction == 3 * once


def network(model: str, norm: str):
    experiment = compose([f"model={model}", f"norms=[{norm}]"])
    return make(experiment.models[model]["build"])(make(experiment.norms[norm]), 10)


def test_resnet20_has_its_known_41_million_multiply_adds():
    """He et al. 2016, section 4.2: 0.27 M parameters, 41 M multiply-adds (0.26 M more in our projections)."""
    stem, stages = 32 * 32 * 16 * 27, 6 * 32 * 32 * 16 * 144
    for side, width in ((16, 32), (8, 64)):
        stages += side**2 * width * (9 * width // 2 + 5 * 9 * width) + side**2 * width * width // 2
    by_hand = stem + stages + 64 * 10
    flops = count_flops(network("resnet20", "bn"), (3, 32, 32))
    assert flops.prediction == 2 * by_hand
    assert by_hand == pytest.approx(41e6, rel=0.01)
    assert flops.training == 3 * flops.prediction - 2 * stem  # no gradient of the images


def test_resnet50_has_its_known_multiply_adds():
    """1.30 G at 32×32, as counted for the usual CIFAR ResNet50; four times that at 64×64."""
    model = network("resnet50", "bn")
    small, large = (count_flops(model, (3, side, side)).prediction for side in (32, 64))
    assert small / 2 == pytest.approx(1.30e9, rel=0.01)
    assert large == pytest.approx(4 * small, rel=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_can_be_counted_and_is_left_as_it_was(norm):
    model = network("resnet20", norm)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    flops = count_flops(model, (3, 32, 32))
    assert flops.prediction == pytest.approx(82e6, rel=0.02)
    assert 2.9 < flops.training / flops.prediction < 3.0
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_rate_is_that_of_a_matrix_product_and_measured_once():
    state = torch.get_rng_state()
    rate = matrix_rate("cpu", torch.float32, torch.get_num_threads())
    assert 1e8 < rate < 1e15
    assert matrix_rate("cpu", torch.float32, torch.get_num_threads()) == rate
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("bf16-mixed", torch.bfloat16),
        ("16-mixed", torch.float16),
        ("32-true", torch.float32),
    ],
)
def test_the_type_that_products_are_computed_in(precision, dtype):
    assert matrix_type(precision) == dtype


def test_the_rate_counts_two_operations_for_a_product(monkeypatch):
    """768³ multiplications and as many additions in a second."""
    ticks = iter(range(1000))
    monkeypatch.setattr("da_wa.train.flops.time.perf_counter", lambda: float(next(ticks)))
    matrix_rate.cache_clear()
    assert matrix_rate("cpu", torch.float32, 1) == 2 * 768**3
    matrix_rate.cache_clear()
