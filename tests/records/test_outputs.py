from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import softmax
from torchmetrics.functional.classification import multiclass_accuracy

from da_wa.errors import DataError
from da_wa.records.outputs import (
    LIMIT_BYTES,
    DomainOutputs,
    Outputs,
    from_logits,
    pack,
    published,
    round_logits,
    trimmed,
    true_rank,
    unpack,
)

SHAPES = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6)
ANY_LOGITS = hnp.arrays(np.float32, SHAPES, elements=st.floats(width=32, allow_nan=False))
CLOSE_LOGITS = hnp.arrays(  # many ties in float16, some exact
    np.float32, SHAPES, elements=st.sampled_from([1, 1 + 2**-23, 1 + 2**-12, 1 - 2**-24, 0, -0.0, 1e-10, -1e-10])
)
EXTREME_LOGITS = hnp.arrays(
    np.float32,
    SHAPES,
    elements=st.sampled_from([np.inf, -np.inf, 65504, -65504, 65520, -65520, 1e30, -1e30, 65472, -65472, 0]),
)


def bf16(values: np.ndarray) -> np.ndarray:
    """float32 values cut to bfloat16, the upper 16 bits."""
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


@given(ANY_LOGITS | CLOSE_LOGITS | EXTREME_LOGITS)
def test_rounding_keeps_the_predicted_class_and_is_finite(logits: np.ndarray) -> None:
    rounded = round_logits(logits)
    assert rounded.dtype == np.float16
    assert np.isfinite(rounded).all()
    np.testing.assert_array_equal(rounded.argmax(-1), logits.argmax(-1))
    top = np.take_along_axis(rounded, logits.argmax(-1)[..., None], -1)
    assert ((rounded == top).sum(-1) == 1).all()  # no ties are left, so any argmax agrees


@given(ANY_LOGITS)
def test_rounding_bf16_keeps_the_predicted_class(logits: np.ndarray) -> None:
    logits = bf16(logits)
    logits = np.where(np.isnan(logits), np.float32(0), logits)
    np.testing.assert_array_equal(round_logits(logits).argmax(-1), logits.argmax(-1))


@given(hnp.arrays(np.float32, (4, 5), elements=st.floats(-1000, 1000, width=32)))
def test_rounding_is_that_of_float16(logits: np.ndarray) -> None:
    steps = np.abs(round_logits(logits).view(np.int16).astype(int) - logits.astype(np.float16).view(np.int16))
    normal = np.abs(logits.astype(np.float16)) > 0  # around zero the step changes the sign bit
    assert (steps[normal] <= 1).all()


def test_rounding_keeps_nan() -> None:
    assert np.isnan(round_logits(np.array([[np.nan, 1.0]]))).tolist() == [[True, False]]


@given(hnp.arrays(np.float32, (2, 7, 4), elements=st.floats(-30, 30, width=32)) | CLOSE_LOGITS)
def test_counts_of_stored_outputs_are_those_of_full_precision(logits: np.ndarray) -> None:
    logits = logits if logits.ndim == 3 else logits[None]
    n, k = logits.shape[1:]
    labels = np.arange(n) % k
    outputs = Outputs(np.arange(len(logits)), {"A": from_logits(np.arange(n), labels, logits)})
    again = unpack(pack(outputs), "toy")
    expected = (logits.argmax(-1) == labels).sum(-1)
    np.testing.assert_array_equal(outputs.domains["A"].correct, expected)
    np.testing.assert_array_equal(again.domains["A"].correct, expected)
    np.testing.assert_array_equal(again.domains["A"].predicted, logits.argmax(-1))


@given(hnp.arrays(np.float32, (2, 7, 4), elements=st.floats(-500, 500, width=32)))
def test_confidence_is_the_largest_softmax_probability_of_the_last_epoch(logits: np.ndarray) -> None:
    found = from_logits(np.arange(7), np.zeros(7), logits).confidence
    expected = softmax(logits[-1].astype(np.float64), axis=-1).max(-1)
    np.testing.assert_array_equal(found, expected.astype(np.float16))


def test_confidence_of_infinite_logits() -> None:
    logits = np.array([[[np.inf, 0], [np.inf, np.inf], [-np.inf, 0], [-np.inf, -np.inf]]], np.float32)
    found = from_logits(np.arange(4), np.zeros(4), logits).confidence
    assert found is not None
    assert found.tolist() == [1, 0.5, 1, 0.5]


@given(ANY_LOGITS | CLOSE_LOGITS | EXTREME_LOGITS)
def test_the_rank_is_the_place_in_the_stable_descending_order(logits: np.ndarray) -> None:
    logits = logits.reshape(-1, logits.shape[-1])
    labels = np.arange(len(logits)) % logits.shape[-1]
    order = np.argsort(-logits, axis=-1, kind="stable")
    np.testing.assert_array_equal(true_rank(logits, labels), (order == labels[:, None]).argmax(-1))
    np.testing.assert_array_equal(true_rank(logits, labels) == 0, logits.argmax(-1) == labels)


def test_top_5_is_that_of_torch_and_torchmetrics() -> None:
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(size=(500, 20)).astype(np.float32), draw.integers(20, size=500)
    right = from_logits(np.arange(500), labels, logits[None]).rank < 5  # type: ignore[operator]
    z, y = torch.from_numpy(logits), torch.from_numpy(labels)
    np.testing.assert_array_equal(right, (z.topk(5).indices == y[:, None]).any(1).numpy())
    theirs = multiclass_accuracy(z, y, num_classes=20, average="micro", top_k=5)
    assert right.mean() == pytest.approx(theirs.item(), abs=1e-7)
    assert 0.2 < right.mean() < 0.3  # of guessing


def test_ranks_of_equal_and_of_undefined_logits() -> None:
    nan = np.nan
    logits = np.array([[2, 2, 2, 1], [2, 2, 2, 1], [nan, 3, nan, 0], [nan, 3, nan, 0], [nan, 3, nan, 0]])
    assert true_rank(logits, np.array([0, 2, 0, 2, 1])).tolist() == [0, 2, 0, 1, 2]
    assert (logits.argmax(-1) == [0, 0, 0, 0, 0]).all()  # NaN is the largest for argmax, too


def test_files_without_ranks_have_those_of_their_logits_or_none() -> None:
    with_logits = many(n=50, classes=10, epochs=2)
    old = {name: replace(domain, rank=None) for name, domain in with_logits.domains.items()}
    again = unpack(pack(Outputs(with_logits.epochs, old)), "toy")
    for name, domain in with_logits.domains.items():
        assert domain.logits is not None
        np.testing.assert_array_equal(again.domains[name].rank, true_rank(domain.logits[-1], domain.labels))
    assert unpack(pack(published(Outputs(with_logits.epochs, old))), "toy").domains["A"].rank is None
    kept = unpack(pack(published(with_logits)), "toy").domains["A"]
    assert kept.logits is None
    np.testing.assert_array_equal(kept.rank, with_logits.domains["A"].rank)


def test_types() -> None:
    found = from_logits(np.arange(3), np.zeros(3), np.zeros((2, 3, 4)))
    types = {name: array.dtype for name, array in vars(found).items() if array is not None}
    assert types == {
        "index": np.int32,
        "labels": np.int16,
        "logits": np.float16,
        "predicted": np.int16,
        "confidence": np.float16,
        "rank": np.int16,
    }


def test_packing_is_deterministic_and_keeps_any_name(outputs: Outputs) -> None:
    assert pack(outputs) == pack(outputs)
    domain = outputs.domains["A"]
    names = ["", "/", "epochs", "a/b", "..", "%2F", "file", "é😀", "\udcff", "\ud800", "x\0y", "index"]
    again = unpack(pack(Outputs(outputs.epochs, dict.fromkeys(names, domain))), "toy")
    assert list(again.domains) == names


def test_only_predictions_that_do_not_follow_from_logits_are_stored(outputs: Outputs) -> None:
    with np.load(io.BytesIO(pack(outputs))) as file:
        assert "A/predicted" not in file
    with np.load(io.BytesIO(pack(published(outputs)))) as file:
        assert file["A/predicted"].shape == (2, 4)
        assert sorted(key for key in file if key.startswith("A/")) == [
            "A/confidence",
            "A/index",
            "A/labels",
            "A/predicted",
            "A/rank",
        ]


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("epochs.npy", content)
    return buffer.getvalue()


A = {"A/index": np.arange(3), "A/labels": np.zeros(3, int)}
ONE = np.array([1])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 and no archive",
        b"not an archive",
        npy(np.arange(3)),
        npz(),
        zipped(b"text"),
        zipped(npy(np.arange(9))[:-4]),
        npz(epochs=np.array([{}], dtype=object)),
        npz(epochs=ONE, **A),
        npz(epochs=ONE, **A, **{"A/predicted": np.zeros(3)}),
        npz(epochs=ONE, **A, **{"A/predicted": np.zeros((1, 4))}),
        npz(epochs=ONE, **A, **{"A/predicted": np.zeros((2, 3))}),
        npz(epochs=ONE, **A, **{"A/logits": np.zeros((1, 3))}),
        npz(epochs=ONE, **A, **{"A/logits": np.zeros((1, 3, 0))}),
        npz(epochs=ONE, **A, **{"A/logits": np.zeros((1, 2, 4))}),
        npz(epochs=ONE, **A, **{"A/logits": np.float16(3)}),
        npz(epochs=np.array([2, 1]), **A, **{"A/predicted": np.zeros((2, 3))}),
        npz(epochs=np.array([1, 1]), **A, **{"A/predicted": np.zeros((2, 3))}),
        npz(epochs=np.array("x"), **A, **{"A/predicted": np.zeros((1, 3))}),
        npz(epochs=ONE, **A, **{"A/predicted": np.zeros((1, 3)), "A/confidence": np.zeros(2)}),
        npz(epochs=ONE, **A, **{"A/predicted": np.zeros((1, 3)), "A/features": np.zeros((2, 2))}),
        npz(epochs=ONE, **{"A/index": np.int32(3), "A/labels": np.int16(3), "A/predicted": np.zeros((1, 1))}),
    ],
    ids=range(22),
)
def test_what_is_not_outputs_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^toy "):
        unpack(content, "toy")


def many(n: int, classes: int, epochs: int) -> Outputs:
    logits = np.random.default_rng(0).normal(size=(epochs, n, classes)).astype(np.float32)
    domain = from_logits(np.arange(n), np.arange(n) % classes, logits)
    return Outputs(np.arange(1, epochs + 1), {"A": domain, "W": domain})


def epochs_with_logits(outputs: Outputs) -> set[int]:
    return {0 if domain.logits is None else len(domain.logits) for domain in outputs.domains.values()}


def size(outputs: Outputs) -> int:
    return sum(a.nbytes for d in outputs.domains.values() for a in vars(d).values() if a is not None)


def test_logits_are_kept_as_far_as_they_fit() -> None:
    outputs = many(n=100, classes=10, epochs=3)
    one_epoch = 2 * 100 * 10 * 2  # domains × images × classes × bytes
    all_of_it = size(outputs)
    assert epochs_with_logits(trimmed(outputs, False, all_of_it)) == {3}
    assert epochs_with_logits(trimmed(outputs, False, all_of_it - 1)) == {1}
    assert epochs_with_logits(trimmed(outputs, False, all_of_it - 2 * one_epoch)) == {1}
    assert epochs_with_logits(trimmed(outputs, False, all_of_it - 2 * one_epoch - 1)) == {0}
    assert epochs_with_logits(trimmed(outputs, True, 0)) == {3}


def test_trimming_changes_no_prediction_and_survives_packing() -> None:
    outputs = many(n=50, classes=10, epochs=3)
    last = trimmed(outputs, False, size(outputs) - 1)
    assert last.domains["A"].logits is not None
    np.testing.assert_array_equal(last.domains["A"].logits[0], outputs.domains["A"].logits[2])
    for kept in (last, trimmed(outputs, False, 0), trimmed(outputs, True, 0)):
        again = unpack(pack(kept), "toy")
        for name, domain in outputs.domains.items():
            np.testing.assert_array_equal(again.domains[name].predicted, domain.predicted)
            np.testing.assert_array_equal(again.domains[name].confidence, domain.confidence)
        assert epochs_with_logits(again) == epochs_with_logits(kept)


def test_office31_keeps_its_logits_and_a_large_set_stays_small() -> None:
    office31 = Outputs(
        np.arange(1, 4),
        {
            name: from_logits(np.arange(n), np.zeros(n), np.zeros((3, n, 31), np.float32))
            for name, n in (("A", 2817), ("W", 795), ("D", 50))
        },
    )
    assert epochs_with_logits(trimmed(office31)) == {3}
    large = many(n=10_000, classes=345, epochs=3)
    assert len(pack(trimmed(large))) < LIMIT_BYTES < len(pack(large))


def test_publishing_keeps_labels_confidence_and_rank_alone(outputs: Outputs) -> None:
    found = published(outputs)
    for name, domain in outputs.domains.items():
        large = ("logits", "features", "feature_index", "mixed_logits", "mixed_index")
        expected = replace(domain, **dict.fromkeys(large))
        for field, array in vars(expected).items():
            np.testing.assert_array_equal(getattr(found.domains[name], field), array)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.zeros(2)},
        {"predicted": np.zeros((0, 3))},
        {"confidence": np.zeros((3, 1))},
        {"rank": np.zeros(2)},
        {"features": np.zeros((1, 1, 2))},
        {"logits": np.zeros((2, 3, 4))},
        {"feature_index": np.arange(2), "features": np.zeros((1, 3, 2))},
        {"feature_index": np.arange(2), "features": np.zeros((2, 2, 2))},
        {"mixed_index": np.arange(2), "mixed_logits": np.zeros((1, 3, 4))},
        {"mixed_logits": np.zeros((1, 3, 4))},
    ],
    ids=str,
)
def test_arrays_that_do_not_fit_together_are_refused(change: dict[str, Any]) -> None:
    whole = from_logits(np.arange(3), np.zeros(3), np.zeros((1, 3, 4)))
    with pytest.raises(ValueError, match=r"shape|go together|epochs"):
        Outputs(np.array([1]), {"A": DomainOutputs(**{**vars(whole), **change})})


Factory = Callable[..., Outputs]


def test_right_images_are_counted_by_epoch(make_outputs: Factory) -> None:
    assert make_outputs({"A": ([0, 3], 7)}).domains["A"].correct.tolist() == [0, 3]
