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
OFFICE31_CLASSES = [
    "back_pack",
    "bike",
    "bike_helmet",
    "bookcase",
    "bottle",
    "calculator",
    "desk_chair",
    "desk_lamp",
    "desktop_computer",
    "file_cabinet",
    "headphones",
    "keyboard",
    "laptop_computer",
    "letter_tray",
    "mobile_phone",
    "monitor",
    "mouse",
    "mug",
    "paper_notebook",
    "pen",
    "phone",
    "printer",
    "projector",
    "punchers",
    "ring_binder",
    "ruler",
    "scissors",
    "speaker",
    "stapler",
    "tape_dispenser",
    "trash_can",
]


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
            "id": f"{norm}-{source}-s{seed}-1a2b3c4d".replace("/", "-"),
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
            "timing": {"total_s": 41.2, "train_s": 38.0, "eval_s": 3.2, "images_per_s": 2000.0, "mfu": 0.3141},
            "peak_memory_mb": 700.0,
            "parameters": 275_572,
            "pretrain": {
                "name": f"resnet20-cifar100-{norm}-ab12cd34",
                "dataset": "CIFAR-100",
                "correct": 6000 + len(norm),
                "n": 10_000,
                "epochs": 6,
                "recipe": "9a8b7c6d",
            },
            "environment": {
                "python": "3.11.7",
                "torch": "2.15.0",
                "device": "cpu",
                "cpu": "A processor <with> 2 cores",
                "cores": 2,
                "precision": "32-true",
                "threads": 2,
                "commit": "0123456789abcdef0123456789abcdef01234567",
                "dirty": False,
                "command": "run_office31.py experiment=quick",
            },
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

    def simulate(
        self,
        norms: Sequence[str] = tuple(LABELS),
        seeds: Sequence[int] = (0, 1, 2),
        effect: Mapping[str, float] = {},
        features: int = 0,
        classes: int = 31,
    ) -> None:
        """Finish runs that saved what they predicted, some images being hard for all and some seeds lucky.

        Args:
            norms: of them, ``effect`` on the log-odds of being right.
            seeds: of each.
            effect: by norm.
            features: images of every domain whose 16 features are saved.
            classes: to tell apart.
        """
        difficulty = {d: np.random.default_rng([n, k]).normal(size=n) for k, (d, n) in enumerate(self.images.items())}
        names = [f"class_{c}" for c in range(classes)] if classes != 31 else OFFICE31_CLASSES
        for norm in norms:
            for s, source in enumerate(self.images):
                for seed in seeds:
                    draw = np.random.default_rng([*norm.encode(), s, seed])
                    luck = 0.1 * draw.normal()
                    epochs = np.arange(5, 31, 5, dtype=np.int32)
                    arrays: dict[str, np.ndarray] = {"epochs": epochs}
                    evaluations: list[dict[str, Any]] = []
                    for k, (domain, n) in enumerate(self.images.items()):
                        index = np.arange(n) if domain != source else np.arange(0, n, 10)
                        truth = index * classes // n
                        ease = 1.5 if domain == source else 0.2 * ((s + k) % 3) - 0.3
                        odds = ease + effect.get(norm, 0.0) + luck + 1.3 * difficulty[domain][index]
                        right = draw.logistic(size=(6, len(index))) * 0.7 < odds - np.linspace(1, 0, 6)[:, None]
                        wrong = (truth + 1 + draw.geometric(0.4, size=right.shape)) % classes
                        arrays |= {
                            f"index_{k}": index.astype(np.int32),
                            f"label_{k}": truth.astype(np.int16),
                            f"predicted_{k}": np.where(right, truth, wrong).astype(np.int16),
                            f"confidence_{k}": draw.beta(4, 2, size=len(index)).astype(np.float16),
                        }
                        if features:
                            sample = np.linspace(0, n - 1, features).astype(np.int32)
                            own = np.random.default_rng(classes).normal(size=(classes, 16))[sample * classes // n]
                            shift = 0.3 * (1 + effect.get(norm, 0.0)) * k
                            arrays[f"feature_{k}"] = (own + draw.normal(size=own.shape) + shift).astype(np.float16)
                            arrays[f"feature_index_{k}"] = sample
                        role = "source" if domain == source else "target"
                        hits = (arrays[f"predicted_{k}"] == truth).sum(axis=1)
                        evaluations += [
                            {"epoch": int(e), "domain": domain, "role": role, "correct": int(c), "n": len(index)}
                            for e, c in zip(epochs, hits, strict=True)
                        ]
                    results = [
                        {**row, "selection": rule}
                        for row in evaluations
                        for rule, epoch in (
                            ("last", 30),
                            ("source_val", 25),
                            ("target_oracle", _best(evaluations, row)),
                        )
                        if row["epoch"] == epoch and (rule, row["role"]) != ("target_oracle", "source")
                    ]
                    record = {
                        **self.record(norm, source, seed),
                        "classes": names,
                        "evaluations": evaluations,
                        "results": results,
                    }
                    self._plan(record).finish(record, arrays)

    def diverge(self, norm: str, source: str, seed: int = 0) -> RunDir:
        """A run whose loss was no number in its third epoch."""
        error = {"epoch": 3, "message": "the loss is nan"}
        return self.add(norm, source, seed, status="diverged", error=error, results=[])

    def _plan(self, record: Record) -> RunDir:
        keys = ("norm", "label", "source", "targets", "seed", "domains")
        return Ledger(self.out).plan(record["id"], {key: record[key] for key in keys})


def _best(evaluations: list[dict[str, Any]], row: dict[str, Any]) -> int:
    mine = [other for other in evaluations if other["domain"] == row["domain"]]
    return int(max(mine, key=lambda other: (other["correct"], other["epoch"]))["epoch"])


def _somehow(norm: str, source: str, target: str, seed: int) -> int:
    return int(np.random.default_rng([*f"{norm} {source} {target}".encode(), seed]).integers(100, 490))


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """An empty ``out`` for Office-31, with pseudo-random numbers."""
    return Experiment(tmp_path / "out", OFFICE31, _somehow)


@pytest.fixture(scope="session")
def experiment_class() -> Callable[[Path, Mapping[str, int]], Experiment]:
    """Makes an experiment anywhere: for tests that share one."""
    return lambda path, images: Experiment(path / "out", images, _somehow)
