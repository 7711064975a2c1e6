"""The real command, end to end, on images that the tests draw."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from da_wa import api
from da_wa.cli import main
from da_wa.errors import DataError
from da_wa.runs.inputs import refuse_among_images

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "model=resnet20", "model.build.widths=[4,4,4]", "model.build.depths=[1,1,1]", "data.size=16", "seeds=[0]",
    "finetune.epochs=2", "finetune.batch_size=8", "finetune.evaluations=2", "launcher.workers=1",
    "trainer.save_every_s=0",
]  # fmt: skip


@pytest.fixture
def experiment(tmp_path: Path, domains_root: Path) -> list[str]:
    """Options of a tiny experiment: three drawn domains, no pre-training."""
    return [
        "data=folders", f"data.root={domains_root}", "pretrain=none", *TINY,
        f"out={tmp_path / 'out'}", f"cache_dir={tmp_path / 'cache'}", f"checkpoint_dir={tmp_path / 'checkpoints'}",
    ]  # fmt: skip


def pretraining(experiment: list[str], cifar_root: Path, *options: str) -> list[str]:
    """The same with pre-training on drawn images."""
    without = [o for o in experiment if not o.startswith("pretrain")]
    return [*without, *options, f"pretrain.root={cifar_root}", "pretrain.verify=false", "pretrain.recipe.batch_size=8"]


def accuracy(out: Path) -> list[dict[str, str]]:
    with (out / "accuracy.csv").open() as file:
        return list(csv.DictReader(file))


def records(out: Path) -> dict[str, bytes]:
    return {p.parent.name: p.read_bytes() for p in (out / "runs").glob("*/record.json")}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["data.root=."], "out=out/folders-resnet20 lies in {here}"),
        (["data.root=.", "out=."], "out=. lies in {here}"),
        (["data.root=.", "out=.out", "cache_dir=cache"], "cache_dir=cache lies in {here}"),
        (
            ["data.root=.", "out=../out", "checkpoint_dir=paper/networks"],
            "checkpoint_dir=paper/networks lies in {here}",
        ),
        (["data.root=.", "data.folders={P: paper, S: sunset}", "out=paper/out"], "out=paper/out lies in {here}/paper"),
        (["data.root=../other", "+data.extra.P=paper", "out=paper/out"], "out=paper/out lies in {here}/paper"),
    ],
)
def test_nothing_is_written_where_it_would_become_a_domain_or_a_class(
    options, said, draw_tree, tmp_path, monkeypatch, capsys
):
    here = draw_tree(tmp_path / "images")
    draw_tree(tmp_path / "other")
    monkeypatch.chdir(here)
    before = sorted(tmp_path.rglob("*"))
    elsewhere = [f"{key}={tmp_path / key}" for key in ("cache_dir", "checkpoint_dir")]
    assert main(["data=folders", *TINY, "pretrain=none", "norms=[bn]", *elsewhere, *options]) == 2
    assert f"{said.format(here=here)}, where every folder is" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_hidden_folders_and_folders_beside_chosen_domains_may_hold_results():
    """As they are no domains; Office-31 has chosen folders too."""
    hidden = {"out": Path("images/.out"), "cache_dir": Path(".cache/pixels")}
    refuse_among_images({"root": "images", "folders": None, "extra": {}}, hidden)
    beside = {"out": Path("images/out")}
    refuse_among_images({"root": "images", "folders": {"P": "paper"}, "extra": {}}, beside)
    for data in ({"root": "images"}, {"root": 1, "folders": ["of", "the user's own"]}, {}):
        refuse_among_images({**data, "extra": {}}, beside)


def test_all_pairs_from_one_command(experiment, tmp_path, capsys):
    assert main([*experiment, "norms=[bn,wa]"]) == 0
    out = tmp_path / "out"
    for name in ("accuracy.csv", "matrix.csv", "table.tex", "table.md", "heatmap.png", "heatmap.pdf"):
        assert (out / name).stat().st_size > 0, name
    rows = [row for row in accuracy(out) if row["selection"] == "last"]
    pairs = {(row["source"], row["target"]) for row in rows if row["source"] != row["target"]}
    assert pairs == {
        (s, t) for s in ("blueprint", "paper", "sunset") for t in ("blueprint", "paper", "sunset") if s != t
    }
    assert {row["n"] for row in rows if row["source"] != row["target"]} == {"24"}
    with (out / "matrix.csv").open() as file:
        header, *body = csv.reader(file)
    assert header[-3:] == ["Avg", "Avg low", "Avg high"]
    assert len(header) == 1 + 3 * (6 + 1)  # every number and its interval
    assert [line[0] for line in body] == ["WA", "BN"]
    for line in body:
        values, low, high = (list(map(float, line[k::3])) for k in (1, 2, 3))
        assert values[-1] == pytest.approx(sum(values[:-1]) / 6, abs=0.01)
        assert all(lower <= value <= upper for value, lower, upper in zip(values, low, high, strict=True))
    assert "6/6" in capsys.readouterr().out


def test_the_same_command_again_runs_nothing_and_rewrites_the_report(experiment, tmp_path):
    out = tmp_path / "out"
    assert main([*experiment, "norms=[bn]", "sources=[paper]"]) == 0
    first, table = records(out), (out / "accuracy.csv").read_bytes()
    (out / "accuracy.csv").unlink()
    assert main([*experiment, "norms=[bn]", "sources=[paper]"]) == 0
    assert records(out) == first
    assert (out / "accuracy.csv").read_bytes() == table


def test_more_norms_into_the_same_folder_make_one_table(experiment, tmp_path):
    out = tmp_path / "out"
    assert main([*experiment, "norms=[bn]"]) == 0
    first = records(out)
    assert main([*experiment, "norms=[ln_wa]"]) == 0
    assert {row["norm"] for row in accuracy(out)} == {"bn", "ln_wa"}
    assert all(records(out)[run] == content for run, content in first.items())


def test_two_runs_give_identical_tables_whoever_computed_them(experiment, tmp_path):
    """Alone in one process, or packed with others in two."""
    options = [*experiment, "norms=[bn_wa]", "launcher.threads=1"]
    assert main([*options, f"out={tmp_path / 'one'}"]) == 0
    assert main([*options, f"out={tmp_path / 'two'}", "launcher.workers=2"]) == 0
    assert (tmp_path / "one" / "accuracy.csv").read_bytes() == (tmp_path / "two" / "accuracy.csv").read_bytes()


def test_pretraining_happens_once_and_is_shared(experiment, tmp_path, cifar_root, capsys):
    options = pretraining(experiment, cifar_root, "pretrain=cifar100_short", "pretrain.recipe.epochs=1")
    assert main([*options, "norms=[bn]"]) == 0
    (checkpoint,) = (tmp_path / "checkpoints").glob("*.safetensors")
    written = checkpoint.stat().st_mtime_ns
    record = json.loads(next((tmp_path / "out").glob("runs/*/record.json")).read_text())
    assert record["pretraining"]["name"] == checkpoint.stem
    assert record["pretraining"]["n"] == 16  # test images drawn by the fixture
    assert main([*options, "norms=[bn]", "seeds=[1]", f"out={tmp_path / 'other'}"]) == 0
    assert checkpoint.stat().st_mtime_ns == written
    # The same network given by path, and one of another norm.
    given = [
        *[o for o in experiment if o != "pretrain=none"],
        f"pretrain.checkpoint={checkpoint}",
        f"out={tmp_path / 'given'}",
    ]
    assert main([*given, "norms=[bn]", "sources=[paper]"]) == 0
    assert main([*given, "norms=[bn_wa]", "sources=[paper]"]) == 2
    assert "with norm bn_wa: it was trained with another norm" in capsys.readouterr().err


def test_a_pretraining_that_diverged_is_told_and_not_tried_again(experiment, tmp_path, cifar_root, capsys):
    options = [
        *pretraining(experiment, cifar_root, "pretrain=cifar100", "pretrain.recipe.epochs=3"),
        "pretrain.recipe.optimizer.lr=1e10",  # one_cycle starts at a twenty-fifth of it
        "norms=[none]",
        "sources=[paper]",
    ]
    assert main(options) == 1
    (told,) = (tmp_path / "checkpoints").glob("*.diverged.json")
    known = json.loads(told.read_text())
    assert known["error"]["epoch"] == len(known["curve"]) + 1 <= 3
    assert known["provenance"]["torch"]
    written = told.stat().st_mtime_ns
    for _ in range(2):
        said = capsys.readouterr().out
        assert "which it starts from, failed: the training loss was" in said
        assert f"delete {told}" in said
        assert main(options) == 1
    assert told.stat().st_mtime_ns == written
    assert not list((tmp_path / "checkpoints").glob("*.ckpt"))
    assert not list((tmp_path / "checkpoints").glob("*.safetensors"))
    told.unlink()
    assert main([*options, "pretrain.recipe.optimizer.lr=0.001"]) == 0


def test_norms_with_the_same_parameters_are_told_apart(experiment, tmp_path, capsys):
    shipped = next((ROOT / "da_wa" / "checkpoints").glob("resnet20-*-gn-*.safetensors"))
    options = [o for o in experiment if o != "pretrain=none" and not o.startswith("model.build")]
    assert main([*options, f"pretrain.checkpoint={shipped}", "norms=[ln]", "sources=[paper]"]) == 2
    assert "resnet20 with norm ln: it was trained with another norm" in capsys.readouterr().err


def test_networks_of_other_images_are_other_networks(experiment, tmp_path, cifar_root, draw_tree, capsys):
    options = [o for o in experiment if not o.startswith("pretrain")]
    options += [
        "pretrain=cifar100",
        "pretrain.recipe.epochs=1",
        "pretrain.recipe.batch_size=8",
        "norms=[bn]",
        "sources=[]",
    ]
    assert main([*options, f"pretrain.root={cifar_root}"]) == 2
    assert "pretrain.verify=false" in capsys.readouterr().err
    other = draw_tree(tmp_path / "other", domains=["train", "test"], per_class=4)
    for root in (cifar_root, other, cifar_root):
        assert main([*options, f"pretrain.root={root}", "pretrain.verify=false"]) == 0
        assert "sources=[]: nothing is fine-tuned; 1 of 1 networks are pre-trained" in capsys.readouterr().out
    assert len(list((tmp_path / "checkpoints").glob("*.safetensors"))) == 2


def test_one_more_domain(experiment, tmp_path, draw_tree):
    extra = draw_tree(tmp_path / "more", domains=["neon"], per_class=3) / "neon"
    assert main([*experiment, "norms=[bn]", "sources=[sunset]", f"+data.extra.neon={extra}"]) == 0
    assert {r["target"]: r["n"] for r in accuracy(tmp_path / "out") if r["target"] != r["source"]}["neon"] == "9"


def test_a_diverged_run_leaves_a_hole_and_the_others_go_on(experiment, tmp_path, capsys):
    options = [*experiment, "sources=[paper]"]
    assert main([*options, "norms=[none]", "finetune.optimizer.lr=1e20"]) == 1
    assert main([*options, "norms=[bn]", "finetune.optimizer.lr=1e20"]) in (0, 1)
    record = json.loads(next((tmp_path / "out").glob("runs/none-*/record.json")).read_text())
    assert record["status"] == "diverged"
    assert record["error"]["epoch"] == 1
    assert record["evaluations"] == []
    said = capsys.readouterr().out
    assert "epoch 1" in said
    assert "FAILED" in said  # while the others run, not only in the table


def test_another_experiment_in_the_same_folder_is_refused_before_it_runs(experiment, tmp_path, capsys):
    options = [*experiment, "norms=[bn]", "sources=[paper]"]
    assert main(options) == 0
    before = sorted((tmp_path / "out" / "runs").iterdir())
    assert main([*options, "finetune.epochs=3", "finetune.optimizer.lr=0.5"]) == 2
    said = capsys.readouterr().err
    assert "finetune.epochs: 2 there, 3 now" in said
    assert "finetune.optimizer.lr: 0.001 there, 0.5 now" in said
    assert "out=DIR" in said
    assert sorted((tmp_path / "out" / "runs").iterdir()) == before
    assert main(options) == 0


def test_a_refused_command_plans_nothing(experiment, tmp_path):
    assert main([*experiment, "norms=[bn]", "finetune.optimizer.lr=-1"]) == 2
    assert not list((tmp_path / "out").glob("runs/*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["norms=[bnn]"], "Did you mean 'bn'"),
        (["model=resnet51"], "resnet50"),
        (["finetune.epoch=3"], "finetune.epochs"),
        (["sources=[papre]"], "Did you mean 'paper'"),
        (["data.size=4"], "data.size=4 is too small for resnet20, which needs images of 8 pixels"),
        (["data.root=/does/not/exist"], "/does/not/exist"),
        (["finetune.epochs=0"], "finetune.epochs=0"),
        (["finetune.epochs=many"], "finetune.epochs=many"),
        (["seeds=["], "seeds=["),
        (["seeds=3"], "seeds=[0,1,2]"),
        (["finetune.optimizer.lr=-1"], "finetune.optimizer.lr=-1"),
        (["data.size=big"], "data.size=big"),
        (["pretrain=cifar100", "pretrain.checkpoint=/no/such/file"], "/no/such/file"),
        (["norms=bn"], "norms=[bn,bn_wa]"),
        (["launcher.workers=0"], "launcher.workers=0"),
        (["pretrain=cifar100", "pretrain.download=false", "pretrain.root=/no/cifar"], "pretrain.download=true"),
        (["trainer.accelerator=quantum", "norms=[bn]", "sources=[paper]"], "quantum"),
    ],
)
def test_mistakes_are_told_without_a_traceback(experiment, options, said, capsys):
    assert main([*experiment, *options]) in (1, 2)
    captured = capsys.readouterr()
    assert said in captured.err + captured.out
    assert "Traceback" not in captured.err


def test_a_place_for_networks_that_cannot_be_written_is_told(experiment, cifar_root, capsys):
    options = [o for o in experiment if not o.startswith(("pretrain", "checkpoint_dir"))]
    options += ["pretrain=cifar100", f"pretrain.root={cifar_root}", "pretrain.verify=false", "norms=[bn]"]
    assert main([*options, f"checkpoint_dir={__file__}"]) == 2
    assert f"checkpoint_dir={__file__}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("finetune.batch_size=500", "fewer than one batch of 500"),
        ("protocol.holdout=1.5", "protocol.holdout=1.5"),
        ("protocol.holdout=0.01", "no class has enough images"),
        ("trainer.precision=bf17", "trainer.precision=bf17"),
        ("trainer.compile=reduce_overhead", "Did you mean 'reduce-overhead'"),
        ("trainer.accelerator=cuda", "trainer.accelerator=cuda: this machine has none"),
        ("seeds=[]", "seeds=[0,1,2]"),
    ],
)
def test_what_can_be_known_is_told_before_anything_runs(experiment, tmp_path, capsys, monkeypatch, option, said):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main([*experiment, "norms=[bn]", option]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("holdout", "batch"), [("0.0", 49), ("0.5", 25)])
def test_a_pretraining_without_a_batch_is_told_before_anything_runs(
    experiment, cifar_root, tmp_path, capsys, holdout, batch
):
    """4 classes of 12 training images."""
    words = ["pretrain=cifar100", f"pretrain.holdout={holdout}", "norms=[bn]"]
    assert main([*pretraining(experiment, cifar_root, *words), f"pretrain.recipe.batch_size={batch}"]) == 2
    told = capsys.readouterr().err
    assert f"train has {batch - 1} pre-training images, fewer than one batch of {batch}" in told
    assert "(pretrain.recipe.batch_size=" in told
    assert not (tmp_path / "out").exists()


def test_own_options_from_a_folder(experiment, tmp_path):
    (tmp_path / "mine" / "norm").mkdir(parents=True)
    own = {
        "_target_": "da_wa.norm.spec.Norm",
        "label": "Mine & yours",
        "conv": {"_target_": "torch.nn.Conv2d", "_partial_": True},
        "activation": {"_target_": "torch.nn.BatchNorm2d", "_partial_": True, "momentum": 0.5},
    }
    (tmp_path / "mine" / "norm" / "mine.yaml").write_text(yaml.safe_dump(own))
    assert main([*experiment, "--config-dir", str(tmp_path / "mine"), "norms=[mine]", "sources=[paper]"]) == 0
    assert {row["norm"] for row in accuracy(tmp_path / "out")} == {"mine"}
    assert r"Mine \& yours" in (tmp_path / "out" / "table.tex").read_text()


def test_the_configuration_can_be_shown(experiment, capsys):
    assert main([*experiment, "--cfg"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["finetune"]["epochs"] == 2
    assert main([*experiment, "--cfg", "methods=[none,mcc]", "method.weight=[0.1,1]"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)["method"]
    assert set(shown) == {"mcc"} and shown["mcc"]["weight"] == [0.1, 1]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_command_that_is_cut_off_goes_on_from_there(experiment, tmp_path, how):
    """kill -9 and Ctrl-C in the midst of a run; the same command then gives the table of an undisturbed one."""
    options = [*experiment, "norms=[bn]", "finetune.epochs=20", "finetune.evaluations=2", "launcher.threads=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run_office31.py"), *options],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not list((tmp_path / "out").glob("runs/*/last.ckpt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(how)
    _, said = process.communicate()
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}[how], said
    assert len(records(tmp_path / "out")) < 3
    assert main(options) == 0
    assert main([*options, f"out={tmp_path / 'undisturbed'}"]) == 0
    for name in ("accuracy.csv", "matrix.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def test_words_that_are_no_command(tmp_path, capsys):
    assert main(["reprot", "out=x"]) == 2
    assert "Did you mean 'report'" in capsys.readouterr().err
    assert main(["--config-dir", str(tmp_path), "report", "out=x"]) == 2
    assert "'report' must be the first word: da-wa report …" in capsys.readouterr().err
    assert main(["report", "one", "two"]) == 2
    assert "'two': write option=value" in capsys.readouterr().err
    assert main(["conform", "mcc"]) == 2
    assert "conform has no options; leave out 'mcc'" in capsys.readouterr().err
    for words, said in (
        ([], "needs the folder"),
        ([str(tmp_path / "none")], "There is no folder"),
    ):
        assert main(["migrate", *words]) == 2
        assert said in capsys.readouterr().err
    assert main(["migrate", str(tmp_path)]) == 0
    assert "no network of an earlier version" in capsys.readouterr().out


def test_a_tilde_is_the_home_folder_of_every_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    for words in (
        ["status", "out=~/x"],
        ["report", "~/x"],
        ["export", "out=~/x", "to=~/y"],
        ["claims", "out=[~/x]", "to=~/y"],
    ):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert f"{tmp_path}/x" in said and "~" not in said
    with pytest.raises(DataError, match=f"{tmp_path}/x"):
        api.load("~/x")


def test_own_options_are_listed(tmp_path, capsys):
    (tmp_path / "norm").mkdir()
    (tmp_path / "norm" / "mine.yaml").write_text("# What I tried.\n")
    assert main(["list", "norms", "--config-dir", str(tmp_path)]) == 0
    assert re.search(r"^mine +What I tried\.$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "said"), [([], "error: da-wa list needs"), (["nroms"], "no group 'nroms'; da-wa list needs")]
)
def test_an_unknown_group_is_named(words, said, capsys):
    assert main(["list", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "status", "report", "export", "list", "migrate"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "da-wa status out=DIR" in capsys.readouterr().out


def test_help_names_experiments_options_of_studies_and_where_all_options_are(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "experiment=demo | quick | imagenet | probe | features | classify",
        "stage=NAME minutes=9",
        "cache_dir=DIR checkpoint_dir=DIR keep=[weights,logits] report.select=[entropy,im]",
        "--cfg prints all options, da-wa list GROUP explains names",
        "run_office31.py [option=value …] is da-wa run",
        "scores: source_val, entropy",
    ):
        assert words in said


def test_scores_are_listed_without_torch():
    code = "import sys; from da_wa.cli import main; main(['list', 'scores']); sys.exit('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in ended.stdout.splitlines()}
    assert list(listed)[:2] == ["source_val", "entropy"]
    assert listed["source_val"] == "Accuracy on held-out source images."


def test_mistakes_that_need_no_data_come_before_a_download(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("da_wa.config.loggers.find_spec", lambda package: None)
    office = ["data=office31", f"data.root={tmp_path / 'office31'}"]
    for option, said in (
        ("sources=[X]", "there is no domain 'X'"),
        ("logger=wandb", "uv sync --extra wandb in a clone, or pip install 'PATH_OF_CLONE[wandb]'"),
    ):
        assert main([*office, option]) == 2
        assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_phases_are_lines_where_output_is_not_a_terminal(experiment, capsys):
    assert main([*experiment, "norms=[bn]", "sources=[paper]"]) == 0
    said = capsys.readouterr().out
    assert "\nfolders: blueprint 24, paper 24, sunset 24 images, 3 classes\nLoading PyTorch\n" in said
    assert said.index("Loading PyTorch") < said.index("[1/1]") < said.index("Writing the report")


def test_a_script_needs_no_guard(experiment, tmp_path):
    """Workers do not run the calling script again."""
    options = [*experiment, "norms=[bn]", "sources=[paper]", "seeds=[0,1]", "finetune.epochs=2", "launcher.workers=2"]
    script = tmp_path / "script.py"
    script.write_text(
        "from da_wa import api\n"
        "print('script runs')\n"
        f"print(len(api.run({options!r}, quiet=True).frame['run_id'].unique()), 'units')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split("\n")[:2] == ["script runs", "2 units"]


@pytest.mark.parametrize("entry", ["run_module('da_wa', run_name='__main__')", "run_path('run_office31.py')"])
def test_ctrl_c_while_modules_are_imported(entry):
    interrupted = f"""
import runpy, sys
class Interrupt:
    def find_spec(self, name, *rest):
        if name == "da_wa.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
runpy.{entry}
"""
    ended = subprocess.run([sys.executable, "-c", interrupted], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 130
    assert ended.stderr == "\nInterrupted.\n"
