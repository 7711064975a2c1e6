"""Synthetic runs: the ledger of an experiment that never ran."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from da_wa.runs.ledger import Ledger, Record, RunDir

IMAGES = {"A": 2817, "W": 795, "D": 498}
NORMS = {
    "none": "Baseline",
    "wa": "WA",
    "bn": "BN",
    "bn_wa": "BN + WA",
    "gn": "GN",
    "gn_wa": "GN + WA",
    "in": "IN",
    "in_wa": "IN + WA",
    "ln": "LN",
    "ln_wa": "LN + WA",
}

Correct = Callable[[str, str, str, int], int]
"""Images right for (norm, source, target, seed)."""


def run_id(norm: str, source: str, seed: int) -> str:
    """The id that :func:`make_record` gives."""
    return f"{norm}-{source}-s{seed}-1a2b3c4d"


def make_config(norm: str, source: str, seed: int = 0, images: Mapping[str, int] = IMAGES) -> dict[str, Any]:
    """What ``config.yaml`` has for every reader."""
    return {
        "norm": norm,
        "label": NORMS.get(norm, norm),
        "source": source,
        "targets": [domain for domain in images if domain != source],
        "seed": seed,
        "domains": list(images),
    }


def make_record(
    norm: str, source: str, seed: int = 0, images: Mapping[str, int] = IMAGES, correct: Correct | None = None
) -> Record:
    """A whole record of schema 1; ``correct`` defaults to a pseudo-random number."""
    rng = np.random.default_rng([*norm.encode(), *source.encode(), seed])
    right = {d: correct(norm, source, d, seed) if correct else int(rng.integers(n // 5, n)) for d, n in images.items()}
    evaluations = [
        {"epoch": 30, "domain": d, "role": "source" if d == source else "target", "correct": right[d], "n": n}
        for d, n in images.items()
    ]
    return {
        "schema": 1,
        "id": run_id(norm, source, seed),
        "status": "finished",
        "error": None,
        **make_config(norm, source, seed, images),
        "model": "resnet20",
        "protocol": "full",
        "dataset": "Office-31",
        "size": 32,
        "classes": ["back_pack", "bike", "trash_can"],
        "recipe": "5e6f7a8b",
        "data": {d: {"digest": f"digest of {d}", "n": n} for d, n in images.items()},
        "results": [{**row, "selection": rule} for rule in ("last", "source_val") for row in evaluations]
        + [{**row, "selection": "target_oracle"} for row in evaluations if row["role"] == "target"],
        "evaluations": evaluations,
        "curve": [{"epoch": e, "loss": 3 / e, "accuracy": 1 - 1 / e, "lr": 0.01} for e in range(1, 31)],
        "timing": {"total_s": 41.2, "train_s": 38.0, "eval_s": 3.2, "images_per_s": 2000.0},
        "peak_memory_mb": 700.0,
        "parameters": 275_572,
        "pretrain": {
            "name": f"resnet20-cifar100-{norm}-ab12cd34",
            "dataset": "CIFAR-100",
            "correct": 6000 + 10 * list(NORMS).index(norm) if norm in NORMS else 5000,
            "n": 10_000,
            "epochs": 6,
            "recipe": "9a8b7c6d",
        },
        "environment": {"python": "3.11.7", "torch": "2.15.0", "device": "cpu"},
        "started": "2026-11-23T00:00:00+00:00",
        "finished": "2026-11-23T00:00:41+00:00",
    }


def add_run(out: Path, record: Record) -> RunDir:
    """Plan and finish the run of ``record``."""
    config = {key: record[key] for key in ("norm", "label", "source", "targets", "seed", "domains")}
    run = Ledger(out).plan(record["id"], config)
    n = sum(row["n"] for row in record["evaluations"])
    run.finish(record, {"epochs": np.array([30], np.int32), "index_0": np.arange(n, dtype=np.int32)})
    return run


def fill(
    out: Path,
    norms: Sequence[str] = tuple(NORMS),
    seeds: Sequence[int] = (0,),
    images: Mapping[str, int] = IMAGES,
    correct: Correct | None = None,
) -> Path:
    """Every norm from every source with every seed, all finished."""
    for norm in norms:
        for source in images:
            for seed in seeds:
                add_run(out, make_record(norm, source, seed, images, correct))
    return out


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An ``out`` folder of two norms, three sources, one seed."""
    return fill(tmp_path / "out", ["bn", "bn_wa"])
