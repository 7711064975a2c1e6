"""Schedules against their formulas, with two groups of different rates."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from da_wa.train import schedule


def rates(make, total: int = 10, **kwargs) -> list[tuple[float, float]]:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (0.1, 0.01)]
    optimizer = torch.optim.SGD(groups)
    scheduler = make(optimizer, total_steps=total, **kwargs)
    out = []
    for _ in range(total):
        out.append(tuple(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        scheduler.step()
    return out


@pytest.mark.parametrize(
    ("make", "factor"),
    [
        (schedule.constant, lambda t: 1.0),
        (schedule.cosine, lambda t: (1 + math.cos(math.pi * t / 10)) / 2),
        (schedule.one_cycle, lambda t: 0.04 + 0.96 * t / 2 if t < 2 else (10 - t) / 8),
        (schedule.multi_step, lambda t: 1.0 if t < 5 else 0.1 if t < 7.5 else 0.01),
        (schedule.poly, lambda t: (1 - t / 10) ** 0.9),
        (partial(schedule.poly, power=2.0), lambda t: (1 - t / 10) ** 2),
        (schedule.inverse, lambda t: 1 / (1 + 0.001 * t) ** 0.75),
        (partial(schedule.inverse, gamma=10.0, power=1.0), lambda t: 1 / (1 + 10 * t)),
    ],
)
def test_factor_on_each_groups_rate(make, factor):
    for t, (first, second) in enumerate(rates(make)):
        assert first == pytest.approx(0.1 * factor(t))
        assert second == pytest.approx(0.01 * factor(t))


def test_one_step_is_enough():
    for make in (schedule.constant, schedule.cosine, schedule.one_cycle, schedule.multi_step, schedule.poly):
        assert len(rates(make, total=1)) == 1
