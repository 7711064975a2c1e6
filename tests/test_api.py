"""The command from Python."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from da_wa import api
from da_wa.errors import ConfigError, DataError
from da_wa.records.store import Store

RESULTS = Path(__file__).resolve().parents[1] / "results" / "office31_resnet20"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> api.Results:
    """Of a copy: scores are kept in the folder."""
    folder = tmp_path_factory.mktemp("results") / RESULTS.name
    shutil.copytree(RESULTS, folder)
    return api.load(folder)


def test_any_factors_make_a_matrix(results):
    frame = results.frame[(results.frame["role"] == "target") & (results.frame["selection"] == "last")]
    plain = frame[(frame["weight"] == "plain") & (frame["target"] == "W")]
    assert results.matrix(["weight"], ["target"]).at["plain", "W"] == pytest.approx(plain["accuracy"].mean())


def test_wrong_names_are_named(results):
    with pytest.raises(ConfigError, match=r"'best' is not a selection. Did you mean 'last'"):
        results.matrix(selection="best")
    with pytest.raises(ConfigError, match=r"'wieght' is not a factor. Did you mean 'weight'"):
        results.matrix(["wieght"])
    with pytest.raises(ConfigError, match=r"no figure 'efect'. Did you mean 'effect'"):
        results.figure("efect")
    with pytest.raises(ConfigError, match=r"Levels of 'seed' cannot be compared"):
        results.effect("seed")
    with pytest.raises(ConfigError, match=r"'bnn' is no level of activation here. Did you mean 'bn'"):
        results.effect("activation", base="bnn")
    with pytest.raises(ConfigError, match=r"'waa' is no level of norm here. Did you mean 'wa'"):
        results.effect("norm", base="bn", levels=["waa"])
    with pytest.raises(ConfigError, match=r"levels is one text; write a list of it: \['wa'\]"):
        results.effect("norm", base="bn", levels="wa")
    with pytest.raises(ConfigError, match=r"activation has no natural base.*one of none, bn, gn, in and ln"):
        results.effect("activation")
    with pytest.raises(ConfigError, match="write a list"):
        api.run("experiment=demo")
    with pytest.raises(ConfigError, match=r"rows is one text; write a list of it: \['weight'\]"):
        results.matrix("weight")
    with pytest.raises(ConfigError, match=r"columns is one text; write a list of it: \['activation'\]"):
        results.matrix(["weight"], "activation")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("more", [["norms=[bn]", "methods=[none,dsbn]"], ["norms=[gn_wa]", "data.resize=crop"]])
def test_a_trained_network_predicts_from_files_as_in_its_run(more, tmp_path, draw_tree):
    images = draw_tree(tmp_path / "images", domains=("A", "B"), classes=("cat", "dog"), per_class=12, side=20)
    results = api.run(
        [
            "data=folders", f"data.root={images}", "data.size=16", "model=resnet20", "model.build.depths=[1,1,1]",
            "pretrain=none", "finetune.epochs=1", "finetune.batch_size=4", "keep=[weights,logits]",
            "launcher.workers=1", "report.images=false", f"out={tmp_path / 'out'}", "sources=[A]",
            f"cache_dir={tmp_path / 'cache'}", *more,
        ],
        quiet=True,
    )  # fmt: skip
    found = results.frame[(results.frame["role"] == "target") & (results.frame["selection"] == "last")]
    assert len(found) == len(results.facts.records) > 0
    for run_id in found["run_id"]:
        outputs = Store(results.out).run(run_id).outputs().domains["B"]
        files = np.array(sorted((images / "B").glob("*/*")))[outputs.index]
        network = results.network(run_id)
        logits = network(network.decode(files))
        np.testing.assert_allclose(logits.numpy(), outputs.logits[-1].astype(np.float32), rtol=0.01, atol=0.01)
        assert network.classes == ("cat", "dog")
        assert network(network.decode([])).shape == (0, 2)
        pair = network.decode(files[:2])
        for other in (pair / 255, pair[:, :, :12, :12], pair[0], pair[:, :1]):
            with pytest.raises(DataError, match=r"torch.uint8 of shape \(n, 3, 16, 16\); `decode` makes them"):
                network(other)
        with pytest.raises(DataError, match=r"one\.jpg is one file; write a list of it: decode\(\['one\.jpg'\]\)"):
            network.decode("one.jpg")
    with pytest.raises(ConfigError, match=f"There is no run '{run_id}x'. Did you mean '{run_id}'"):
        results.network(f"{run_id}x")
    (results.out / "runs" / run_id / "weights.safetensors").unlink()
    with pytest.raises(DataError, match=r"has no weights.safetensors.* keep=\[weights\]"):
        results.network(run_id)


def test_own_code_is_found_as_on_the_command_line(tmp_path, monkeypatch):
    class Planning(Exception):
        pass

    def prepare(experiment, console):
        raise Planning(importlib.import_module("layers_of_a_user").NAME)

    (tmp_path / "layers_of_a_user.py").write_text("NAME = 'found'")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(api, "prepare", prepare)
    with pytest.raises(Planning, match="found"):
        api.run(["experiment=demo"], config_dir=tmp_path)


def test_a_study_is_for_the_command_line():
    with pytest.raises(ConfigError, match=r"da-wa run study=NAME"):
        api.run(["study=why", "scope=small"])


def test_where_no_run_is_finished_there_is_no_matrix(results, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(results.out, out)
    for record in out.glob("runs/*/record.json"):
        record.unlink()
    unfinished = api.load(out)
    assert unfinished.missing
    with pytest.raises(DataError, match=r"No run in .*out is finished.*`missing`"):
        unfinished.matrix()
