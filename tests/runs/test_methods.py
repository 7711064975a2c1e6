"""Units of adaptation methods: which there are, what they wait for, and which weights are kept."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from da_wa.cli import main
from da_wa.config.compose import compose
from da_wa.data.cache import DecodedDomain
from da_wa.errors import ConfigError, DataError
from da_wa.launchers.launch import launch, prepare
from da_wa.records.store import Store
from da_wa.runs import execute as executing
from da_wa.runs.execute import execute
from da_wa.runs.inputs import Inputs
from da_wa.runs.jobs import Done, Ready, UnitJob, Waiting
from da_wa.runs.plan import plan
from da_wa.runs.preflight import _check_splits, preflight, refused

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "data=digits", "data.per_class=3", "data.size=8", "model=resnet20", "model.build.widths=[4,4,4]",
    "model.build.depths=[1,1,1]", "pretrain=none", "sources=[H]", "seeds=[0]", "protocol.holdout=0.34",
    "finetune.epochs=1", "finetune.batch_size=10", "finetune.evaluations=1", "trainer.accelerator=cpu",
    "trainer.precision=32-true", "trainer.save_every_s=0", "launcher.workers=1", "launcher.threads=1",
    "report.images=false",
]  # fmt: skip


AUTO = "trainer.accelerator=auto"


def domains() -> list[DecodedDomain]:
    pixels = np.zeros((4, 3, 8, 8), np.uint8)
    return [DecodedDomain(n, pixels, np.arange(4) % 2, tuple("0123"), n, ("a", "b")) for n in "AWD"]


def units(folder: Path, *options: str) -> list[UnitJob]:
    jobs = plan(compose(["pretrain=none", "sources=[A]", "seeds=[0]", *options]), domains(), folder, folder)
    return [job for job in jobs if isinstance(job, UnitJob)]


def kinds(jobs: list[UnitJob]) -> list[tuple[str, str, str | None]]:
    return [
        (job.config["unit"]["factors"]["norm"], job.config["unit"]["factors"]["method"], job.config["unit"]["target"])
        for job in jobs
    ]


def test_a_method_has_a_unit_for_every_pair_and_none_for_every_source(tmp_path):
    found = units(tmp_path, "norms=[bn]", "methods=[none,mcc,shot,tent]")
    assert kinds(found) == [
        ("bn", "none", None),
        *[("bn", method, target) for method in ("mcc", "shot", "tent") for target in "WD"],
    ]
    source, *others = found
    for job in others:
        starts = job.config["unit"]["factors"]["method"] in ("shot", "tent")
        assert job.needs == (source.id if starts else None)
        assert job.start == (source.weights if starts else None)
    assert {run.id for run in source.dependents} == {job.id for job in others if job.needs}


def test_a_method_that_starts_from_the_source_brings_its_unit(tmp_path):
    assert kinds(units(tmp_path, "norms=[bn]", "methods=[shot]"))[0] == ("bn", "none", None)
    assert [kind[1] for kind in kinds(units(tmp_path, "norms=[bn]", "methods=[mcc]"))] == ["mcc", "mcc"]


def test_a_kept_network_has_the_units_of_its_own_activation_norm(tmp_path):
    words = ["model=timm", "model.name=x", "norms=[keep]", "methods=[none,adabn]"]
    (kept,) = kinds(units(tmp_path, *words, "model.factors.activation=ln"))
    assert kept == ("keep", "none", None)
    assert [kind[1] for kind in kinds(units(tmp_path, *words))] == ["none", "adabn", "adabn"]


def test_the_units_of_none_have_the_names_that_they_had_without_methods(tmp_path):
    alone = units(tmp_path, "norms=[bn,wa]")
    among = units(tmp_path, "norms=[bn,wa]", "methods=[none,mcc,shot]", "label_firewall=true")
    assert {job.id for job in alone} <= {job.id for job in among}
    assert len({job.id for job in among}) == len(among) == 2 * (1 + 2 + 2)


def test_the_names_of_units_depend_on_options_of_their_method_only(tmp_path):
    def ids(*options):
        found = units(tmp_path, "norms=[bn]", "methods=[none,mcc,shot]", *options)
        return {method: {j.id for j in found if j.config["unit"]["factors"]["method"] == method}
                for method in ("none", "mcc", "shot")}  # fmt: skip

    before, after = ids(), ids("method.mcc.build.temperature=1.0")
    assert {method for method in before if before[method] != after[method]} == {"mcc"}
    assert ids("label_firewall=true") == before
    changed = ids("finetune.epochs=1")  # SHOT starts from another network
    assert all(changed[method].isdisjoint(before[method]) for method in before)


def test_methods_that_only_change_batch_norm_have_no_units_without_it(tmp_path):
    found = kinds(units(tmp_path, "norms=[bn,bn_wa,gn,wa]", "methods=[none,adabn,dsbn]"))
    assert {norm for norm, method, _ in found if method in ("adabn", "dsbn")} == {"bn", "bn_wa"}
    assert {norm for norm, method, _ in found if method == "none"} == {"bn", "bn_wa", "gn", "wa"}


def test_every_weight_is_a_unit(tmp_path):
    found = units(tmp_path, "norms=[bn]", "methods=[mcc]", "method.weight=[0.1,1.0,1.0]")
    assert [job.config["unit"]["factors"]["method_weight"] for job in found] == [0.1, 0.1, 1.0, 1.0]
    assert len({job.id for job in found}) == 4


@pytest.fixture
def planned(tmp_path):
    def of(*options: str) -> list[UnitJob]:
        experiment = compose([*TINY, f"cache_dir={tmp_path}/cache", *options])
        inputs = Inputs(experiment.cfg["data"], tmp_path / "cache")
        assert inputs.decoded
        jobs = plan(experiment, inputs.manifests, tmp_path / "out", tmp_path / "networks")
        for job in jobs:
            job.register()
        return [job for job in jobs if isinstance(job, UnitJob)]

    return of


def silent(done: int, epochs: int) -> None:
    pass


def test_weights_live_from_the_source_unit_until_the_last_that_starts_from_them(planned):
    source, first, second = planned("norms=[bn]", "methods=[none,adabn]")
    assert first.state() == Waiting(source.id)
    execute(source, silent)
    assert source.state() == Done()
    assert source.weights.exists()
    assert first.state() == Ready()
    execute(first, silent)
    source.release()
    assert source.weights.exists()
    record = (source.directory.path / "record.json").read_bytes()
    source.weights.unlink()  # by the user
    assert source.state() == Ready()
    assert second.state() == Waiting(source.id)
    execute(source, silent)
    assert source.weights.exists()
    assert (source.directory.path / "record.json").read_bytes() == record
    execute(second, silent)
    source.release()
    assert not source.weights.exists()
    assert [job.state() for job in (source, first, second)] == [Done()] * 3


def test_weights_that_a_unit_of_another_command_starts_from_are_not_released(planned):
    source, *others = planned("norms=[bn]", "methods=[none,adabn]")
    for job in (source, *others):
        execute(job, silent)
    _, *elsewhere = planned("norms=[bn]", "methods=[none,tent]", "method.recipe.batch_size=10")
    store = Store(source.directory.path.parents[1])
    source.release(store.awaited())
    assert all(job.state() == Ready() for job in elsewhere)
    for job in elsewhere:
        execute(job, silent)
    source.release(store.awaited())
    assert not source.weights.exists()


def test_a_command_leaves_weights_that_another_one_waits_for(tmp_path):
    console = Console(quiet=True)
    words = [*TINY, f"out={tmp_path / 'out'}", f"cache_dir={tmp_path / 'cache'}", "norms=[bn]"]
    other = prepare(compose([*words, "methods=[none,tent]", "method.recipe.batch_size=10"]), console)
    first = prepare(compose([*words, "methods=[none,adabn]"]), console)
    for job in other.jobs:
        job.register()
    launch(first, console)
    (source,) = (job for job in first.jobs if isinstance(job, UnitJob) and job.dependents)
    assert source.weights.exists()
    launch(other, console)
    assert not source.weights.exists()


def test_weights_that_give_other_numbers_are_refused(planned, monkeypatch):
    source, *_ = planned("norms=[bn]", "methods=[none,adabn]")
    execute(source, silent)
    source.weights.unlink()
    evaluations = executing._evaluations

    def other(outputs, name):
        return [e.model_copy(update={"correct": e.n - e.correct + 1}) for e in evaluations(outputs, name)]

    monkeypatch.setattr(executing, "_evaluations", other)
    with pytest.raises(DataError, match=r"trained again for its weights.*out=DIR"):
        execute(source, silent)
    assert not source.weights.exists()


def test_weights_that_the_user_keeps_are_not_released(planned):
    source, *others = planned("norms=[bn]", "methods=[none,adabn]", "keep=[weights]")
    for job in (source, *others):
        execute(job, silent)
    source.release()
    assert source.weights.exists()
    for job in (source, *others):  # beside the small outputs that are kept by default
        assert all(domain.logits is not None for domain in job.directory.outputs().domains.values())


@pytest.mark.parametrize("first", [0, 1])
def test_a_run_keeps_what_any_of_two_commands_asks_for(planned, first):
    """Whichever plans it first, also where the other one runs it."""
    words = ["norms=[bn]", "methods=[none,adabn]", "finetune.epochs=2"]
    asking = [*words, "keep=[weights]", "keep_epochs=[0,1]", "label_firewall=true"]
    (source, adapted, *_), _ = planned(*(words, asking)[first]), planned(*(asking, words)[first])
    execute(source, silent)
    execute(adapted, silent)
    source.release()
    names = {path.name for path in source.directory.path.iterdir()}
    assert names >= {"weights.safetensors", "weights-0.safetensors", "weights-1.safetensors"}
    assert adapted.directory.record().label_firewall == "passed"
    planned(*words, "keep_epochs=[2]")
    assert source.directory.config()["keep_epochs"] == [0, 1]  # as it was run


def test_a_command_tells_what_finished_runs_have_not_kept(tmp_path):
    """In one line for each option; small logits are always kept."""
    words = [*TINY, f"out={tmp_path / 'out'}", f"cache_dir={tmp_path / 'cache'}", "norms=[bn]"]

    def told(*options: str) -> list[str]:
        console = Console(file=io.StringIO(), width=1000)
        launch(prepare(compose([*words, *options]), console), console)
        return [line for line in console.file.getvalue().splitlines() if "finished without it" in line]

    asking = ["keep=[weights,logits]", "keep_epochs=[0,1]", "label_firewall=true"]
    assert told("methods=[none]") == []
    assert told("methods=[none,adabn]", *asking) == []  # the first is trained again, as AdaBN starts from its weights
    assert len(list((tmp_path / "out" / "runs").glob("*/weights.safetensors"))) == 3
    assert told("methods=[none,adabn]", *asking) == []  # AdaBN has no epochs, and so no network after the first
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    assert told("methods=[none,adabn]", "keep=[]") == []
    lines = told("methods=[none,adabn]", *asking)
    assert [line.partition(" runs finished without it (first: bn-")[0] for line in lines] == [
        "keep=[weights]: 3 of 3", "keep_epochs=[0,1]: 1 of 3", "keep_epochs=[0]: 2 of 3", "label_firewall=true: 2 of 3",
    ]  # fmt: skip
    assert all(line.endswith("are not repeated; use another out=DIR, or delete their folders") for line in lines)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the command with methods of one's own; gives its exit code."""
    mine = tmp_path / "mine"
    (mine / "method").mkdir(parents=True)
    (mine / "own_methods.py").write_text(OWN)
    for name in ("Cheat", "Broken", "Empty", "Looks", "Counts", "Phaseless", "Other"):
        (mine / "method" / f"{name.lower()}.yaml").write_text(
            f"label: {name}\nphase: joint\nstatistics: joint\nweight: 1.0\nbuild: {{_target_: own_methods.{name}}}\n"
        )
    monkeypatch.chdir(tmp_path)

    def of(*options: str) -> int:
        return main([*TINY, "--config-dir", str(mine), "cache_dir=cache", "out=out", *options])

    return of


OWN = '''
import sys

import torch
from torch.nn import functional as F

from da_wa.adapt.method import Method


class Cheat(Method):
    """Looks up the labels of the target in its caller."""

    phase = "joint"

    def loss(self, step):
        subset = sys._getframe(1).f_locals["self"]._data.target
        labels = torch.from_numpy(subset.domain.labels[subset.index])[step.index]
        return {"cheat": F.cross_entropy(step.target.logits, labels)}


class Broken(Method):
    phase = "joint"

    def loss(self, step):
        return {"broken": step.target.logits.sum() * float("nan")}


class Empty(Method):
    """Logs the mean of no image, and of one."""

    phase = "joint"

    def loss(self, step):
        self.watched = {"none": step.target.logits[:0].mean(), "one": step.target.logits[:1].mean()}
        return {"gap": step.target.logits.square().mean()}


class Looks(Method):
    """Reads a value of the network where it is built."""

    phase = "joint"

    def build(self, backbone, classes, images):
        self.scale = backbone.head.weight.abs().max().item()


class Phaseless(Method):
    def loss(self, step):
        return {}


class Other:
    phase = "joint"


class Counts(Method):
    phase = "joint"

    def build(self, backbone, classes, images):
        raise ValueError(f"classes: {classes} {backbone.head.out_features}")
'''


def test_the_outcome_of_the_firewall_is_in_the_record(command):
    assert command("norms=[gn]", "methods=[none,mcc,shot,tent]", "label_firewall=true",
                   "method.tent.recipe.batch_size=10") == 0  # fmt: skip
    records = [run.record() for run in Store(Path("out")).runs()]
    assert len(records) == 1 + 3 * 2
    assert {(r.factors.method, r.label_firewall) for r in records} == {
        ("none", None), ("mcc", "passed"), ("shot", "passed"), ("tent", "passed"),
    }  # fmt: skip
    assert {r.factors.method for r in records if r.online is not None} == {"tent"}
    assert not list(Path("out").glob("runs/*/*.ckpt"))


def test_a_method_that_reads_target_labels_is_caught(command, capsys):
    assert command("norms=[gn]", "methods=[none,cheat]", "label_firewall=true") == 1
    said = capsys.readouterr()
    assert "The method uses target labels" in said.out + said.err
    records = [run.record() for run in Store(Path("out")).runs()]
    assert {r.factors.method for r in records if r is not None} == {"none"}


def test_a_loss_that_is_not_a_number_is_recorded_with_its_epoch(command):
    assert command("norms=[gn]", "methods=[broken]") in (0, 1)
    records = [run.record() for run in Store(Path("out")).runs()]
    assert {(r.status, r.error.epoch) for r in records} == {("diverged", 1)}


def test_what_a_method_logs_that_is_not_a_number_is_not_in_the_record(command):
    assert command("norms=[gn]", "methods=[empty]") == 0
    records = [run.record() for run in Store(Path("out")).runs()]
    logged = {"gap", "one", "feature_scale_source", "feature_scale_target"}
    assert [set(r.curve[-1].terms) for r in records if r.factors.method == "empty"] == [logged, logged]


def test_a_source_unit_that_diverged_fails_what_starts_from_it_by_name(command, capsys):
    assert command("norms=[gn]", "methods=[none,adabn,shot]", "finetune.optimizer.lr=1e30") == 1
    runs = {run.id: run for run in Store(Path("out")).runs()}
    (source,) = (run for run in runs.values() if run.record() is not None)
    assert source.record().status == "diverged"
    notes = [path.read_text() for path in Path("out").glob("runs/*/failure.json")]
    assert len(notes) == 2  # SHOT for two targets; AdaBN has no units here
    assert all(source.id in note for note in notes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["methods=[mcc,dnan]"], "'dann'"),
        (["methods=[tent]", "norms=[bn]"], "N has 30 target images, fewer than one batch of 64"),
        (["methods=[tent]", "norms=[bn]"], "method.tent.recipe.batch_size="),
        (["methods=[shot]", "norms=[gn]", "method.shot.recipe.batch_size=1000"], "batch"),
        (["methods=[mcc]", "norms=[gn]", "method.weight=-1"], "weight"),
        (["methods=[dann]", "norms=[gn]", "method.dann.build.width=0"], "method.dann.build: width=0 must be a whole"),
        (
            ["methods=[tent]", "norms=[bn]", "method.tent.recipe.batch_size=1"],
            "method.tent.recipe.batch_size=1: method tent with norm bn uses statistics over",
        ),
        (
            ["methods=[bn_stats]", "norms=[bn]", "method.bn_stats.recipe.batch_size=1"],
            "method.bn_stats.recipe.batch_size=1: method bn_stats with norm bn uses statistics over",
        ),
        (
            ["methods=[shot]", "norms=[brn]", "method.shot.recipe.batch_size=1"],
            "method.shot.recipe.batch_size=1: method shot with norm brn needs 2",
        ),
        (
            ["methods=[coral]", "norms=[gn]", "finetune.batch_size=1"],
            "finetune.batch_size=1: method coral with norm gn needs 2",
        ),
        (["methods=[mcc]", "norms=[wa]", "finetune.batch_size=1"], "method mcc with norm wa needs 2"),
        (
            ["methods=[sar]", "norms=[gn]", "method.recipe.batch_size=10", "trainer.precision=16-mixed", AUTO],
            "the steps of method sar do not scale them",
        ),
        (
            ["methods=[mcc,dsbn]", "norms=[bn]", "method.statistics=separate"],
            "DSBN has statistics=domain by definition",
        ),
        (["methods=[mcc,dsbn]", "norms=[bn]", "method.weight=[0.1,1]"], "DSBN has no loss of its own"),
        (["methods=[looks]", "norms=[gn]"], "method looks cannot be built with norm gn before the first run"),
        (["methods=[counts]", "norms=[gn]"], "classes: 10 10"),
        (["methods=[other]", "norms=[gn]"], "method other cannot be used with norm gn"),
        (["methods=[phaseless]", "norms=[gn]"], "method phaseless: its class has phase None, its file says 'joint'"),
    ],
)
def test_bad_input_ends_before_the_first_run(command, capsys, options, said):
    assert command(*options) == 2
    assert said in capsys.readouterr().err
    assert not list(Path("out").glob("runs/*/record.json"))


@pytest.mark.parametrize(
    "words",
    [
        ["methods=[tent]", "norms=[gn]", "method.tent.recipe.batch_size=1"],
        ["methods=[adabn]", "norms=[bn]", "method.adabn.recipe.batch_size=1"],
        ["methods=[bn_stats]", "norms=[bn,wa]", "method.bn_stats.recipe.batch_size=2"],
        ["methods=[coral]", "norms=[gn]", "finetune.batch_size=2"],
        ["methods=[shot]", "norms=[gn]", "trainer.precision=16-mixed", AUTO],
    ],
)
def test_small_batches_and_half_precision_are_allowed_where_they_work(words):
    preflight(compose([*TINY, *words]), [], [])


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["finetune.batch_size=1"], {"bn", "brn"}),
        (["finetune.batch_size=1", "finetune.frozen_statistics=true"], set()),
        (["finetune=features", "finetune.batch_size=1"], set()),
        (["finetune=features", "pretrain.recipe.batch_size=1"], {"bn", "brn"}),
    ],
)
def test_batches_of_one_are_refused_where_a_batch_norm_trains(words, names):
    experiment = compose([*TINY, "norms=[bn,brn,gn]", "methods=[none]", "pretrain=cifar100_short", *words])
    assert refused(experiment).keys() == names


def test_domains_of_one_class_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for domain in "ST":
        (tmp_path / domain / "mug").mkdir(parents=True)
        for k in range(20):
            Image.new("RGB", (32, 32), (k, ord(domain), 0)).save(tmp_path / domain / "mug" / f"{k}.png")
    words = [word for word in TINY if not word.startswith(("data", "sources"))]
    options = ["data=folders", f"data.root={tmp_path}", "data.folders={S: S, T: T}", "data.size=8", "norms=[gn]"]
    assert main([*words, "cache_dir=cache", "out=out", *options, "methods=[mcc]"]) == 2
    assert "The domains have one class, mug; a classifier needs two or more." in capsys.readouterr().err


def test_a_sorted_stream_needs_images_by_class(tmp_path):
    words = ["pretrain=none", "sources=[A]", "seeds=[0]", "norms=[bn]", "methods=[none,tent]", "protocol.holdout=0.5"]
    words += ["finetune.batch_size=1", "method.tent.recipe.batch_size=2"]

    def checked(order: str, labels: list[int]) -> None:
        found = [replace(domain, labels=np.array(labels)) for domain in domains()]
        experiment = compose([*words, f"method.tent.order={order}"])
        _check_splits(experiment.cfg, found, plan(experiment, found, tmp_path, tmp_path))

    checked("sorted", [1, 1, 0, 0])
    checked("shuffled", [0, 1, 0, 1])
    with pytest.raises(ConfigError, match=r"method\.tent\.order=sorted .* the classes of W are mixed"):
        checked("sorted", [0, 1, 0, 1])


def test_a_stream_on_a_network_with_nothing_adaptable_says_what_to_use(command, capsys):
    words = [word for word in TINY if not word.startswith(("model", "data.size"))]
    options = ["model=vgg16", "norms=[none]", "data.size=32", "methods=[tent]", "method.tent.recipe.batch_size=10"]
    assert main([*words, "cache_dir=cache", "out=out", *options]) == 2
    assert "no affine parameters that a stream method could train; use methods=[shot]" in capsys.readouterr().err


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", ["mcc", "shot", "tent"])
def test_kill_9_in_a_unit_and_the_same_command_gives_the_same_bytes(command, tmp_path, method):
    """Joint, target, stream: killed while it runs; a stream leaves no state and starts anew."""
    options = [
        *TINY, "cache_dir=cache", "norms=[bn]", f"methods=[none,{method}]", "finetune.epochs=6",
        "finetune.evaluations=2", *(["method.tent.recipe.batch_size=2"] if method == "tent" else []),
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run_office31.py"), *options, "out=out"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    adapted = Store(Path("out"))

    def running() -> bool:
        for run in adapted.runs():
            is_method = run.config()["unit"]["factors"]["method"] == method
            begun = (run.path / ("lease" if method == "tent" else "last.ckpt")).exists()
            if is_method and begun and not (run.path / "record.json").exists():
                return True
        return False

    while not running():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert main([*options, "out=out"]) == 0
    assert main([*options, "out=undisturbed"]) == 0
    assert Path("out/accuracy.csv").read_bytes() == Path("undisturbed/accuracy.csv").read_bytes()
