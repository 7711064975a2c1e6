"""An experiment's configuration -> its jobs, pre-training before fine-tuning, each with a stable name."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from da_wa.config.make import make
from da_wa.data.cache import DecodedDomain
from da_wa.errors import ConfigError, nearest
from da_wa.runs.build import load_pretraining
from da_wa.runs.jobs import FinetuneJob, Job, PretrainJob
from da_wa.runs.ledger import Ledger


def plan(
    cfg: Mapping[str, Any],
    norms: Mapping[str, Any],
    domains: Sequence[DecodedDomain],
    ledger: Ledger,
    checkpoint_dir: Path,
) -> list[Job]:
    """All jobs of an experiment; a job that is finished already is among them.

    A pre-trained network is shared by all sources and seeds of its norm. What a job's numbers depend on
    is hashed into its name; where and how it is computed (``trainer``, ``launcher``, folders) is not.

    Args:
        cfg: the composed experiment, as nested plain values.
        norms: the configuration of each norm, by name.
        domains: the decoded domains in display order; empty for pre-training alone.
        ledger: where fine-tuning runs are kept.
        checkpoint_dir: where pre-trained networks are kept.

    Raises:
        ConfigError: a source that is not a domain, or no target for it; or ``ledger`` holds finished runs
            of another experiment.
    """
    pretraining: dict[str, PretrainJob] = {}
    jobs: list[Job] = []
    images = _own_images(cfg["pretrain"], cfg["cache_dir"])
    for name, norm in norms.items():
        if cfg["pretrain"]["recipe"] is not None and cfg["pretrain"]["checkpoint"] is None:
            pretraining[name] = _pretrain_job(cfg, name, norm, checkpoint_dir, images)
            jobs.append(pretraining[name])
    names = [domain.name for domain in domains]
    sources = _sources(cfg["sources"], names) if domains else []
    for seed in _seeds(cfg["seeds"]):
        for name, norm in norms.items():
            checkpoint = pretraining[name].checkpoint if name in pretraining else _given(cfg["pretrain"], name)
            for source in sources:
                jobs.append(_finetune_job(cfg, name, norm, source, seed, domains, checkpoint, ledger))
    _refuse_another_experiment(ledger, [job.config for job in jobs if isinstance(job, FinetuneJob)])
    return jobs


def _refuse_another_experiment(ledger: Ledger, planned: Sequence[Mapping[str, Any]]) -> None:
    """Raise before anything is trained that could not stand in one table with what is there."""
    there = next((run.config() for run in ledger.runs() if run.finished), None) if planned else None
    if there is None or there["recipe"] == planned[0]["recipe"]:
        return
    old, new = (_flat({**config["details"], "norm": None}) for config in (there, planned[0]))
    differ = [f"{k}: {old.get(k)} there, {new.get(k)} now" for k in {**old, **new} if old.get(k) != new.get(k)]
    raise ConfigError(
        f"{ledger.path} holds runs of another experiment, which cannot stand in one table with this one "
        f"({'; '.join(differ[:5])}). Choose another folder with out=DIR."
    )


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, Mapping):
        return {prefix: node}
    return {k: v for key, child in node.items() for k, v in _flat(child, f"{prefix}.{key}" if prefix else key).items()}


def _own_images(pretrain: Mapping[str, Any], cache_dir: str) -> dict[str, str]:
    """The digest of each part of a pre-training set that need not be the original; its label tells the others."""
    if pretrain["recipe"] is None or pretrain["verify"] or pretrain["checkpoint"] is not None:
        return {}
    parts = load_pretraining(pretrain["data"], pretrain["size"], Path(cache_dir))
    return {pixels.name: pixels.digest for pixels in parts}


def _pretrain_job(cfg: Mapping[str, Any], name: str, norm: Any, folder: Path, images: Mapping[str, str]) -> PretrainJob:
    pretrain = cfg["pretrain"]
    described = {
        "dataset": pretrain["label"],
        "size": pretrain["size"],
        "recipe": pretrain["recipe"],
        "dtype": pretrain["dtype"],
        "seed": pretrain["seed"],
        "model": cfg["model"],
        "norm": norm,
        "normalise": cfg["normalize"],
        **({"images": dict(images)} if images else {}),
    }
    stem = f"{cfg['model']['name']}-{pretrain['name']}-{name}-{digest(described)}"
    config = {
        "described": described,
        "data": pretrain["data"],
        "trainer": cfg["trainer"],
        "cache_dir": cfg["cache_dir"],
    }
    return PretrainJob(stem, config, folder / f"{stem}.safetensors")


def _finetune_job(
    cfg: Mapping[str, Any],
    name: str,
    norm: Any,
    source: str,
    seed: int,
    domains: Sequence[DecodedDomain],
    checkpoint: Path | None,
    ledger: Ledger,
) -> FinetuneJob:
    recipe = {
        "finetune": cfg["finetune"],
        "protocol": cfg["protocol"],
        "model": cfg["model"],
        "normalise": cfg["normalize"],
        "size": cfg["data"]["size"],
        "pretrain": _pretrained_how(cfg["pretrain"]),
        "domains": {domain.name: domain.digest for domain in domains},
        "classes": list(domains[0].classes),
    }
    config = {
        "norm": name,
        "label": norm["label"],
        "model": cfg["model"]["name"],
        "seed": seed,
        "source": source,
        "targets": [domain.name for domain in domains if domain.name != source],
        "domains": [domain.name for domain in domains],
        "dataset": cfg["data"]["name"],
        "protocol": make(cfg["protocol"]).name,
        "size": cfg["data"]["size"],
        "recipe": digest(recipe),
        "checkpoint": None if checkpoint is None else checkpoint.name,
        "details": {"norm": norm, **recipe},
        "data": cfg["data"],
        "trainer": cfg["trainer"],
        "logger": cfg["logger"],
        "cache_dir": cfg["cache_dir"],
    }
    # A checkpoint is told apart by its name, which holds the hash of its recipe; a given one by its content.
    determined_by = [recipe, norm, source, seed, checkpoint_identity(checkpoint, cfg["pretrain"])]
    run_id = f"{name}-{slug(source)}-s{seed}-{digest(determined_by)}"
    images = next(len(domain) for domain in domains if domain.name == source)
    return FinetuneJob(run_id, config, ledger.run(run_id), checkpoint, images)


def _sources(wanted: Any, names: Sequence[str]) -> list[str]:
    if wanted == "all":
        return list(names)
    if not isinstance(wanted, list):
        raise ConfigError(f"sources={wanted} is neither `all` nor a list; write sources=[{','.join(names[:2])}]")
    for source in wanted:
        if source not in names:
            raise ConfigError(f"there is no domain {source!r} to use as a source. {nearest(str(source), names)}")
    return list(dict.fromkeys(wanted))


def _seeds(wanted: Any) -> list[int]:
    if not isinstance(wanted, list) or not wanted or not all(isinstance(seed, int) and seed >= 0 for seed in wanted):
        raise ConfigError(f"seeds={wanted} is not a list of whole numbers; write seeds=[0,1,2]")
    return list(dict.fromkeys(wanted))


def _given(pretrain: Mapping[str, Any], norm: str) -> Path | None:
    """The checkpoint of ``norm`` at the path that the user gave: that file, or the one such file in a folder."""
    if pretrain["checkpoint"] is None:
        return None
    path = Path(pretrain["checkpoint"])
    if not path.is_dir():
        return path
    found = sorted(path.glob(f"*-{norm}-*.safetensors"))
    if len(found) != 1:
        listed = ", ".join(f.name for f in found) or "none"
        raise ConfigError(f"pretrain.checkpoint={path} needs one file *-{norm}-*.safetensors; found: {listed}")
    return found[0]


def checkpoint_identity(checkpoint: Path | None, pretrain: Mapping[str, Any]) -> str | None:
    """What tells one checkpoint from another: the name we gave it, or the content of a user's file."""
    if checkpoint is None or pretrain["checkpoint"] is None:
        return None if checkpoint is None else checkpoint.stem
    try:
        with checkpoint.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise ConfigError(f"pretrain.checkpoint={checkpoint} cannot be read: {error.strerror}") from error


def _pretrained_how(pretrain: Mapping[str, Any]) -> Any:
    """What all norms' pre-training has in common, for telling experiments apart."""
    if pretrain["checkpoint"] is not None or pretrain["recipe"] is None:
        return "given" if pretrain["checkpoint"] is not None else None
    return {key: pretrain[key] for key in ("name", "size", "recipe", "dtype", "seed")}


def digest(value: Any) -> str:
    """Eight hex digits of a nested plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def slug(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^\w.]+", "_", name)[:40]
