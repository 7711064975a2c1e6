"""Probes as units: their records, names and options, and that they resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from da_wa.cli import main
from da_wa.config.compose import compose
from da_wa.data.cache import DecodedDomain
from da_wa.errors import ConfigError
from da_wa.records.store import Store
from da_wa.report import scoring
from da_wa.runs.jobs import UnitJob
from da_wa.runs.plan import plan
from da_wa.select.catalogue import evaluate, load

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "experiment=probe", "data=digits", "data.per_class=6", "data.size=8", "finetune.input.size=null", "model=resnet20",
    "norms=[bn]",
    "model.build.widths=[4,4,4]", "model.build.depths=[1,1,1]", "protocol.holdout=0.34", "finetune.folds=2",
    "trainer.accelerator=cpu", "trainer.precision=32-true", "launcher.workers=1", "launcher.threads=1",
    "report.images=false", "cache_dir=cache",
]  # fmt: skip


def units(*options: str) -> list[UnitJob]:
    pixels = np.zeros((4, 3, 8, 8), np.uint8)
    domains = [DecodedDomain(n, pixels, np.arange(4) % 2, tuple("0123"), n, ("a", "b")) for n in "AWD"]
    folder = Path("nowhere")
    experiment = compose(["experiment=probe", "model=resnet20", "norms=[bn]", *options])
    return [job for job in plan(experiment, domains, folder, folder) if isinstance(job, UnitJob)]


def test_a_probe_is_one_unit_for_every_source_named_by_its_options():
    found = units()
    assert [job.config["unit"]["source"] for job in found] == ["A", "W", "D"]
    facts = found[0].config["facts"]["shared"]["finetune"]
    assert facts["name"] == "probe" and facts["folds"] == 5
    assert "_target_" not in facts
    factors = found[0].config["unit"]["factors"]
    assert (factors["epochs"], factors["batch_size"], factors["lr"]) == (None, None, None)
    assert factors["size"] == 224  # what the network sees, not what is stored
    (stored, *_) = units("finetune.input.size=null")
    assert stored.config["unit"]["factors"]["size"] == 256
    same, other = units("trainer.precision=32-true", "launcher.workers=1"), units("finetune.C=[1.0]")
    assert [job.id for job in same] == [job.id for job in found]
    assert {job.id for job in other}.isdisjoint(job.id for job in found)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("finetune.C=[]", r"finetune.C=\[\]: must be a list of numbers, more than 0"),
        ("finetune.C=[0.0]", "finetune.C.*more than 0"),
        ("finetune.C=0.1", "finetune.C.*must be a list"),
        ("finetune.folds=1", "finetune.folds=1: must be a whole number, 2 or more"),
        ("finetune.iterations=0", "finetune.iterations=0: must be a whole number, 1 or more"),
        ("finetune.optimizer.lr=0.1", "no option 'finetune.optimizer.lr'"),
        (
            "methods=[none,mcc,shot]",
            r"finetune=probe trains nothing by gradient descent, and mcc, shot would.*finetune=features",
        ),
    ],
)
def test_a_wrong_option_is_named(option, said):
    with pytest.raises(ConfigError, match=said):
        compose(["experiment=probe", "model=resnet20", "norms=[bn]", option])


def test_a_class_with_one_training_image_ends_before_the_first_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*TINY, "data.per_class=2", "protocol.holdout=0.5", "out=out"]) == 2
    assert "one training image of class 0" in capsys.readouterr().err
    assert not list(Path("out").glob("runs/*/record.json"))


@pytest.mark.timeout(1800)
def test_kill_9_and_the_same_command_gives_the_same_results(tmp_path, monkeypatch):
    """Features that were computed before the kill are used; everything about the results is as without it."""
    monkeypatch.chdir(tmp_path)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run_office31.py"), *TINY, "out=out"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    cache = Path("cache/features")
    while not list(cache.glob("*.npy")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {path: path.stat().st_mtime_ns for path in cache.glob("*.npy")}
    assert main([*TINY, "out=out"]) == 0
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    assert len(list(cache.glob("*.npy"))) == 6  # three domains and their mixtures
    assert not list(cache.glob(".*.part"))
    assert main([*TINY, "out=undisturbed", "cache_dir=fresh"]) == 0
    assert Path("out/accuracy.csv").read_bytes() == Path("undisturbed/accuracy.csv").read_bytes()
    assert len(Store(Path("out")).runs()) == 3

    for run in Store(Path("out")).runs():
        record, outputs = run.load()
        assert record.status == "finished" and record.factors.epochs is None
        for row in record.evaluations:
            domain = outputs.domains[row.domain]
            assert row.correct == (domain.logits[0].argmax(1) == domain.labels).sum()
            assert row.epoch == 1 and row.n == len(domain.labels)
        kept = [np.load(path) for path in cache.glob("*.npy")]
        for domain in outputs.domains.values():
            of_domain = [
                f[domain.feature_index].astype(np.float16) for f in kept if len(f) > domain.feature_index.max()
            ]
            assert any((features == domain.features[0]).all() for features in of_domain)
        saved = scoring._saved(outputs, record.source, record.targets[0], 0)
        scores = evaluate(load(["source_val", "entropy", "im", "bnm", "snd", "atc", "mixval"]), saved)
        assert np.isfinite(list(scores.values())).all()
