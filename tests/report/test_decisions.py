"""Decided or open: the report's words for the anytime-valid test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from da_wa.cli import main
from da_wa.records.contrasts import Contrast, by_seed
from da_wa.report import decisions, write_report
from da_wa.report.facts import load_facts
from da_wa.select import decided_after, e_process

SMALL = {"A": 400, "W": 200, "D": 100}


def accuracy(norm: str, seed: int) -> float:
    """BN + WA is 10 ± 1 points above BN; LN + WA swings around LN."""
    luck = np.random.default_rng([seed, len(norm)]).normal()
    return {"bn_wa": 0.50 + 0.01 * luck, "ln_wa": 0.40 + 0.05 * (-1) ** seed}.get(norm, 0.40)


@pytest.fixture
def runs(experiment: Any) -> Any:
    experiment.images = SMALL
    experiment.correct = lambda norm, source, target, seed: round(SMALL[target] * accuracy(norm, seed))
    experiment.fill(["bn", "bn_wa", "ln", "ln_wa"], range(8))
    return experiment


def test_differences_that_cancel_are_no_evidence() -> None:
    """Of 795 images, what two pairs lose the third gains; the sum of the fractions in binary is not exactly 0."""
    pairs = [("A", "W"), ("A", "D"), ("W", "D")]
    correct = {"BN": (435, 661, 266), "BN + WA": (266, 435, 661)}
    accuracies = {
        (label, *pair): {(0, seed): count / 795 for seed in range(5)}
        for label, counts in correct.items()
        for pair, count in zip(pairs, counts, strict=True)
    }
    found = by_seed(Contrast("weight", "align", "plain", [("BN", "BN + WA")], ""), pairs, accuracies)
    assert list(found.values()) == [0.0] * 5
    assert decided_after([list(found.values())]) == [None]


def test_each_comparison_is_decided_or_open(runs: Any) -> None:
    section = decisions.section(load_facts(runs.out))
    found = section.data["decisions"].set_index("contrast")
    facts = load_facts(runs.out).frame
    last = facts[(facts["selection"] == "last") & (facts["role"] == "target")]
    mean = last.groupby(["norm", "seed"])["accuracy"].mean().unstack()
    bn, ln = (100 * (mean.loc[f"{norm}_wa"] - mean.loc[norm]).to_numpy() for norm in ("bn", "ln"))
    after, none = decided_after([bn, ln])
    assert none is None and after is not None
    assert found.loc["BN → BN + WA", "decided_after"] == after
    assert np.isnan(found.loc["LN → LN + WA", "decided_after"])
    assert found.loc["BN → BN + WA", "evidence"] == pytest.approx(e_process(bn)[-1])
    assert found.loc["BN → BN + WA", "effect"] == pytest.approx(bn.mean())
    assert section.summary == f"Decided, accuracy higher: BN → BN + WA ({after} seeds). Open: LN → LN + WA (8)."


def test_the_population_is_named(runs: Any) -> None:
    words = str(decisions.section(load_facts(runs.out)).parts[-1])
    assert "the same pre-trained network of each norm" in words
    runs.fill(["bn", "bn_wa", "ln", "ln_wa"], range(8), pretraining_seed=1)
    words = str(decisions.section(load_facts(runs.out)).parts[-1])
    assert "these pre-trained networks, at most 2 per norm" in words


def test_no_pretraining_has_its_own_words(experiment: Any) -> None:
    experiment.images = SMALL
    none = {"pretraining": None, "pretraining_epochs": None, "pretraining_seed": None, "network": None}
    for norm in ("bn", "bn_wa"):
        for seed in range(3):
            for source in SMALL:
                experiment.add(norm, source, seed, **none)
    assert "new initial weights" in str(decisions.section(load_facts(experiment.out)).parts[-1])


def test_levels_of_interest(runs: Any) -> None:
    assert decisions.section(load_facts(runs.out), ["dann"]).data == {}
    assert len(decisions.section(load_facts(runs.out), ["align"]).data["decisions"]) == 2


def test_the_command_takes_the_levels_and_an_unknown_one_is_named(runs: Any) -> None:
    assert main(["report", str(runs.out), "contrasts=[aling]"]) == 0
    page = (runs.out / "page.html").read_text()
    assert "No row has the level &#x27;aling&#x27;. Did you mean &#x27;align&#x27; or" in page
    assert not (runs.out / "tables" / "decisions.csv").exists()


def test_one_seed_decides_nothing(experiment: Any) -> None:
    experiment.images = SMALL
    experiment.fill(["bn", "bn_wa"])
    write_report(experiment.out)
    assert "seeds=auto adds them" in (experiment.out / "page.html").read_text()


def test_three_seeds_cannot_decide(experiment: Any) -> None:
    """The largest evidence after three seeds is (1 + 4·3)^((3 − 1) / 2) = 13, below 1/0.05, whatever the results."""
    experiment.images = SMALL
    experiment.correct = lambda norm, source, target, seed: 10 + 9 * (norm == "bn_wa")
    experiment.fill(["bn", "bn_wa"], (0, 1, 2))
    section = decisions.section(load_facts(experiment.out))
    assert section.summary == ""
    assert "3 seeds cannot decide any of 1 comparison, whatever the results: 4 are the fewest" in str(section.parts[0])
    experiment.fill(["bn", "bn_wa"], (3,))
    assert "Decided, accuracy higher: BN → BN + WA (4 seeds)" in decisions.section(load_facts(experiment.out)).summary


def test_a_comparison_without_a_common_result_has_no_evidence(experiment: Any) -> None:
    experiment.images = SMALL
    experiment.fill(["bn", "ln", "ln_wa"], (0, 1))
    for seed in (0, 1):
        for source in ("W", "D"):
            experiment.add("bn_wa", source, seed)
        experiment.diverge("bn_wa", "A", seed)
    section = decisions.section(load_facts(experiment.out))
    table = next(part for part in section.parts if getattr(part, "name", "") == "decisions")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["BN → BN + WA"] == ["0", "–", "–", "open"]
    assert float(rows["LN → LN + WA"][2].removeprefix("> ")) > 0


def test_a_seed_counts_with_all_networks_and_is_their_mean() -> None:
    base = {(0, 0): 0.5, (1, 0): 0.5, (0, 1): 0.5, (0, 2): 0.5, (1, 2): 0.5}
    changed = {(0, 0): 0.6, (1, 0): 0.8, (0, 1): 0.7, (1, 1): 0.7, (0, 2): 0.4, (1, 2): 0.5}
    accuracies = {("BN", "A", "W"): base, ("BN + WA", "A", "W"): changed}
    contrast = Contrast("weight", "align", "plain", [("BN", "BN + WA")], "")
    found = by_seed(contrast, [("A", "W")], accuracies)
    assert found == pytest.approx({0: (10 + 30) / 2, 2: (-10 + 0) / 2})  # BN has no second network with seed 1
