"""Counts per class are those of a plain count."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from da_wa.data.balance import class_counts, imbalance
from da_wa.errors import DataError

labels_of = st.lists(st.integers(0, 9), min_size=1, max_size=80).map(lambda labels: np.array(labels, np.int64))


@given(labels_of)
def test_counts(labels: np.ndarray) -> None:
    counts, expected = class_counts(labels, 12), Counter(labels.tolist())
    assert counts.tolist() == [expected[label] for label in range(12)]
    assert counts.dtype == np.int64
    assert imbalance(labels) == max(expected.values()) / min(expected.values())


def test_no_images() -> None:
    empty = np.empty(0, np.int64)
    assert class_counts(empty, 3).tolist() == [0, 0, 0]
    assert math.isnan(imbalance(empty))


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
def test_labels_without_a_class_are_refused(labels: list[int]) -> None:
    with pytest.raises(DataError, match="3 classes are numbered 0 to 2"):
        class_counts(np.array(labels), 3)
