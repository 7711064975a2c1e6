"""From a job's configuration to parts, and from parts to its outcome: the only place that instantiates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from da_wa.config.make import make
from da_wa.data.cache import DecodedDomain, load_decoded
from da_wa.data.domains import DomainSet
from da_wa.data.splits import check_batch
from da_wa.errors import ConfigError, Diverged, UserError
from da_wa.runs.jobs import FinetuneJob, Job, PretrainJob

LOGGED = ("norm", "model", "dataset", "source", "seed", "protocol", "size", "checkpoint", "recipe")
"""What loggers are told of a run beside its metrics and its fine-tuning recipe."""

Notify = Callable[[int, int], None]
DomainProgress = Callable[[str, int, int], None]
"""Called with a domain's name, its images decoded so far, and its images."""


def load_domains(
    data: Mapping[str, Any], cache_dir: Path, progress: DomainProgress = lambda name, done, total: None
) -> list[DecodedDomain]:
    """The decoded domains of a ``data`` configuration, in display order.

    Raises:
        UserError: anything wrong with the data; the text says what and where.
    """
    if not isinstance(data["size"], int):
        raise ConfigError(f"data.size={data['size']} is not a whole number of pixels")
    domains: DomainSet = make(data["domains"])
    for name, path in data["extra"].items():
        domains = domains.with_folder(name, path)
    if len(domains.domains) < 2:
        raise ConfigError(f"{domains.name} has one domain, {domains.names[0]}; a transfer needs two or more")
    return _decode(domains, data["size"], cache_dir, data["on_bad"], progress)


def load_pretraining(data: Mapping[str, Any], size: int, cache_dir: Path) -> list[DecodedDomain]:
    """The decoded training and test images of a configuration's ``pretrain.data``."""
    return _decode(make(data), size, cache_dir, "error")


def _decode(
    domains: DomainSet, size: int, cache_dir: Path, on_bad: Any, progress: DomainProgress | None = None
) -> list[DecodedDomain]:
    return [
        load_decoded(
            domain,
            domains.classes,
            size,
            cache_dir,
            on_bad,
            None if progress is None else lambda done, total, name=domain.name: progress(name, done, total),  # type: ignore[misc]
        )
        for domain in domains.domains
    ]


def preflight(
    cfg: Mapping[str, Any], norms: Mapping[str, Any], domains: Sequence[DecodedDomain], jobs: Sequence[Job]
) -> None:
    """Make every part once, networks without memory, so that a mistake is told before the first job.

    Args:
        cfg: the composed experiment.
        norms: the configuration of each norm, by name.
        domains: the decoded domains.
        jobs: what is planned.

    Raises:
        ConfigError: a part that cannot be made as configured, a device that is not here, images too small for
            the network or too few for a batch.
        DataError: a domain that cannot be split as the protocol says.
        CheckpointError: a pre-trained network that cannot be used, or is of another norm or model.
        DataError: the images for pre-training are needed and not there.
    """
    import torch

    make(cfg["trainer"]).check_device()
    make(cfg["launcher"])
    _check_splits(cfg, domains, jobs)
    for key, node in {"finetune": cfg["finetune"], "pretrain.recipe": cfg["pretrain"]["recipe"]}.items():
        if node is not None:
            _check_recipe(key, node)
    for name, norm in norms.items():
        with torch.device("meta"):
            try:
                model = make(cfg["model"]["build"])(make(norm), 2)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{cfg['model']['name']} cannot be made with norm {name}: {error}") from error
        sizes = {"data.size": cfg["data"]["size"]} if cfg["sources"] else {}
        if cfg["pretrain"]["recipe"] is not None:
            sizes["pretrain.size"] = cfg["pretrain"]["size"]
        for key, size in sizes.items():
            if size < model.min_size:
                raise ConfigError(
                    f"{key}={size} is too small for {cfg['model']['name']}, "
                    f"which needs images of {model.min_size} pixels a side or more"
                )

    for job in jobs:
        if isinstance(job, FinetuneJob) and job.checkpoint is not None and job.checkpoint.exists():
            _check_checkpoint(job.checkpoint, job.config)
    if any(isinstance(job, PretrainJob) and not job.done() for job in jobs):
        make(cfg["pretrain"]["data"])


def _check_splits(cfg: Mapping[str, Any], domains: Sequence[DecodedDomain], jobs: Sequence[Job]) -> None:
    """Split the domains as the runs will."""
    protocol = make(cfg["protocol"])
    for source, seed in dict.fromkeys(
        (j.config["source"], j.config["seed"]) for j in jobs if isinstance(j, FinetuneJob)
    ):
        for domain in domains:
            if domain.name == source:
                kept, _ = protocol.source(source, domain.labels, seed)
                check_batch(source, len(kept), cfg["finetune"]["batch_size"])
            else:
                protocol.target(domain.name, domain.labels, seed)


def _check_checkpoint(path: Path, config: Mapping[str, Any]) -> None:
    """Compare what a checkpoint says of itself with the run that starts from it."""
    from da_wa.models.checkpoint import CheckpointError, read_header

    trained, details = read_header(path).recipe, config["details"]
    pairs = {
        "norm": ({**trained.get("norm", {}), "label": None}, {**details["norm"], "label": None}),
        "model": (trained.get("model", {}).get("name"), details["model"]["name"]),
        "normalize": (trained.get("normalise"), details["normalise"]),
    }
    differ = [what for what, (there, wanted) in pairs.items() if there != wanted]
    if differ:
        raise CheckpointError(
            f"{path} cannot be used for {config['model']} with norm {config['norm']}: "
            f"it was trained with another {' and '.join(differ)}"
        )


def _check_recipe(key: str, node: Mapping[str, Any]) -> None:
    """Make the optimiser and schedule of a recipe for one parameter."""
    import torch

    from da_wa.train.recipe import make_recipe

    recipe, parameter = make_recipe(node), torch.zeros(1, requires_grad=True)
    try:
        optimizer = recipe.optimizer([{"params": [parameter]}])
        recipe.schedule(optimizer, total_steps=2)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key} cannot be used: {error}") from error


def run_pretraining(config: Mapping[str, Any], path: Path, notify: Notify) -> dict[str, Any] | None:
    """Carry out a :class:`~da_wa.runs.jobs.PretrainJob`; gives what there is to tell of a training that diverges."""
    import torch

    from da_wa.train.environment import command, machine
    from da_wa.train.pretrain import pretrain
    from da_wa.train.recipe import make_recipe

    described = config["described"]
    train, test = load_pretraining(config["data"], described["size"], Path(config["cache_dir"]))
    model = _model(described, len(train.classes), described["seed"])
    try:
        pretrain(
            model,
            train,
            test,
            recipe=make_recipe(described["recipe"]),
            normalize=_normalize(described),
            seed=described["seed"],
            settings=make(config["trainer"]),
            path=path,
            described=described,
            dtype=getattr(torch, described["dtype"]),
            notify=notify,
        )
    except Diverged as error:
        return _divergence(error) | {"environment": machine() | {"command": command()}}
    return None


def run_finetuning(
    config: Mapping[str, Any], checkpoint: Path | None, workdir: Path, notify: Notify
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Carry out a :class:`~da_wa.runs.jobs.FinetuneJob`: its record and predictions.

    A training that diverges has a record too, without results.
    """
    import torch

    from da_wa.data.datamodule import epoch_seed
    from da_wa.models.checkpoint import load_backbone
    from da_wa.train.environment import environment
    from da_wa.train.finetune import finetune
    from da_wa.train.recipe import make_recipe

    details, seed = config["details"], config["seed"]
    domains = load_domains(config["data"], Path(config["cache_dir"]))
    _check_unchanged(domains, details["domains"])
    model = _model(details, 2, seed)
    if checkpoint is not None:
        load_backbone(checkpoint, model)
    torch.manual_seed(epoch_seed(seed, 0, stream=3))
    model.head = model.make_head(len(domains[0].classes))
    record = {
        key: config[key]
        for key in ("norm", "label", "model", "seed", "protocol", "dataset", "size", "source", "targets", "recipe")
    } | {
        "domains": [domain.name for domain in domains],
        "classes": list(domains[0].classes),
        "data": {domain.name: {"digest": domain.digest, "n": len(domain)} for domain in domains},
        "parameters": sum(p.numel() for p in model.parameters()),
        "pretrain": None if checkpoint is None else _pretrained(checkpoint),
    }
    try:
        outcome = finetune(
            model,
            domains,
            config["source"],
            protocol=make(details["protocol"]),
            recipe=make_recipe(details["finetune"]),
            normalize=_normalize(details),
            seed=seed,
            settings=make(config["trainer"]),
            workdir=workdir,
            notify=notify,
            loggers=[make(node)(save_dir=workdir) for node in config["logger"].values()],
            logged={key: config[key] for key in LOGGED} | {"finetune": details["finetune"]},
        )
    except Diverged as error:
        return record | {"status": "diverged", "results": [], **_divergence(error)}, {}
    return record | {
        "status": "finished",
        "error": None,
        "results": outcome.results,
        "evaluations": outcome.evaluations,
        "curve": outcome.curve,
        "timing": outcome.fitted.timing(),
        "peak_memory_mb": round(outcome.fitted.peak_memory_mb, 1),
        "environment": environment(outcome.fitted),
    }, outcome.predictions


def _divergence(error: Diverged) -> dict[str, Any]:
    return {"error": {"epoch": error.epoch, "message": str(error)}, "curve": error.curve}


def _model(described: Mapping[str, Any], num_classes: int, seed: int) -> Any:
    import torch

    from da_wa.data.datamodule import epoch_seed

    torch.manual_seed(epoch_seed(seed, 0, stream=2))
    return make(described["model"]["build"])(make(described["norm"]), num_classes)


def _normalize(described: Mapping[str, Any]) -> Any:
    from da_wa.data.augment import Normalize

    return Normalize(**described["normalise"])


def _pretrained(checkpoint: Path) -> dict[str, Any]:
    from da_wa.models.checkpoint import read_header
    from da_wa.runs.plan import digest

    header = read_header(checkpoint)
    return {
        "name": checkpoint.stem,
        "dataset": header.recipe["dataset"],
        "correct": header.result["correct"],
        "n": header.result["n"],
        "epochs": header.result["epochs"],
        "recipe": digest({**header.recipe, "norm": None}),
    }


def _check_unchanged(domains: Sequence[DecodedDomain], planned: Mapping[str, str]) -> None:
    changed = [domain.name for domain in domains if planned.get(domain.name) != domain.digest]
    if changed:
        raise UserError(f"the images of {', '.join(changed)} changed after the experiment was planned; start it again")
