"""The test of norm × score: found where it is, at its level where it is not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from da_wa.select.interaction import interaction

ALONE = np.array([[0.0, 2.0, 1.0], [1.0, 0.0, 2.0]])


def test_false_alarms_stay_at_the_level():
    """Main effects of norms, of scores and of clusters are no interaction."""
    rng = np.random.default_rng(0)
    studies, p = 400, []
    for _ in range(studies):
        x = rng.normal(size=(9, 3, 4)) + rng.normal(size=(9, 1, 1)) + rng.normal(size=(1, 3, 1))
        p.append(interaction(x + 2 * rng.normal(size=(1, 1, 4)), permutations=199))
    rate = float(np.mean(np.array(p) <= 0.05))
    print(f"false alarms in {studies} studies: {rate:.1%}")
    assert abs(rate - 0.05) <= 3 * math.sqrt(0.05 * 0.95 / studies)


def test_an_interaction_is_found():
    x = ALONE[None] + 0.5 * np.random.default_rng(1).normal(size=(9, 2, 3))
    assert interaction(x) < 0.01


def test_the_statistic_ignores_what_all_scores_share():
    x = ALONE[None] + np.random.default_rng(2).normal(size=(7, 2, 3))
    shifted = x + np.array([0.0, 30.0])[None, :, None]  # one norm is worse under every score
    assert interaction(shifted, 500) == interaction(x, 500)


def test_exact_where_all_permutations_are_few():
    """Two norms, six clusters: 2^5 distinct outcomes, of which the most extreme has p = 1/32."""
    x = np.broadcast_to(ALONE, (6, 2, 3))
    assert interaction(x, 20_000) == pytest.approx(1 / 32, abs=0.004)


@pytest.mark.parametrize("seed", range(4))
def test_outcomes_that_are_equal_up_to_rounding_count_as_equal(seed):
    """Three norms, three clusters, the most extreme of 6^2 outcomes: the same with norms renamed in all clusters."""
    strong = np.array([[0.0, 0.7, 0.3], [0.7, 0.3, 0.0], [0.3, 0.0, 0.7]])
    x = strong + 0.01 * np.random.default_rng(seed).normal(size=(3, 3, 3))
    assert interaction(x, 20_000) == pytest.approx(1 / 36, abs=0.004)


def test_too_few_to_test():
    assert interaction(np.broadcast_to(ALONE, (5, 2, 3))) is None  # 2^4 outcomes cannot reach 5 %
    assert interaction(np.zeros((9, 1, 3))) is None
    assert interaction(np.zeros((9, 3, 1))) is None
    with pytest.raises(ValueError, match="shape"):
        interaction(np.zeros((9, 3)))
