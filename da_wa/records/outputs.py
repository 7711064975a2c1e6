"""``outputs.npz``: what a network said of every evaluated image.

Arrays are kept by domain name. Logits are float16, rounded so that the predicted class stays what it was in full
precision: counts from stored logits equal counts from the logits themselves.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt

from da_wa.errors import DataError

Array = npt.NDArray[np.generic]
_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class DomainOutputs:
    """What a network said of the evaluated images of one domain.

    Attributes:
        index: (n,) int32, the images' numbers in the domain.
        labels: (n,) int16, their classes.
        logits: (p, n, k) float16 for *p* epochs; ``None`` where only predictions were kept.
        predicted: (p, n) int16, the most likely class.
        confidence: (n,) float16, softmax probability of the class predicted after the last epoch.
        feature_index: (m,) int32, the images with features.
        features: (m, d) float16, feature vectors after the last epoch.
    """

    index: Array
    labels: Array
    logits: Array | None
    predicted: Array
    confidence: Array | None = None
    feature_index: Array | None = None
    features: Array | None = None

    @property
    def correct(self) -> Array:
        """(p,) int64: images predicted right after each epoch."""
        return np.asarray((self.predicted == self.labels).sum(axis=1))


@dataclass(frozen=True)
class Outputs:
    """The outputs of one unit.

    Attributes:
        epochs: (p,) int32, the evaluated epochs in order.
        domains: by name.
    """

    epochs: Array
    domains: Mapping[str, DomainOutputs] = field(default_factory=dict)


def round_logits(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float16]:
    """Logits (…, k) as float16 with the same most likely class (the first of equals).

    >>> round_logits(np.array([[1.0001, 1.0002], [1e9, 2.0]])).argmax(-1)
    array([1, 0])
    """
    top = logits.argmax(axis=-1, keepdims=True)
    rounded = np.clip(logits, -_MAX, _MAX).astype(np.float16)
    highest = np.take_along_axis(rounded, top, axis=-1)
    tied = (rounded >= highest) & (np.arange(logits.shape[-1]) != top)
    return np.asarray(np.where(tied, np.nextafter(highest, np.float16(-np.inf)), rounded), np.float16)


def from_logits(
    index: Array,
    labels: Array,
    logits: npt.NDArray[np.floating],
    feature_index: Array | None = None,
    features: Array | None = None,
) -> DomainOutputs:
    """The outputs of one domain from logits (p, n, k): the only place where predictions are made from logits."""
    z = logits[-1].astype(np.float64)
    z -= z.max(axis=-1, keepdims=True)
    confidence = 1 / np.exp(z).sum(axis=-1)  # the largest of the softmax probabilities
    rounded = round_logits(logits)
    return DomainOutputs(
        index.astype(np.int32),
        labels.astype(np.int16),
        rounded,
        rounded.argmax(axis=-1).astype(np.int16),
        confidence.astype(np.float16),
        None if feature_index is None else feature_index.astype(np.int32),
        None if features is None else features.astype(np.float16),
    )


_OPTIONAL = ("logits", "confidence", "feature_index", "features")


def pack(outputs: Outputs) -> bytes:
    """The content of ``outputs.npz``; ``predicted`` is left out where logits tell it."""
    arrays: dict[str, Array] = {"epochs": outputs.epochs}
    for name, domain in outputs.domains.items():
        stem = quote(name, safe="", errors="surrogateescape")
        kept = {"index": domain.index, "labels": domain.labels}
        kept |= {key: value for key in _OPTIONAL if (value := getattr(domain, key)) is not None}
        if domain.logits is None:
            kept["predicted"] = domain.predicted
        arrays |= {f"{stem}/{key}": value for key, value in kept.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack(content: bytes, where: str) -> Outputs:
    """The outputs in the content of ``outputs.npz``.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = dict(file)
        grouped: dict[str, dict[str, Array]] = {}
        for key, array in arrays.items():
            stem, slash, name = key.rpartition("/")
            if slash:
                grouped.setdefault(unquote(stem, errors="surrogateescape"), {})[name] = array
        domains = {}
        for name, kept in grouped.items():
            logits = kept.get("logits")
            predicted = kept["predicted"] if logits is None else logits.argmax(axis=-1).astype(np.int16)
            optional = {key: kept.get(key) for key in _OPTIONAL}
            domains[name] = DomainOutputs(kept["index"], kept["labels"], predicted=predicted, **optional)
        return Outputs(arrays["epochs"], domains)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{where} cannot be read ({error}).") from error


def published(outputs: Outputs) -> Outputs:
    """What is small enough to publish: predicted classes and confidences; no logits, no features."""
    return Outputs(
        outputs.epochs,
        {
            name: DomainOutputs(d.index, d.labels, None, d.predicted, d.confidence)
            for name, d in outputs.domains.items()
        },
    )
