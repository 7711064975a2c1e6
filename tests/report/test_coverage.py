"""Coverage of the intervals and false positives of "significant", simulated.

Networks, seeds and images vary as probits; images and sources are shared between pairs. Rates are printed by
``pytest -rP``; of 1000 studies a rate near 5 % has a standard error of 0.7 points.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from da_wa.report.contrasts import effects
from da_wa.report.outcomes import Outcome
from da_wa.report.resampling import Resamples

IMAGES = {"A": 100, "W": 80, "D": 60}
PAIRS = [(s, t) for s in IMAGES for t in IMAGES if s != t]
ROWS = {
    name: {"norm": name, "weight": weight, "activation": "bn", "method": "none"}
    for name, weight in (("BN", "plain"), ("BN + WA", "align"))
}
STUDIES = 1000
SEED, IMAGE = 0.1, 1.0
"""Standard deviations in probits: 0.1 is 3 to 4 points of accuracy."""


def study(draw: np.random.Generator, networks: int, seeds: int, network: float, effect: float) -> list[Outcome]:
    """Runs of two rows whose true accuracies differ by ``effect``, in probits."""
    hard = {target: IMAGE * draw.normal(size=n) for target, n in IMAGES.items()}
    found = []
    for gain, label in zip((0.0, effect), ROWS, strict=True):
        for p in range(networks):
            of_network = network * draw.normal()
            for source in IMAGES:
                for seed in range(seeds):
                    luck = SEED * draw.normal()
                    for target, n in IMAGES.items():
                        if target != source:
                            odds = 0.1 + gain + of_network + luck + hard[target]
                            wrong = (draw.normal(size=n) > odds).astype(int)
                            found.append(
                                Outcome(label, source, target, seed, np.arange(n), np.zeros(n, int), wrong, None, p)
                            )
    return found


def truth(network: float, effect: float) -> float:
    """In points: the mean of Φ over Gaussian probits is Φ of the mean over √(1 + variance)."""
    spread = math.sqrt(1 + network**2 + SEED**2 + IMAGE**2)
    return float(100 * (stats.norm.cdf((0.1 + effect) / spread) - stats.norm.cdf(0.1 / spread)))


def rates(networks: int, seeds: int, network: float, effect: float = 0.0) -> tuple[float, float]:
    """How often the interval covers the truth, and how often the effect is called significant."""
    draw, covered, resolved = np.random.default_rng(20261125), 0, 0
    for _ in range(STUDIES):
        resamples = Resamples(study(draw, networks, seeds, network, effect), 150)
        (found,) = effects(ROWS, PAIRS, resamples)
        covered += truth(network, effect) in found.estimate.interval
        resolved += found.resolved
    print(f"{networks} networks, {seeds} seeds: covered {covered / STUDIES:.1%}, significant {resolved / STUDIES:.1%}")
    return covered / STUDIES, resolved / STUDIES


def test_networks_that_vary_give_the_nominal_level() -> None:
    covered, significant = rates(networks=3, seeds=1, network=0.3)
    assert abs(covered - 0.95) <= 0.02
    assert abs(significant - 0.05) <= 0.02


@pytest.mark.parametrize(("networks", "seeds", "network"), [(1, 3, 0.0), (1, 5, 0.0), (3, 1, 0.1)])
def test_intervals_are_conservative_where_single_images_dominate(networks: int, seeds: int, network: float) -> None:
    """As the page says: above nominal, up to 100 %."""
    covered, significant = rates(networks, seeds, network)
    assert covered >= 0.95
    assert significant <= 0.05


def test_one_network_for_all_seeds_says_nothing_about_others() -> None:
    """Why pre-training seeds are a level: without them the interval is far from covering."""
    covered, _ = rates(networks=1, seeds=3, network=0.3)
    assert covered < 0.7


def test_an_effect_is_covered_too() -> None:
    covered, significant = rates(networks=1, seeds=3, network=0.0, effect=0.5)
    assert covered >= 0.95
    assert significant > 0.8
