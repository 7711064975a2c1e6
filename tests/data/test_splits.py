"""Hold-outs are what the protocols say, for any labels."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from da_wa.data.office31 import COUNTS
from da_wa.data.splits import Evaluation, Full, Paper, stratified_holdout
from da_wa.errors import ConfigError, DataError

labels_of = st.lists(st.integers(1, 60), min_size=1, max_size=12).map(
    lambda counts: np.repeat(np.arange(len(counts)), counts)
)


def office31_labels(domain: str) -> np.ndarray:
    return np.repeat(np.arange(31), list(COUNTS[domain].values()))


def rounded_half_up(percent: int, n: int) -> int:
    return math.floor(Fraction(percent * n, 100) + Fraction(1, 2))


@given(labels_of, st.integers(1, 99), st.integers(0, 2**31), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_a_stratified_holdout_is_a_partition_with_the_right_sizes(
    labels: np.ndarray, percent: int, seed: int, random: object
) -> None:
    labels = np.random.default_rng(seed).permutation(labels)
    train, holdout = stratified_holdout(labels, percent / 100, seed)
    assert sorted([*train, *holdout]) == list(range(len(labels)))
    assert train.dtype == holdout.dtype == np.int64
    assert np.all(np.diff(train) > 0) and np.all(np.diff(holdout) > 0)
    total, out = Counter(labels.tolist()), Counter(labels[holdout].tolist())
    for label, n in total.items():
        assert out[label] == min(rounded_half_up(percent, n), n - 1)


@pytest.mark.parametrize("protocol", [Full(), Paper(), Paper(sizes={"A": 415, "D": 73, "W": 130})])
def test_parts_depend_on_the_seed_alone(protocol: Evaluation) -> None:
    labels = office31_labels("D")
    first, again, other = (protocol.source("D", labels, seed) for seed in (3, 3, 4))
    assert np.array_equal(first.holdout, again.holdout) and np.array_equal(first.train, again.train)
    assert not np.array_equal(first.holdout, other.holdout)


def test_full_evaluates_every_target_image() -> None:
    for domain, n in (("A", 2817), ("W", 795), ("D", 498)):
        labels = office31_labels(domain)
        assert np.array_equal(Full().target(domain, labels, 0), np.arange(n))
        train, holdout = Full().source(domain, labels, 0)
        assert len(train) + len(holdout) == n
        assert set(labels[train]) == set(range(31))


@pytest.mark.parametrize(("domain", "n"), [("A", 423), ("W", 119), ("D", 75)])  # 15 % of 2817, 795 and 498
def test_paper_holds_out_15_percent(domain: str, n: int) -> None:
    labels = office31_labels(domain)
    train, holdout = Paper().source(domain, labels, 0)
    assert len(holdout) == n
    assert sorted([*train, *holdout]) == list(range(len(labels)))
    assert np.array_equal(Paper().target(domain, labels, 0), holdout)


def test_paper_can_hold_out_the_papers_own_counts() -> None:
    protocol = Paper(sizes={"A": 415, "D": 73, "W": 130})
    sizes = {domain: len(protocol.target(domain, office31_labels(domain), 0)) for domain in "ADW"}
    assert sizes == {"A": 415, "D": 73, "W": 130}


def test_domains_of_one_size_are_held_out_independently() -> None:
    labels = np.repeat(np.arange(10), 50)
    assert not np.array_equal(Paper().target("A", labels, 0), Paper().target("B", labels, 0))


def test_names_of_domains_that_are_not_utf8_are_held_out_independently() -> None:
    labels = np.repeat(np.arange(10), 50)
    assert not np.array_equal(Paper().target("caf\udce8", labels, 0), Paper().target("caf\udce9", labels, 0))


def test_the_papers_holdout_is_unstratified() -> None:
    labels = np.repeat(np.arange(20), 40)
    per_class = np.array([np.bincount(labels[Paper().target("A", labels, s)], minlength=20) for s in range(200)])
    assert np.all(per_class.sum(axis=1) == 120)
    # Hypergeometric variance of one class: 120 · 1/20 · 19/20 · (800 - 120) / (800 - 1) = 4.85.
    assert abs(per_class.var() - 4.85) < 0.5


def test_every_image_is_held_out_equally_often() -> None:
    labels = np.repeat(np.arange(5), 20)
    counts = sum(np.bincount(stratified_holdout(labels, 0.1, seed).holdout, minlength=100) for seed in range(500))
    assert abs(np.mean(counts) - 50) < 1e-9  # 500 draws of 2 of 20
    assert np.max(np.abs(counts - 50)) < 5 * math.sqrt(500 * 0.1 * 0.9)


@pytest.mark.parametrize("protocol", [Full(), Paper()])
def test_one_image_per_class_is_reported(protocol: Evaluation) -> None:
    with pytest.raises(DataError, match=r"protocol\.holdout"):
        protocol.source("A", np.arange(10), 0)


def test_paper_with_hardly_any_images_is_reported() -> None:
    with pytest.raises(DataError, match="15% of 3 images is none"):
        Paper().target("A", np.zeros(3, np.int64), 0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, math.nan, math.inf, True, None, "abc", [0.1]])
@pytest.mark.parametrize("protocol", [Full, Paper])
def test_a_senseless_fraction_is_reported(protocol: type[Full] | type[Paper], fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"protocol\.holdout"):
        protocol(holdout=fraction).source("A", np.zeros(30, np.int64), 0)


@pytest.mark.parametrize(
    ("sizes", "reported"),
    [({"AA": 4}, "no number for domain 'A'"), ({"A": 30}, "from 1 to 29"), ({"A": 0}, "from 1 to 29")],
)
def test_senseless_sizes_are_reported(sizes: dict[str, int], reported: str) -> None:
    with pytest.raises(ConfigError, match=reported):
        Paper(sizes=sizes).target("A", np.zeros(30, np.int64), 0)


@pytest.mark.parametrize("sizes", [10, [10, 10], "A", {"A": 1.5}, {"A": True}, {"A": None}, {"A": "5"}])
def test_sizes_that_are_no_numbers_per_domain_are_refused(sizes: object) -> None:
    with pytest.raises(ConfigError, match=r"protocol\.sizes"):
        Paper(sizes=sizes).target("A", np.zeros(30, np.int64), 0)  # type: ignore[arg-type]


@given(labels_of, st.floats(0.05, 0.95), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_a_stratified_holdout_draws_class_by_class(labels: np.ndarray, fraction: float, seed: int) -> None:
    """One permutation of the ascending images of each class, in the order of the labels: published runs rely on it."""
    labels = 7 * np.random.default_rng(seed).permutation(labels)  # with gaps
    draw, expected = np.random.default_rng(seed), []
    for label in sorted(set(labels.tolist())):
        members = draw.permutation([i for i, other in enumerate(labels) if other == label])
        expected += members[: min(math.floor(fraction * len(members) + 0.5 + 1e-9), len(members) - 1)].tolist()
    assert stratified_holdout(labels, fraction, seed).holdout.tolist() == sorted(expected)
