"""Synthetic runs: the records of an experiment that never ran."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from da_wa.records.files import write_json
from da_wa.records.outputs import DomainOutputs, Outputs
from da_wa.records.schema import Factors, Record
from da_wa.records.store import RunDir, Store

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


LEVELS = {"none": ("plain", "none"), "wa": ("align", "none")} | {
    f"{norm}{suffix}": (weight, norm)
    for norm in ("bn", "gn", "in", "ln")
    for suffix, weight in (("", "plain"), ("_wa", "align"))
}
METHODS = {"none": "source only", "dann": "DANN"}


@dataclass
class Experiment:
    """Writes runs into ``out``.

    Attributes:
        out: the folder of the experiment.
        images: how many images each domain has.
        correct: images right for (norm, source, target, seed).
        classes: their names.
    """

    out: Path
    images: Mapping[str, int]
    correct: Callable[[str, str, str, int], int]
    classes: Sequence[str] = field(default_factory=lambda: ["back_pack", "bike", "trash_can"])

    def factors(self, norm: str, seed: int, **changes: Any) -> Factors:
        """The factors of a unit."""
        weight, activation = LEVELS.get(norm, (norm, norm))
        known: dict[str, Any] = {
            "norm": norm,
            "weight": weight,
            "activation": activation,
            "model": "resnet20",
            "dataset": "Office-31",
        }
        known |= {"protocol": "full", "size": 32, "batch_size": 64, "epochs": 30, "lr": 0.01, "seed": seed}
        known |= {"pretraining": "cifar100", "pretraining_epochs": 6, "pretraining_seed": 0}
        return Factors(**{**known, **changes})

    def record(self, norm: str, source: str, seed: int = 0, **changes: Any) -> dict[str, Any]:
        """All fields of a record but its evaluations; ``changes`` of fields or factors."""
        factors = {k: v for k, v in changes.items() if k in Factors.model_fields}
        fields = {k: v for k, v in changes.items() if k not in factors}
        if "network" in fields:  # the record's field; the factor is called pretraining, too
            fields["pretraining"] = fields.pop("network")
        found = self.factors(norm, seed, **factors)
        target = fields.get("target")
        parts = [
            norm,
            *([] if found.method == "none" else [found.method]),
            source,
            *([target] if target else []),
            f"s{seed}p{found.pretraining_seed}",
        ]
        return {
            "schema": 2,
            "id": "-".join([*parts, found.model]).replace("/", "-").replace(">", ""),
            "status": "finished",
            "factors": found.model_dump(),
            "labels": {"norm": LABELS.get(norm, norm), "method": METHODS.get(found.method, found.method)},
            "source": source,
            "target": None,
            "domains": list(self.images),
            "classes": list(self.classes),
            "images": {domain: {"digest": f"digest of {domain}", "n": n} for domain, n in self.images.items()},
            "experiment": "5e6f7a8b",
            "evaluations": [],
            "curve": [{"epoch": e, "loss": 3 / e, "accuracy": 1 - 1 / e, "lr": 0.01} for e in range(1, 31)],
            "cost": {
                **{"total_s": 41.2, "train_s": 38.0, "eval_s": 3.2, "images_per_s": 2000.0, "mfu": 0.3141},
                "peak_memory_mb": 700.0,
            },
            "parameters": 275_572,
            "pretraining": {
                "name": f"resnet20-cifar100-{norm}-ab12cd34",
                "dataset": "CIFAR-100",
                "correct": 6000 + len(norm),
                "n": 10_000,
                "epochs": 6,
                "recipe": "9a8b7c6d",
            },
            "provenance": {
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
                "started": "2026-11-23T00:00:00+00:00",
                "finished": "2026-11-23T00:00:41+00:00",
            },
            **fields,
        }

    def plan(self, norm: str, source: str, seed: int = 0, **changes: Any) -> RunDir:
        """Plan a run and leave it at that."""
        return self._plan(self.record(norm, source, seed, **changes))

    def add(self, norm: str, source: str, seed: int = 0, **changes: Any) -> RunDir:
        """Plan and finish a run that is right as often as ``correct`` says."""
        fields = self.record(norm, source, seed, **changes)
        ends = {source, *([fields["target"]] if fields["target"] else self.images)}
        predicted = {}
        for domain, n in self.images.items():
            if domain in ends:
                truth = np.arange(n) % len(self.classes)
                right = np.arange(n) < self.correct(norm, source, domain, seed)
                predicted[domain] = (truth, np.where(right, truth, (truth + 1) % len(self.classes))[None])
        return self.finish(fields, [30], predicted)

    def finish(
        self, fields: dict[str, Any], epochs: Sequence[int], predicted: Mapping[str, tuple[Any, Any]], **arrays: Any
    ) -> RunDir:
        """Plan and finish a run from what it predicted.

        Args:
            fields: of its record, see :meth:`record`.
            epochs: that were evaluated.
            predicted: by domain (n,) classes and (epochs, n) predictions.
            arrays: by name, further arrays of every domain.
        """
        domains = {}
        for domain, (truth, answers) in predicted.items():
            extra = {name: of_domain[domain] for name, of_domain in arrays.items() if domain in of_domain}
            index = extra.pop("index", np.arange(len(truth)))
            domains[domain] = DomainOutputs(
                index.astype(np.int32), np.asarray(truth, np.int16), None, np.asarray(answers, np.int16), **extra
            )
        evaluations = [
            {
                "epoch": int(epoch),
                "domain": domain,
                "role": "source" if domain == fields["source"] else "target",
                "correct": int(kept.correct[k]),
                "n": len(kept.index),
            }
            for k, epoch in enumerate(epochs)
            for domain, kept in domains.items()
        ]
        record = Record.model_validate({**fields, "evaluations": evaluations})
        run = self._plan(fields)
        run.finish(record, Outputs(np.array(epochs, np.int32), domains))
        return run

    def fill(self, norms: Sequence[str] = tuple(LABELS), seeds: Sequence[int] = (0,), **changes: Any) -> None:
        """Finish every norm from every source with every seed."""
        for norm in norms:
            for source in self.images:
                for seed in seeds:
                    self.add(norm, source, seed, **changes)

    def simulate(
        self,
        norms: Sequence[str] = tuple(LABELS),
        seeds: Sequence[int] = (0, 1, 2),
        effect: Mapping[str, float] = {},
        features: int = 0,
        classes: int = 31,
        per_pair: bool = False,
        **changes: Any,
    ) -> None:
        """Finish runs some of whose images are hard for all and some of whose seeds are lucky.

        Args:
            norms: of them, ``effect`` on the log-odds of being right.
            seeds: of each.
            effect: by norm.
            features: images of every domain whose 16 features are saved.
            classes: to tell apart.
            per_pair: one unit per pair instead of one per source.
            changes: of the records.
        """
        self.classes = [f"class_{c}" for c in range(classes)] if classes != 31 else OFFICE31_CLASSES
        difficulty = {d: np.random.default_rng([n, k]).normal(size=n) for k, (d, n) in enumerate(self.images.items())}
        for norm in norms:
            for s, source in enumerate(self.images):
                targets = [t for t in self.images if t != source] if per_pair else [None]
                for seed in seeds:
                    for t, target in enumerate(targets):
                        unit = [s, seed, *([7, t] if per_pair else []), *repr(sorted(changes.items())).encode()]
                        draw = np.random.default_rng([*norm.encode(), *unit])
                        self._simulate(
                            norm, source, seed, target, draw, difficulty, effect.get(norm, 0.0), features, changes
                        )

    def _simulate(
        self,
        norm: str,
        source: str,
        seed: int,
        target: str | None,
        draw: np.random.Generator,
        difficulty: Mapping[str, Any],
        effect: float,
        features: int,
        changes: Mapping[str, Any],
    ) -> None:
        luck, classes, s = 0.1 * draw.normal(), len(self.classes), list(self.images).index(source)
        predicted: dict[str, Any] = {}
        arrays: dict[str, dict[str, Any]] = {"index": {}, "confidence": {}, "feature_index": {}, "features": {}}
        for k, (domain, n) in enumerate(self.images.items()):
            index = np.arange(n) if domain != source else np.arange(0, n, 10)
            truth = index * classes // n
            ease = 1.5 if domain == source else 0.2 * ((s + k) % 3) - 0.3
            odds = ease + effect + luck + 1.3 * difficulty[domain][index]
            right = draw.logistic(size=(6, len(index))) * 0.7 < odds - np.linspace(1, 0, 6)[:, None]
            wrong = (truth + 1 + draw.geometric(0.4, size=right.shape)) % classes
            if target is not None and domain not in (source, target):
                continue
            predicted[domain] = (truth, np.where(right, truth, wrong))
            arrays["index"][domain] = index
            arrays["confidence"][domain] = draw.beta(4, 2, size=len(index)).astype(np.float16)
            if features:
                sample = np.linspace(0, n - 1, features).astype(np.int32)
                own = np.random.default_rng(classes).normal(size=(classes, 16))[sample * classes // n]
                shift = 0.3 * (1 + effect) * k
                arrays["features"][domain] = (own + draw.normal(size=own.shape) + shift).astype(np.float16)[None]
                arrays["feature_index"][domain] = sample
        fields = self.record(norm, source, seed, target=target, **changes)
        self.finish(fields, range(5, 31, 5), predicted, **arrays)

    def diverge(self, norm: str, source: str, seed: int = 0) -> RunDir:
        """A run whose loss was not finite in its third epoch."""
        error = {"epoch": 3, "message": "the loss is nan"}
        fields = self.record(norm, source, seed, status="diverged", error=error)
        run = self._plan(fields)
        run.finish(Record.model_validate(fields), Outputs(np.zeros(0, np.int32)))
        return run

    def fail(self, norm: str, source: str, message: str, **changes: Any) -> RunDir:
        """A run whose last attempt failed."""
        run = self.plan(norm, source, **changes)
        write_json(run.path / "failure.json", {"message": message})
        return run

    def _plan(self, fields: dict[str, Any]) -> RunDir:
        run = Store(self.out).run(fields["id"])
        run.plan({"unit": {key: fields[key] for key in ("factors", "labels", "source", "target", "domains")}})
        return run


def _somehow(norm: str, source: str, target: str, seed: int) -> int:
    return int(
        np.random.default_rng([*f"{norm} {source} {target}".encode(errors="surrogateescape"), seed]).integers(100, 490)
    )


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """An empty ``out`` for Office-31, with pseudo-random numbers."""
    return Experiment(tmp_path / "out", OFFICE31, _somehow)


@pytest.fixture(scope="session")
def experiment_class() -> Callable[[Path, Mapping[str, int]], Experiment]:
    """Makes an experiment anywhere: for tests that share one."""
    return lambda path, images: Experiment(path / "out", images, _somehow)
