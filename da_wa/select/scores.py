"""The scores of ``conf/select/default.yaml``: each takes :class:`Saved` and returns a number, higher is better.

Formulas and complete sources are with the functions they call.
"""

from __future__ import annotations

from functools import lru_cache

from da_wa.select import atc as _atc
from da_wa.select import clusters, confidence, importance
from da_wa.select.saved import Floats, NotSaved, Saved


def source_val(saved: Saved) -> float:
    """Accuracy on held-out source images."""
    return confidence.source_val(saved.need("source_logits"), saved.need("source_labels"))


def entropy(saved: Saved) -> float:
    """Low mean entropy of the target predictions (Morerio et al. 2018)."""
    return confidence.entropy(saved.target_logits)


def im(saved: Saved) -> float:
    """Mutual information of target images and predicted classes (Shi & Sha 2012)."""
    return confidence.im(saved.target_logits)


def bnm(saved: Saved) -> float:
    """Nuclear norm of the target predictions (Cui et al. 2020)."""
    return confidence.bnm(saved.target_logits)


def snd(saved: Saved) -> float:
    """Soft neighbourhood density (Saito et al. 2021): a control, highest for a network that has collapsed."""
    if len(saved.target_logits) < 2:
        raise NotSaved("needs logits of at least two target images; one was saved")
    return confidence.snd(saved.target_logits)


def iwv(saved: Saved) -> float:
    """Importance-weighted validation on held-out source images (Sugiyama et al. 2007)."""
    return importance.iwv(*_losses_and_weights(saved))


def dev(saved: Saved) -> float:
    """Deep embedded validation, importance-weighted with a control variate (You et al. 2019)."""
    return importance.dev(*_losses_and_weights(saved))


def devn(saved: Saved) -> float:
    """DEV with normalised weights (Musgrave et al. 2022)."""
    return importance.devn(*_losses_and_weights(saved))


def class_ami(saved: Saved) -> float:
    """Agreement of target predictions with clusters of the features (Musgrave et al. 2022)."""
    features, rows = saved.featured("target")
    classes = saved.target_logits.shape[1]
    if len(features) < classes:
        raise NotSaved(f"needs features of at least {classes} target images; {len(features)} were saved")
    return clusters.class_ami(saved.target_logits[rows].argmax(axis=1), features, classes)


def atc(saved: Saved) -> float:
    """Average thresholded confidence, an estimate of target accuracy (Garg et al. 2022)."""
    return _atc.atc(saved.target_logits, saved.need("source_logits"), saved.need("source_labels"))


def mixval(saved: Saved) -> float:
    """Agreement of predictions on mixtures of two target images with those on the first (Hu et al. 2023)."""
    mixed, rows = saved.need("mixed_logits"), saved.need("mixed_rows")
    return confidence.mixval(mixed.argmax(axis=1), saved.target_logits[rows].argmax(axis=1))


@lru_cache(maxsize=1)
def _losses_and_weights(saved: Saved) -> tuple[Floats, Floats]:
    """Of the source images with features; one fit for the three scores that use it."""
    logits, labels = saved.need("source_logits"), saved.need("source_labels")
    source, rows = saved.featured("source")
    target, _ = saved.featured("target")
    if min(len(source), len(target)) < 2:
        raise NotSaved(
            f"needs features of at least two images of each domain; {len(source)} and {len(target)} were saved"
        )
    losses = importance.cross_entropies(logits[rows], labels[rows])
    return losses, importance.density_ratio(source, target)
