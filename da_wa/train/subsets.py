"""The images to train on and to evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from da_wa.data.cache import DecodedDomain
from da_wa.data.datamodule import Subset
from da_wa.data.mixed import Mixed, mixed
from da_wa.data.splits import Evaluation, stratified_holdout

SAMPLE = 200
"""Images of each domain whose features are kept, and mixtures of images of each target."""


@dataclass(frozen=True)
class Subsets:
    """Images of a training.

    Attributes:
        train: labelled images to train on; None for methods without source images.
        evaluate: images to evaluate, in this order.
        sample: positions in each subset to evaluate of the images whose features are kept.
        mixed: mixtures of images of targets, evaluated for label-free scores.
        target: images that an adaptation method sees without labels.
    """

    train: Subset | None
    evaluate: Sequence[Subset]
    sample: Sequence[np.ndarray] = ()
    mixed: Sequence[Mixed] = ()
    target: Subset | None = None


def transfer(domains: Sequence[DecodedDomain], source: str, protocol: Evaluation, seed: int) -> Subsets:
    """Train on ``source``; evaluate its held-out images, if there are any, and the images of every other domain.

    Args:
        domains: over one class list, the source among them.
        source: the name of the domain to train on.
        protocol: which images of a source train, and which images of a target count.
        seed: of the split.
    """
    train: Subset | None = None
    evaluate = []
    for domain in domains:
        if domain.name == source:
            kept, holdout = protocol.source(domain.name, domain.labels, seed)
            train = Subset(domain, kept)
            if len(holdout):
                evaluate.append(Subset(domain, holdout))
        else:
            evaluate.append(Subset(domain, protocol.target(domain.name, domain.labels, seed)))
    assert train is not None, f"{source} is none of {[d.name for d in domains]}"
    targets = [subset for subset in evaluate if subset.domain.name != source and len(subset) > 1]
    return Subsets(train, evaluate, [sample(len(s)) for s in evaluate], [mixed(s, SAMPLE) for s in targets])


def adaptation(
    domains: Sequence[DecodedDomain], source: str, target: str, protocol: Evaluation, seed: int, *, with_source: bool
) -> Subsets:
    """Adapt to ``target``: the method sees the images of the target that are evaluated, without labels.

    Args:
        domains: over one class list, source and target among them.
        source: the name of the domain with labels.
        target: the name of the target.
        protocol: as for :func:`transfer`.
        seed: of the split.
        with_source: train on the source's images, too.
    """
    pair = [domain for domain in domains if domain.name in (source, target)]
    whole = transfer(pair, source, protocol, seed)
    (seen,) = (subset for subset in whole.evaluate if subset.domain.name == target)
    return replace(whole, train=whole.train if with_source else None, target=seen)


def pretraining(train: DecodedDomain, test: DecodedDomain, holdout: float = 0.0) -> Subsets:
    """Train on every training image and evaluate the test images.

    Args:
        train: the training images.
        test: the test images.
        holdout: hold out this fraction of every class of the training images, and evaluate these instead of the test
            images: for choosing a recipe.
    """
    if holdout:
        kept, held_out = stratified_holdout(train.labels, holdout, seed=0)
        return Subsets(Subset(train, kept), [Subset(train, held_out)])
    return Subsets(Subset(train, np.arange(len(train.labels))), [Subset(test, np.arange(len(test.labels)))])


def sample(n: int, most: int = SAMPLE) -> np.ndarray:
    """Positions among *n* evaluated images of those whose features are kept, the same for every norm: (m,) int64.

    >>> sample(3)
    array([0, 1, 2])
    """
    return np.sort(np.random.default_rng(0).choice(n, min(most, n), replace=False))
