"""Which jobs an experiment has, and what their names depend on."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

from da_wa.config.compose import Experiment, compose
from da_wa.data.cache import DecodedDomain
from da_wa.errors import ConfigError
from da_wa.records.outputs import Outputs
from da_wa.records.schema import Divergence, Record
from da_wa.runs.jobs import PretrainJob, UnitJob
from da_wa.runs.plan import plan
from da_wa.shipped import CHECKPOINTS

TEN = ["none", "wa", "bn", "bn_wa", "gn", "gn_wa", "in", "in_wa", "ln", "ln_wa"]


def domains(names: str = "AWD", digest: str = "x") -> list[DecodedDomain]:
    classes = ("a", "b")
    pixels = np.zeros((4, 3, 8, 8), np.uint8)
    return [DecodedDomain(n, pixels, np.arange(4) % 2, tuple("0123"), f"{n}-{digest}", classes) for n in names]


@pytest.fixture(scope="module")
def composed():
    return compose([])


def ids(jobs) -> set[str]:
    return {job.id for job in jobs}


def planned(experiment: Experiment, tmp_path: Path, found=None) -> list:
    return plan(experiment, domains() if found is None else found, tmp_path / "out", tmp_path / "checkpoints")


def test_the_papers_experiment_is_ten_networks_and_three_runs_of_each_a_seed(composed, tmp_path):
    jobs = planned(composed, tmp_path)
    pretraining = [job for job in jobs if isinstance(job, PretrainJob)]
    runs = [job for job in jobs if isinstance(job, UnitJob)]
    assert len(pretraining) == 10
    assert jobs[:10] == pretraining
    assert len(runs) == 10 * 3 * 3
    assert {job.config["unit"]["factors"]["norm"] for job in runs} == set(TEN)
    for job in runs:
        assert job.waits_for() in ids(pretraining)
        assert not job.directory.path.exists()
        job.register()
        written = job.directory.planned()
        assert written.factors.norm == job.config["unit"]["factors"]["norm"]
        assert set(written.targets) == set("AWD") - {written.source}
    assert {job.config["unit"]["factors"]["model"] for job in runs} == {"resnet50"}
    seeds = [job.config["unit"]["factors"]["seed"] for job in runs]
    assert seeds == sorted(seeds)


def test_a_plan_is_the_same_every_time(composed, tmp_path):
    assert ids(planned(composed, tmp_path / "1")) == ids(planned(composed, tmp_path / "2"))


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
    assert ids(planned(changed(composed, key, value), tmp_path / "2")) == ids(planned(composed, tmp_path / "1"))


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
    before, after = planned(composed, tmp_path / "1"), planned(changed(composed, key, value), tmp_path / "2")
    for kind, differs in ((UnitJob, True), (PretrainJob, networks_too)):
        one, other = (ids(j for j in jobs if isinstance(j, kind)) for jobs in (before, after))
        assert not (one & other) if differs else True


def test_networks_of_two_libraries_with_one_name_have_two_names(tmp_path):
    words = ["model.name=resnet50", "norms=[keep]", "pretrain=none"]
    timm, torchvision = (planned(compose([f"model={name}", *words]), tmp_path) for name in ("timm", "torchvision"))
    assert not ids(timm) & ids(torchvision)
    library = {"name": "resnet50", "options": {}}
    before = {"version": 1, "name": "resnet50", "options": {}, "build": {"library": library}}
    assert timm[0].config["facts"]["model"] == before  # units of timm keep the names that they had
    assert torchvision[0].config["facts"]["model"] == before | {"library": "torchvision"}


@pytest.mark.parametrize("options", [["model=own"], ["pretrain.name=hub/my-net.v1"]])
def test_a_network_is_one_file_whose_name_units_wait_for(tmp_path, options):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "own.yaml").write_text("name: hub/my-net.v1\nbuild: {_target_: own.Net, _partial_: true}\n")
    networks, units = [], []
    for job in planned(compose([*options, "norms=[bn,gn]"], tmp_path), tmp_path):
        (networks if isinstance(job, PretrainJob) else units).append(job)
    assert [job.path.parent for job in networks] == [tmp_path / "checkpoints"] * 2
    assert all("hub_my-net.v1-" in job.id for job in networks)
    assert {job.waits_for() for job in units} == ids(networks)


def test_only_a_norm_that_keeps_the_network_has_its_levels(tmp_path):
    (tmp_path / "norm").mkdir()
    (tmp_path / "norm" / "rms.yaml").write_text("{_target_: da_wa.norm.spec.Norm, label: RMS}")
    words = ["model=timm", "model.name=resnet50", "norms=[keep,rms]", "pretrain=none"]
    units = [job.config["unit"]["factors"] for job in planned(compose(words, tmp_path), tmp_path)]
    levels = {unit["norm"]: (unit["weight"], unit["activation"]) for unit in units}
    assert levels == {"keep": ("plain", "bn"), "rms": ("rms", "rms")}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("finetune.epochs", 31, "finetune.epochs: 30 there, 31 now"),
        ("finetune.label_smoothing", 0, "finetune.label_smoothing: 0.0 there, 0 now"),
        ("model.gain_init", "fixup", "gain_init: one there, fixup now"),
    ],
)
def test_a_folder_holds_runs_of_one_experiment_and_one_network_a_name(composed, tmp_path, key, value, said):
    ended(next(job for job in planned(composed, tmp_path) if isinstance(job, UnitJob)))
    planned(composed, tmp_path)
    with pytest.raises(ConfigError, match="not comparable") as caught:
        planned(changed(composed, key, value), tmp_path)
    assert said in str(caught.value)


def test_a_folder_holds_one_run_of_a_cell(tmp_path):
    networks = [tmp_path / f"{k}.safetensors" for k in (1, 2)]
    first, second = ([f"pretrain.checkpoint={network}", "norms=[bn]"] for network in networks)
    for network in networks:
        network.write_bytes(network.name.encode())
    ended(planned(compose(first), tmp_path)[0])
    with pytest.raises(ConfigError, match=r"not comparable \(run bn-A-s0-\w+: start: \w+ there, \w+ now\)"):
        planned(compose(second), tmp_path)

    for other in ["seeds=[1]"], ["sources=[W]"], ["methods=[mcc]"]:  # in the rows of the first, or beside them
        with pytest.raises(ConfigError, match=r"not comparable \(run bn-A-s0-\w+: start: \w+ there, \w+ now\)"):
            planned(compose([*second, *other]), tmp_path)
    planned(compose([*first, "seeds=[1]"]), tmp_path)

    def weighted(weight: str) -> list:
        return planned(compose([*second, "methods=[mcc]", f"method.weight={weight}"]), tmp_path / "other")

    first_run, *_ = weighted("1.0")
    ended(first_run)
    assert weighted("1")[0].id == first_run.id  # one number, one run
    weighted("2")  # another row


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("finetune.epochs", 31, "finetune.epochs: 30 there, 31 now"),
        ("model.gain_init", "fixup", "one there, fixup now"),
    ],
)
def test_a_run_that_a_process_works_on_counts_and_a_plan_that_was_given_up_does_not(
    composed, tmp_path, key, value, said
):
    started = next(job for job in planned(composed, tmp_path) if isinstance(job, UnitJob))
    started.register()
    with started.claim():
        planned(composed, tmp_path)
        with pytest.raises(ConfigError, match="not comparable") as caught:
            planned(changed(composed, key, value), tmp_path)
    assert said in str(caught.value)
    planned(changed(composed, key, value), tmp_path)


def test_a_cell_that_a_process_works_on_is_not_run_with_other_weights(tmp_path):
    first, second = (tmp_path / f"{k}.safetensors" for k in (1, 2))
    for network in (first, second):
        network.write_bytes(network.name.encode())
    started = planned(compose([f"pretrain.checkpoint={first}", "norms=[bn]"]), tmp_path)[0]
    started.register()
    other = compose([f"pretrain.checkpoint={second}", "norms=[bn]"])
    planned(other, tmp_path)
    with started.claim(), pytest.raises(ConfigError, match=rf"run {started.id}: start: \w+ there, \w+ now"):
        planned(other, tmp_path)


def ended(job: UnitJob) -> None:
    """Write the record of a unit that diverged."""
    job.register()
    record = Record(
        id=job.id,
        status="diverged",
        **job.directory.planned().model_dump(),
        classes=["a", "b"],
        images={},
        experiment=job.config["experiment"],
        evaluations=[],
        error=Divergence(epoch=1, message="nan"),
    )
    job.directory.finish(record, Outputs(np.array([], np.int32)))


def test_other_images_are_other_runs(composed, tmp_path):
    one = ids(planned(composed, tmp_path / "1"))
    other = ids(planned(composed, tmp_path / "2", domains(digest="y")))
    assert len(one & other) == 10  # the pre-trained networks


def test_sources_can_be_chosen(composed, tmp_path):
    runs = [j for j in planned(changed(composed, "sources", ["W"]), tmp_path) if isinstance(j, UnitJob)]
    assert {j.config["unit"]["source"] for j in runs} == {"W"}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("sources", ["w"], "there is no domain 'w'"),
    ],
)
def test_mistakes_are_told(composed, tmp_path, key, value, said):
    with pytest.raises(ConfigError, match=said):
        planned(changed(composed, key, value), tmp_path)


def test_a_folder_of_checkpoints_needs_one_for_each_norm(composed, tmp_path):
    with pytest.raises(ConfigError, match=r"must contain exactly one file \*-none-\*\.safetensors; found: none"):
        planned(changed(composed, "pretrain.checkpoint", str(tmp_path)), tmp_path)


def test_a_checkpoint_may_lie_in_the_home_folder(tmp_path, monkeypatch):
    (tmp_path / "network.safetensors").write_bytes(b"x")
    monkeypatch.setenv("HOME", str(tmp_path))
    (job, *_) = planned(compose(["pretrain.checkpoint='~/network.safetensors'", "norms=[bn]"]), tmp_path)
    assert job.start == tmp_path / "network.safetensors"


def test_the_shipped_networks_are_those_of_the_quick_recipe(tmp_path):
    quick = compose(["experiment=quick"])
    pretraining = [job for job in planned(quick, tmp_path) if isinstance(job, PretrainJob)]
    assert len(pretraining) == 10
    for job in pretraining:
        assert job.done, f"{job.checkpoint.name} is not shipped: the recipe and da_wa/checkpoints/ have come apart"


def test_the_names_of_the_shipped_networks_stay(tmp_path):
    """Names hash what determines a network; a change here would orphan everybody's checkpoints."""
    quick = compose(["experiment=quick"])
    names = {job.id for job in planned(quick, tmp_path) if isinstance(job, PretrainJob)}
    assert names == {path.stem for path in CHECKPOINTS.glob("*.safetensors")}


def test_rates_and_epochs_of_single_norms_are_optional(composed, tmp_path):
    """A pre-training of the user's own need not have these options."""
    without = compose(["~pretrain.rates", "~pretrain.epochs"])
    assert ids(planned(without, tmp_path)) == ids(planned(composed, tmp_path))
    job = next(job for job in planned(without, tmp_path) if isinstance(job, UnitJob))
    assert job.config["unit"]["factors"]["pretraining_epochs"] == composed.cfg["pretrain"]["recipe"]["epochs"]


def test_the_demo_still_has_the_names_of_its_finished_runs(tmp_path):
    """So results are found again, not trained again, after an update of the package."""
    runs = Path(__file__).parents[2] / "results" / "digits_methods" / "runs"
    facts = yaml.safe_load(next(runs.glob("bn_wa-H-s0-*/config.yaml")).read_text())["facts"]["shared"]
    pixels = np.zeros((len(facts["classes"]), 3, 32, 32), np.uint8)
    names = tuple(map(str, facts["classes"]))
    found = [
        DecodedDomain(name, pixels, np.arange(len(names)), names, digest, names)
        for name, digest in facts["images"].items()
    ]
    words = ["experiment=demo", "norms=[wa,bn_wa]", "methods=[none,mcc,shot]", "seeds=[0,1,2]"]
    units = [job.id for job in planned(compose(words), tmp_path, found) if isinstance(job, UnitJob)]
    assert set(units) == {path.name for path in runs.iterdir()}


def test_the_recipe_of_a_method_belongs_to_its_runs_alone(tmp_path):
    small, large = (
        {
            method: {j.id for j in jobs if j.config["unit"]["factors"]["method"] == method}
            for method in ("none", "tent")
            for jobs in [[j for j in planned(compose([*words, option]), tmp_path) if isinstance(j, UnitJob)]]
        }
        for words in [["norms=[bn]", "methods=[none,tent]"]]
        for option in ("method.tent.recipe.batch_size=32", "method.tent.recipe.batch_size=64")
    )
    assert small["none"] == large["none"]
    assert not small["tent"] & large["tent"]


def test_rates_and_epochs_of_one_norm_leave_the_runs_of_others_alone(composed, tmp_path):
    """So networks can be added to a table one after another; a run is named after its network."""
    other = changed(changed(composed, "pretrain.rates", {"bn": 0.2}), "pretrain.epochs", {"bn": 4})
    before, after = (
        {
            norm: {
                job.id
                for job in planned(e, tmp_path)
                if isinstance(job, UnitJob) and job.config["unit"]["factors"]["norm"] == norm
            }
            for norm in TEN
        }
        for e in (composed, other)
    )
    assert not before["bn"] & after["bn"]
    assert before | {"bn": None} == after | {"bn": None}


def changed(experiment: Experiment, key: str, value) -> Experiment:
    cfg = copy.deepcopy(experiment.cfg)
    *path, last = key.split(".")
    node = cfg
    for part in path:
        node = node[part]
    node[last] = value
    return dataclasses.replace(experiment, cfg=cfg, models={cfg["model"]["name"]: cfg["model"]})


def test_a_kept_classifier_renames_runs_of_given_networks(tmp_path):
    (tmp_path / "1.safetensors").write_bytes(b"weights")
    words = ["finetune=cifar", f"pretrain.checkpoint={tmp_path / '1.safetensors'}", "norms=[bn]"]
    new, kept = (ids(planned(compose([*words, f"pretrain.keep_head={keep}"]), tmp_path)) for keep in ("false", "true"))
    assert not new & kept
    assert new == ids(planned(compose(words), tmp_path))


def test_the_content_of_starting_weights_counts_and_not_their_path(tmp_path):
    """A network with weights is not pre-trained, and starts from them in every unit."""

    def named(file: str, content: bytes) -> set[str]:
        (tmp_path / file).write_bytes(content)
        words = ["model=timm", "model.name=test_resnet", "norms=[keep,bn_wa]", f"model.weights={tmp_path / file}"]
        jobs = planned(compose(words), tmp_path)
        assert not any(isinstance(job, PretrainJob) for job in jobs)
        factors = [job.config["unit"]["factors"] for job in jobs]
        assert {f["pretraining"] for f in factors} == {"ImageNet"}
        assert {(f["norm"], f["weight"], f["activation"]) for f in factors} == {
            ("keep", "plain", "bn"),
            ("bn_wa", "align", "bn"),
        }
        return ids(jobs)

    first = named("a.safetensors", b"weights")
    assert named("b.safetensors", b"weights") == first
    assert not named("a.safetensors", b"others") & first
