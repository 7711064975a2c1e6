"""Anytime-valid tests of paired contrasts: valid at any number of seeds, also when testing after every seed.

The null hypothesis of a contrast is that differences are Gaussian with mean 0 and unknown variance. ``E_n`` is the
Bayes factor of an effect/sd drawn from N(0, g) against 0, a function of the t statistic alone (Gönen et al. 2005,
Am. Stat. 59; anytime validity: Lai 1976, Ann. Stat. 4, and Wang & Ramdas 2024, arXiv 2310.03722). Under the null
hypothesis ``E_n`` is a martingale with mean 1, so by Ville's inequality it ever reaches 1/α with probability at most
α: no number of looks raises the rate of false alarms above α.

Differences come in the order of their seeds, which must not depend on results.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from da_wa.select.saved import Floats

G = 4.0
"""Prior variance of effect/sd: effects of about two standard deviations are expected."""
ALPHA = 0.05


def e_value(t: npt.ArrayLike, n: npt.ArrayLike, g: float = G) -> Floats:
    """E_n = (1+ng)^(−1/2) · [(1 + t²/((1+ng)ν)) / (1 + t²/ν)]^(−n/2), ν = n − 1; 1 for one seed.

    At most (1+ng)^((n−1)/2), which an infinite t (equal differences) reaches.

    Args:
        t: t statistics, any shape.
        n: numbers of seeds, broadcast against ``t``.
        g: prior variance of effect/sd.

    >>> e_value([0.0, 3.0, np.inf], 5).round(3).tolist()  # 1/√21 ... 21²
    [0.218, 3.222, 441.0]

    Raises:
        ValueError: n < 1, g not positive, or NaN.
    """
    t_, n_ = np.broadcast_arrays(np.asarray(t, dtype=np.float64), np.asarray(n, dtype=np.float64))
    if np.isnan(t_).any() or not (n_ >= 1).all() or not (np.isfinite(g) and g > 0):
        raise ValueError("e-values need t statistics that are numbers, n >= 1 and g > 0")
    a = 1 + n_ * g
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        s = t_**2 / np.maximum(n_ - 1, 1)
        # (1 + s/a) / (1 + s), also for infinite s
        log_ratio = np.where(np.isinf(s), -np.log(a), np.log1p(s / a) - np.log1p(s))
    return np.where(n_ == 1, 1.0, np.exp(-0.5 * np.log(a) - n_ / 2 * log_ratio))


def t_statistics(differences: npt.ArrayLike) -> Floats:
    """Student's t of the first n differences, for every n; 0 for n = 1 and where all of them are 0.

    Args:
        differences: (..., seeds), along the last axis in the order of seeds.

    >>> t_statistics([1.0, 3.0, 2.0]).round(6).tolist()
    [0.0, 2.0, 3.464102]
    >>> t_statistics([1.0, 1.0]).tolist()
    [0.0, inf]

    Raises:
        ValueError: no differences, NaN or infinity.
    """
    x = np.asarray(differences, dtype=np.float64)
    if x.ndim < 1 or not x.size or not np.isfinite(x).all():
        raise ValueError(f"differences must be finite numbers of shape (..., seeds); found shape {x.shape}")
    n = np.arange(1, x.shape[-1] + 1)
    mean = np.cumsum(x, axis=-1) / n
    # Welford's update of the sum of squares, without the cancellation of Σx² − n·mean²
    step = np.zeros_like(x)
    step[..., 1:] = (x[..., 1:] - mean[..., :-1]) ** 2 * (n[1:] - 1) / n[1:]
    error = np.sqrt(np.cumsum(step, axis=-1) / np.maximum(n - 1, 1) / n)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.where((error == 0) & (mean == 0), 0.0, mean / error)
    return np.where(n == 1, 0.0, t)


def e_process(differences: npt.ArrayLike, g: float = G) -> Floats:
    """Largest E after 1, 2, ... seeds: the evidence so far, which later seeds do not take back.

    Its inverse is a p-value at every look (Ville), so :func:`decided` may be applied after each seed.

    Args:
        differences: (..., seeds), in the order of seeds.
        g: prior variance of effect/sd.

    >>> e_process([2.0, 2.2, 1.9, 2.1]).round(1).tolist()
    [1.0, 2.9, 12.2, 63.9]
    """
    t = t_statistics(differences)
    return np.maximum.accumulate(e_value(t, np.arange(1, t.shape[-1] + 1), g), axis=-1)


def decided(e_values: npt.ArrayLike, alpha: float = ALPHA) -> npt.NDArray[np.bool_]:
    """Which contrasts are decided: Holm's (1979) step-down procedure on the p-values min(1, 1/E).

    Of K contrasts the one with the largest E is decided if E >= K/α, then the next if E >= (K−1)/α, and so on until
    one fails. The chance of any false decision among them is at most α, however contrasts depend on each other and
    however many seeds each has, provided that E is that of :func:`e_process`.

    Args:
        e_values: (K,), of all contrasts of the family, open ones included.
        alpha: chance of a false decision among all of them.

    >>> decided([45.0, 25.0, 100.0]).tolist()  # 100 >= 60, 45 >= 40, 25 >= 20
    [True, True, True]
    >>> decided([45.0, 25.0, 50.0]).tolist()  # 50 < 60
    [False, False, False]

    Raises:
        ValueError: negative e-values or NaN, or alpha outside 0 ... 1.
    """
    e = np.asarray(e_values, dtype=np.float64)
    if e.ndim != 1 or not (e >= 0).all():
        raise ValueError("e-values must be non-negative numbers of shape (contrasts,)")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1; found {alpha}")
    order = np.argsort(-e, kind="stable")
    passed = e[order] * alpha >= np.arange(len(e), 0, -1)
    result = np.zeros(len(e), dtype=bool)
    result[order] = np.logical_and.accumulate(passed)
    return result


def first_look(contrasts: int) -> int:
    """The number of seeds from which a decision is possible at all: the largest E reaches the first threshold.

    >>> first_look(1), first_look(5)
    (4, 5)
    """
    return next(n for n in range(2, 100) if float(e_value(np.inf, n)) >= contrasts / ALPHA)


def decided_after(contrasts: Sequence[npt.ArrayLike], alpha: float = ALPHA, g: float = G) -> list[int | None]:
    """After how many seeds each contrast is decided, looking after every seed; None: open.

    A function of the differences alone: when looks really took place, or a run was interrupted, changes nothing. A
    contrast that got fewer seeds than others keeps its evidence.

    Args:
        contrasts: differences of each contrast, in the order of seeds; lengths may differ.
        alpha: chance of a false decision among all of them.
        g: prior variance of effect/sd.

    >>> decided_after([[2.0, 2.2, 1.9, 2.1, 2.0], [0.3, -0.2, 0.1]])
    [4, None]
    """
    paths = [e_process(differences, g) for differences in contrasts]
    after: list[int | None] = [None] * len(paths)
    for n in range(1, max(map(len, paths), default=0) + 1):
        state = decided([path[min(n, len(path)) - 1] for path in paths], alpha)
        after = [n if then is None and now else then for then, now in zip(after, state, strict=True)]
    return after
