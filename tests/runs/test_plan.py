"""Which jobs an experiment has, and what their names depend on."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from da_wa.runs.ledger import Ledger

from da_wa.config.compose import compose
from da_wa.data.cache import DecodedDomain
from da_wa.errors import ConfigError
from da_wa.runs.jobs import FinetuneJob, PretrainJob
from da_wa.runs.plan import plan, slug

TEN = ["none", "wa", "bn", "bn_wa", "gn", "gn_wa", "in", "in_wa", "ln", "ln_wa"]


def domains(names: str = "AWD", digest: str = "x") -> list[DecodedDomain]:
    classes = ("a", "b")
    pixels = np.zeros((4, 3, 8, 8), np.uint8)
    return [DecodedDomain(n, pixels, np.arange(4) % 2, tuple("0123"), f"{n}-{digest}", classes) for n in names]


@pytest.fixture(scope="module")
def composed():
    experiment = compose([])
    return experiment.cfg, experiment.norms


def ids(jobs) -> set[str]:
    return {job.id for job in jobs}


def planned(cfg, norms, tmp_path: Path, found=None) -> list:
    return plan(cfg, norms, domains() if found is None else found, Ledger(tmp_path / "out"), tmp_path / "checkpoints")


def test_the_papers_experiment_is_ten_networks_and_three_runs_of_each_a_seed(composed, tmp_path):
    jobs = planned(*composed, tmp_path)
    pretraining = [job for job in jobs if isinstance(job, PretrainJob)]
    runs = [job for job in jobs if isinstance(job, FinetuneJob)]
    assert len(pretraining) == 10
    assert jobs[:10] == pretraining
    assert len(runs) == 10 * 3 * 3
    assert {job.config["norm"] for job in runs} == set(TEN)
    for job in runs:
        assert job.waits_for() in ids(pretraining)
        assert set(job.config["targets"]) == set("AWD") - {job.config["source"]}
        assert not job.directory.path.exists()
        job.register()
        assert job.directory.config()["norm"] == job.config["norm"]
    assert {job.config["model"] for job in runs} == {"resnet50"}
    assert [job.config["seed"] for job in runs] == sorted(job.config["seed"] for job in runs)


def test_a_plan_is_the_same_every_time(composed, tmp_path):
    assert ids(planned(*composed, tmp_path / "1")) == ids(planned(*composed, tmp_path / "2"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("out", "elsewhere"),
        ("cache_dir", "elsewhere"),
        ("trainer.compile", True),
        ("launcher.workers", 7),
        ("data.root", "elsewhere"),
        ("pretrain.root", "elsewhere"),
    ],
)
def test_where_and_how_it_is_computed_does_not_rename_a_job(composed, tmp_path, key, value):
    cfg, norms = composed
    assert ids(planned(changed(cfg, key, value), norms, tmp_path / "2")) == ids(planned(cfg, norms, tmp_path / "1"))


@pytest.mark.parametrize(
    ("key", "value", "networks_too"),
    [
        ("finetune.epochs", 31, False),
        ("finetune.optimizer.lr", 0.002, False),
        ("protocol.holdout", 0.2, False),
        ("data.size", 64, False),
        ("pretrain.recipe.epochs", 61, True),
        ("pretrain.seed", 1, True),
        ("model.gain_init", "fixup", False),
        ("normalize.mean", [0.5, 0.5, 0.5], True),
    ],
)
def test_what_determines_the_numbers_renames_every_run(composed, tmp_path, key, value, networks_too):
    cfg, norms = composed
    before, after = planned(cfg, norms, tmp_path / "1"), planned(changed(cfg, key, value), norms, tmp_path / "2")
    for kind, differs in ((FinetuneJob, True), (PretrainJob, networks_too)):
        one, other = (ids(j for j in jobs if isinstance(j, kind)) for jobs in (before, after))
        assert not (one & other) if differs else True
    recipes = [{j.config["recipe"] for j in jobs if isinstance(j, FinetuneJob)} for jobs in (before, after)]
    assert [len(r) for r in recipes] == [1, 1]  # one recipe for all norms, sources and seeds
    assert recipes[0] != recipes[1]


def test_other_images_are_other_runs(composed, tmp_path):
    cfg, norms = composed
    one = ids(planned(cfg, norms, tmp_path / "1"))
    other = ids(planned(cfg, norms, tmp_path / "2", domains(digest="y")))
    assert len(one & other) == 10  # the pre-trained networks


def test_sources_can_be_chosen(composed, tmp_path):
    cfg, norms = composed
    runs = [j for j in planned(changed(cfg, "sources", ["W"]), norms, tmp_path) if isinstance(j, FinetuneJob)]
    assert {j.config["source"] for j in runs} == {"W"}
    assert runs[0].config["targets"] == ["A", "D"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("sources", ["w"], "there is no domain 'w'"),
        ("sources", "A", "sources=\\[A,W\\]"),
        ("seeds", 3, "seeds=\\[0,1,2\\]"),
        ("seeds", [0, "x"], "whole numbers"),
    ],
)
def test_mistakes_are_told(composed, tmp_path, key, value, said):
    cfg, norms = composed
    with pytest.raises(ConfigError, match=said):
        planned(changed(cfg, key, value), norms, tmp_path)


def test_a_folder_of_checkpoints_needs_one_for_each_norm(composed, tmp_path):
    cfg, norms = composed
    with pytest.raises(ConfigError, match=r"needs one file \*-none-\*\.safetensors; found: none"):
        planned(changed(cfg, "pretrain.checkpoint", str(tmp_path)), norms, tmp_path)


def test_the_shipped_networks_are_those_of_the_quick_recipe(tmp_path):
    experiment = compose(["experiment=quick"])
    cfg, norms = experiment.cfg, experiment.norms
    pretraining = [job for job in planned(cfg, norms, tmp_path) if isinstance(job, PretrainJob)]
    assert len(pretraining) == 10
    for job in pretraining:
        assert job.done(), f"{job.checkpoint.name} is not shipped: the recipe and da_wa/checkpoints/ have come apart"


def test_the_names_of_the_shipped_networks_stay(tmp_path):
    """Names hash what determines a network; a change here would orphan everybody's checkpoints."""
    experiment = compose(["experiment=quick"])
    cfg, norms = experiment.cfg, experiment.norms
    names = {job.id for job in planned(cfg, norms, tmp_path) if isinstance(job, PretrainJob)}
    assert names == {
        f"resnet20-cifar100-{name}"
        for name in (
            "none-dd356663", "wa-9cf969bc", "bn-4d6a7dd6", "bn_wa-c37142e0", "gn-14a60190",
            "gn_wa-f339226c", "in-a6d56a78", "in_wa-05573b31", "ln-dd3b6fc9", "ln_wa-40a82194",
        )
    }  # fmt: skip


def test_names_of_files_are_safe():
    assert slug("my domain/é?*") == "my_domain_é_"
    assert "/" not in slug("../../etc")


def changed(cfg, key, value):
    cfg = copy.deepcopy(cfg)
    *path, last = key.split(".")
    node = cfg
    for part in path:
        node = node[part]
    node[last] = value
    return cfg
