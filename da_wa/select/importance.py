"""Risk on the source, reweighted to the target: IWV, DEV, DEVN.

w(f) = (n_s/n_t) · P(t|f)/P(s|f) is the density ratio of target and source features, by a classifier of domains.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from da_wa.select.clusters import sorted_rows
from da_wa.select.confidence import log_softmax
from da_wa.select.saved import Floats, check_labels, indices, matrix

FOLDS = 5
LARGEST = 50.0
"""Bound on |ln w|: beyond it one image decides, and products would overflow."""


def iwv(losses: npt.ArrayLike, weights: npt.ArrayLike) -> float:
    """−mean(wℓ), importance-weighted validation (Sugiyama et al. 2007, JMLR 8).

    Args:
        losses: (n,) of held-out source images.
        weights: (n,) density ratios.

    >>> iwv([1.0, 3.0], [0.5, 1.5])
    -2.5
    """
    loss, w = _paired(losses, weights)
    return -float((w * loss).mean())


def dev(losses: npt.ArrayLike, weights: npt.ArrayLike) -> float:
    """−[mean(wℓ) + η·mean w − η], η = −Cov(wℓ, w)/Var w, deep embedded validation (You et al. 2019, PMLR 97).

    η = 0 where all weights are equal (Var w = 0).

    Args:
        losses: (n,) of held-out source images.
        weights: (n,) density ratios.

    >>> dev([1.0, 2.0], [1.0, 3.0])  # mean(wℓ) 3.5, η −2.5, mean w 2
    -1.0
    >>> dev([0.25, 0.75], [1.0, 1.0])
    -0.5
    """
    loss, w = _paired(losses, weights)
    centred = w - w.mean()
    variance = float((centred**2).mean())
    constant = variance <= (1e-12 * float(np.abs(w).max())) ** 2
    eta = 0.0 if constant else -float((w * loss * centred).mean()) / variance
    return -(float((w * loss).mean()) + eta * float(w.mean()) - eta)


def devn(losses: npt.ArrayLike, weights: npt.ArrayLike) -> float:
    """DEV with weights divided by their maximum, then shifted to mean 1 (Musgrave et al. 2022, arXiv 2208.07360).

    At mean 1 the terms of η cancel: DEVN equals IWV with these weights. None becomes negative, because w/max w and its
    mean lie in [0, 1].

    Args:
        losses: (n,) of held-out source images.
        weights: (n,) density ratios.

    >>> devn([1.0, 2.0], [1.0, 4.0])  # weights .25, 1 → .625, 1.375
    -1.6875
    """
    loss, w = _paired(losses, weights)
    return iwv(loss, normalized(w))


def normalized(weights: Floats) -> Floats:
    """Weights over their maximum, shifted to mean 1.

    >>> normalized(np.array([1.0, 4.0])).tolist()
    [0.625, 1.375]
    """
    scaled = weights / weights.max()
    shifted: Floats = scaled - scaled.mean() + 1
    return shifted


def cross_entropies(logits: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """ℓ: −ln p of each image's label, (n,).

    >>> cross_entropies([[0.0, 0.0]], [1]).round(6).tolist()
    [0.693147]
    """
    z, y = matrix("logits", logits), indices("labels", labels)
    check_labels(y, *z.shape)
    loss: Floats = -log_softmax(z)[np.arange(len(y)), y]
    return loss


def density_ratio(source: npt.ArrayLike, target: npt.ArrayLike) -> Floats:
    """Density ratio w at each source image, (n_s,): logistic regression on standardised features, out of fold.

    The penalty grows with the number of features (C = 1/d): a fixed one gives weights of e^20 and more without any
    shift where a few hundred images have hundreds of features. No image is weighted by a classifier that saw it.
    Folds are dealt to rows in a sorted order, so that w depends on nothing but the rows. Weights lie between e^−50
    and e^50.

    Args:
        source: (n_s, d), at least two images.
        target: (n_t, d), at least two images.

    >>> rng = np.random.default_rng(0)
    >>> same = density_ratio(rng.normal(size=(500, 2)), rng.normal(size=(1000, 2)))
    >>> bool(np.abs(np.log(same)).max() < 0.5)  # no shift: w near 1
    True

    Raises:
        ValueError: arrays that do not fit together.
    """
    s, t = matrix("source", source), matrix("target", target)
    if s.shape[1] != t.shape[1]:
        raise ValueError(f"features of the source are {s.shape[1]} long, of the target {t.shape[1]}")
    if len(s) < 2 or len(t) < 2:
        raise ValueError(f"a density ratio needs two images of each domain; found {len(s)} and {len(t)}")
    fold_s, fold_t = _folds(s), _folds(t)
    log_ratio = np.empty(len(s))
    for fold in range(min(FOLDS, len(s))):
        seen_s, seen_t = s[fold_s != fold], t[fold_t != fold]
        domain = np.repeat([0, 1], [len(seen_s), len(seen_t)])
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=1 / s.shape[1], max_iter=1000))
        classifier.fit(np.concatenate([seen_s, seen_t]), domain)
        log_odds = classifier.decision_function(s[fold_s == fold])
        log_ratio[fold_s == fold] = log_odds + np.log(len(seen_s) / len(seen_t))
    weights: Floats = np.exp(log_ratio.clip(-LARGEST, LARGEST))
    return weights


def _folds(values: Floats) -> npt.NDArray[np.integer]:
    """The fold of each row."""
    folds = np.empty(len(values), dtype=int)
    folds[sorted_rows(values)] = np.arange(len(values)) % FOLDS
    return folds


def _paired(losses: npt.ArrayLike, weights: npt.ArrayLike) -> tuple[Floats, Floats]:
    loss, w = np.asarray(losses, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if loss.ndim != 1 or loss.shape != w.shape or not loss.size:
        raise ValueError(f"losses and weights must have the same shape (images,); found {loss.shape} and {w.shape}")
    if not (np.isfinite(loss).all() and np.isfinite(w).all() and (w >= 0).all() and w.any()):
        raise ValueError("losses must be finite, weights finite, not negative and not all zero")
    return loss, w
