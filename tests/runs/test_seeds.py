"""``seeds=auto``: what is run, on results that a formula gives. No network is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from da_wa.config.compose import compose
from da_wa.data.cache import DecodedDomain
from da_wa.errors import ConfigError
from da_wa.records.outputs import DomainOutputs, Outputs
from da_wa.records.schema import Divergence, Record
from da_wa.runs.jobs import UnitJob
from da_wa.runs.plan import plan
from da_wa.runs.seeds import blocked, needed, standings, state
from da_wa.select import e_process
from da_wa.select.anytime import first_look

N = 400
WORDS = ["experiment=quick", "norms=[bn,bn_wa,ln,ln_wa,gn]", "seeds=auto", "seeds_max=12"]
Points = Callable[[str, int], float]
"""(norm, seed) -> accuracy in points."""


def domains() -> list[DecodedDomain]:
    classes = ("a", "b")
    pixels = np.zeros((4, 3, 8, 8), np.uint8)
    return [DecodedDomain(n, pixels, np.arange(4) % 2, tuple("0123"), n, classes) for n in "AWD"]


def planned(out: Path, *words: str) -> list[UnitJob]:
    jobs = plan(compose([*WORDS, *words]), domains(), out, out / "checkpoints")
    return [job for job in jobs if isinstance(job, UnitJob)]


def seed_of(job: UnitJob) -> int:
    return int(job.config["unit"]["factors"]["seed"])


def norm_of(job: UnitJob) -> str:
    return str(job.config["unit"]["factors"]["norm"])


def finish(job: UnitJob, points: float | None) -> None:
    """Write a record with this accuracy on every target, of a diverged unit for None."""
    job.register()
    unit = job.directory.planned()
    fields = {
        "id": job.id,
        **unit.model_dump(),
        "classes": ["a", "b"],
        "images": {},
        "experiment": job.config["experiment"],
    }
    if points is None:
        error = Divergence(epoch=1, message="nan")
        empty = Outputs(np.zeros(0, np.int32))
        job.directory.finish(Record(**fields, status="diverged", evaluations=[], error=error), empty)
        return
    correct = round(N * points / 100)
    predicted = (np.arange(N) >= correct).astype(np.int16)
    found = DomainOutputs(np.arange(N, dtype=np.int32), np.zeros(N, np.int16), None, predicted[None])
    rows = [{"domain": t, "role": "target", "epoch": 5, "correct": correct, "n": N} for t in unit.targets]
    record = Record.model_validate({**fields, "status": "finished", "evaluations": rows})
    job.directory.finish(record, Outputs(np.array([5], np.int32), dict.fromkeys(unit.targets, found)))


def run(jobs: list[UnitJob], points: Points, most: int | None = None) -> int:
    """Finish what is needed until nothing is, or ``most`` units are; returns how many."""
    count = 0
    while pending := [job for job in needed(jobs) if not job.done]:
        for job in pending:
            if count == most:
                return count
            finish(job, points(norm_of(job), seed_of(job)))  # type: ignore[attr-defined]
            count += 1
    return count


def results(norm: str, seed: int) -> float:
    """WA adds 8 ± 1 points to BN, 0 ± 4 to LN."""
    luck = np.random.default_rng([seed, *norm.encode()]).normal()
    return {"bn_wa": 48 + luck, "ln_wa": 40 + 4 * luck}.get(norm, 40.0)


def seeds(jobs: list[UnitJob]) -> dict[str, int]:
    """How many seeds of each norm have finished."""
    return {norm: len({seed_of(j) for j in jobs if norm_of(j) == norm and j.done}) for norm in map(norm_of, jobs)}


def test_an_effect_is_decided_and_gets_no_further_seeds(tmp_path: Path) -> None:
    jobs = planned(tmp_path)
    assert len(needed(jobs)) == 5 * 3 * first_look(2)
    run(jobs, results)
    bn, ln = standings(jobs)
    assert bn.after is not None and ln.after is None
    assert seeds(jobs) == {"bn": bn.after, "bn_wa": bn.after, "ln": 12, "ln_wa": 12, "gn": first_look(2)}
    evidence = e_process([results("bn_wa", s) - 40 for s in range(12)])
    assert bn.after == next(n for n in range(1, 13) if evidence[n - 1] >= 40)  # two comparisons: Holm's 2/0.05
    assert state(jobs) == "seeds=auto: 1 of 2 comparisons decided, 1 open after 12 seeds"


def test_an_interrupted_run_runs_and_decides_the_same(tmp_path: Path) -> None:
    whole = planned(tmp_path / "whole")
    total = run(whole, results)
    for stop in (7, 40, 64, total - 2):
        jobs = planned(tmp_path / f"stopped after {stop}")
        run(jobs, results, most=stop)
        again = planned(tmp_path / f"stopped after {stop}")  # a new process
        run(again, results)
        assert [job.id for job in again if job.done] == [job.id for job in whole if job.done]
        assert [s.after for s in standings(again)] == [s.after for s in standings(whole)]


def test_all_open_comparisons_get_the_same_seed(tmp_path: Path) -> None:
    """Where only some runs of a seed have finished, none is ahead."""
    jobs = planned(tmp_path)
    run(jobs, results, most=5 * 3 * first_look(2))
    (next_seed,) = {seed_of(job) for job in needed(jobs) if not job.done}
    assert next_seed == first_look(2)
    for job in needed(jobs):
        if not job.done and norm_of(job).startswith("bn"):
            finish(job, 40)
    assert {seed_of(job) for job in needed(jobs) if not job.done} == {next_seed}
    assert {norm_of(job) for job in needed(jobs) if not job.done} == {"ln", "ln_wa"}


def test_a_diverged_seed_is_left_out(tmp_path: Path) -> None:
    jobs = planned(tmp_path)
    run(jobs, lambda norm, seed: None if (norm, seed) == ("bn_wa", 1) else results(norm, seed))  # type: ignore[return-value,arg-type]
    bn, _ = standings(jobs)
    assert bn.differences == pytest.approx([results("bn_wa", s) - 40 for s in range(bn.seen) if s != 1], abs=100 / N)
    assert bn.after == bn.seen - 1


def test_what_starts_from_a_diverged_training_holds_up_no_comparison(tmp_path: Path) -> None:
    """With LN, the network that SHOT starts from diverged: SHOT cannot run, and all other comparisons go on."""
    jobs = planned(tmp_path, "norms=[bn,bn_wa,ln,ln_wa]", "methods=[none,shot]", "seeds_max=6")
    by_id = {job.id: job for job in jobs}

    def shot(job: UnitJob) -> bool:
        return bool(job.config["unit"]["factors"]["method"] == "shot")

    while pending := [job for job in needed(jobs) if not job.done and not blocked(job, by_id)]:
        for job in sorted(pending, key=shot):
            if not blocked(job, by_id):
                finish(job, None if norm_of(job) == "ln" and not shot(job) else 40 + seed_of(job) % 2)
    assert {job.unit.factors.seed for job in jobs if job.done and norm_of(job) == "bn_wa"} == set(range(6))
    left = [job for job in needed(jobs) if not job.done]
    assert left and all(shot(job) and norm_of(job) == "ln" for job in left)


def test_a_seed_whose_start_diverged_is_left_out(tmp_path: Path) -> None:
    jobs = planned(tmp_path, "norms=[ln,ln_wa]", "methods=[none,shot]", "seeds_max=6")
    for job in sorted(jobs, key=lambda job: job.needs is not None):
        if job.needs is None or (norm_of(job), seed_of(job)) != ("ln", 1):
            finish(job, None if (norm_of(job), seed_of(job)) == ("ln", 1) else 40)
    assert {(s.seen, len(s.differences)) for s in standings(jobs)} == {
        (6, 5),
        (6, 6),
    }  # all but LN + WA with and without
    assert not [job for job in needed(jobs) if not job.done and not blocked(job, {job.id: job for job in jobs})]


def test_runs_that_all_diverge_decide_nothing(tmp_path: Path) -> None:
    jobs = planned(tmp_path, "seeds_max=5")
    run(jobs, lambda norm, seed: None)  # type: ignore[return-value,arg-type]
    assert [(s.differences, s.after) for s in standings(jobs)] == [([], None)] * 2


def test_seeds_are_bounded(tmp_path: Path) -> None:
    jobs = planned(tmp_path, "seeds_max=3")  # no decision is possible
    assert run(jobs, results) == 5 * 3 * 3
    assert planned(tmp_path, "seeds.max=3") == jobs


def test_contrasts_of_interest(tmp_path: Path) -> None:
    jobs = planned(tmp_path, "norms=[bn,bn_wa,bn_ws,bn_cwn]")
    assert [s.contrast.value for s in standings(jobs)] == ["align"]
    assert {s.contrast.value for s in standings(jobs, ["standardize", "center"])} == {"standardize", "center"}
    with pytest.raises(ConfigError, match="two rows to compare"):
        needed(planned(tmp_path, "norms=[bn,ln]"))


def test_the_first_look_is_where_a_decision_is_possible() -> None:
    """E of equal differences after n seeds is (1+4n)^((n−1)/2): 3, 13, 70, 441."""
    assert [first_look(k) for k in (1, 3, 4, 22, 23)] == [4, 4, 5, 5, 6]


def test_differences_are_means_over_pairs_in_points(tmp_path: Path) -> None:
    jobs = planned(tmp_path, "norms=[bn,bn_wa]", "seeds_max=2")
    for job in jobs:
        source = job.config["unit"]["source"]
        extra = {"A": 1, "W": 2, "D": 6}[source] if norm_of(job) == "bn_wa" else 0
        finish(job, 40 + extra)
    (found,) = standings(jobs)
    assert found.differences == pytest.approx([3.0, 3.0])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seeds=some", "seeds=some: must be a list of whole numbers.*or auto"),
        ("seeds=[]", "or auto"),
        ("seeds_max=0", "1 or more"),
    ],
)
def test_mistakes(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose([word])


def test_a_list_of_seeds_is_as_ever() -> None:
    experiment = compose(["seeds=[3,1]"])
    assert (experiment.cfg["seeds"], experiment.auto) == ([3, 1], False)
    assert compose(["seeds=auto", "seeds.max=4"]).cfg["seeds"] == [0, 1, 2, 3]


def test_methods_and_their_weights_are_compared_at_equal_weights(tmp_path: Path) -> None:
    jobs = planned(tmp_path, "norms=[bn,bn_wa]", "methods=[none,coral]", "method.weight=[0.1,1.0]", "seeds_max=4")
    levels = [
        (s.contrast.value, *(tuple(label.split()[k] for k in (0, 3, 4)) for label in s.contrast.rows[0]))
        for s in standings(jobs)
    ]
    assert sorted(levels) == sorted(
        [
            ("align", ("bn", "none", "None"), ("bn_wa", "none", "None")),
            *(("align", ("bn", "coral", w), ("bn_wa", "coral", w)) for w in ("0.1", "1.0")),
            *(("coral", (n, "none", "None"), (n, "coral", w)) for n in ("bn", "bn_wa") for w in ("0.1", "1.0")),
        ]
    )


def test_what_a_unit_starts_from_is_needed_too(tmp_path: Path) -> None:
    """WA is decided without a method and open with one, which starts from the networks without."""
    jobs = planned(tmp_path, "norms=[bn,bn_wa]", "methods=[none,shot]", "seeds_max=8")

    def points(job: UnitJob) -> float:
        shot = job.config["unit"]["factors"]["method"] == "shot"
        luck = np.random.default_rng([seed_of(job), len(norm_of(job))]).normal()
        return 40 + 5 * (norm_of(job) == "bn_wa") + 9 * shot * luck

    while pending := [job for job in needed(jobs, ["align"]) if not job.done]:
        ids = {job.id for job in needed(jobs, ["align"])}
        assert all(job.needs is None or job.needs in ids for job in pending)
        for job in pending:
            finish(job, points(job))
    assert [(s.after, s.seen) for s in standings(jobs, ["align"])] == [(4, 8), (None, 8)]
