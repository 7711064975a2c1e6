"""Choices of scores on synthetic runs: against formulas, from the command, and what is kept."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from da_wa import api
from da_wa.cli import main
from da_wa.errors import ConfigError, DataError
from da_wa.records.outputs import Outputs, from_logits
from da_wa.records.schema import Record
from da_wa.report import cube, scores, write_report
from da_wa.report.candidates import families, incomplete_weights
from da_wa.report.choices import Choices, choices
from da_wa.report.content import Section, Table
from da_wa.report.facts import load_facts
from da_wa.select import Saved, load

SMALL = {"A": 60, "W": 40, "D": 30}
EPOCHS = (2, 4, 6)
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "extending.md").read_text()

Logits = Callable[[str, int], np.ndarray]
"""(domain, number of the epoch) -> (n, 3)."""


def add(
    experiment: Any,
    norm: str,
    source: str,
    logits: Logits,
    seed: int = 0,
    labels: Mapping[str, np.ndarray] = MappingProxyType({}),
    **changes: Any,
) -> None:
    """Finish a run with these logits; labels of a domain are 0, 1, 2, 0, … unless given."""
    fields = experiment.record(norm, source, seed, **changes)
    ends = {source, *([fields["target"]] if fields["target"] else experiment.images)}
    domains = {}
    for domain, n in experiment.images.items():
        if domain in ends:
            found = np.stack([logits(domain, k) for k in range(len(EPOCHS))])
            domains[domain] = from_logits(np.arange(n), labels.get(domain, np.arange(n) % 3), found)
    evaluations = [
        {"epoch": e, "domain": d, "role": "source" if d == source else "target", "correct": int(c), "n": len(o.index)}
        for d, o in domains.items()
        for e, c in zip(EPOCHS, o.correct, strict=True)
    ]
    run = experiment._plan(fields)
    record = Record.model_validate({**fields, "evaluations": evaluations})
    run.finish(record, Outputs(np.array(EPOCHS, np.int32), domains))


def noisy(draw: np.random.Generator, signal: float = 1.0) -> Logits:
    def logits(domain: str, k: int) -> np.ndarray:
        n = SMALL[domain]
        return draw.normal(size=(n, 3)) * (1 + k) + signal * (1 + k % 2) * np.eye(3)[np.arange(n) % 3]

    return logits


def right(n: int, correct: int, confidence: float) -> np.ndarray:
    """Logits of which the first ``correct`` images are right; the others are spread over classes."""
    truth = np.arange(n) % 3
    answers = np.where(np.arange(n) < correct, truth, (truth + 1) % 3)
    return confidence * np.eye(3)[answers]


def transfers(experiment: Any, draw: np.random.Generator, *weights: float | None) -> Any:
    """Two norms, two seeds, without a method, and with one at each of these weights."""
    experiment.images = SMALL
    for norm, seed, source in itertools.product(("bn", "ln"), (0, 1), SMALL):
        add(experiment, norm, source, noisy(draw), seed)
        for target, weight in itertools.product([domain for domain in SMALL if domain != source], weights):
            at = {} if weight is None else {"method_weight": weight, "id": f"{norm}-{source}-{target}-{seed}-{weight}"}
            add(experiment, norm, source, noisy(draw, 1.5), seed, method="dann", target=target, **at)
    return experiment


@pytest.fixture
def runs(experiment: Any) -> Any:
    """With a method that has no weight."""
    return transfers(experiment, np.random.default_rng(0), None)


def made(experiment: Any, names: Any = ("entropy", "im"), **options: Any) -> Choices:
    return choices(load_facts(experiment.out), load(names), **options)


def table(section: Section, name: str) -> Table:
    return next(part for part in section.everything if isinstance(part, Table) and part.name == name)


def test_choices_by_hand(experiment: Any) -> None:
    """A→W: 20, 32, 28 of 40 are right; the second epoch is best, the first most confident."""
    experiment.images = SMALL
    confidence = (9.0, 1.0, 5.0)

    def logits(domain: str, k: int) -> np.ndarray:
        n = SMALL[domain]
        return right(n, {"W": (20, 32, 28), "A": (30, 40, 50)}.get(domain, (10, 20, 30))[k], confidence[k])

    add(experiment, "bn", "A", logits)
    found = made(experiment)
    w = next(k for k, family in enumerate(found.families) if family.pair == ("A", "W"))
    chosen = {
        rule: found.families[w].candidates[v[w].chosen].epoch  # type: ignore[index]
        for rule, v in found.verdicts.items()
        if v[w].chosen is not None
    }
    assert chosen["last", False] == 6
    assert chosen["source_val", False] == 6
    assert chosen["entropy", False] == 2
    assert chosen["target_oracle", False] == 4
    regrets = {name: found.verdicts[name, False][w].regret for name in found.names}
    regrets.pop("im")
    assert regrets == pytest.approx({"last": 10, "source_val": 10, "entropy": 30, "target_oracle": 0})
    assert found.verdicts["entropy", False][w].below_source is True  # 20 of 40, the last epoch 28
    assert found.verdicts["source_val", False][w].below_source is False


def test_the_guard_rejects_collapsed_candidates(experiment: Any) -> None:
    """The most confident epoch predicts one class for all."""
    experiment.images = {"A": 60, "W": 40}

    def logits(domain: str, k: int) -> np.ndarray:
        n = SMALL[domain]
        return np.tile([9.0, 0.0, 0.0], (n, 1)) if k == 0 else right(n, 20 + k, float(k))

    add(experiment, "bn", "A", logits)
    found = made(experiment, ["entropy"])
    (family,) = found.families
    chosen = {guard: family.candidates[found.verdicts["entropy", guard][0].chosen] for guard in (False, True)}  # type: ignore[index]
    assert (chosen[False].epoch, chosen[True].epoch) == (2, 6)
    assert (found.summary(("entropy", False), [0]).collapsed, found.summary(("entropy", True), [0]).collapsed) == (1, 0)
    texts = {row[0]: row[4] for row in table(scores.section(load_facts(experiment.out), found), "scores").rows}
    assert texts["entropy"] == "100 %\n0 % guarded"


def test_the_guard_knows_the_largest_class_of_the_source(experiment: Any) -> None:
    """On a source with one class of two thirds, a network that predicts it for 30 of 40 images is not collapsed."""
    experiment.images = {"A": 60, "W": 40}
    truth = np.arange(60) % 3
    predicted = np.where(np.arange(40) < 30, 0, 1)

    def logits(domain: str, k: int) -> np.ndarray:
        return (9.0 - k) * np.eye(3)[predicted if domain == "W" else truth]

    add(experiment, "bn", "A", logits, labels={"A": np.where(truth == 1, 0, truth)})
    (family,) = made(experiment, ["entropy"]).families
    assert family.source_share == pytest.approx(2 / 3)
    assert family.judged([3, 2, 1], True).collapsed is False  # the limit is 8/9


def test_intervals_of_regret_are_of_the_difference_to_the_best(runs: Any) -> None:
    found = made(runs)
    whole = found.regret(("target_oracle", False), found.where())
    assert whole is not None and (whole.value, whole.half) == (0, 0)
    (k, *_) = found.where(norm="ln", method="dann")
    one = found.regret(("last", False), [k])
    best, last = (found.families[k].outcome("", found.verdicts[r, False][k].chosen) for r in ("target_oracle", "last"))  # type: ignore[arg-type]
    record = found.families[k].candidates[0].record
    assert (best.unit_target, best.network) == (record.target, record.pretraining.name)  # type: ignore[union-attr]
    assert one is not None and one.value == pytest.approx(100 * (best.right.mean() - last.right.mean()))


def test_cells_count_alike_in_the_mean_regret_however_many_seeds_they_have(experiment: Any) -> None:
    """BN loses nothing in each of three seeds, WA 20 points in its one: 10 on average."""
    experiment.images = {"A": 60, "W": 40}

    def logits(norm: str) -> Logits:
        return lambda domain, k: right(SMALL[domain], 36 - 4 * k * (norm == "wa"), 1.0)

    for norm, seeds in (("bn", 3), ("wa", 1)):
        for seed in range(seeds):
            add(experiment, norm, "A", logits(norm), seed)
    found = made(experiment)
    mean = found.regret(("last", False), found.where())
    assert mean is not None
    assert mean.value == pytest.approx(10.0)
    assert found.mean_regret(("last", False), found.where()) == pytest.approx(10.0)


def test_tables_and_numbers_agree(runs: Any) -> None:
    found = made(runs)
    section = scores.section(load_facts(runs.out), found)
    each = section.data["choices"]
    assert len(each) == 2 * 2 * 2 * 6 * 8  # norms, methods, seeds, pairs; last, oracle, three scores with and without
    best = each[each["rule"] == "target_oracle"].set_index(["label", "source", "target", "seed"])["accuracy"]
    overall = section.data["scores"].query("scope == 'all'").set_index(["rule", "guard"])
    for rule, rows in each.groupby(["rule", "guard"]):
        own = rows.set_index(["label", "source", "target", "seed"])["accuracy"]
        summary = overall.loc[rule]
        assert summary["regret"] == pytest.approx(100 * (best - own).mean())
        assert summary["choices"] == 48
        assert summary["low"] <= summary["regret"] <= summary["high"]
    frame = load_facts(runs.out).frame
    last = frame[(frame["selection"] == "last") & (frame["role"] == "target")].groupby("label")["accuracy"].mean()
    cells = cube.section(load_facts(runs.out), found).data["cube"]
    of_last = cells[cells["selection"] == "last"].set_index("label")["mean"]
    assert of_last.to_dict() == pytest.approx((100 * last).to_dict())
    headline = load_facts(runs.out).matrix  # one interval per number
    half = (cells["high"] - cells["low"])[cells["selection"] == "last"].to_numpy() / 2
    assert half == pytest.approx(headline.half["Avg"].to_numpy(), rel=0.1)
    assert not cells.query("selection != 'target_oracle'")["uses_target_labels"].any()


@pytest.fixture
def weighted(experiment: Any) -> Any:
    """With a method at two weights."""
    return transfers(experiment, np.random.default_rng(3), 0.1, 1.0)


def by_hand(frame: pd.DataFrame, rule: str) -> pd.Series:
    """Percent by norm, method, pair and seed of what a score chose, from the table of choices."""
    own = frame[(frame["rule"] == rule) & (frame["guard"] == (rule not in ("last", "target_oracle")))]
    return 100 * own.set_index(["norm", "method", "source", "target", "seed"])["accuracy"].sort_index()


def test_rows_are_compared_under_one_rule(weighted: Any) -> None:
    facts = load_facts(weighted.out)
    found = choices(facts, load(["im"]))
    chosen = scores.section(facts, found).data["choices"]
    assert chosen.query("rule == 'im' and method == 'dann'")["weight"].nunique() == 2  # it chooses among weights
    effects = cube.section(facts, found).data["cube_effects"]
    assert set(effects["selection"]) == {"last", "source_val", "im", "target_oracle"}
    assert set(effects.query("uses_target_labels")["selection"]) == {"target_oracle"}
    for rule in ("last", "im", "target_oracle"):
        accuracy = by_hand(chosen, rule)
        for norm, label in (("bn", "BN"), ("ln", "LN")):
            change = (accuracy[norm, "dann"] - accuracy[norm, "none"]).groupby(["source", "target"]).mean()
            row = effects.query("selection == @rule").set_index("contrast").loc[f"{label} → {label} · DANN"]
            assert row["effect"] == pytest.approx(change.mean())
            assert row["low"] < row["effect"] < row["high"]
            assert row["runs"] == 3 * 2  # sources and seeds
    shown = table(cube.section(facts, found), "cube_method")
    assert {row[0] for row in shown.rows} == {"BN → BN · DANN", "LN → LN · DANN", "DANN, mean over BN and LN"}
    assert shown.notes[-1].endswith("requires 0.017, which takes 7 runs.")  # 0.05 / 3, and 2 / 2**7 is below it


def test_results_under_a_label_free_score(weighted: Any) -> None:
    results = api.load(weighted.out)
    facts = load_facts(weighted.out)
    accuracy = by_hand(scores.section(facts, choices(facts, load(["im"]))).data["choices"], "im")
    matrix = results.matrix(["norm", "method"], ["source", "target"], selection="im")
    assert matrix.loc[("ln", "dann"), "W->D"] == pytest.approx(accuracy["ln", "dann", "W", "D"].mean() / 100)
    effect = results.effect("norm", base="bn", selection="im").set_index("contrast")
    expected = (accuracy["ln", "dann"] - accuracy["bn", "dann"]).mean()
    assert effect.at["BN · DANN → LN · DANN", "effect"] == pytest.approx(expected)
    assert len(results.effect("method")) > len(results.effect("method", selection="im"))  # each weight of its own
    lines = results.table(["LN · DANN", "LN"], selection="im").splitlines()
    rows = [line for line in lines if line.lstrip().startswith("LN")]
    assert [row.split("&")[0].strip() for row in rows[-2:]] == [r"LN $\cdot$ DANN", "LN"]
    mean = accuracy["ln", "dann"].groupby(["source", "target"]).mean().mean()
    assert f"{mean:.1f}" in rows[-2].rsplit("&", 1)[1]
    with pytest.raises(ConfigError, match=r"'imm' is not a selection. Did you mean 'im'"):
        results.effect(selection="imm")
    with pytest.raises(ConfigError, match=r"no row 'LM'. Did you mean 'LN'"):
        results.table(["LM"])
    with pytest.raises(DataError, match=r"Nothing can be selected by iwv"):
        results.effect("method", selection="iwv")  # no features were saved


def test_own_scores_select_results(weighted: Any, tmp_path: Path) -> None:
    (tmp_path / "mine" / "select").mkdir(parents=True)
    (tmp_path / "mine" / "select" / "own.yaml").write_text("own: da_wa.select.scores.entropy\n")
    found = api.load(weighted.out, tmp_path / "mine").effect("method", selection="own")
    pd.testing.assert_frame_equal(found, api.load(weighted.out).effect("method", selection="entropy"))
    with pytest.raises(ConfigError, match="'own' is not a selection"):
        api.load(weighted.out).effect("method", selection="own")


def test_a_planned_pair_without_a_result_leaves_no_average_under_a_score(experiment: Any) -> None:
    experiment.images = SMALL
    draw = np.random.default_rng(0)
    for source in ("A", "W"):
        for seed in (0, 1):
            add(experiment, "bn", source, noisy(draw), seed)
    experiment.diverge("bn", "D", 0)
    results = api.load(experiment.out)
    assert "BN" in results.table()
    for text in (results.table(), results.table(selection="im")):
        (row,) = (line for line in text.splitlines() if line.strip().startswith("BN &"))
        assert row.rsplit("&", 1)[1].strip(" \\") == "{--}"


def test_the_weight_of_a_method_is_no_factor_of_what_a_score_chose(weighted: Any) -> None:
    results = api.load(weighted.out)
    assert len(results.matrix(["method", "method_weight"])) == 3
    with pytest.raises(ConfigError, match="'method_weight' is not a factor"):
        results.matrix(["method", "method_weight"], selection="im")


def test_the_score_of_the_lowest_regret_is_named_and_bold(runs: Any) -> None:
    facts = load_facts(runs.out)
    section = scores.section(facts, choices(facts, load(["entropy", "im", "snd", "atc"])), guard=True)
    data = section.data["scores"].query("scope == 'all' and rule not in ['last', 'target_oracle']")
    lowest = {guard: rows.set_index("rule")["regret"].idxmin() for guard, rows in data.groupby("guard")}
    assert f" {lowest[True]} loses least accuracy" in section.summary
    each = section.data["choices"]
    best = each[(each["rule"] == lowest[True]) & each["guard"]]["accuracy"].mean()
    more = 100 * (best - each[each["rule"] == "last"]["accuracy"].mean())
    assert re.search(rf"the lowest of 5 scores; the last epoch loses .*, {more:.1f} ± \d\.\d more\.$", section.summary)
    shown = table(section, "scores")
    bold = {shown.rows[i][0] for i, _ in shown.bold}
    assert bold == {lowest[False]}


def test_below_source_only_compares_with_the_run_without_the_method(runs: Any) -> None:
    each = scores.section(load_facts(runs.out), made(runs)).data["choices"]
    last = each[each["rule"] == "last"].set_index(["norm", "method", "source", "target", "seed"])
    for (norm, _, *rest), row in last.iterrows():
        assert row["source_only"] == last.loc[(norm, "none", *rest), "accuracy"]


def test_a_method_with_a_recipe_of_its_own_is_compared_with_the_run_without_it(experiment: Any) -> None:
    experiment.images = {"A": 60, "W": 40}
    add(experiment, "bn", "A", lambda domain, k: right(SMALL[domain], 10 + k, 1.0))
    add(
        experiment, "bn", "A", lambda domain, k: right(SMALL[domain], 20 + k, 1.0), method="tent", target="W",
        epochs=1, batch_size=16, lr=0.001,
    )  # fmt: skip
    (of_method,) = (family for family in made(experiment).families if family.factors.method == "tent")
    assert of_method.source_only == 12 / 40


def test_rules_of_records_are_chosen_as_in_records(runs: Any) -> None:
    facts = load_facts(runs.out)
    each = scores.section(facts, made(runs)).data["choices"]
    for rule in ("last", "source_val", "target_oracle"):
        rows = facts.frame[(facts.frame["selection"] == rule) & (facts.frame["role"] == "target")]
        known = rows.set_index(["label", "source", "target", "seed"])["epoch"].astype(int)
        own = each[(each["rule"] == rule) & ~each["guard"]].set_index(["label", "source", "target", "seed"])["epoch"]
        assert own.to_dict() == known.to_dict()


def test_weights_of_a_method_are_candidates(experiment: Any) -> None:
    experiment.images = {"A": 60, "W": 40}
    for k, weight in enumerate((0.1, 1.0, 10.0)):
        add(
            experiment, "bn", "A", lambda d, e, k=k: right(SMALL[d], 10 * k + e, 1.0), method="dann", target="W",
            method_weight=weight, id=f"u{k}",
        )  # fmt: skip
    found = made(experiment, ())
    (family,) = found.families
    assert len(family.candidates) == 9
    assert family.label == "BN · DANN"
    last = family.candidates[found.verdicts["last", False][0].chosen]  # type: ignore[index]
    assert (last.weight, last.epoch) == (1.0, 6)  # the middle weight
    best = family.candidates[found.verdicts["target_oracle", False][0].chosen]  # type: ignore[index]
    assert (best.weight, best.epoch) == (10.0, 6)


def test_a_method_without_an_effect(experiment: Any) -> None:
    experiment.images = SMALL
    draw = np.random.default_rng(1)
    outputs = {(d, k): noisy(draw)(d, k) for d in SMALL for k in range(3)}
    for source in SMALL:
        add(experiment, "ln", source, lambda d, k: outputs[d, k])
        for target in SMALL:
            if target != source:
                add(experiment, "ln", source, lambda d, k: outputs[d, k], method="adabn", target=target)
                add(experiment, "ln", source, noisy(draw), method="dann", target=target)
    section = cube.section(load_facts(experiment.out), made(experiment))
    rows = {row[0]: row[1:] for row in table(section, "cube").rows}
    assert set(rows["LN · adabn"]) == {"="}
    assert "=" not in rows["LN"] + rows["LN · DANN"]


def test_a_method_that_was_not_run_because_it_does_nothing(experiment: Any) -> None:
    experiment.images = {"A": 60, "W": 40}
    draw = np.random.default_rng(2)
    for norm in ("bn", "ln"):
        add(experiment, norm, "A", noisy(draw))
    add(experiment, "bn", "A", noisy(draw), method="adabn", target="W", changes=["bn"])
    add(experiment, "bn", "A", noisy(draw), method="dann", target="W")
    section = cube.section(load_facts(experiment.out), made(experiment))
    rows = {row[0]: row[1:] for row in table(section, "cube").rows}
    assert set(rows["LN · adabn"]) == {"="} and "=" not in rows["BN · adabn"]
    assert "LN · DANN" not in rows  # not run yet
    notes = section.data["cube"].query("norm == 'ln' and method == 'adabn'")
    assert set(notes["note"]) == {"="} and notes["mean"].isna().all()


def test_a_single_candidate_is_what_every_score_selects(experiment: Any) -> None:
    experiment.images = {"A": 60, "W": 40}
    experiment.correct = lambda norm, source, target, seed: 13
    for norm in ("bn", "ln"):
        add(experiment, norm, "A", noisy(np.random.default_rng(3)))
    experiment.add("bn", "A", method="adabn", target="W")  # one epoch, without logits
    found = made(experiment)
    cells = cube.section(load_facts(experiment.out), found).data["cube"].query("method == 'adabn'")
    assert set(cells["selection"]) == {"last", "source_val", "entropy", "im", "target_oracle"}
    assert cells["mean"].tolist() == pytest.approx([100 * 13 / 40] * 5)
    quality = scores.section(load_facts(experiment.out), found).data["scores"]
    assert set(quality["choices"]) == {1, 2}  # it says nothing about scores: two runs in all, one of each norm
    assert set(quality.query("scope == 'all'")["choices"]) == {2}


def test_without_logits_a_score_says_why(experiment: Any) -> None:
    experiment.images = SMALL
    experiment.simulate(["bn", "bn_wa"], (0, 1))
    facts = load_facts(experiment.out)
    section = scores.section(facts, choices(facts, load()))
    words = " ".join(part for part in section.parts if isinstance(part, str))
    assert "Not available: iwv" not in words and "keep=[logits]" in words
    assert [row[0].split()[0] for row in table(section, "scores").rows] == ["last", "source_val", "target_oracle"]


def test_logits_that_are_not_finite_have_no_score(experiment: Any) -> None:
    experiment.images = SMALL
    add(experiment, "bn", "A", lambda d, k: np.full((SMALL[d], 3), np.nan if k == 1 else 1.0))
    found = made(experiment)
    assert np.isnan(found.families[0].judged([np.nan] * 3, False).regret)
    assert "NaN" in found.reasons["entropy"]


def test_one_candidate_leaves_nothing_to_select(experiment: Any) -> None:
    experiment.images = SMALL
    experiment.fill(["bn"])
    facts = load_facts(experiment.out)
    section = scores.section(facts, choices(facts, load()))
    assert section.parts == [section.parts[0]] and "nothing to select" in str(section.parts[0])


def test_values_are_kept_by_content(runs: Any) -> None:
    calls: list[int] = []

    def counted(saved: Saved) -> float:
        calls.append(1)
        return float(saved.target_logits[0, 0])

    facts = load_facts(runs.out)
    first = choices(facts, {"counted": counted}, runs.out)
    made_once = len(calls)
    assert made_once == 2 * 2 * (3 * 2 + 6) * 3  # norms, seeds, (source, target) of both kinds of unit, epochs
    again = choices(facts, {"counted": counted}, runs.out)
    assert len(calls) == made_once
    assert again.verdicts == first.verdicts
    kept = json.loads((runs.out / "scores.json").read_text())
    (runs.out / "scores.json").write_text("{")  # damaged: computed again
    choices(facts, {"counted": counted}, runs.out)
    assert len(calls) == 2 * made_once
    assert json.loads((runs.out / "scores.json").read_text()) == kept
    add(runs, "bn", "A", noisy(np.random.default_rng(9)), 0, method="dann", target="W")  # other outputs of one unit
    choices(load_facts(runs.out), {"counted": counted}, runs.out)
    assert len(calls) == 2 * made_once + 3


def test_nothing_changed_writes_nothing(experiment: Any) -> None:
    experiment.images = {"A": 60, "W": 40}
    add(experiment, "bn", "A", noisy(np.random.default_rng(0)))
    phases: list[str] = []

    def again(names: Any, guard: bool = True) -> str:
        write_report(experiment.out, select=load(names), guard=guard, progress=phases.append)
        return phases[-1]

    assert again(["im"]) != "nothing changed"
    assert again(["im"]) == "nothing changed"
    assert again(["im", "bnm"]) != "nothing changed"
    assert again(["im", "bnm"], guard=False) != "nothing changed"
    assert set(pd.read_csv(experiment.out / "tables" / "cube.csv")["selection"]) >= {"im", "bnm"}


def test_a_score_from_outside_applies_to_finished_runs(
    runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/extending.md, section "A score", as it stands there."""
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    for name, content in re.findall(r"`(mine/\S+)`:\n\n```\w+\n(.*?)```", PAGE.split("## A score")[1], re.DOTALL):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in (runs.out / "runs").rglob("*") if path.is_file()}
    (command,) = re.findall(r"da-wa (report .*--config-dir mine.*)", PAGE)
    assert main(command.replace("out/mine", str(runs.out)).split()) == 0
    for name in ("scores", "choices"):
        assert "margin" in set(pd.read_csv(runs.out / "tables" / f"{name}.csv")["rule"])
    column = pd.read_csv(runs.out / "tables" / "cube.csv").query("selection == 'margin'")
    assert len(column) == 4 and column["mean"].notna().all()
    assert "margin" in (runs.out / "page.html").read_text()
    assert {path: path.read_bytes() for path in (runs.out / "runs").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["select=[entropie]"], "unknown score 'entropie'. Did you mean 'entropy'"),
        (["guard=no"], "guard=no: must be true or false"),
        (["--config-dir", "nowhere"], "is not a folder"),
    ],
)
def test_mistakes_on_the_command_line(
    runs: Any, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(runs.out), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_score_that_fails_is_named(runs: Any) -> None:
    def broken(saved: Saved) -> float:
        return saved.absent  # type: ignore[attr-defined,no-any-return]

    with pytest.raises(ConfigError, match="the score 'broken' failed"):
        write_report(runs.out, select={"broken": broken})


def test_the_interval_of_a_mean_regret_is_that_of_its_cells(experiment: Any) -> None:
    """Two equal seeds of each of two cells: images alone vary, by Bernoulli trials of 0.2, 60 and 40 of them."""
    experiment.images = {"A": 60, "W": 40}
    for source in ("A", "W"):
        for seed in (0, 1):
            add(
                experiment,
                "bn",
                source,
                lambda domain, k: right(SMALL[domain], SMALL[domain] * (9 - k) // 10, 1.0),
                seed,
            )
    found = made(experiment)
    regret = found.regret(("last", False), found.where())
    assert regret is not None
    assert len(found.where()) == 4
    assert regret.value == pytest.approx(20)
    error = 100 * np.sqrt(0.2 * 0.8 * (1 / 60 + 1 / 40)) / 2
    assert regret.half == pytest.approx(1.96 * error, rel=0.08)


def test_norms_of_different_pretraining_are_tested_for_an_interaction(experiment: Any) -> None:
    experiment.images = SMALL
    draw = np.random.default_rng(4)
    for norm, epochs in (("bn", 6), ("ln", 12)):
        for seed in (0, 1):
            for source in SMALL:
                add(experiment, norm, source, noisy(draw), seed, pretraining_epochs=epochs)
    p = made(experiment).depends_on_norm()
    assert p is not None and 0 < p <= 1


def test_runs_from_the_network_of_one_pretraining_seed_are_one_cluster(experiment: Any) -> None:
    """The score that is best with a network is so in all of its runs: two networks of each norm, not twelve runs."""
    experiment.images = SMALL
    luck = {("bn", 0): 2, ("bn", 1): 0, ("ln", 0): 0, ("ln", 1): 2}  # the most confident epoch, which is the best

    def logits(norm: str, p: int, draw: np.random.Generator) -> Logits:
        best = luck[norm, p]
        return lambda domain, k: (
            right(SMALL[domain], SMALL[domain] * (9 if k == best else 4) // 10, 3.0 - abs(k - 2))
            + draw.normal(size=(SMALL[domain], 3)) / 9
        )

    draw = np.random.default_rng(5)
    for (norm, p), seed, source in itertools.product(luck, (0, 1), SMALL):
        add(experiment, norm, source, logits(norm, p, draw), seed, pretraining_seed=p)
    found = made(experiment)
    assert {family.cluster[1] for family in found.families} == {0, 1}
    assert found.depends_on_norm() is None  # two norms, two clusters: two arrangements
    facts = load_facts(experiment.out)
    assert "Too few runs to test whether the best score depends on the norm" in str(
        scores.section(facts, found).parts[1]
    )


def test_scores_are_compared_over_the_same_choices(experiment: Any) -> None:
    """LN has no finite logits and so no entropy, which is best where it has a value."""
    experiment.images = {"A": 60, "W": 40}
    add(experiment, "bn", "A", lambda domain, k: right(SMALL[domain], 20 + 10 * (k == 0) * (domain == "W"), 9.0 - k))
    add(experiment, "ln", "A", lambda domain, k: np.where(k == 9, 0.0, np.nan) + right(SMALL[domain], 20, 1.0))
    found = made(experiment, ["entropy"])
    assert found.summary(("entropy", False), found.where()).families == 1
    assert found.summary(("source_val", False), found.where()).families == 2
    assert found.comparable == ["source_val"]


def test_seeds_choose_among_the_same_weights(experiment: Any) -> None:
    draw = np.random.default_rng(0)
    transfers(experiment, draw, 0.1, 1.0)
    for seed, source in itertools.product((0, 1), SMALL):  # a third weight of one norm, with one seed more
        for target in (domain for domain in SMALL if domain != source):
            at = {"method_weight": 10.0, "id": f"bn-{source}-{target}-{seed}-10"}
            add(experiment, "bn", source, noisy(draw), seed, method="dann", target=target, **at)
    facts = load_facts(experiment.out)
    assert incomplete_weights(facts) == {}
    for source in SMALL:
        for target in (domain for domain in SMALL if domain != source):
            at = {"method_weight": 10.0, "id": f"bn-{source}-{target}-2-10"}
            add(experiment, "bn", source, noisy(draw), 2, method="dann", target=target, **at)
    facts = load_facts(experiment.out)
    (label,) = incomplete_weights(facts)
    assert incomplete_weights(facts)[label] == [0.1, 1.0]
    weights: dict[tuple[str, int], set[float | None]] = {}
    for family in families(facts):
        seen = {candidate.record.factors.method_weight for candidate in family.candidates}
        weights.setdefault((family.label, family.factors.seed), set()).update(seen)
    assert weights[label, 0] == weights[label, 1] == weights[label, 2] == {10.0}
    assert {0.1, 1.0} in weights.values()  # of the other norm
    choice = choices(facts, load(["im"]))
    for found in (table(cube.section(facts, choice), "cube"), table(scores.section(facts, choice), "scores")):
        assert f"{label}: 0.1 and 1." in found.notes[-1]
