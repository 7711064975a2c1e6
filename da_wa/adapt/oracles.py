"""Reference implementations of the losses: explicit loops in NumPy, float64, no torch, written from the formulas.

Arguments in the name of a detached quantity (``variance``, ``weights``, ``norms``) freeze it at given values, so that
finite differences of an oracle give the gradient that a loss should have. Formulas and sources are in the docstrings of
the losses.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softmax(logits: Array) -> Array:
    """The probabilities p, (n, K).

    >>> softmax(np.zeros((1, 2)))
    array([[0.5, 0.5]])
    """
    rows = []
    for z in logits:
        powers = [math.exp(value - max(z)) for value in z]
        rows.append([power / math.fsum(powers) for power in powers])
    return np.array(rows)


def row_entropy(p: Array) -> float:
    """H of one row of probabilities.

    >>> round(row_entropy(np.array([0.5, 0.5])), 4)
    0.6931
    """
    return -math.fsum(value * math.log(value) for value in p if value > 0)


def entropy(logits: Array) -> Array:
    """(n,).

    >>> entropy(np.zeros((1, 2))).round(4)
    array([0.6931])
    """
    return np.array([row_entropy(p) for p in softmax(logits)])


def information_maximization(logits: Array) -> float:
    """``mean H(p) - H(p̄)``.

    >>> information_maximization(np.zeros((3, 2)))
    0.0
    """
    p = softmax(logits)
    mean = np.array([math.fsum(column) / len(p) for column in p.T])
    return math.fsum(row_entropy(row) for row in p) / len(p) - row_entropy(mean)


def mcc(logits: Array, temperature: float = 2.5, weights: Array | None = None) -> float:
    """``(ΣC - tr C) / K`` with the full confusion matrix.

    >>> mcc(np.zeros((3, 2)))
    0.5
    """
    p = softmax(logits / temperature)
    (n, classes), w = p.shape, mcc_weights(logits, temperature) if weights is None else weights
    confusion = np.zeros((classes, classes))
    for j in range(classes):
        for k in range(classes):
            confusion[j, k] = math.fsum(p[i, j] * w[i] * p[i, k] for i in range(n))
    for j in range(classes):
        confusion[j] /= math.fsum(confusion[j])
    total, diagonal = math.fsum(confusion.flatten()), math.fsum(np.diag(confusion))
    return (total - diagonal) / float(classes)


def mcc_weights(logits: Array, temperature: float = 2.5) -> Array:
    """The detached weights of MCC, with sum n; with T = 1 those of CDAN+E.

    >>> mcc_weights(np.zeros((3, 2)))
    array([1., 1., 1.])
    """
    w = [1 + math.exp(-h) for h in entropy(logits / temperature)]
    return np.array([len(w) * value / math.fsum(w) for value in w])


def bnm(logits: Array) -> float:
    """``-‖P‖_* / n`` from the eigenvalues of PᵀP or PPᵀ, the smaller of the two.

    >>> round(bnm(np.zeros((1, 4))), 4)
    -0.5
    """
    p = softmax(logits)
    gram = p.T @ p if p.shape[1] < p.shape[0] else p @ p.T
    return -math.fsum(math.sqrt(max(value, 0.0)) for value in np.linalg.eigvalsh(gram)) / len(p)


def mdd(
    source: Array,
    source_adversary: Array,
    target: Array,
    target_adversary: Array,
    gamma: float = 4.0,
) -> float:
    """``γ · mean CE(h'(s), argmax h(s)) - mean log(1 - p'_{argmax h(t)})``.

    >>> z = np.zeros((3, 2))
    >>> round(mdd(z, z, z, z, gamma=1.0), 4)
    1.3863
    """
    on_source = [-math.log(p[z.argmax()]) for p, z in zip(softmax(source_adversary), source, strict=True)]
    on_target = []
    for p, z in zip(softmax(target_adversary), target, strict=True):
        rest = math.fsum(value for k, value in enumerate(p) if k != z.argmax())
        on_target.append(-math.log(rest))
    return gamma * math.fsum(on_source) / len(on_source) + math.fsum(on_target) / len(on_target)


def mean_entropy(logits: Array) -> float:
    """TENT's loss.

    >>> round(mean_entropy(np.zeros((3, 2))), 4)
    0.6931
    """
    return math.fsum(entropy(logits)) / len(logits)


def reliable_entropy(logits: Array, share: float = 0.4) -> float:
    """SAR's loss: the mean entropy of the rows below ``share · ln K``; 0 without such rows.

    >>> reliable_entropy(np.zeros((3, 2)))
    0.0
    """
    kept = [h for h in entropy(logits) if h < share * math.log(logits.shape[1])]
    return math.fsum(kept) / max(len(kept), 1)


def sharpness_step(gradient: Array, rho: float = 0.05) -> Array:
    """``ρ g / ‖g‖`` of one flat gradient.

    >>> sharpness_step(np.array([3.0, 4.0]), rho=1.0)
    array([0.6, 0.8])
    """
    norm = math.sqrt(math.fsum(value * value for value in gradient))
    return np.array([rho * value / norm for value in gradient])


def coral(source: Array, target: Array) -> float:
    """``‖C_s - C_t‖²_F / 4d²``, C from all pairs of columns.

    >>> coral(np.array([[-1.0], [1.0]]), np.array([[5.0], [5.0]]))
    1.0
    """
    d, terms = source.shape[1], []
    for a in range(d):
        for b in range(d):
            c = []
            for x in (source, target):
                means = math.fsum(x[:, a]) / len(x), math.fsum(x[:, b]) / len(x)
                c.append(math.fsum((row[a] - means[0]) * (row[b] - means[1]) for row in x) / (len(x) - 1))
            terms.append((c[0] - c[1]) ** 2)
    return math.fsum(terms) / float(4 * d * d)


def mmd_variance(source: Array, target: Array) -> float:
    """The detached σ² of MMD: the mean squared distance of all ordered pairs.

    >>> mmd_variance(np.array([[0.0]]), np.array([[2.0]]))
    2.0
    """
    rows = [*source, *target]
    return math.fsum(float(((x - y) ** 2).sum()) for x in rows for y in rows) / len(rows) ** 2


def mmd(source: Array, target: Array, variance: float | None = None) -> float:
    """The biased squared MMD with five kernels.

    >>> mmd(np.zeros((1, 2)), np.zeros((1, 2)), variance=1.0)
    0.0
    """
    sigma = mmd_variance(source, target) if variance is None else variance

    def kernel(x: Array, y: Array) -> float:
        square = math.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True))
        return math.fsum(math.exp(-square / (2 * factor * sigma)) for factor in (0.125, 0.25, 0.5, 1.0, 2.0))

    def mean(a: Array, b: Array) -> float:
        return math.fsum(kernel(x, y) for x in a for y in b) / (len(a) * len(b))

    return mean(source, source) + mean(target, target) - 2 * mean(source, target)


def ramp(progress: float, rate: float = 10.0, top: float = 1.0) -> float:
    """``top · tanh(rate·τ/2)``, the same function as ``top · (2/(1 + e^{-rate·τ}) - 1)``.

    >>> round(ramp(0.1), 3)
    0.462
    """
    return top * math.tanh(rate * progress / 2)


def domain_bce(
    source: Array, target: Array, source_weights: Array | None = None, target_weights: Array | None = None
) -> float:
    """``½ [mean w·(-log D(s)) + mean w·(-log(1 - D(t)))]``, D the sigmoid.

    >>> round(domain_bce(np.zeros(2), np.zeros(3)), 4)
    0.6931
    """
    w_s = np.ones(len(source)) if source_weights is None else source_weights
    w_t = np.ones(len(target)) if target_weights is None else target_weights
    on_source = math.fsum(w * math.log(1 + math.exp(-d)) for w, d in zip(w_s, source.ravel(), strict=True))
    on_target = math.fsum(w * math.log(1 + math.exp(d)) for w, d in zip(w_t, target.ravel(), strict=True))
    return 0.5 * (on_source / len(source) + on_target / len(target))


def entropy_weights(logits: Array) -> Array:
    """``n w / Σ w``, ``w = 1 + e^{-H}``.

    >>> entropy_weights(np.zeros((2, 2)))
    array([1., 1.])
    """
    return mcc_weights(logits, temperature=1.0)


def entropy_weighted_bce(source: Array, target: Array, source_logits: Array, target_logits: Array) -> float:
    """The loss of CDAN+E's discriminator.

    >>> z = np.zeros((3, 2))
    >>> round(entropy_weighted_bce(np.zeros(3), np.zeros(3), z, z), 4)
    0.6931
    """
    return domain_bce(source, target, entropy_weights(source_logits), entropy_weights(target_logits))


def condition(features: Array, logits: Array) -> Array:
    """``f ⊗ p``, f_i p_k in column i·K + k.

    >>> condition(np.array([[2.0, 4.0]]), np.zeros((1, 2)))
    array([[1., 1., 2., 2.]])
    """
    return np.array([[a * b for a in f for b in p] for f, p in zip(features, softmax(logits), strict=True)])


def condition_randomly(features: Array, logits: Array, of_features: Array, of_classes: Array) -> Array:
    """``(f R_f) ⊙ (p R_p) / sqrt(size)``.

    >>> condition_randomly(np.ones((1, 1)), np.zeros((1, 1)), np.ones((1, 4)), np.ones((1, 4)))
    array([[0.5, 0.5, 0.5, 0.5]])
    """
    p, size = softmax(logits), of_features.shape[1]
    columns = []
    for j in range(size):
        left = [math.fsum(row * of_features[:, j]) for row in features]
        right = [math.fsum(row * of_classes[:, j]) for row in p]
        columns.append([a * b / math.sqrt(size) for a, b in zip(left, right, strict=True)])
    return np.array(columns).T


def afn(features: Array, step: float = 1.0, norms: Array | None = None) -> float:
    """``mean (‖f‖ - ‖f‖_detached - Δ)²``.

    >>> afn(np.ones((2, 2)), step=3.0)
    9.0
    """
    own = [math.sqrt(math.fsum(value * value for value in f)) for f in features]
    fixed = own if norms is None else norms
    return math.fsum((a - b - step) ** 2 for a, b in zip(own, fixed, strict=True)) / len(own)


def unit_scale(source: Array, target: Array) -> Array:
    """Both features over the root mean square of the source's, in one array (n_s + n_t, d).

    >>> unit_scale(np.array([[2.0]]), np.array([[4.0]]))
    array([[1.],
           [2.]])
    """
    rms = math.sqrt(math.fsum(value * value for value in source.ravel()) / source.size)
    return np.array([[value / rms for value in row] for row in [*source, *target]])


def fixmatch(strong: Array, weak: Array, threshold: float = 0.9) -> float:
    """``(1/n) Σ [max p > threshold] CE(z_strong, argmax p)``.

    >>> fixmatch(np.zeros((3, 2)), np.zeros((3, 2)))
    0.0
    """
    total = 0.0
    for p_strong, p_weak in zip(softmax(strong), softmax(weak), strict=True):
        if p_weak.max() > threshold:
            total -= math.log(p_strong[p_weak.argmax()])
    return total / len(strong)


def align_distribution(target: Array, source: Array) -> Array:
    """``p_t · mean p_s / mean p_t`` with rows of sum 1: probabilities.

    >>> align_distribution(np.array([[3.0, 0.0]]), np.zeros((2, 2)))
    array([[0.5, 0.5]])
    """
    p_s, p_t, rows = softmax(source), softmax(target), []
    ratios = [math.fsum(a) / len(p_s) / (math.fsum(b) / len(p_t)) for a, b in zip(p_s.T, p_t.T, strict=True)]
    for p in p_t:
        row = [value * ratio for value, ratio in zip(p, ratios, strict=True)]
        rows.append([value / math.fsum(row) for value in row])
    return np.array(rows)


def relative_threshold(source: Array, threshold: float = 0.9) -> float:
    """``threshold · mean max p``.

    >>> relative_threshold(np.zeros((3, 2)), 1.0)
    0.5
    """
    return threshold * math.fsum(max(p) for p in softmax(source)) / len(source)


def adamatch(strong: Array, weak: Array, source: Array, threshold: float = 0.9) -> float:
    """FixMatch with aligned probabilities and a relative threshold.

    >>> adamatch(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros((3, 2)), threshold=1.1)
    0.0
    """
    aligned = np.log(align_distribution(weak, source))
    return fixmatch(strong, aligned, relative_threshold(source, threshold))


def centroid_labels(features: Array, logits: Array, rounds: int = 2) -> Array:
    """SHOT's labels: soft centroids first, then the centroids of the labels; cosine similarity.

    >>> centroid_labels(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[2.0, 0.0], [0.0, 2.0]]))
    array([0., 1.])
    """
    p = softmax(logits)
    possible = {int(row.argmax()) for row in p}
    members = [[(float(p[i, k]), features[i]) for i in range(len(p))] for k in range(p.shape[1])]
    labels: list[int] = []
    for _ in range(rounds):
        centroids = {}
        for k in sorted(possible):
            if weight := math.fsum(share for share, _ in members[k]):
                centroids[k] = sum(share * f for share, f in members[k]) / weight
        labels = []
        for f in features:
            scores = {k: float(f @ c) / math.sqrt(float(f @ f) * float(c @ c)) for k, c in centroids.items()}
            labels.append(max(scores, key=lambda k: scores[k]))
        members = [
            [(1.0, f) for f, label in zip(features, labels, strict=True) if label == k] for k in range(p.shape[1])
        ]
    return np.array(labels, dtype=np.float64)


def moments(x: Array) -> Array:
    """Population mean and variance of every column of all values (n, c): (2, c).

    >>> moments(np.array([[1.0], [3.0]]))
    array([[2.],
           [1.]])
    """
    means = [math.fsum(column) / len(column) for column in x.T]
    squares = [[(value - mean) ** 2 for value in column] for column, mean in zip(x.T, means, strict=True)]
    return np.array([means, [math.fsum(column) / len(column) for column in squares]])
