"""Synthetic runs: the ledger of an experiment that never ran."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from da_wa.runs.ledger import Ledger, Record, RunDir

OFFICE31 = {"A": 2817, "W": 795, "D": 498}
LABELS = {
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


@dataclass
class Experiment:
    """Writes runs into ``out``.

    Attributes:
        out: the folder of the experiment.
        images: how many images each domain has.
        correct: images right for (norm, source, target, seed).
    """

    out: Path
    images: Mapping[str, int]
    correct: Callable[[str, str, str, int], int]

    def record(self, norm: str, source: str, seed: int = 0) -> Record:
        """A whole record of schema 1."""
        evaluations = [
            {
                "epoch": 30,
                "domain": domain,
                "role": "source" if domain == source else "target",
                "correct": self.correct(norm, source, domain, seed),
                "n": n,
            }
            for domain, n in self.images.items()
        ]
        targets = [row for row in evaluations if row["role"] == "target"]
        return {
            "schema": 1,
            "id": f"{norm}-{source}-s{seed}-1a2b3c4d",
            "status": "finished",
            "error": None,
            "norm": norm,
            "label": LABELS.get(norm, norm),
            "source": source,
            "targets": [domain for domain in self.images if domain != source],
            "seed": seed,
            "domains": list(self.images),
            "model": "resnet20",
            "protocol": "full",
            "dataset": "Office-31",
            "size": 32,
            "classes": ["back_pack", "bike", "trash_can"],
            "recipe": "5e6f7a8b",
            "data": {domain: {"digest": f"digest of {domain}", "n": n} for domain, n in self.images.items()},
            "results": [{**row, "selection": rule} for rule in ("last", "source_val") for row in evaluations]
            + [{**row, "selection": "target_oracle"} for row in targets],
            "evaluations": evaluations,
            "curve": [{"epoch": e, "loss": 3 / e, "accuracy": 1 - 1 / e, "lr": 0.01} for e in range(1, 31)],
            "timing": {"total_s": 41.2, "train_s": 38.0, "eval_s": 3.2, "images_per_s": 2000.0},
            "parameters": 275_572,
            "pretrain": {
                "name": f"resnet20-cifar100-{norm}-ab12cd34",
                "dataset": "CIFAR-100",
                "correct": 6000 + len(norm),
                "n": 10_000,
                "epochs": 6,
                "recipe": "9a8b7c6d",
            },
            "environment": {"python": "3.11.7", "torch": "2.15.0", "device": "cpu"},
            "started": "2026-11-23T00:00:00+00:00",
            "finished": "2026-11-23T00:00:41+00:00",
        }

    def plan(self, norm: str, source: str, seed: int = 0) -> RunDir:
        """Plan a run and leave it at that."""
        return self._plan(self.record(norm, source, seed))

    def add(self, norm: str, source: str, seed: int = 0, **changes: Any) -> RunDir:
        """Plan and finish a run whose record has ``changes``."""
        record = {**self.record(norm, source, seed), **changes}
        run = self._plan(record)
        run.finish(record, {"epochs": np.array([30], np.int32)})
        return run

    def fill(self, norms: Sequence[str] = tuple(LABELS), seeds: Sequence[int] = (0,)) -> None:
        """Finish every norm from every source with every seed."""
        for norm in norms:
            for source in self.images:
                for seed in seeds:
                    self.add(norm, source, seed)

    def diverge(self, norm: str, source: str, seed: int = 0) -> RunDir:
        """A run whose loss was no number in its third epoch."""
        error = {"epoch": 3, "message": "the loss is nan"}
        return self.add(norm, source, seed, status="diverged", error=error, results=[])

    def _plan(self, record: Record) -> RunDir:
        keys = ("norm", "label", "source", "targets", "seed", "domains")
        return Ledger(self.out).plan(record["id"], {key: record[key] for key in keys})


def _somehow(norm: str, source: str, target: str, seed: int) -> int:
    return int(np.random.default_rng([*f"{norm} {source} {target}".encode(), seed]).integers(100, 490))


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """An empty ``out`` for Office-31, with pseudo-random numbers."""
    return Experiment(tmp_path / "out", OFFICE31, _somehow)
