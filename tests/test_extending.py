"""docs/extending.md: its files and code, as they stand there, do what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from da_wa.cli import main

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "extending.md").read_text()


def block(language: str, mark: str) -> str:
    """The one fenced block in ``language`` that contains ``mark``."""
    (found,) = (b for b in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if mark in b)
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's files, and the working directory."""
    for name, content in re.findall(r"`(mine/\S+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_norm_the_network_and_what_a_run_leaves(here, capsys):
    (command,) = re.findall(r"run_office31.py (--config-dir mine .* model=plain .*)", PAGE)
    small = ["data.per_class=20", "sources=[H]", "finetune.epochs=1", "finetune.batch_size=20", "report.images=false"]
    assert main([*command.split(), *small, "launcher.workers=2", "cache_dir=cache", "keep=[weights]"]) == 0
    records = [json.loads(path.read_text()) for path in here.glob("out/mine/runs/*/record.json")]
    named = {(record["labels"]["norm"], record["factors"]["model"]) for record in records}
    assert named == {("BN", "plain"), ("RMS", "plain")}
    capsys.readouterr()
    exec(block("python", "Store(Path"), {})
    said = dict(line.split() for line in capsys.readouterr().out.splitlines())
    (bn,) = (record for record in records if record["factors"]["norm"] == "bn")
    last = {r["domain"]: r["correct"] / r["n"] for r in bn["evaluations"] if r["epoch"] == 1}
    assert {domain: float(value) for domain, value in said.items()} == pytest.approx(last)
    (here / "NEW_IMAGES").mkdir()
    Image.new("RGB", (40, 30)).save(here / "NEW_IMAGES" / "one.jpg")
    exec(block("python", "results.network"), {})
    assert capsys.readouterr().out in [f"['{digit}']\n" for digit in range(10)]


def test_the_dataset(here):
    (command,) = re.findall(r"run_office31.py (--config-dir mine .* data=flat .*)", PAGE)
    draw = np.random.default_rng(0)
    for domain, classes in (("sketch", ("cup", "pen")), ("photo", ("cup", "pen"))):
        (here / "PATH" / domain).mkdir(parents=True)
        for name in (f"{kind}-{number}.png" for kind in classes for number in range(10)):
            pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(here / "PATH" / domain / name)
    small = ["norms=[bn]", "finetune.epochs=1", "finetune.batch_size=10", "report.images=false", "launcher.workers=1"]
    assert main([*command.split(), *small, "cache_dir=cache"]) == 0
    records = [json.loads(path.read_text()) for path in here.glob("out/flat/runs/*/record.json")]
    assert {record["source"] for record in records} == {"photo", "sketch"}
    assert {tuple(record["classes"]) for record in records} == {("cup", "pen")}
    assert {image["n"] for record in records for image in record["images"].values()} == {20}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("self.num_features = 4 * width", "built with norm bn: 'Plain' object has no attribute 'num_features'"),
        ("self.head = self.make_head(num_classes)", "plain: Plain does not set head; see docs/extending.md"),
        ("min_size = 8", "plain: Plain does not set min_size; see docs/extending.md"),
    ],
)
def test_a_network_that_lacks_an_attribute(here, capsys, line, said):
    network_is_refused(here, capsys, line, "pass", said)


def test_a_network_whose_forward_pass_fails(here, capsys):
    said = (
        "data.size=32: plain fails on images of 32×32 pixels (AttributeError: 'Plain' object has no attribute 'boom')"
    )
    network_is_refused(here, capsys, "return self.layers(x).mean((2, 3))", "return self.boom", said)


def network_is_refused(here, capsys, line, instead, said):
    module, code = f"lacks_{len(line)}", (here / "mine" / "layers.py").read_text()
    assert line in code
    (here / "mine" / f"{module}.py").write_text(code.replace(line, instead))
    file = here / "mine" / "model" / "plain.yaml"
    file.write_text(file.read_text().replace("layers.Plain", f"{module}.Plain"))
    options = ["experiment=demo", "pretrain=none", "norms=[bn]", "model=plain", "data.per_class=20", "cache_dir=cache"]
    assert main(["--config-dir", "mine", *options]) == 2
    assert said in capsys.readouterr().err


def test_a_dataset_of_another_type(here, capsys):
    (here / "mine" / "pairs.py").write_text("def flat(root, class_rule):\n    return {}\n")
    file = here / "mine" / "data" / "flat.yaml"
    file.write_text(file.read_text().replace("flat.flat", "pairs.flat"))
    assert main(["--config-dir", "mine", "experiment=quick", "data=flat", "data.root=."]) == 2
    assert "pairs.flat returned a dict, not a DomainSet; make one with" in capsys.readouterr().err


def test_the_trained_network(here):
    (command,) = re.findall(r"run_office31.py (--config-dir mine .* model=trained .*)", PAGE)
    small = [
        "data.per_class=20", "sources=[H]", "finetune.epochs=1", "finetune.batch_size=20", "report.images=false",
        "launcher.workers=1", "cache_dir=cache",
    ]  # fmt: skip
    exec(block("python", "class Mine"), names := {"__name__": "trained_weights"})
    save_file(names["Mine"]().build(None).state_dict(), "mine.safetensors")
    assert main([*command.split(), *small]) == 0
    records = [json.loads(path.read_text()) for path in here.glob("out/trained/runs/*/record.json")]
    assert {r["factors"]["norm"]: r["factors"]["pretraining"] for r in records} == dict.fromkeys(
        ("keep", "bn_wa"), "my images"
    )
    converted = {r["factors"]["norm"]: r["conversion"] and r["conversion"]["reached"] for r in records}
    assert converted == {"keep": None, "bn_wa": 2}


def test_the_checkpoint(here, capsys):
    exec(block("python", "Header(facts, result)"), {})
    options = [
        "experiment=demo", "pretrain.checkpoint=networks", "data.per_class=20", "sources=[H]", "finetune.epochs=1",
        "finetune.batch_size=20", "report.images=false", "launcher.workers=1", "cache_dir=cache", "out=out",
    ]  # fmt: skip
    assert main([*options, "norms=[bn]"]) == 0
    record = json.loads(next(here.glob("out/runs/*/record.json")).read_text())
    assert (record["pretraining"]["dataset"], record["pretraining"]["correct"]) == ("my images", 6012)
    assert main([*options, "norms=[bn]", "normalize.mean=[0,0,0]", "out=other"]) == 2
    assert "another normalize" in capsys.readouterr().err


def test_the_method(here):
    (command,) = re.findall(r"run_office31.py (--config-dir mine .*methods=.*)", PAGE)
    small = [
        "data.per_class=20", "data.size=8", "sources=[H]", "seeds=[0]", "finetune.epochs=1", "finetune.batch_size=20",
        "report.images=false", "launcher.workers=1", "cache_dir=cache",
    ]  # fmt: skip
    assert main([*command.split(), *small]) == 0
    records = [json.loads(path.read_text()) for path in here.glob("out/method/runs/*/record.json")]
    told = {(r["labels"]["method"], r["target"], r.get("label_firewall")) for r in records}
    assert told == {("source only", None, None), ("mean gap", "N", "passed"), ("mean gap", "P", "passed")}
