"""The script behind Table VI: every stage on drawn images, in pieces, and a search that sees no target."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def table6():
    spec = importlib.util.spec_from_file_location("table6", ROOT / "benchmarks" / "table6.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["table6"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["table6"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_every_stage_and_nothing_twice(table6, tmp_path, domains_root, cifar_root, monkeypatch, capsys):
    reported = []

    class Written:
        def __init__(self, folder: Path) -> None:
            reported.append(folder.name)

        def summary(self) -> str:
            return ""

    monkeypatch.setattr(table6, "write_report", Written)
    monkeypatch.setitem(table6.SCOPES, "smoke", replace(table6.SCOPES["smoke"], searched="[bn]"))
    command = [
        "--scope", "smoke", "--minutes", "90", "--out", str(tmp_path), "--pixels", str(tmp_path / "pixels"),
        "--norms", "bn", "--workers", "1",
        "data=folders",
        f"data.root={domains_root}", f"pretrain.root={cifar_root}", "pretrain.verify=false",
        "pretrain.recipe.batch_size=16",
        "finetune.batch_size=8", "model.build.widths=[2,4,4,4]", "launcher.threads=1", "sources=[paper,sunset]",
    ]  # fmt: skip
    assert table6.main([*command, "--minutes", "0"]) == 0
    assert "to go on: same command" in capsys.readouterr().out
    assert not list(tmp_path.rglob("record.json"))
    assert not list(tmp_path.rglob("*.safetensors"))

    assert table6.main(command) == 0
    out = tmp_path
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
    lines = (out / "search.md").read_text().splitlines()
    assert lines[0] == "| round | size | lr | schedule | epochs | source_val | not used: bn Avg |"
    assert [line.split(" | ")[2] for line in lines[2:]] == ["0.01", "0.001", searched[2]["lr"]]
    stages = rows(out / "stages.csv")
    assert {row["stage"] for row in stages} == {"pretrain", "gain-init", "search", "table", "paper-recipe"}
    assert all(int(row["flops"]) > 0 and 0 < float(row["mfu"]) < 1 for row in stages)
    with tarfile.open(out / "records.tar.gz") as archive:
        assert sum(name.endswith("record.json") for name in archive.getnames()) == len(done)

    assert table6.main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert rows(out / "stages.csv") == stages


def test_the_search_needs_networks_and_the_table_a_choice(table6, tmp_path, domains_root, capsys):
    common = [
        "--out",
        str(tmp_path),
        "--pixels",
        str(tmp_path / "pixels"),
        "data=folders",
        f"data.root={domains_root}",
        "--workers",
        "1",
    ]
    assert table6.main(["--stage", "table", *common]) == 2
    assert "run --stage search" in capsys.readouterr().err
    assert table6.main(["--stage", "search", *common]) == 2
    assert "networks are missing" in capsys.readouterr().err


class Run:
    """A run that is done."""

    def done(self) -> bool:
        return True


def chosen(table6, out: Path, monkeypatch, source, target) -> dict:
    """What the search chooses when accuracies are functions of the recipe."""
    bench = table6.Bench(out, out / "pixels", (), time.monotonic() + 60, Console(quiet=True), [])
    tried = []

    def finetune(stage, folder, options):
        tried.append(folder.removeprefix("search/"))
        return [Run()]

    def accuracies(runs):
        size, lr, schedule, epochs = tried[-1].split("-")
        recipe = table6.Recipe(int(size[:-2]), float(lr[2:]), schedule, int(epochs[:-2]))
        return {(n, s, d): (source if s == d else target)(recipe) for n in ("bn", "bn_wa") for s in "AW" for d in "AW"}

    monkeypatch.setattr(bench, "finetune", finetune)
    monkeypatch.setattr(table6, "accuracies", accuracies)
    out.mkdir()
    table6.search(bench, table6.SCOPES["full"])
    assert len(tried) == len(set(tried)) == 6 + 2 + 2
    return json.loads((out / "chosen.json").read_text())


def test_the_search_follows_the_source_and_never_the_target(table6, tmp_path, monkeypatch):
    def on_source(recipe) -> float:
        return 0.5 + (recipe.lr == 0.05) / 10 + (recipe.size == 64) / 20 + (recipe.epochs == 15) / 30

    first = chosen(table6, tmp_path / "1", monkeypatch, on_source, lambda recipe: recipe.size / 100)
    other = chosen(table6, tmp_path / "2", monkeypatch, on_source, lambda recipe: 1 - recipe.size / 100)
    assert first == other
    assert (first["lr"], first["size"], first["epochs"]) == (0.05, 64, 15)
    assert table6.chosen(tmp_path / "1") == table6.Recipe(64, 0.05, first["schedule"], 15)
    unused = [name for name in rows(tmp_path / "1" / "search.csv")[0] if "->" in name]
    assert unused
    assert all(name.startswith("not used: ") for name in unused)


def test_of_equal_recipes_the_cheaper_is_taken(table6, tmp_path, monkeypatch):
    equal = chosen(table6, tmp_path / "1", monkeypatch, lambda recipe: 0.5, lambda recipe: 0.5)
    assert (equal["size"], equal["epochs"]) == (32, 15)


def test_the_small_scope_starts_from_the_shipped_networks(table6, tmp_path):
    """Nothing but their recipe ties them to it."""
    bench = table6.Bench(tmp_path, tmp_path, table6.SCOPES["small"].options, 0.0, Console(quiet=True), [])
    networks = bench.networks()
    assert len(networks) == 10
    assert {network.checkpoint.parent for network in networks} == {ROOT / "da_wa" / "checkpoints"}
