"""Domain shift of the features, from a fixed sample of every domain."""

from __future__ import annotations

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from da_wa.report.content import Part, Plot, Section, Table
from da_wa.report.facts import Facts
from da_wa.report.figures import embedding_scatter, heatmap, relation
from da_wa.report.matrix import Matrix
from da_wa.report.outcomes import Array
from da_wa.report.statistics import rank_correlation
from da_wa.report.wording import arrow, counted, number, signed

TITLE = "What does the shift look like?"
SEPARABLE = 50
"""Principal components that the classifier of domains sees: with as many features as images all is separable."""

POINTS = 360
"""Images in an embedding: the time of t-SNE grows faster than their number."""


def section(facts: Facts) -> Section:
    """How far apart the domains are in the features of every norm."""
    with threadpool_limits(1):  # many small problems: threads cost more than they give
        return _section(facts)


def _section(facts: Facts) -> Section:
    matrix = facts.matrix
    rows, drawn = [], {}
    first = matrix.pairs[0][0] if matrix.pairs else ""
    samples = [
        (label, source, seed, domains)
        for label, source, seed, domains in facts.samples
        if source in domains and len(domains) > 1
    ]
    for label, source, seed, domains in samples:
        for target, features in domains.items():
            if target != source:
                a, b = scaled(domains[source], features)
                rows.append((label, source, target, seed, a_distance(a, b, seed=0), mmd(a, b)))
        if source == first and label not in drawn:
            drawn[label] = domains
    if not rows:
        return Section(TITLE, ["The runs saved no features, so the shift in them is not known."])
    data = pd.DataFrame(rows, columns=["label", "source", "target", "seed", "a_distance", "mmd"])
    means = data.groupby(["label", "source", "target"], sort=False)[["a_distance", "mmd"]].mean()
    distance, discrepancy = (_by_pair(matrix, means[name]) for name in ("a_distance", "mmd"))
    plot = Plot(
        "a_distance",
        heatmap(distance, "Proxy A-distance of source and target", "{:.2f}", top=2.0),
        "Distance of source and target for every norm and pair, mean over seeds.",
        wide=False,
    )
    if distance.isna().all(axis=None):
        return Section(TITLE, ["The runs saved too few features of each domain to tell a shift."], {"shift": data})
    nearest, farthest = (f(distance.mean(axis=0).dropna().items(), key=lambda item: item[1]) for f in (min, max))
    parts: list[Part] = [
        f"A classifier separates the features of {farthest[0]} best (A-distance {farthest[1]:.2f}) and those of "
        f"{nearest[0]} worst ({nearest[1]:.2f}), mean over norms. 0: no difference, 2: perfectly separable.",
        plot,
        *_against_accuracy(matrix, means),
    ]
    smallest = min(len(features) for *_, domains in samples for features in domains.values())
    return Section(
        TITLE,
        parts,
        {"shift": data},
        details=[_table(distance, discrepancy, len(samples), smallest), *_embeddings(matrix, drawn, first)],
    )


def scaled(a: Array, b: Array) -> tuple[Array, Array]:
    """Both samples, centred and divided by the features' standard deviations over both together."""
    return tuple(np.split(_standardized(np.concatenate([a, b])), [len(a)]))  # type: ignore[return-value]


def _standardized(x: Array) -> Array:
    """Columns of mean 0 and standard deviation 1; constant columns are exactly 0."""
    x = x.astype(np.float64)
    varies = np.ptp(x, axis=0) > 0  # a computed standard deviation of equal values is not always 0
    centred = (x - x.mean(axis=0)) * varies
    standardized: Array = centred / np.where(varies, x.std(axis=0), 1.0)
    return standardized


def a_distance(a: Array, b: Array, seed: int = 0) -> float:
    """Proxy A-distance 2(1 - 2ε) of two samples (Ben-David et al. 2010), ε from two-fold cross-validation.

    Args:
        a: (m, d) features of one domain, see :func:`scaled`.
        b: (n, d) features of the other.
        seed: of the folds.

    >>> draw = np.random.default_rng(0)
    >>> round(a_distance(draw.normal(size=(50, 4)), draw.normal(size=(50, 4)) + 9), 1)
    2.0
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    x, y = np.concatenate([a, b]), np.repeat([0, 1], [len(a), len(b)])
    if min(len(a), len(b)) < 2:
        return float("nan")
    if x.shape[1] > SEPARABLE and np.ptp(x, axis=0).any():
        x = PCA(min(SEPARABLE, len(x)), random_state=seed).fit_transform(x)
    recalls = []
    for train, test in StratifiedKFold(2, shuffle=True, random_state=seed).split(x, y):
        predicted = LogisticRegression(C=0.1).fit(x[train], y[train]).predict(x[test])
        recalls += [np.mean(predicted[y[test] == domain] == domain) for domain in (0, 1)]
    return float(max(0.0, 2 * (1 - 2 * (1 - np.mean(recalls)))))


def mmd(a: Array, b: Array) -> float:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, eq. 3), Gaussian kernel, median distance.

    NaN for a domain with one sample.
    """
    from scipy.spatial.distance import cdist

    m, n = len(a), len(b)
    if min(m, n) < 2:
        return float("nan")
    x = np.concatenate([a, b])
    squared = cdist(x, x, "sqeuclidean")
    median = np.median(squared[np.triu_indices(m + n, 1)])
    kernel = np.exp(-squared / (median if median > 0 else 1.0))
    np.fill_diagonal(kernel, 0.0)
    within = kernel[:m, :m].sum() / (m * (m - 1)) + kernel[m:, m:].sum() / (n * (n - 1))
    return float(within - 2 * kernel[:m, m:].mean())


def _by_pair(matrix: Matrix, values: pd.Series) -> pd.DataFrame:
    cells = [[values.get((label, *pair), np.nan) for pair in matrix.pairs] for label in matrix.mean.index]
    return pd.DataFrame(cells, matrix.mean.index, [arrow(*pair) for pair in matrix.pairs])


def _table(distance: pd.DataFrame, discrepancy: pd.DataFrame, runs: int, images: int) -> Table:
    rows = [
        [
            label,
            *(
                f"{number(d, 2)}\nMMD {number(m, 3)}"
                for d, m in zip(distance.loc[label], discrepancy.loc[label], strict=True)
            ),
        ]
        for label in distance.index
    ]
    notes = [
        f"From {counted(runs, 'run')}: features after the last epoch of {counted(images, 'image')} or more per domain.",
        "Proxy A-distance: 2(1 − 2ε), ε the cross-validated error of a linear classifier of source against target "
        "(Ben-David et al. 2010).",
        "MMD: squared maximum mean discrepancy, unbiased, Gaussian kernel of the median distance (Gretton et al. "
        "2012); 0 on average for equal domains.",
    ]
    caption = "Proxy A-distance of source and target, and squared MMD below it"
    return Table("shift", caption, ["Norm", *distance.columns], rows, notes=notes).transposed_if_wide()


def _against_accuracy(matrix: Matrix, means: pd.DataFrame) -> list[Part]:
    x, y = "proxy A-distance", "accuracy on the target (%)"
    columns = dict(zip(matrix.pairs, matrix.mean.columns, strict=False))
    points = pd.DataFrame(
        [
            {"pair": arrow(source, target), x: row.a_distance, y: matrix.mean.at[label, columns[source, target]]}
            for (label, source, target), row in means.iterrows()
            if (source, target) in columns and label in matrix.mean.index
        ],
        columns=["pair", x, y],
    ).dropna()
    if len(points) < 5 or points[x].nunique() < 2:
        return []
    tau, _ = rank_correlation(points[x], points[y])
    caption = f"Distance of the domains and accuracy, one point per norm and pair: Kendall's τ {signed(tau, 2)}."
    return [Plot("shift_accuracy", relation(points, x, y, "pair"), caption, wide=False)]


def _embeddings(matrix: Matrix, drawn: dict[str, dict[str, Array]], source: str) -> list[Part]:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if not drawn:
        return []
    linear, local = {}, {}
    for label in (label for label in matrix.mean.index if label in drawn):
        domains = _thinned(drawn[label])
        x = _standardized(np.concatenate(list(domains.values())))
        ends = np.cumsum([len(f) for f in domains.values()])[:-1]
        if min(x.shape) < 2 or not x.any():  # equal features have no components
            continue
        flat = PCA(min(SEPARABLE, *x.shape), random_state=0).fit_transform(x)
        linear[label] = dict(zip(domains, np.split(flat[:, :2], ends), strict=True))
        perplexity = min(30.0, (len(x) - 1) / 3)
        near = TSNE(perplexity=perplexity, init="pca", max_iter=500, random_state=0).fit_transform(flat)
        local[label] = dict(zip(domains, np.split(near, ends), strict=True))
    if not linear:
        return []
    whose = f"of networks trained on {source}, one seed each"
    return [
        Plot(
            "tsne",
            embedding_scatter(local),
            f"t-SNE of the features {whose}. Distances between clusters carry little meaning.",
        ),
        Plot("pca", embedding_scatter(linear), f"First two principal components of the features {whose}."),
    ]


def _thinned(domains: dict[str, Array]) -> dict[str, Array]:
    """At most :data:`POINTS` rows in all, evenly spread."""
    each = max(POINTS // len(domains), 10)
    return {d: f[np.unique(np.linspace(0, len(f) - 1, min(each, len(f))).astype(int))] for d, f in domains.items()}
