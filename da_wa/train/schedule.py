"""Learning-rate schedules: factors of the base rate of every parameter group, per training step."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def constant(optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """The base rate throughout."""
    return LambdaLR(optimizer, lambda step: 1.0)


def cosine(optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """From the base rate down to 0 along half a cosine (Loshchilov & Hutter 2017, one period)."""
    return LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(step / total_steps, 1.0))))


def one_cycle(optimizer: Optimizer, total_steps: int, warmup: float = 0.2, start: float = 0.04) -> LambdaLR:
    """Linear from ``start`` to 1 in the first ``warmup`` of the steps, then linear to 0 (Smith & Topin 2018).

    The momentum stays constant.
    """
    rise = max(1, round(warmup * total_steps))

    def factor(step: int) -> float:
        if step < rise:
            return start + (1 - start) * step / rise
        return max(0.0, (total_steps - step) / max(1, total_steps - rise))

    return LambdaLR(optimizer, factor)


def multi_step(optimizer: Optimizer, total_steps: int, at: tuple[float, ...] = (0.5, 0.75)) -> LambdaLR:
    """Divide by ten at these fractions of the steps (He et al. 2016: 150 and 225 of 300 epochs)."""
    return LambdaLR(optimizer, lambda step: 0.1 ** sum(step >= a * total_steps for a in at))


def inverse(optimizer: Optimizer, total_steps: int, gamma: float = 0.001, power: float = 0.75) -> LambdaLR:
    """(1 + γt)^-power after t steps, however many there are (Ganin & Lempitsky 2015, t in steps)."""
    return LambdaLR(optimizer, lambda step: float((1 + gamma * step) ** -power))


def poly(optimizer: Optimizer, total_steps: int, power: float = 0.9) -> LambdaLR:
    """(1 - t/T)^power after t of T steps (Chen et al. 2017, arXiv 1706.05587, Sec. 4.1)."""
    return LambdaLR(optimizer, lambda step: float(max(0.0, 1 - step / total_steps) ** power))


SCHEDULES: dict[str, Callable[..., LambdaLR]] = {
    schedule.__name__: schedule for schedule in (constant, cosine, one_cycle, multi_step, inverse, poly)
}
"""All of them by name."""
