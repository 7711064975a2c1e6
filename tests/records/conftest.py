"""A toy unit: source A with held-out images, targets W and one with an undecodable name, two evaluated epochs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from da_wa.records.outputs import Outputs, from_logits
from da_wa.records.schema import Record, parse
from da_wa.records.store import RunDir, Store

_ODD = "dömä n\udcff/->é😀\ud800"
_COUNTS = {"A": ([3, 2], 4), "W": ([1, 4], 6), _ODD: ([5, 2], 5)}  # right after epoch 1 and 2, images


def _logits(labels: np.ndarray, correct: int, classes: int = 3) -> np.ndarray:
    wanted = np.where(np.arange(len(labels)) < correct, labels, (labels + 1) % classes)
    return np.eye(classes, dtype=np.float32)[wanted]


def _outputs(counts: dict[str, tuple[list[int], int]] = _COUNTS) -> Outputs:
    domains = {}
    for name, (correct, n) in counts.items():
        labels = np.arange(n) % 3
        logits = np.stack([_logits(labels, c) for c in correct])
        found = from_logits(np.arange(n) + 5, labels, logits)
        index, features = np.arange(2, dtype=np.int32), np.ones((2, 2, 4), np.float16)
        mixtures = {} if name == "A" else {"mixed_index": index, "mixed_logits": np.zeros((2, 2, 3), np.float16)}
        domains[name] = replace(found, feature_index=index, features=features, **mixtures)
    return Outputs(np.array([1, 2], np.int32), domains)


def _raw_record(**changes: Any) -> dict[str, Any]:
    return {
        "schema": 2,
        "id": "bn-A-s0",
        "status": "finished",
        "factors": {
            "norm": "bn",
            "activation": "bn",
            "model": "resnet20",
            "dataset": f"Toy {_ODD}",
            "protocol": "full",
            "size": 32,
            "seed": 0,
            "lr": 1e-5,
        },
        "labels": {"norm": "BN"},
        "source": "A",
        "domains": list(_COUNTS),
        "classes": ["x", "y\udcfe", "z"],
        "images": {name: {"digest": f"{name}!", "n": 10} for name in _COUNTS},
        "experiment": "12ab",
        "evaluations": [
            {"domain": name, "role": "source" if name == "A" else "target", "epoch": k + 1, "correct": correct, "n": n}
            for name, (counts, n) in _COUNTS.items()
            for k, correct in enumerate(counts)
        ],
        "curve": [{"epoch": 1, "loss": 0.5}],
    } | changes


@pytest.fixture
def odd() -> str:
    """A name as file systems give it: bytes that are not UTF-8 become lone surrogates."""
    return _ODD


@pytest.fixture
def raw_record() -> Callable[..., dict[str, Any]]:
    """A function that gives the toy unit's ``record.json`` as plain values, with changes."""
    return _raw_record


@pytest.fixture
def make_outputs() -> Callable[..., Outputs]:
    """A function that gives outputs with ``{domain: ([right after epoch 1, after epoch 2], images)}``."""
    return _outputs


@pytest.fixture
def record() -> Record:
    return parse(_raw_record(), "toy")


@pytest.fixture
def outputs() -> Outputs:
    return _outputs()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "out")


@pytest.fixture
def run(store: Store) -> RunDir:
    run = store.run("bn-A-s0")
    run.plan({"unit": {key: _raw_record()[key] for key in ("factors", "labels", "source", "domains")}})
    return run
