"""Run a job: build networks and tensors from plain data, train, write the results."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cache, partial, singledispatch
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from da_wa.config.make import make
from da_wa.data.augment import Normalize
from da_wa.data.cache import DecodedDomain, open_decoded
from da_wa.data.datamodule import epoch_seed
from da_wa.errors import DataError, Diverged
from da_wa.models import checkpoint
from da_wa.models.backbone import Backbone
from da_wa.records.files import write_bytes, write_json
from da_wa.records.migrate import NO_EPOCHS
from da_wa.records.outputs import Outputs, trimmed
from da_wa.records.plain import plain
from da_wa.records.provenance import command, machine
from da_wa.records.schema import Conversion, Divergence, EpochCurve, Evaluation, Images, Record
from da_wa.runs.inputs import load_pretraining
from da_wa.runs.jobs import Job, PretrainJob, UnitJob
from da_wa.runs.networks import built
from da_wa.runs.started import pretraining
from da_wa.train import subsets
from da_wa.train.adaptation import Adaptation
from da_wa.train.fit import fit
from da_wa.train.precision import decided
from da_wa.train.progress import Notify
from da_wa.train.recipe import AnyRecipe, make_recipe
from da_wa.train.settings import Settings
from da_wa.train.train import Task, Trained

EXTRACTED = 32
"""Images of a batch for measuring recipes that have no batches."""

_ROOM_FOR_NETWORKS = "Make room there or choose another folder with checkpoint_dir=DIR, then rerun the command."

_opened = cache(open_decoded)
"""A domain is opened and verified once for all jobs of a process."""


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
        task = Task(
            model=model,
            subsets=chosen,
            normalize=normalization(model, facts["normalize"]),
            settings=_settings(config, model, facts["size"], recipe),
            seed=facts["seed"],
            state=state,
            notify=notify,
        )
        trained = fit(recipe, task)
    except Diverged as error:
        known = {"error": {"epoch": error.epoch, "message": str(error)}, "curve": error.curve}
        write_json(job.diverged_file, plain(known | {"provenance": _machine(error)}))
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
        content = checkpoint.packed(model, checkpoint.Header(facts, result), getattr(torch, facts["dtype"]))
        write_bytes(job.path, content, _ROOM_FOR_NETWORKS)
    state.unlink(missing_ok=True)
    job.failure_file.unlink(missing_ok=True)


@execute.register
def _unit(job: UnitJob, notify: Notify) -> None:
    config, unit = job.config, job.unit
    started, workdir = _now(), job.directory.path
    images, size = config["facts"]["shared"]["images"], config["data"]["size"]
    domains = [_opened(name, digest, size, config["cache_dir"]) for name, digest in images.items()]
    factors = unit.factors.model_dump()
    record: dict[str, Any] = {
        "id": job.id,
        **unit.model_dump(),
        "starts_from": job.needs,
        "seen": [] if unit.target is None else [unit.target],
        "classes": list(domains[0].classes),
        "images": {domain.name: Images(digest=domain.digest, n=len(domain)) for domain in domains},
        "experiment": config["experiment"],
        "method": config["facts"]["method"],
        "changes": config["method"].get("changes"),
        "versions": {key: config[key].get("version", 1) for key in ("norm", "model", "method")},
        "pretraining": pretraining(job.start),
    }
    try:
        model, trained = _train(
            job,
            domains,
            workdir / "last.ckpt",
            notify,
            loggers=[make(node)(save_dir=workdir) for node in config["logger"].values()],
            logged=factors | {"source": unit.source, "start": job.start and job.start.name, **config["finetune"]},
        )
    except Diverged as error:
        job.directory.finish(
            Record(
                **record,
                status="diverged",
                evaluations=[],
                curve=_curve(error.curve),
                provenance=_machine(error) | _times(started),
                error=Divergence(epoch=error.epoch, message=str(error)),
            ),
            Outputs(NO_EPOCHS),
        )
        return
    known = job.directory.record()
    evaluations = _evaluations(trained.outputs, unit.source)
    if known is not None and known.evaluations != evaluations:
        raise DataError(
            f"{job.id} was trained again for its weights, which other methods start from, and gives other results than "
            "before: another machine, or other versions of packages. Use another out=DIR."
        )
    if job.keeps_weights:
        header = checkpoint.Header(config["facts"], _start_result(job.start))
        write_bytes(job.weights, checkpoint.packed(model, header))
    if known is not None:
        (workdir / "last.ckpt").unlink(missing_ok=True)
        return
    asked = job.asked()
    firewall = _label_firewall(job, domains, model) if asked["label_firewall"] and unit.target else None
    job.directory.finish(
        Record(
            **record,
            status="finished",
            parameters=sum(p.numel() for p in model.parameters()),
            conversion=_conversion(model),
            evaluations=evaluations,
            curve=_curve(trained.curve),
            online=_online(trained, unit.target),
            label_firewall=firewall,
            cost=trained.cost.values(),
            provenance=_provenance(trained) | _times(started),
        ),
        trimmed(trained.outputs, "logits" in (asked["keep"] or ())),
    )


def _train(
    job: UnitJob, domains: Sequence[DecodedDomain], state: Path, notify: Notify, **logging: Any
) -> tuple[Backbone, Trained]:
    """Build the network of a unit, and train or adapt it."""
    config, unit = job.config, job.unit
    seed, recipe = unit.factors.seed, make_recipe(config["finetune"])
    model = _started(job, recipe, len(domains[0].classes), seed)
    protocol, node = make(config["protocol"]), config["method"]
    adaptation: Adaptation | None = None
    if unit.target is None:
        chosen = subsets.transfer(domains, unit.source, protocol, seed)
    else:
        joint = node["phase"] == "joint"
        chosen = subsets.adaptation(domains, unit.source, unit.target, protocol, seed, with_source=joint)
        options = {key: node[key] for key in ("weight", "statistics", "order") if key in node}
        adaptation = Adaptation(make(node["build"]), **options)
    after_epoch = partial(_keep_weights, job, model)
    after_epoch(0)
    task = Task(
        model=model,
        subsets=chosen,
        normalize=normalization(model, config["normalize"]),
        settings=_settings(config, model, config["data"]["size"], recipe),
        seed=seed,
        state=state,
        facts={key: config["facts"][key] for key in ("model", "norm")},
        cache=Path(config["cache_dir"]) / "features",
        adaptation=adaptation,
        notify=notify,
        after_epoch=after_epoch,
        **logging,
    )
    return model, fit(recipe, task)


def _keep_weights(job: UnitJob, model: Backbone, epoch: int) -> None:
    if epoch in job.asked()["keep_epochs"]:
        header = checkpoint.Header(job.config["facts"], {"epoch": epoch})
        write_bytes(job.weights_after(epoch), checkpoint.packed(model, header))


def _started(job: UnitJob, recipe: AnyRecipe, classes: int, seed: int) -> Backbone:
    """The network that a unit starts from."""
    if job.needs is not None and job.start is not None:
        model = recipe.network(_model(job.config, classes, seed))
        checkpoint.load_network(job.start, model)
        return model
    keep_head = job.start is not None and job.config.get("keep_head", False)
    load = None
    if job.start is not None:
        load = partial(checkpoint.load_network if keep_head else checkpoint.load_backbone, job.start)
    model = _model(job.config, classes if keep_head else 2, seed, load)
    torch.manual_seed(epoch_seed(seed, 0, stream=3))
    model = recipe.network(model)
    if not keep_head:
        model.head = model.make_head(classes)
    return model


def _label_firewall(job: UnitJob, domains: Sequence[DecodedDomain], model: Backbone) -> Literal["passed"]:
    """Adapt again with permuted target labels.

    Raises:
        DataError: a weight differs, so the method has used target labels.
    """
    target = job.unit.target
    permuted = [
        replace(domain, labels=np.random.default_rng(0).permutation(domain.labels)) if domain.name == target else domain
        for domain in domains
    ]
    state = job.directory.path / "firewall.ckpt"
    again, _ = _train(job, permuted, state, lambda done, epochs: None)
    state.unlink(missing_ok=True)
    other = again.state_dict()
    differing = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, other[name])]
    if differing:
        raise DataError(
            f"{job.id}: with permuted labels of {target} the adapted network is another ({differing[0]} and "
            f"{len(differing) - 1} more tensors differ). The method uses target labels, "
            "or its training is not repeatable."
        )
    return "passed"


def _online(trained: Trained, target: str | None) -> Evaluation | None:
    """The count of right predictions of a stream, made when the images arrived."""
    if trained.online is None or target is None:
        return None
    index, logits = trained.online
    labels = torch.from_numpy(trained.outputs.domains[target].labels.astype(np.int64))[index]
    return Evaluation(
        domain=target,
        role="target",
        epoch=1,
        correct=int((logits.argmax(1) == labels).sum()),
        n=len(index),
    )


def _curve(rows: Sequence[Mapping[str, Any]]) -> list[EpochCurve]:
    """The curve for the record, without what a method logged where it is not finite, e.g. the mean of nothing."""
    terms = [{k: v for k, v in row.get("terms", {}).items() if math.isfinite(v)} for row in rows]
    return [EpochCurve.model_validate({**row, "terms": found}) for row, found in zip(rows, terms, strict=True)]


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


def _model(
    config: Mapping[str, Any], num_classes: int, seed: int, load: Callable[[Backbone], None] | None = None
) -> Backbone:
    torch.manual_seed(epoch_seed(seed, 0, stream=2))
    model = built(config, num_classes, load)
    if model.weights != config["facts"]["model"].get("weights"):
        raise DataError(
            f"The starting weights of {config['model']['name']} changed since the command was planned; rerun it."
        )
    return model


def _settings(config: Mapping[str, Any], model: Backbone, stored: int, recipe: AnyRecipe) -> Settings:
    """The trainer's settings, with the precision that is faster for this backbone on this device."""
    side = recipe.view.side(stored)
    batch = getattr(recipe, "batch_size", EXTRACTED)
    folder = Path(config["cache_dir"]) / "precision"
    return decided(make(config["trainer"]), model, (batch, 3, side, side), folder, config["facts"]["model"])


def normalization(model: Backbone, otherwise: Mapping[str, Any]) -> Normalize:
    """How images are normalized: as a network that was trained elsewhere expects, else as the experiment says."""
    expected = model.expects
    return Normalize(**otherwise) if expected is None else Normalize(expected.mean, expected.std)


def _conversion(model: Backbone) -> Conversion | None:
    return None if model.conversion is None else Conversion(**asdict(model.conversion))


def _start_result(start: Path | None) -> dict[str, Any]:
    """The result in the header of a unit's weights."""
    found = pretraining(start)
    return {"pretraining": None if found is None else found.model_dump()}


def _machine(error: Diverged) -> dict[str, Any]:
    return machine() | {**error.computed, "command": command()}


def _provenance(trained: Trained) -> dict[str, Any]:
    return machine() | trained.cost.environment() | {"command": command()}


def _times(started: str) -> dict[str, str]:
    return {"started": started, "finished": _now()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
