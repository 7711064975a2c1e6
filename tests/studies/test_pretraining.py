"""The study of pre-training: a rate per norm on held-out training images, then several seeds."""

from __future__ import annotations

import csv
import json
import math
import tarfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from da_wa.cli import main
from da_wa.data.folders import from_folders
from da_wa.launchers.launch import Planned
from da_wa.runs.jobs import Job
from da_wa.shipped import conf_dir
from da_wa.studies import pretraining
from da_wa.studies.search import nearest_epochs, next_epochs


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def command(tmp_path, cifar_root) -> list[str]:
    """The smallest scope with one norm and rates that are not extended."""
    node = yaml.safe_load((conf_dir() / "study" / "pretraining.yaml").read_text())
    (tmp_path / "mine" / "study").mkdir(parents=True)
    own = node | {"norms": ["bn"], "rates": [0.1, 0.2], "limits": [0.1, 0.2]}
    (tmp_path / "mine" / "study" / "pretraining.yaml").write_text(yaml.safe_dump(own))
    return [
        "study=pretraining", "scope=smoke", f"out={tmp_path / 'out'}", "--config-dir", str(tmp_path / "mine"),
        f"cache_dir={tmp_path / 'pixels'}", f"pretrain.root={cifar_root}", "pretrain.verify=false",
        "pretrain.recipe.batch_size=8", "model.build.widths=[2,4,4]", "launcher.workers=1", "launcher.threads=1",
    ]  # fmt: skip


@pytest.mark.timeout(600)
def test_networks_are_trained_at_the_selected_rate(command, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(command) == 0
    searched = {float(row["lr"]): float(row["accuracy"]) for row in rows(out / "rates.csv")}
    assert list(searched) == [0.1, 0.2]
    assert {row["n"] for row in rows(out / "rates.csv")} == {"4"}  # of 4 x 12 training images; there are 16 test images
    selected = json.loads((out / "selected.json").read_text())["bn"]
    assert selected == max(sorted(searched), key=searched.__getitem__)
    trained = rows(out / "pretraining.csv")
    assert [(row["norm"], row["seed"], float(row["lr"]), row["n"]) for row in trained] == [
        ("bn", "0", selected, "16"),
        ("bn", "1", selected, "16"),
    ]
    assert (out / "curves.png").stat().st_size
    for row in trained:
        card = (out / "cards" / f"{row['network']}.md").read_text()
        assert f"{100 * float(row['accuracy']):.1f} % of 16 |" in card
        for other in trained:
            assert f"seed {other['seed']}: {100 * float(other['accuracy']):.1f} %" in card
        for rate, accuracy in searched.items():
            assert f"{rate}: {100 * accuracy:.1f} %" in card
        code = card.split("```python\n")[1].split("```")[0]
        loaded: dict[str, Any] = {}
        exec(code.replace('Path("', f'Path("{out / "networks"}/'), loaded)
        kept = load_file(out / "networks" / f"{row['network']}.safetensors")
        weights = loaded["model"].stem[0].weight
        assert torch.equal(weights, kept["stem.0.weight"].to(weights.dtype))
        recipe = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
        assert (recipe["epochs"], recipe["optimizer"]["lr"], recipe["seed"]) == (1, selected, int(row["seed"]))
    first, second = (row["network"] for row in trained)
    packed = (out / "networks.tar").read_bytes()
    with tarfile.open(out / "networks.tar") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    kept = [out / "networks" / f"{row['network']}.safetensors" for row in trained]  # not those of the search
    cards = list((out / "cards").iterdir())
    files = {path.name: path for path in (*kept, *cards)}
    assert {path.name for path in (tmp_path / "unpacked").iterdir()} == files.keys()
    for name, path in files.items():
        assert (tmp_path / "unpacked" / name).read_bytes() == path.read_bytes()
    assert main([*command, "stage=report"]) == 0
    assert (out / "networks.tar").read_bytes() == packed
    assert [row["state"] for row in trained] == ["trained", "trained"]
    (out / "networks" / f"{second}.safetensors").unlink()
    assert main([*command, "stage=report"]) == 0
    assert [row["state"] for row in rows(out / "pretraining.csv")] == ["trained", "not trained"]
    assert "seed 1" not in (out / "cards" / f"{first}.md").read_text()  # not trained is not diverged
    ended = {"error": {"epoch": 1, "message": "NaN"}, "curve": []}
    (out / "networks" / f"{second}.diverged.json").write_text(json.dumps(ended))
    assert main([*command, "stage=report"]) == 0
    assert "seed 1: diverged" in (out / "cards" / f"{first}.md").read_text()
    assert [row["state"] for row in rows(out / "pretraining.csv")] == ["trained", "diverged"]
    (out / "rates.csv").rename(tmp_path / "rates.csv")
    capsys.readouterr()
    assert main([*command, "stage=report"]) == 2
    assert "has no rates.csv" in capsys.readouterr().err
    (tmp_path / "rates.csv").rename(out / "rates.csv")
    with tarfile.open(out / "networks.tar") as archive:  # elsewhere it is not trained again
        assert json.load(archive.extractfile(f"{second}.diverged.json")) == ended


@pytest.mark.timeout(900)
def test_matched_networks_are_fine_tuned_beside_those_of_the_whole_budget(command, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    node = yaml.safe_load((tmp_path / "mine" / "study" / "pretraining.yaml").read_text())
    node["norms"] = ["bn", "none"]
    node["transfer"] = ["sources=[H]", "data=digits", "finetune=demo", "finetune.epochs=1", "seeds=[0]"]
    node["scopes"]["smoke"]["epochs"] = 4
    (tmp_path / "mine" / "study" / "pretraining.yaml").write_text(yaml.safe_dump(node))
    told = {4: {"bn": 0.6, "none": 0.3}, 2: {"bn": 0.4}, 1: {"bn": 0.31}}  # of the two norms, by epochs

    def outcome(job):
        result = real(job)
        if result["accuracy"] is None:
            return result
        known = told.get(result["epochs"], {}).get(job.config["facts"]["norm"]["name"], 0.2)
        return result | {"accuracy": known - 0.1 * job.config["facts"]["seed"]}

    real = pretraining._outcome
    monkeypatch.setattr(pretraining, "_outcome", outcome)
    assert main(command) == 0
    matched = {(row["norm"], row["seed"]): (row["epochs"], row["level"]) for row in rows(out / "matched.csv")}
    assert matched == {(norm, seed): (n, "0.3") for norm, n in (("bn", "1"), ("none", "4")) for seed in "01"}
    misses = {(row["norm"], row["seed"]): float(row["miss"]) for row in rows(out / "matched.csv")}
    assert misses == pytest.approx({("bn", "0"): 0.01, ("bn", "1"): -0.09, ("none", "0"): 0, ("none", "1"): -0.1})
    told_apart = capsys.readouterr().out
    assert "match: bn is -4.0 points from the level" in told_apart
    cards = [path.read_text() for path in (out / "cards").iterdir()]
    assert len(cards) == 6  # both seeds of none at 4 epochs, of bn at 4 and at 1
    shorter = [card for card in cards if "epochs: 1\n" in card]
    assert len(shorter) == 2
    assert all("seed 0: 31.0 %, seed 1: 21.0 %" in card for card in shorter)  # of the same epochs only
    network = next(r["network"] for r in rows(out / "pretraining.csv") if (r["norm"], r["seed"]) == ("none", "1"))
    late = out / "networks" / f"{network}.safetensors"
    late.rename(tmp_path / late.name)
    decided = out / "matched.json"
    decided.rename(tmp_path / decided.name)
    assert main([*command, "stage=transfer"]) == 0
    told_apart = capsys.readouterr().out
    assert "transfer: seed 1 without none: not trained yet, or diverged" in told_apart
    assert "matched.json is written by stage=match" in told_apart.replace("\n", " ")
    assert not (out / "transfer_matched").exists()
    (tmp_path / decided.name).rename(decided)
    selected = json.loads((out / "selected.json").read_text())
    (out / "selected.json").write_text(json.dumps(selected | {"bn": 3 * selected["bn"]}))  # as after another search
    assert main([*command, "stage=report"]) == 2
    assert "run stage=match again" in capsys.readouterr().err.replace("\n", " ")
    (out / "selected.json").write_text(json.dumps(selected))
    assert main([*command, "stage=transfer"]) == 0
    assert len(list((out / "transfer").glob("runs/*/record.json"))) == 3  # of the networks that are there
    assert not late.exists()  # and none is trained for it
    (tmp_path / late.name).rename(late)
    assert main([*command, "stage=transfer"]) == 0
    for folder, epochs in ("transfer", {"bn": 4, "none": 4}), ("transfer_matched", {"bn": 1, "none": 4}):
        records = [json.loads(path.read_text()) for path in (out / folder).glob("runs/*/record.json")]
        factors = [record["factors"] for record in records]
        assert {f["norm"]: f["pretraining_epochs"] for f in factors} == epochs
        assert {r["factors"]["norm"]: r["pretraining"]["epochs"] for r in records} == epochs  # of the file
        assert {(f["norm"], f["pretraining_seed"]) for f in factors} == set(product(epochs, (0, 1)))
        assert (out / folder / "table.md").exists()


@pytest.mark.timeout(600)
def test_a_norm_whose_shorter_training_diverges_is_left_out_of_the_match(command, tmp_path, monkeypatch, capsys):
    path = tmp_path / "mine" / "study" / "pretraining.yaml"
    node = yaml.safe_load(path.read_text())
    node["norms"] = ["bn", "none"]
    node["scopes"]["smoke"] |= {"epochs": 4, "seeds": [0]}
    path.write_text(yaml.safe_dump(node))

    def outcome(job):
        result = real(job)
        told = {("bn", 4): 0.6, ("none", 4): 0.3}
        known = told.get((job.config["facts"]["norm"]["name"], result["epochs"]))
        shorter = result["epochs"] in (2, 3)
        return result | ({"accuracy": known} if known is not None else {"accuracy": None} if shorter else {})

    real = pretraining._outcome
    monkeypatch.setattr(pretraining, "_outcome", outcome)
    for stage in ("search", "train", "match"):
        assert main([*command, f"stage={stage}"]) == 0
    told = capsys.readouterr().out
    assert "match: the level is 30.0 %, that of none" in told
    assert "match: bn left out: it diverged with 2 epochs" in told
    assert {row["norm"] for row in rows(tmp_path / "out" / "matched.csv")} == {"none"}


def test_epochs_of_a_match_are_found_on_any_curve():
    for level, steepness in product((0.05, 0.2, 0.35, 0.5, 0.6), (0.05, 0.1, 0.3, 1.0)):
        curve = {n: 0.6 * (1 - math.exp(-steepness * n)) / (1 - math.exp(-steepness * 20)) for n in range(1, 21)}
        best = min(abs(accuracy - level) for accuracy in curve.values())
        for guesses in {}, {2: 0.1}, {2: 0.5}:
            known = {20: curve[20]}
            while (n := next_epochs(known, level, 0.01, guesses)) is not None:
                assert n not in known
                known[n] = curve[n]
            assert abs(known[nearest_epochs(known, level)] - level) <= max(best, 0.01)


def test_a_training_that_was_killed_does_not_count_as_diverged(command, tmp_path, monkeypatch, capsys):
    def killed(planned: Planned, console, jobs: Sequence[Job]) -> str:
        for job in jobs:
            job.register()
            job.fail("killed", "this")
        return "this"

    monkeypatch.setattr("da_wa.studies.study.launch", killed)
    assert main([*command, "stage=search"]) == 2
    assert "search: 2 of 2 trainings failed: " in capsys.readouterr().err
    assert not (tmp_path / "out" / "selected.json").exists()


def test_a_report_needs_trained_networks(command, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "selected.json").write_text('{"bn": 0.1}')
    assert main([*command, "stage=report"]) == 2
    assert "no network is trained yet: run stage=train" in capsys.readouterr().err
    assert main([*command, "stage=transfer"]) == 2
    assert "no network is trained yet: run stage=train first" in capsys.readouterr().err
    assert main([*command, "stage=match"]) == 2
    assert "no network is trained yet: run stage=train first" in capsys.readouterr().err


def test_images_are_looked_for_once_and_not_for_every_training(command, monkeypatch):
    looked = []

    def counted(*args, **options):
        looked.append(args)
        return from_folders(*args, **options)

    monkeypatch.setattr("da_wa.data.cifar.from_folders", counted)
    monkeypatch.setattr("da_wa.data.cifar._verified", lambda found, classes: found)
    monkeypatch.setattr("da_wa.launchers.local.Local.__call__", lambda self, work: None)  # ends without a training
    main([*command, "pretrain.verify=true", "stage=search"])
    assert len(looked) == 1
