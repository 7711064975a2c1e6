"""The scores of ``conf/select/default.yaml``: each takes :class:`Saved` and returns a number, higher is better.

Formulas and sources are with the functions they call.
"""

from __future__ import annotations

from functools import lru_cache

from da_wa.select import atc as _atc
from da_wa.select import clusters, confidence, importance
from da_wa.select.saved import Floats, NotSaved, Saved


def source_val(saved: Saved) -> float:
    """:func:`da_wa.select.confidence.source_val`."""
    return confidence.source_val(saved.need("source_logits"), saved.need("source_labels"))


def entropy(saved: Saved) -> float:
    """:func:`da_wa.select.confidence.entropy`."""
    return confidence.entropy(saved.target_logits)


def im(saved: Saved) -> float:
    """:func:`da_wa.select.confidence.im`."""
    return confidence.im(saved.target_logits)


def bnm(saved: Saved) -> float:
    """:func:`da_wa.select.confidence.bnm`."""
    return confidence.bnm(saved.target_logits)


def snd(saved: Saved) -> float:
    """:func:`da_wa.select.confidence.snd`."""
    return confidence.snd(saved.target_logits)


def iwv(saved: Saved) -> float:
    """:func:`da_wa.select.importance.iwv`."""
    return importance.iwv(*_losses_and_weights(saved))


def dev(saved: Saved) -> float:
    """:func:`da_wa.select.importance.dev`."""
    return importance.dev(*_losses_and_weights(saved))


def devn(saved: Saved) -> float:
    """:func:`da_wa.select.importance.devn`."""
    return importance.devn(*_losses_and_weights(saved))


def class_ami(saved: Saved) -> float:
    """:func:`da_wa.select.clusters.class_ami`."""
    features, rows = saved.featured("target")
    classes = saved.target_logits.shape[1]
    if len(features) < classes:
        raise NotSaved(f"needs features of at least {classes} target images; {len(features)} were saved")
    return clusters.class_ami(saved.target_logits[rows].argmax(axis=1), features, classes)


def atc(saved: Saved) -> float:
    """:func:`da_wa.select.atc.atc`."""
    return _atc.atc(saved.target_logits, saved.need("source_logits"), saved.need("source_labels"))


def mixval(saved: Saved) -> float:
    """:func:`da_wa.select.confidence.mixval`."""
    mixed, rows = saved.need("mixed_logits"), saved.need("mixed_rows")
    return confidence.mixval(mixed.argmax(axis=1), saved.target_logits[rows].argmax(axis=1))


@lru_cache(maxsize=1)
def _losses_and_weights(saved: Saved) -> tuple[Floats, Floats]:
    """Of the source images with features; one fit for the three scores that use it."""
    logits, labels = saved.need("source_logits"), saved.need("source_labels")
    source, rows = saved.featured("source")
    target, _ = saved.featured("target")
    losses = importance.cross_entropies(logits[rows], labels[rows])
    return losses, importance.density_ratio(source, target)
