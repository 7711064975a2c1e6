"""The study behind Table VI: every stage on drawn images, in pieces, and a search that uses no target label."""

from __future__ import annotations

import csv
import json
import math
import shutil
import tarfile
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from rich.console import Console

from da_wa.cli import main
from da_wa.config.make import make
from da_wa.runs.jobs import PretrainJob
from da_wa.shipped import CHECKPOINTS, conf_dir
from da_wa.studies import table6
from da_wa.studies.study import Bench
from da_wa.studies.table6 import Recipe, Table6, _wide


def study() -> Table6:
    return make(yaml.safe_load((conf_dir() / "study" / "table6.yaml").read_text()))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.timeout(900)
def test_every_stage_and_nothing_twice(tmp_path, domains_root, cifar_root, monkeypatch, capsys):
    reported = []

    class Written:
        def __init__(self, folder: Path, **options) -> None:
            reported.append(folder.name)

        def summary(self) -> str:
            return ""

    monkeypatch.setattr("da_wa.studies.table6.write_report", Written)
    mine = tmp_path / "mine" / "study"
    mine.mkdir(parents=True)
    node = yaml.safe_load((conf_dir() / "study" / "table6.yaml").read_text())
    (mine / "table6.yaml").write_text(yaml.safe_dump({**node, "search": ["bn"]}))
    command = [
        "study=table6", "scope=smoke", f"out={tmp_path / 'out'}", "--config-dir", str(tmp_path / "mine"),
        f"cache_dir={tmp_path / 'pixels'}", "norms=[bn]", "launcher.workers=1", "data=folders",
        f"data.root={domains_root}", f"pretrain.root={cifar_root}", "pretrain.verify=false",
        "pretrain.recipe.batch_size=16", "finetune.batch_size=8", "model.build.widths=[2,4,4,4]", "launcher.threads=1",
        "sources=[paper,sunset]",
    ]  # fmt: skip
    out = tmp_path / "out"
    assert main([*command, "minutes=1e-9"]) == 0
    assert "Rerun the command to resume." in capsys.readouterr().out
    assert not list(tmp_path.rglob("record.json"))
    assert not list(tmp_path.rglob("*.safetensors"))

    assert main(command) == 0
    done = {path: path.stat().st_mtime_ns for path in out.rglob("record.json") if "records" not in path.parts}
    assert len(done) == 2 * (3 + 4)  # sources; three recipes are searched, two make tables under two protocols
    assert sorted(reported) == ["paper-recipe", "paper-recipe-paper-protocol", "table", "table-paper-protocol"]
    searched = rows(out / "search.csv")
    assert [(row["lr"], row["size"]) for row in searched[:2]] == [("0.01", "32"), ("0.001", "32")]
    assert searched[2]["size"] == "16"
    assert [(r["norm"], r["paper"]) for r in rows(out / "table1.csv")] == [
        ("BN", "23.02"),
        ("WA, Fixup gains", "24.92"),
    ]
    stages = rows(out / "stages.csv")
    assert sum(int(row["units"]) for row in stages) == len(done)
    assert all(0 < float(row["mfu"]) < 1 for row in stages), stages
    with tarfile.open(out / "records.tar.gz") as archive:
        assert sum(name.endswith("record.json") for name in archive.getnames()) == len(done)

    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done


@pytest.mark.timeout(600)
def test_a_packed_study_runs_without_the_image_files(tmp_path, draw_tree):
    domains = draw_tree(tmp_path / "domains", domains=("amazon", "webcam", "dslr"), per_class=8)
    for part, seed in (("train", 1), ("test", 2)):
        draw_tree(tmp_path / "cifar", domains=(part,), classes=("apple", "bear"), side=32, seed=seed)
    cache = tmp_path / "pixels"
    command = [
        "study=table6", "scope=smoke", f"out={tmp_path / 'out'}", f"cache_dir={cache}", "norms=[bn,bn_wa]",
        "launcher.workers=1", "launcher.threads=1", "sources=[A]", "data.verify=false", "pretrain.verify=false",
        "pretrain.recipe.batch_size=8", "finetune.batch_size=8", "model.build.widths=[2,4,4,4]",
    ]  # fmt: skip
    assert main([*command, "stage=pack", f"data.root={domains}", f"pretrain.root={tmp_path / 'cifar'}"]) == 0
    for images in (domains, tmp_path / "cifar"):
        shutil.rmtree(images)
    packed = [f"data.root={cache / 'domains.json'}", f"pretrain.root={cache / 'pretrain.json'}"]
    for stage in ("pretrain", "search"):
        assert main([*command, *packed, f"stage={stage}"]) == 0
    assert {row["size"] for row in rows(tmp_path / "out" / "search.csv")} == {"32", "16"}


def test_the_archive_has_the_finished_runs_that_exist(tmp_path):
    published = sorted(path.parent for path in (conf_dir().parent / "results").glob("*/runs/*/record.json"))[:2]
    out = tmp_path / "out"
    for run in published:
        shutil.copytree(run, out / "table" / "runs" / run.name)
    planned = out / "paper-recipe" / "runs" / published[0].name
    planned.mkdir(parents=True)
    shutil.copy(published[0] / "config.yaml", planned)

    def archived() -> list[str]:
        assert main(["study=table6", "scope=smoke", "stage=report", f"out={out}"]) == 0
        with tarfile.open(out / "records.tar.gz") as archive:
            return sorted(name for name in archive.getnames() if name.endswith("record.json"))

    names = [f"records/table/runs/{run.name}/record.json" for run in published]
    assert archived() == names
    shutil.rmtree(out / "table" / "runs" / published[1].name)
    assert archived() == names[:1]
    assert not list(out.glob(".*.part"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["study=table7"], "Did you mean 'table6'"),
        (["study=table6", "scope=smal"], "Did you mean 'small'"),
        (["study=table6", "stage=serach"], "Did you mean 'search'"),
        (["study=table6", "scope"], "'scope' has no value; write it, e.g. scope=small"),
        (["study=table6", "minutes=soon"], "minutes=soon"),
        (["study=table6", "minutes=nan"], "minutes=nan"),
        (["study=table6", "stage=table"], "run stage=search first"),
    ],
)
def test_mistakes_are_named_before_anything_runs(words, said, tmp_path, capsys):
    assert main([*words, f"out={tmp_path / 'out'}"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "said"),
    [("data.root=nowhere", "nowhere"), ("finetune.batch_size=4096", "fewer than one batch of 4096")],
)
def test_what_cannot_be_fine_tuned_is_named_before_networks_are_trained(
    word, said, tmp_path, domains_root, cifar_root, monkeypatch, capsys
):
    monkeypatch.setattr("da_wa.studies.study.launch", lambda *args: pytest.fail("networks are trained"))
    command = ["study=table6", "scope=smoke", f"out={tmp_path / 'out'}", f"cache_dir={tmp_path / 'pixels'}"]
    command += ["data=folders", f"data.root={domains_root}", f"pretrain.root={cifar_root}", "pretrain.verify=false"]
    assert main([*command, "norms=[bn]", word]) == 2
    assert said in capsys.readouterr().err


def test_a_recipe_is_used_only_for_what_it_was_searched_for(tmp_path, monkeypatch, capsys):
    """A file of an earlier version does not say what that was."""
    used = []
    monkeypatch.setattr(Table6, "_finetune", lambda self, bench, folder, options: used.append(options))
    selected(tmp_path, monkeypatch, lambda recipe: recipe.lr, lambda recipe: 0.5)
    monkeypatch.setattr(Table6, "_finetune", lambda self, bench, folder, options: used.append(options))
    path = tmp_path / "selected.json"
    command = ["study=table6", "stage=table", f"out={tmp_path}"]
    bench = Bench(tmp_path, study().options("full"), Console(quiet=True), math.inf)
    found = json.loads(path.read_text())
    del found["settings"]
    path.write_text(json.dumps(found))
    assert main([*command, "model=resnet18"]) == 0
    assert used[-1][:2] == ["data.size=32", "finetune.optimizer.lr=0.05"]
    bench.decide("selected.json", found, finetune=table6._finetuning(bench))
    assert main([*command, "norms=[bn]", "seeds=[7]", "launcher.workers=1"]) == 0
    used.clear()
    for word in "model=resnet18", "pretrain.recipe.epochs=3", "finetune.batch_size=8":
        assert main([*command, word]) == 2
        assert "selected.json was found with other settings" in capsys.readouterr().err
    assert not used


def test_options_of_the_report_are_those_of_the_command(tmp_path, monkeypatch):
    published = sorted(path.parent for path in (conf_dir().parent / "results").glob("*/runs/*/record.json"))[0]
    shutil.copytree(published, tmp_path / "out" / "table" / "runs" / published.name)
    given = []
    monkeypatch.setattr(table6, "write_report", lambda folder, **options: given.append(options) or Shown())
    compared = f"report.compare=[{tmp_path},{tmp_path / 'out' / 'table'}]"  # a stage is not compared with itself
    words = ["report.spread=std", "select=[entropy]", compared, "report.contrasts=[align]"]
    assert main(["study=table6", "scope=smoke", "stage=report", f"out={tmp_path / 'out'}", *words]) == 0
    [options] = given
    assert (options["spread"], list(options["select"])) == ("std", ["entropy"])
    assert (options["compare"], options["contrasts"]) == ([tmp_path], ["align"])


class Shown:
    """A report."""

    def summary(self) -> str:
        return ""


def test_the_search_needs_networks(tmp_path, domains_root, capsys):
    command = ["study=table6", "stage=search", f"out={tmp_path / 'out'}", f"cache_dir={tmp_path / 'pixels'}"]
    assert main([*command, "data=folders", f"data.root={domains_root}", "launcher.workers=1"]) == 2
    assert "their networks are missing" in capsys.readouterr().err


class Unit:
    """A unit that is done."""

    done = True


def selected(out: Path, monkeypatch, source, target) -> dict:
    """What the search selects when accuracies are functions of the recipe."""
    bench, tried = Bench(out, [], Console(quiet=True), math.inf), []

    def finetune(self, bench, folder, options):
        tried.append(folder.removeprefix("search/"))
        return [Unit()]

    def accuracies(units) -> pd.DataFrame:
        size, lr, schedule, epochs = tried[-1].split("-")
        recipe = Recipe(int(size[:-2]), float(lr[2:]), schedule, int(epochs[:-2]))
        found = [
            (norm, s, d, "source" if s == d else "target", (source if s == d else target)(recipe))
            for norm in ("bn", "bn_wa")
            for s in "AW"
            for d in "AW"
        ]
        return pd.DataFrame(found, columns=["norm", "source", "domain", "role", "accuracy"])

    monkeypatch.setattr(Table6, "_finetune", finetune)
    monkeypatch.setattr(table6, "_last_accuracies", accuracies)
    study().stages("full")["search"](bench)
    assert len(tried) == len(set(tried)) == 6 + 2 + 2
    return json.loads((out / "selected.json").read_text())


def test_the_search_follows_the_source_and_never_the_target(tmp_path, monkeypatch):
    def on_source(recipe) -> float:
        return 0.5 + (recipe.lr == 0.05) / 10 + (recipe.size == 64) / 20 + (recipe.epochs == 15) / 30

    first = selected(tmp_path / "1", monkeypatch, on_source, lambda recipe: recipe.size / 100)
    other = selected(tmp_path / "2", monkeypatch, on_source, lambda recipe: 1 - recipe.size / 100)
    assert first == other
    assert (first["lr"], first["size"], first["epochs"]) == (0.05, 64, 15)
    unused = [name for name in rows(tmp_path / "1" / "search.csv")[0] if "->" in name]
    assert unused
    assert all(name.startswith("not used: ") for name in unused)


def test_columns_of_the_search_are_means_over_networks():
    found = pd.DataFrame(
        [("bn", "A", d, r, a) for a in (0.2, 0.4) for d, r in (("A", "source"), ("W", "target"))],
        columns=["norm", "source", "domain", "role", "accuracy"],
    )
    assert _wide(found) == {
        "source_val bn A": "30.00",
        "not used: bn Avg": "30.00",
        "not used: bn A->W": "30.00",
    }


def test_one_model_is_searched(tmp_path, capsys):
    words = ["study=table6", "scope=smoke", "models=[resnet20,resnet18]", f"out={tmp_path / 'out'}", "stage=search"]
    assert main(words) == 2
    assert "study=table6 searches the recipe of one model" in capsys.readouterr().err


def test_of_equal_recipes_the_cheaper_is_selected(tmp_path, monkeypatch):
    equal = selected(tmp_path / "1", monkeypatch, lambda recipe: 0.5, lambda recipe: 0.5)
    assert (equal["size"], equal["epochs"]) == (32, 15)


def test_the_small_scope_starts_from_the_shipped_networks(tmp_path):
    """Nothing but their recipe ties them to it."""
    bench = Bench(tmp_path, study().options("small"), Console(quiet=True), time.monotonic() + 60)
    networks = [job for job in bench.prepare("table", ["sources=[]"]).jobs if isinstance(job, PretrainJob)]
    assert len(networks) == 10
    assert {network.checkpoint.parent for network in networks} == {CHECKPOINTS}


def test_every_scope_composes(tmp_path):
    for scope in study().scopes:
        Bench(tmp_path, study().options(scope), Console(quiet=True), 0.0).prepare("table", ["sources=[]"])
