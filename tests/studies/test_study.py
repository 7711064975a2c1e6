"""What all studies share: whose options count, folders, deadlines. Nothing is trained."""

from __future__ import annotations

import json
import math
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from da_wa.cli import main
from da_wa.config.compose import compose
from da_wa.config.make import make
from da_wa.errors import ConfigError
from da_wa.launchers.launch import Planned
from da_wa.shipped import conf_dir
from da_wa.studies import pretraining, table6
from da_wa.studies.grid import Grid
from da_wa.studies.pretraining import Pretraining
from da_wa.studies.run import _split
from da_wa.studies.study import Bench, Paused


def node(name: str) -> dict:
    return yaml.safe_load((conf_dir() / "study" / f"{name}.yaml").read_text())


def bench(out: Path, *words: str, ends: float = math.inf) -> Bench:
    """Of networks alone, so that no images are needed."""
    start = ["experiment=checkpoints", "norms=[bn]"]
    return Bench(out, start, Console(quiet=True), ends, words=words)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["study=table4", "scope=small", "finetune.epochs=12"], "finetune.epochs"),
        (["study=table2", "scope=full", "++finetune.batch_size=8"], "finetune.batch_size"),
        (["study=table6", "finetune.optimizer.lr=1"], "finetune.optimizer.lr"),
        (["study=table6", "finetune.optimizer={lr: 1}"], "finetune.optimizer.lr"),
        (["study=table6", "protocol=full"], "protocol"),
        (["study=table6", "data.size=48"], "data.size"),
        (["study=pretraining", "norms=[bn]"], "norms"),
        (["study=pretraining", "pretrain.seeds=[4]"], "pretrain.seeds"),
        (["study=pretraining", "pretrain.recipe.epochs=2"], "pretrain.recipe.epochs"),
        (["study=pretraining", "++pretrain.rates.bn=0.4"], "pretrain.rates"),
    ],
)
def test_an_option_without_effect_is_refused_before_anything_runs(words, name, tmp_path, capsys):
    for more in ["--cfg"], [f"out={tmp_path / 'out'}"], [f"out={tmp_path / 'out'}", "stage=report"]:
        assert main([*words, *more]) == 2
        assert f"the study sets {name} itself" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["report.spread=std", "select=[entropy]"])
def test_the_table_of_a_study_has_no_options_of_a_report(word, tmp_path, capsys):
    for more in ["--cfg"], [f"out={tmp_path / 'out'}"], [f"out={tmp_path / 'out'}", "stage=report"]:
        assert main(["study=table4", word, *more]) == 2
        assert f"{word}: the tables of this study do not depend on" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_another_recipe_of_a_group_is_no_option_of_the_study(capsys):
    assert main(["study=pretraining", "pretrain=cifar10", "--cfg"]) == 0
    assert "CIFAR-10" in capsys.readouterr().out


def test_table_vi_does_not_adapt(tmp_path, capsys):
    for stage, methods in ("search", "[none,mcc]"), ("pretrain", "[none,shot]"):
        assert main(["study=table6", f"stage={stage}", f"methods={methods}", f"out={tmp_path / 'out'}"]) == 2
        assert "study=table6 trains on the source only" in capsys.readouterr().err


def test_what_is_fine_tuned_can_be_chosen(tmp_path, monkeypatch):
    """The shipped options compose, and those of the command come before them."""
    prepared = []

    def prepare(self, folder, options):
        prepared.append(compose([*self.options, *self.words, *options]).cfg)
        raise Paused

    monkeypatch.setattr(Bench, "prepare", prepare)
    monkeypatch.setattr(Pretraining, "_accuracy", lambda *of_a_network: 0.5)
    (tmp_path / "selected.json").write_text(json.dumps(dict.fromkeys(node("pretraining")["norms"], 0.1)))
    (tmp_path / "matched.json").write_text("{}")
    command = ["study=pretraining", "scope=small", "stage=transfer", f"out={tmp_path}"]
    assert main(command) == main([*command, "seeds=[7]", "sources=[A]"]) == 0
    shipped, chosen = prepared
    assert (shipped["data"]["name"], shipped["sources"], shipped["seeds"]) == ("Office-31", "all", [0, 1, 2])
    assert (chosen["sources"], chosen["seeds"], chosen["finetune"]) == (["A"], [7], shipped["finetune"])
    assert (shipped["pretrain"]["seeds"], shipped["pretrain"]["epochs"]["bn"]) == ([0], 20)


def test_the_report_of_a_transfer_has_the_options_of_the_command(tmp_path, monkeypatch):
    given = []

    def prepare(self, folder, options):
        return Planned(compose([*self.options, *self.words, *options]), None, [])

    monkeypatch.setattr(Bench, "prepare", prepare)
    monkeypatch.setattr(Pretraining, "_accuracy", lambda *of_a_network: 0.5)
    monkeypatch.setattr(pretraining, "write_report", lambda out, **options: given.append(options) or Report())
    for name in "selected", "matched":
        (tmp_path / f"{name}.json").write_text(json.dumps(dict.fromkeys(node("pretraining")["norms"], 1)))
    assert main(["study=pretraining", "stage=transfer", f"out={tmp_path}", "report.spread=std"]) == 0
    assert [options["spread"] for options in given] == ["std", "std"]


class Report:
    """A report."""

    def summary(self) -> str:
        return ""


def test_rates_are_used_only_for_what_they_were_selected_for(tmp_path, capsys):
    """A file of an earlier version, or a copy without settings, is accepted."""
    options = make(node("pretraining")).options("full")
    rates = dict.fromkeys(node("pretraining")["norms"], 0.1)
    Bench(tmp_path, options, Console(quiet=True), math.inf).decide("selected.json", rates)
    for words, said in [
        ([], "no network is trained yet"),
        (["launcher.workers=1", "seeds=[4]", "finetune.epochs=3"], "no network is trained yet"),
        (["pretrain.recipe.batch_size=512"], "selected.json was found with other settings"),
        (["model=resnet18"], "run stage=search again"),
    ]:
        assert main(["study=pretraining", "stage=report", f"out={tmp_path}", *words]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "selected.json").write_text(json.dumps(rates))
    assert main(["study=pretraining", "stage=report", f"out={tmp_path}", "model=resnet18"]) == 2
    assert "no network is trained yet" in capsys.readouterr().err


def test_networks_are_where_the_command_says(tmp_path):
    for words, folder in ((), tmp_path / "networks"), ([f"checkpoint_dir={tmp_path / 'mine'}"], tmp_path / "mine"):
        (job,) = bench(tmp_path, *words).prepare("table").jobs
        assert job.path.parent == folder


def test_the_folder_of_a_study_may_have_any_name(tmp_path):
    out = tmp_path / "Drop, 'box' (Lab)"
    assert bench(out).prepare("table").out == out / "table"
    for quote in "'\"":
        chosen, rest = _split(["study=table1", f"out={quote}a (b){quote}", "norms=[bn]"])
        assert (chosen["out"], rest) == ("a (b)", ["norms=[bn]"])
    chosen, _ = _split(["study=table1", "out=~/tables"])
    assert chosen["out"] == str(Path.home() / "tables")


def test_the_earlier_deadline_counts(tmp_path, monkeypatch):
    limits = []
    monkeypatch.setattr(
        "da_wa.studies.study.launch",
        lambda planned, console, jobs: limits.append(planned.experiment.cfg["launcher"]["deadline_s"]),
    )
    for ends, words in (math.inf, ["launcher.deadline_s=60"]), (time.monotonic() + 3600, ["launcher.deadline_s=60"]):
        one = bench(tmp_path, *words, ends=ends)
        one.began -= 20
        for _ in range(2):  # of the whole command, not of each launch
            with pytest.raises(Paused):
                one.run(one.prepare("table", ["pretrain.seeds=[99]"]))
        assert one.ends == one.began + 60
    assert len(limits) == 4
    assert max(limits) <= 40


def test_in_a_queue_the_limit_of_a_worker_is_its_own(tmp_path, monkeypatch):
    limits = []
    monkeypatch.setattr(
        "da_wa.studies.study.launch",
        lambda planned, console, jobs: limits.append(planned.experiment.cfg["launcher"]["deadline_s"]),
    )
    for ends in (math.inf, time.monotonic() + 40):
        one = bench(tmp_path, "launcher=slurm", "launcher.deadline_s=60", ends=ends)
        one.began -= 3600  # the job of an earlier stage waited for an hour
        with pytest.raises(Paused):
            one.run(one.prepare("table", ["pretrain.seeds=[99]"]))
    assert limits[0] == 60 and limits[1] <= 40


@pytest.mark.parametrize("stage", ["search", "train"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["models=[resnet20,resnet18]"], "study=pretraining trains one model from scratch"),
        (["pretrain.checkpoint=da_wa/checkpoints"], "pretrain.checkpoint"),
    ],
)
def test_networks_are_trained_with_one_model(words, said, stage, tmp_path, capsys):
    (tmp_path / "selected.json").write_text(json.dumps({"bn": 0.1}))
    assert main(["study=pretraining", "scope=smoke", *words, f"out={tmp_path}", f"stage={stage}"]) == 2
    assert said in capsys.readouterr().err


def test_only_some_factors_are_lists():
    with pytest.raises(ConfigError, match=r"factors\.lr is a list; only norm, model, method may be one"):
        make(node("table1") | {"factors": {"norm": ["bn"], "lr": [0.1, 0.01]}, "columns": ["lr"]})


def test_levels_without_effect_on_results_are_refused(tmp_path, draw_tree):
    images = draw_tree(tmp_path / "images", domains=("train", "test"), classes=("a", "b"), per_class=40, side=32)
    sizes = {8: ["trainer.precision=32-true"], 16: ["trainer.precision=bf16-mixed"]}
    grid = make(node("table1") | {"factors": {"norm": ["bn"], "batch_size": sizes}, "columns": ["batch_size"]})
    assert isinstance(grid, Grid)
    words = [f"data.root={images}", "data.verify=false", f"cache_dir={tmp_path / 'cache'}"]
    one = Bench(tmp_path / "out", grid.options("smoke"), Console(quiet=True), math.inf, words=words)
    with pytest.raises(ConfigError, match=r"in batch_size-16 and in batch_size-8: it does not depend on trainer"):
        grid.stages("smoke")["table"](one)


def test_one_command_at_a_time_writes_the_archive(tmp_path, monkeypatch):
    events = []

    @contextmanager
    def locked(path):
        events.append("locked")
        yield
        events.append("free")

    monkeypatch.setattr(table6, "locked", locked)
    monkeypatch.setattr(table6.shutil, "rmtree", lambda *args, **options: events.append("removed"))
    monkeypatch.setattr(table6, "write_atomically", lambda *args: events.append("written"))
    table6._write_records(tmp_path, [])
    assert events == ["locked", "removed", "written", "free"]
