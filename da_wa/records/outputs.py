"""``outputs.npz``: outputs of a network for every evaluated image.

Arrays are stored by domain name. Logits are float16, rounded such that the predicted class is the same as in full
precision, so counts from stored logits are exact. If logits are too large to store, predicted classes are stored
instead, see :func:`trimmed`. The rank of the true class, from which top-k accuracies follow, is always stored.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt

from da_wa.errors import DataError

Array = npt.NDArray[np.generic]
_MAX = float(np.finfo(np.float16).max)
_MIN = float(np.nextafter(np.float16(-_MAX), np.float16(0)))  # leaves room for one step down
_FLOAT32_MAX = float(np.finfo(np.float32).max)
LIMIT_BYTES = 4 * 2**20
"""What the outputs of a unit take at most where nobody asked for all logits, before compression."""


@dataclass(frozen=True)
class DomainOutputs:
    """What a network said of the evaluated images of one domain.

    Attributes:
        index: (n,) int32, the images' numbers in the domain.
        labels: (n,) int16, their classes.
        logits: (q, n, k) float16, after the last *q* of *p* epochs; ``None`` where only predictions were kept.
        predicted: (p, n) int16, the most likely class after each epoch.
        confidence: (n,) float16, softmax probability of the class predicted after the last epoch.
        feature_index: (m,) int32, the images with features.
        features: (q, m, d) float16, feature vectors after the last *q* epochs, at least after the last.
        mixed_index: (r,) int32, the image that makes up most of each mixture, see :mod:`da_wa.data.mixed`.
        mixed_logits: (q, r, k) float16, logits of mixtures.
        rank: (n,) int16, see :func:`true_rank`, after the last epoch; ``None`` if it was not recorded.
    """

    index: Array
    labels: Array
    logits: Array | None
    predicted: Array
    confidence: Array | None = None
    feature_index: Array | None = None
    features: Array | None = None
    mixed_index: Array | None = None
    mixed_logits: Array | None = None
    rank: Array | None = None

    def __post_init__(self) -> None:
        n, p = len(self.index), len(self.predicted)
        _check("labels", self.labels, (n,))
        _check("predicted", self.predicted, (p, n))
        if self.logits is not None:
            _check("logits", self.logits, (len(self.logits), n, self.logits.shape[-1]))
            if not 0 < len(self.logits) <= p:
                raise ValueError(f"logits of {len(self.logits)} epochs, predictions of {p}")
        for name in ("confidence", "rank"):
            if (of_image := getattr(self, name)) is not None:
                _check(name, of_image, (n,))
        for name, index in (("features", "feature_index"), ("mixed_logits", "mixed_index")):
            values, of = getattr(self, name), getattr(self, index)
            if (values is None) != (of is None):
                raise ValueError(f"{name} and {index} go together")
            if values is not None:
                _check(name, values, (len(values), len(of), values.shape[-1]))
                if not 0 < len(values) <= p:
                    raise ValueError(f"{name} of {len(values)} epochs, predictions of {p}")

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

    def __post_init__(self) -> None:
        _check("epochs", self.epochs, (len(self.epochs),))
        if (np.diff(self.epochs) <= 0).any():
            raise ValueError("epochs are not in order")
        for name, domain in self.domains.items():
            if len(domain.predicted) != len(self.epochs):
                raise ValueError(f"{len(domain.predicted)} predictions of {name!r} in {len(self.epochs)} epochs")

    @property
    def have_all_logits(self) -> bool:
        """Whether the logits of every evaluated epoch were kept."""
        return all(d.logits is not None and len(d.logits) == len(self.epochs) for d in self.domains.values())


def round_logits(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float16]:
    """Logits (…, k) as finite float16 with the same most likely class (the first of equals); NaN stays NaN.

    >>> round_logits(np.array([[1.0001, 1.0002], [1e9, 2.0]])).argmax(-1)
    array([1, 0])
    """
    top = logits.argmax(axis=-1, keepdims=True)
    rounded = np.clip(logits, _MIN, _MAX).astype(np.float16)
    highest = np.take_along_axis(rounded, top, axis=-1)
    tied = (rounded >= highest) & (np.arange(logits.shape[-1]) != top)
    return np.asarray(np.where(tied, np.nextafter(highest, np.float16(-np.inf)), rounded), np.float16)


def true_rank(logits: npt.NDArray[np.floating], labels: Array) -> Array:
    """How many classes are more likely than the true one: 0 where the prediction is right.

    The true class is among the k most likely where the rank is below k. Of equal logits the first is the more likely,
    and NaN is the largest, both as in ``argmax``.

    Args:
        logits: (n, k).
        labels: (n,) classes from 0 to k - 1.

    Returns:
        (n,) int16.

    >>> true_rank(np.array([[0.5, 0.1, 0.4], [1.0, 1.0, 1.0]]), np.array([2, 1])).tolist()
    [1, 1]
    """
    true = labels.astype(np.int64)[:, None]
    own = np.take_along_axis(logits, true, axis=-1)
    nan, own_nan = np.isnan(logits), np.isnan(own)
    before = np.arange(logits.shape[-1]) < true
    above = (logits > own) | (nan & ~own_nan)
    equal = (logits == own) | (nan & own_nan)
    return np.asarray((above | (equal & before)).sum(axis=-1), np.int16)


def from_logits(
    index: Array,
    labels: Array,
    logits: npt.NDArray[np.floating],
) -> DomainOutputs:
    """The outputs of one domain from logits (p, n, k): the only place where predictions are made from logits."""
    z = logits[-1].astype(np.float64).clip(-_FLOAT32_MAX, _FLOAT32_MAX)  # infinite ones would give NaN
    z -= z.max(axis=-1, keepdims=True)
    confidence = 1 / np.exp(z).sum(axis=-1)  # the largest of the softmax probabilities
    rounded = round_logits(logits)
    return DomainOutputs(
        index.astype(np.int32),
        labels.astype(np.int16),
        rounded,
        rounded.argmax(axis=-1).astype(np.int16),
        confidence.astype(np.float16),
        rank=true_rank(logits[-1], labels),
    )


_OPTIONAL = ("logits", "confidence", "feature_index", "features", "mixed_index", "mixed_logits", "rank")
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,  # a single array
    EOFError,
    MemoryError,
    RuntimeError,  # an encrypted file, an unknown compression
    zipfile.BadZipFile,
    zlib.error,
)


def pack(outputs: Outputs) -> bytes:
    """The content of ``outputs.npz``; of ``predicted`` only the epochs without logits, from which the others follow."""
    arrays: dict[str, Array] = {"epochs": outputs.epochs}
    for name, domain in outputs.domains.items():
        stem = quote(name, safe="", errors="surrogatepass")
        kept = {"index": domain.index, "labels": domain.labels}
        kept |= {key: value for key in _OPTIONAL if (value := getattr(domain, key)) is not None}
        without_logits = len(domain.predicted) - (0 if domain.logits is None else len(domain.logits))
        if without_logits or domain.logits is None:
            kept["predicted"] = domain.predicted[:without_logits]
        arrays |= {f"{stem}/{key}": value for key, value in kept.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack(content: bytes, where: str) -> Outputs:
    """The outputs in the content of ``outputs.npz``.

    Raises:
        DataError: it cannot be read.
    """
    arrays = read_arrays(content, where)
    grouped: dict[str, dict[str, Array]] = {}
    for key, array in arrays.items():
        stem, slash, name = key.rpartition("/")
        if slash:
            grouped.setdefault(unquote(stem, errors="surrogatepass"), {})[name] = array
    try:
        return Outputs(arrays["epochs"], {name: _unpacked(kept) for name, kept in grouped.items()})
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{where} does not hold the outputs of a run ({error}).") from error


def _unpacked(kept: Mapping[str, Array]) -> DomainOutputs:
    optional = {key: kept.get(key) for key in _OPTIONAL}
    if (features := optional["features"]) is not None:
        optional["features"] = by_epoch(features)
    rows = [kept["predicted"]] if "predicted" in kept else []
    if (logits := optional["logits"]) is not None:
        rows.append(logits.argmax(axis=-1).astype(np.int16))
        if optional["rank"] is None:  # of a file without ranks: from logits in half precision
            optional["rank"] = true_rank(logits[-1], kept["labels"])
    return DomainOutputs(kept["index"], kept["labels"], predicted=np.concatenate(rows), **optional)


def by_epoch(features: Array) -> Array:
    """Features (q, m, d), also of files that hold (m, d): those after the last epoch."""
    return features if features.ndim == 3 else features[None]


def read_arrays(content: bytes, where: str) -> dict[str, Array]:
    """The arrays in the content of an ``npz`` file, by name.

    Raises:
        DataError: it is not such a file, or it is damaged.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = dict(file)
    except _UNREADABLE as error:
        raise DataError(f"{where} cannot be read ({error}).") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
            raise DataError(f"{where} cannot be read ({name} is not an array of numbers).")
    return arrays


def trimmed(outputs: Outputs, keep_logits: bool = False, limit_bytes: int = LIMIT_BYTES) -> Outputs:
    """The outputs with as many logits as are kept; predicted classes stay for every epoch, and so do ranks.

    Args:
        outputs: with the logits of all epochs.
        keep_logits: keep all. Else those of all epochs if the outputs then take at most ``limit_bytes`` (before
            compression), else those of the last epoch if that is so, else none.
        limit_bytes: see ``keep_logits``.
    """
    if keep_logits:
        return outputs
    fewer = (outputs, _with_logits(outputs, 1))
    return next((kept for kept in fewer if _size(kept) <= limit_bytes), _with_logits(outputs, 0))


def published(outputs: Outputs) -> Outputs:
    """What is small enough to publish: predicted classes, confidences, ranks."""
    kept = _with_logits(outputs, 0)
    return Outputs(
        kept.epochs, {name: replace(d, feature_index=None, features=None) for name, d in kept.domains.items()}
    )


def _with_logits(outputs: Outputs, epochs: int) -> Outputs:
    """The outputs with the logits of the last ``epochs`` epochs, and features of as many, at least of the last."""
    return Outputs(
        outputs.epochs,
        {
            name: replace(
                d,
                logits=_last(d.logits, epochs),
                features=_last(d.features, max(1, epochs)),
                mixed_index=d.mixed_index if epochs else None,
                mixed_logits=_last(d.mixed_logits, epochs),
            )
            for name, d in outputs.domains.items()
        },
    )


def _last(values: Array | None, epochs: int) -> Array | None:
    return None if values is None or not epochs else values[-epochs:]


def _size(outputs: Outputs) -> int:
    """Bytes of all arrays."""
    return sum(
        array.nbytes for domain in outputs.domains.values() for array in vars(domain).values() if array is not None
    )


def _check(name: str, array: Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, not {shape}")
