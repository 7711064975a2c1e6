"""Studies of the paper's classification tables: each composes at full size, and runs at the smallest."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from da_wa.cli import main
from da_wa.config.compose import compose
from da_wa.config.make import make
from da_wa.data.cache import decode_domains
from da_wa.data.fitting import fitted
from da_wa.records.design import read_design
from da_wa.records.store import Store
from da_wa.runs import inputs
from da_wa.runs.preflight import preflight, refused
from da_wa.shipped import conf_dir
from da_wa.studies.grid import Grid, _first_seeds_first, _trainable
from da_wa.studies.run import composed
from da_wa.studies.study import Bench
from da_wa.train.recipe import make_recipe

FILES = [path for path in sorted((conf_dir() / "study").glob("*.yaml")) if "grid.Grid" in path.read_text()]
NAMES = [path.stem for path in FILES]


def study(name: str) -> Grid:
    return make(yaml.safe_load((conf_dir() / "study" / f"{name}.yaml").read_text()))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def images(tmp_path_factory, draw_tree) -> Path:
    """Training images for one batch of 64, six classes; read-only by agreement."""
    root, classes = tmp_path_factory.mktemp("images"), ("apple", "bear", "clock", "dolphin", "elm", "fox")
    draw_tree(root, domains=("train",), classes=classes, per_class=11, side=32, seed=1)
    return draw_tree(root, domains=("test", "val"), classes=classes, per_class=2, side=32, seed=2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def made() -> set[tuple[str, str]]:
    """Networks and norms that were made already: studies share many."""
    return set()


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_of_the_full_scope_composes_and_its_networks_can_be_made(name, made):
    for experiment in composed([f"study={name}", "scope=full"]).values():
        assert experiment.cfg["sources"] == ["train"]
        impossible = set(refused(experiment))
        one = experiment.cfg["finetune"]["batch_size"] == 1
        if "batch_size" in study(name).factors:  # else precision would be decided for each
            assert experiment.cfg["trainer"]["precision"] == "32-true"
        assert impossible == ({"bn", "bn_wa"} & set(experiment.norms) if one else set())
        models = json.dumps(experiment.models)
        norms = {n: node for n, node in experiment.norms.items() if n not in impossible and (models, n) not in made}
        preflight(replace(experiment, norms=norms), [], [])
        made |= {(models, norm) for norm in norms}


@pytest.mark.parametrize("name", NAMES)
def test_the_small_scope_composes_and_a_network_of_it_can_be_made(name):
    grid = study(name)
    experiment = compose([*grid.options("small"), *grid.parts("small")[-1].options])
    assert experiment.cfg["finetune"]["schedule"] == {"name": "one_cycle"}
    assert experiment.cfg["finetune"]["epochs"] <= 6
    norm = next(iter(experiment.norms))
    preflight(replace(experiment, norms={norm: experiment.norms[norm]}), [], [])


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_every_study_runs(name, tmp_path, images, cache, capsys, monkeypatch):
    """Its folders are read once, however many experiments it has, and decoded once."""
    scanned, decoded = [], []
    monkeypatch.setattr(inputs, "fitted", lambda found, *how: scanned.append(found.names) or fitted(found, *how))
    monkeypatch.setattr(
        inputs, "decode_domains", lambda found, *how: decoded.append(found.names) or decode_domains(found, *how)
    )
    out = tmp_path / "out"
    command = [
        f"study={name}", "scope=smoke", f"out={out}", f"data.root={images}", f"cache_dir={cache}",
        "launcher.workers=1", "launcher.threads=1",
    ]  # fmt: skip
    known = compose(study(name).options("smoke")).cfg["data"]
    assert main([*command, *(["data.verify=false"] if "verify" in known else [])]) == 0
    assert len(scanned) == 1
    assert decoded.count(scanned[0]) == 1 + (name == "finetune_wa")  # the images of its pre-training are the same
    design = json.loads((out / "study.json").read_text())
    cells = rows(out / "table.csv")
    assert len(cells) == math.prod(len(levels) for levels in design["factors"].values())
    for cell in cells:
        impossible = cell.get("batch_size") == "1" and cell["norm"] in ("bn", "bn_wa") if "norm" in cell else False
        assert bool(cell["note"]) == impossible
        assert all((cell[measure] == "") == impossible for measure in design["measures"]), cell
        assert cell["seeds"] == ("0" if impossible else "1")
        assert cell["images"] == ("0" if impossible else "12")
    named = {row["claim"] for row in rows(out / "claims.csv")}
    assert named
    assert {row["verdict"] for row in rows(out / "claims.csv")} <= {"holds", "does not", "open", "not run"}
    assert "What of the paper holds" in capsys.readouterr().out
    if "top5_error" in design["measures"]:
        assert {(c["model"], c["norm"]): float(c["top5_error"]) for c in cells} == top5_errors(out, design)


def top5_errors(out: Path, design: dict) -> dict[tuple[str, str], float]:
    """In percent by (model, norm), from the logits in the records."""
    found = {}
    for run in (run for folder in design["folders"] for run in Store(out / folder).runs()):
        record = run.verified()
        (test,) = run.outputs(record).domains.values()
        five = np.argsort(-test.logits[-1].astype(float), axis=-1, kind="stable")[:, :5]
        right = (five == test.labels[:, None]).any(axis=1).mean()
        found[record.factors.model, record.factors.norm] = pytest.approx(100 * (1 - right), abs=1e-3)
    return found


def test_imagenet_has_the_papers_recipe():
    """Sec. IV-D: 64 images, 100 epochs, 0.1 divided by ten at the 30th, 60th and 90th epoch; crops of 224 pixels."""
    assert study("table5").measures == ["error", "top5_error"]
    for experiment in composed(["study=table5", "scope=full"]).values():
        recipe = make_recipe(experiment.cfg["finetune"])
        optimizer = recipe.optimizer([torch.zeros(1, requires_grad=True)])
        schedule = recipe.schedule(optimizer, 100 * 10)  # ten steps an epoch
        rates = [schedule.lr_lambdas[0](step) * optimizer.defaults["lr"] for step in range(1000)]
        changes = [step / 10 for step in range(1, 1000) if rates[step] != rates[step - 1]]
        assert (recipe.batch_size, recipe.epochs, changes) == (64, 100, [30, 60, 90])
        assert rates[0::300] == pytest.approx([0.1, 0.01, 0.001, 0.0001])
        images = torch.zeros(2, 3, experiment.cfg["data"]["size"], 256, dtype=torch.uint8)
        assert recipe.view(images).shape == recipe.view.plain(images).shape == (2, 3, 224, 224)


def test_wa_afterwards_starts_from_the_network_trained_with_bn(tmp_path, images, cache):
    """The converted network keeps filters and classifier of the BN network; without training it is that network."""
    from da_wa.launchers.launch import launch, prepare

    grid = study("finetune_wa")
    (_, part) = grid.parts("smoke")
    words = [
        *grid.options("smoke"), *part.options, f"data.root={images}", "data.verify=false",
        f"cache_dir={cache}", f"out={tmp_path / 'out'}", f"checkpoint_dir={tmp_path / 'networks'}",
        "launcher.workers=1", "launcher.threads=1", "finetune.optimizer.lr=0.0",
    ]  # fmt: skip
    planned = prepare(compose(words), Console(quiet=True))
    assert len(planned.jobs) == 1 + 2  # one network, trained with BN
    launch(planned, Console(quiet=True))
    bn, bn_wa = (run.verified() for run in sorted(Store(tmp_path / "out").runs(), key=lambda run: run.id))
    assert bn is not None
    assert bn_wa is not None
    assert (bn.factors.norm, bn_wa.factors.norm) == ("bn", "bn_wa")
    assert bn.conversion is None
    assert bn_wa.conversion is not None
    assert list(bn_wa.conversion.replaced) == ["Conv2d -> WeightAlignConv2d"]
    assert bn.pretraining == bn_wa.pretraining
    assert bn.pretraining is not None
    assert abs(bn_wa.evaluations[-1].accuracy - bn.evaluations[-1].accuracy) <= 0.5


def test_cells_are_planned_as_the_study_says(tmp_path, images, cache):
    grid = study("table2")
    words = [*grid.options("full"), f"data.root={images}", "data.verify=false", f"cache_dir={cache}", "seeds=[0,1]"]
    bench = Bench(tmp_path, words, Console(quiet=True), math.inf)
    parts = grid.parts("full")
    assert [(part.folder, part.levels) for part in parts] == [
        ("batch_size-64", {"batch_size": "64"}),
        ("batch_size-1", {"batch_size": "1"}),
    ]
    trainable = [_trainable(bench.prepare(part.folder, part.options)) for part in parts]
    assert [sorted(reasons) for _, reasons in trainable] == [[], ["bn", "bn_wa"]]
    jobs = _first_seeds_first([planned for planned, _ in trainable])
    assert len(jobs) == 2 * (10 + 8)
    assert [job.config["unit"]["factors"]["seed"] for job in jobs] == [0] * 18 + [1] * 18
    rates = {(job.config["finetune"]["batch_size"], job.config["finetune"]["optimizer"]["lr"]) for job in jobs}
    assert rates == {(64, 0.01), (1, 0.001)}
    assert {job.config["finetune"]["epochs"] for job in jobs} == {300}


def test_the_users_norms_restrict_a_study(capsys):
    grid = study("table1")
    experiment = compose([*grid.options("full"), "norms=[bn,wa]"])
    assert list(experiment.norms) == ["bn", "wa"]
    assert main(["study=tabel1"]) == 2
    assert "Did you mean 'table1'" in capsys.readouterr().err


def test_a_command_with_other_norms_adds_to_the_table(tmp_path, images, cache, monkeypatch):
    monkeypatch.setattr("da_wa.studies.study.launch", lambda planned, console, jobs: "this")
    out = tmp_path / "out"
    words = [
        "study=table2",
        "scope=full",
        f"data.root={images}",
        "data.verify=false",
        f"cache_dir={cache}",
        f"out={out}",
    ]
    for norms in "wa,bn", "gn", "none":
        main([*words, f"norms=[{norms}]", "stage=table"])
    own = list(study("table2").factors["norm"])
    design = read_design(out)
    assert design.factors["norm"] == sorted(["bn", "gn", "none", "wa"], key=own.index)
    assert (design.names["norm"]["bn"], design.names["norm"]["gn"]) == ("BN", "GN")
    assert design.norms["gn"] == {"weight": "plain", "activation": "gn"}
    assert [refusal.levels for refusal in design.refused] == [{"batch_size": "1", "norm": "bn"}]
    assert design.caption == study("table2").scopes["full"].caption + " Changed: data.verify=false."
    main([*(w for w in words if w != "scope=full"), "norms=[bn]", "scope=smoke", "stage=table"])  # a table of its own
    assert read_design(out).factors["norm"] == ["bn"]
    (out / "study.json").write_text("{")
    main([*words, "norms=[wa]", "stage=table"])
    assert read_design(out).factors["norm"] == ["wa"]


def test_a_study_that_was_submitted_is_not_out_of_time(tmp_path, images, cache, capsys, monkeypatch):
    submitted = []
    monkeypatch.setattr(
        "da_wa.studies.study.launch", lambda planned, console, jobs: submitted.append(len(jobs)) or "this"
    )
    command = ["study=table1", "scope=smoke", f"out={tmp_path / 'out'}", f"data.root={images}", f"cache_dir={cache}"]
    assert main([*command, "data.verify=false", "launcher=slurm", "launcher.detach=true"]) == 0
    said = capsys.readouterr().out
    assert "Submitted. Rerun the command when these runs are finished" in said
    assert f"Follow it with: da-wa watch out={tmp_path / 'out'}\n" in said
    assert "Time is up" not in said
    assert submitted == [3]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["study=table1", "methods=[none,mcc]"], "methods=[none,mcc]: study=table1 needs one method per"),
        (["study=table1", "models=[resnet18,resnet20]"], "Its factors: norm. Choose one model"),
        (["study=table3", "methods=[none,mcc]"], "Its factors: norm, model, batch_size. Choose one method"),
        (["study=table4", "models=[resnet18,resnet20]"], "It chooses vgg16, resnet18 itself. Leave models out"),
        (["study=table1", "sources=all"], "sources=all: study=table1 needs one source"),
    ],
)
def test_levels_that_the_table_does_not_show_are_refused(words, said, tmp_path, capsys):
    for more in ([f"out={tmp_path / 'out'}", "stage=table", "minutes=1e-9"], ["--cfg"]):
        assert main([*words, "scope=smoke", f"data.root={tmp_path / 'none'}", "data.download=false", *more]) == 2
        assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("study", ["table1", "why"])
def test_a_study_has_a_fixed_number_of_seeds(study, tmp_path, capsys):
    assert main([f"study={study}", "scope=smoke", f"out={tmp_path / 'out'}", "norms=[bn,wa]", "seeds=auto"]) == 2
    assert "seeds=auto: a study needs to know its seeds" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"measures": ["top5"]}, "measures: top5 is unknown. Did you mean 'top5_error'"),
        ({"measures": "eror"}, "measures: eror is unknown. Did you mean 'error'"),
        ({"measures": []}, "Known: accuracy, error, top5_accuracy, top5_error"),
        ({"factors": {"weight_decay": {"a": []}}}, "factors: weight_decay is unknown. Did you mean 'weight'"),
        ({"rows": ["model"]}, "rows ['model'] and columns [] must be the factors ['norm']"),
    ],
)
def test_mistakes_in_the_users_study_are_named_before_anything_is_planned(change, said, tmp_path, capsys):
    node = yaml.safe_load((conf_dir() / "study" / "table1.yaml").read_text())
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.yaml").write_text(yaml.safe_dump(node | change))
    assert main(["study=mine", f"out={tmp_path / 'out'}", "--config-dir", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("factors", "words", "said"),
    [
        (
            {"norm": ["bn"], "lr": {"small": ["finetune.optimizer.lr=0.01"], "0.1": ["finetune.optimizer.lr=0.1"]}},
            [],
            "factors.lr: with finetune.optimizer.lr=0.01 runs have lr=0.01, not small. Call the level 0.01",
        ),
        (
            {"norm": ["bn"], "size": {"32": ["methods=[mcc]", "method.mcc.weight=[0.1,1]"]}},
            [],
            "bn, 32: the table has one cell for the runs bn-mcc-",
        ),
        (
            {"norm": ["bn"], "method": ["none", "mcc"]},
            ["data=digits", "sources=[H]"],
            "Methods have a run for each target, so they need data with two domains",
        ),
    ],
)
def test_cells_that_cannot_be_filled_are_refused_before_anything_runs(factors, words, said, tmp_path, images, capsys):
    node = yaml.safe_load((conf_dir() / "study" / "table1.yaml").read_text())
    first, second = factors
    node |= {"factors": factors, "rows": [first], "columns": [second], "scopes": {"full": node["scopes"]["smoke"]}}
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.yaml").write_text(yaml.safe_dump(node))
    where = [f"out={tmp_path / 'out'}", f"cache_dir={tmp_path / 'cache'}", "--config-dir", str(tmp_path)]
    root = [] if words else [f"data.root={images}", "data.verify=false"]
    assert main(["study=mine", *words, *root, *where]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("record.json"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [", "is not valid YAML"),
        ("[1, 2]", "must contain options, one `name: value` per line"),
    ],
)
def test_a_file_that_is_not_valid_is_named(content, said, tmp_path, capsys):
    path = tmp_path / "study" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(content)
    assert main(["study=mine", f"out={tmp_path / 'out'}", "--config-dir", str(tmp_path)]) == 2
    assert f"error: {path} {said}" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "rows: [norm]"])
def test_a_file_that_names_no_class_is_no_study(content, tmp_path, capsys):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.yaml").write_text(content)
    assert main(["study=mine", f"out={tmp_path / 'out'}", "--config-dir", str(tmp_path)]) == 2
    assert "study=mine: its file needs the class of the study" in capsys.readouterr().err


def test_one_measure_needs_no_list():
    node = yaml.safe_load((conf_dir() / "study" / "table1.yaml").read_text())
    assert make({**node, "measures": "accuracy"}).measures == ["accuracy"]


@pytest.mark.parametrize("path", sorted((conf_dir() / "study").glob("*.yaml")), ids=lambda path: path.stem)
def test_options_of_every_study_are_known_beforehand(path):
    found = composed([f"study={path.stem}", "scope=smoke"])
    assert found and all(each.cfg["trainer"] for each in found.values())
