"""Run a job: build networks and tensors from plain data, train, write the results."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache, singledispatch
from pathlib import Path
from typing import Any

import torch

from da_wa.config.make import make
from da_wa.data.augment import Normalize
from da_wa.data.cache import DomainCache
from da_wa.data.datamodule import epoch_seed
from da_wa.errors import Diverged
from da_wa.models import checkpoint
from da_wa.models.backbone import Backbone
from da_wa.records import identity
from da_wa.records.files import replaced, write_json
from da_wa.records.migrate import NO_EPOCHS
from da_wa.records.outputs import Outputs, trimmed
from da_wa.records.plain import plain
from da_wa.records.provenance import command, machine
from da_wa.records.schema import Divergence, EpochCurve, Evaluation, Images, Pretraining, Record, parse_plan
from da_wa.runs.inputs import load_pretraining
from da_wa.runs.jobs import Job, PretrainJob, UnitJob
from da_wa.train import subsets
from da_wa.train.classifier import cross_entropy
from da_wa.train.progress import Notify
from da_wa.train.recipe import make_recipe
from da_wa.train.train import Trained, train

WEIGHTS = "weights.safetensors"


@singledispatch
def execute(job: Job, notify: Notify) -> None:
    """Run a job and write its result to disk atomically.

    Args:
        job: what to run.
        notify: called after every epoch.

    Raises:
        UserError: something that the user can fix, such as a damaged cache.
    """
    raise TypeError(f"{job!r} is not a kind of job")


@execute.register
def _pretrain(job: PretrainJob, notify: Notify) -> None:
    config, facts = job.config, job.config["facts"]
    images, test = load_pretraining(config["data"], facts["size"], Path(config["cache_dir"]))
    model = _model(config, len(images.classes), facts["seed"])
    recipe, state = make_recipe(config["recipe"]), job.path.with_suffix(".ckpt")
    chosen = subsets.pretraining(images, test, facts.get("holdout", 0.0))
    try:
        trained = train(
            model,
            chosen,
            cross_entropy(recipe.label_smoothing),
            recipe,
            make(config["trainer"]),
            normalize=Normalize(**facts["normalize"]),
            seed=facts["seed"],
            state=state,
            notify=notify,
        )
    except Diverged as error:
        known = {"error": {"epoch": error.epoch, "message": str(error)}, "curve": error.curve}
        write_json(job.diverged_file, plain(known | {"provenance": machine() | {"command": command()}}))
    else:
        (outputs,) = trained.outputs.domains.values()
        result = {
            "correct": int(outputs.correct[-1]),
            "n": len(outputs.index),
            "epochs": recipe.epochs,
            "curve": trained.curve,
            "data": {"train": images.digest, "test": test.digest},
            "cost": trained.cost.values(),
            "provenance": _provenance(trained),
        }
        with replaced(job.path) as draft:
            checkpoint.save(draft, model, checkpoint.Header(facts, result), getattr(torch, facts["dtype"]))
    state.unlink(missing_ok=True)
    job.failure_file.unlink(missing_ok=True)


@execute.register
def _unit(job: UnitJob, notify: Notify) -> None:
    config, unit = job.config, parse_plan(job.config["unit"], job.id)
    started, seed, workdir = _now(), unit.factors.seed, job.directory.path
    cache, size = _cache(config["cache_dir"]), unit.factors.size
    domains = [cache.open(name, digest, size) for name, digest in config["facts"]["shared"]["images"].items()]
    model = _model(config, 2, seed)
    if job.start is not None:
        checkpoint.load_backbone(job.start, model)
    torch.manual_seed(epoch_seed(seed, 0, stream=3))
    model.head = model.make_head(len(domains[0].classes))
    recipe = make_recipe(config["finetune"])
    factors = unit.factors.model_dump()
    record: dict[str, Any] = {
        "id": job.id,
        **unit.model_dump(),
        "classes": list(domains[0].classes),
        "images": {domain.name: Images(digest=domain.digest, n=len(domain)) for domain in domains},
        "experiment": config["experiment"],
        "versions": {key: config[key].get("version", 1) for key in ("norm", "model")},
        "parameters": sum(p.numel() for p in model.parameters()),
        "pretraining": None if job.start is None else _pretraining(job.start),
    }
    try:
        trained = train(
            model,
            subsets.transfer(domains, unit.source, make(config["protocol"]), seed),
            cross_entropy(recipe.label_smoothing),
            recipe,
            make(config["trainer"]),
            normalize=Normalize(**config["normalize"]),
            seed=seed,
            state=workdir / "last.ckpt",
            notify=notify,
            loggers=[make(node)(save_dir=workdir) for node in config["logger"].values()],
            logged=factors | {"source": unit.source, "start": job.start and job.start.name, **config["finetune"]},
        )
    except Diverged as error:
        job.directory.finish(
            Record(
                **record,
                status="diverged",
                evaluations=[],
                curve=[EpochCurve.model_validate(row) for row in error.curve],
                provenance=machine() | {"command": command()} | _times(started),
                error=Divergence(epoch=error.epoch, message=str(error)),
            ),
            Outputs(NO_EPOCHS),
        )
        return
    keep = config["keep"]
    if keep is not None and "weights" in keep:
        with replaced(workdir / WEIGHTS) as draft:
            checkpoint.save(draft, model, checkpoint.Header(config["facts"], {}))
    job.directory.finish(
        Record(
            **record,
            status="finished",
            evaluations=_evaluations(trained.outputs, unit.source),
            curve=[EpochCurve.model_validate(row) for row in trained.curve],
            cost=trained.cost.values(),
            provenance=_provenance(trained) | _times(started),
        ),
        trimmed(trained.outputs, None if keep is None else "logits" in keep),
    )


def _evaluations(outputs: Outputs, source: str) -> list[Evaluation]:
    """The counts of every domain and evaluated epoch for the record."""
    return [
        Evaluation(
            domain=name,
            role="source" if name == source else "target",
            epoch=int(epoch),
            correct=int(correct),
            n=len(domain.index),
        )
        for name, domain in outputs.domains.items()
        for epoch, correct in zip(outputs.epochs, domain.correct, strict=True)
    ]


def _model(config: Mapping[str, Any], num_classes: int, seed: int) -> Backbone:
    torch.manual_seed(epoch_seed(seed, 0, stream=2))
    model: Backbone = make(config["model"]["build"])(make(config["norm"]), num_classes)
    return model


def _pretraining(start: Path) -> Pretraining:
    header = checkpoint.read_header(start)
    return Pretraining(
        name=start.stem,
        dataset=header.facts["dataset"],
        correct=header.result["correct"],
        n=header.result["n"],
        epochs=header.result["epochs"],
        recipe=identity.digest({**header.facts, "norm": None}),
    )


def _provenance(trained: Trained) -> dict[str, Any]:
    return machine() | trained.cost.environment() | {"command": command()}


@lru_cache
def _cache(cache_dir: str) -> DomainCache:
    """One cache per process: a domain is opened and verified once for all jobs."""
    return DomainCache(cache_dir)


def _times(started: str) -> dict[str, str]:
    return {"started": started, "finished": _now()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
