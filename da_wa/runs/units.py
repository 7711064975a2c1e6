"""The units of one network, source and seed: one per source, and those of adaptation methods per target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from da_wa.config.choices import ACTIVATIONS
from da_wa.data.manifest import DomainManifest
from da_wa.errors import ConfigError
from da_wa.models.weights import WeightsError, file_digest
from da_wa.records import identity
from da_wa.records.identity import Facts
from da_wa.records.store import Store
from da_wa.runs.jobs import PretrainJob, UnitJob


@dataclass(frozen=True)
class Context:
    """What units of one network, source and seed share.

    ``weights`` is the digest of the model's own, ``start_norm`` the norm of the pre-trained network if it is another.
    """

    cfg: Mapping[str, Any]
    store: Store
    shared: Facts
    domains: Sequence[DomainManifest]
    norm: tuple[str, Mapping[str, Any]]
    model: Mapping[str, Any]
    weights: str | None
    source: str
    seed: int
    network_seed: int | None
    network: PretrainJob | None
    start: Path | None
    start_norm: tuple[str, Mapping[str, Any]] | None = None

    @cached_property
    def start_name(self) -> str | None:
        """The name of the pre-trained network, or the digest of a given file."""
        return self.network.id if self.network else _content(self.start)

    def images(self, name: str) -> int:
        """The number of images of a domain."""
        return next(len(domain) for domain in self.domains if domain.name == name)

    @property
    def targets(self) -> list[str]:
        """Every domain but the source."""
        return [domain.name for domain in self.domains if domain.name != self.source]


def units(context: Context, methods: Mapping[str, Mapping[str, Any]]) -> list[UnitJob]:
    """The units of every method; training on the source first where another method starts from it."""
    activation = levels(context.norm, context.model)["activation"]
    chosen = [(name, node) for name, node in methods.items() if acts(node, activation)]
    from_source = [(name, node) for name, node in chosen if node["phase"] in ("target", "stream")]
    units: list[UnitJob] = []
    if from_source or any(node["phase"] == "source" for _, node in chosen):
        units.append(_unit_job(context, "none", SOURCE_ONLY, None))
    for name, node in chosen:
        if node["phase"] == "joint":
            units += [
                _unit_job(context, name, {**node, "weight": weight}, target)
                for weight in _each(node["weight"])
                for target in context.targets
            ]
    adapted = [_unit_job(context, n, node, t, after=units[0]) for n, node in from_source for t in context.targets]
    if adapted:
        units[0] = replace(units[0], dependents=[job.directory for job in adapted])
    return [*units, *adapted]


SOURCE_ONLY = {"label": "source only", "phase": "source"}
"""The node of ``method=none``."""

PASSES = {"source": 1.0, "joint": 2.0, "target": 1.0, "stream": 1.5}
"""Cost of a method per image of an epoch, relative to training on the source; of joint methods per source image."""


def levels(norm: tuple[str, Mapping[str, Any]], model: Mapping[str, Any]) -> dict[str, str]:
    """The levels of a network in comparisons: of its norm, or of the model where the norm is kept.

    >>> levels(("rms", {}), {"factors": {"weight": "plain", "activation": "bn"}})
    {'weight': 'rms', 'activation': 'rms'}
    >>> levels(("keep", {"keep": True}), {"factors": {"weight": "plain", "activation": "bn"}})
    {'weight': 'plain', 'activation': 'bn'}
    """
    name, node = norm
    factors = node.get("factors") or (model.get("factors") if node.get("keep") else None) or {}
    return {factor: factors.get(factor, name) for factor in ("weight", "activation")}


def acts(node: Mapping[str, Any], activation: str) -> bool:
    """Whether a method changes networks of this activation norm; for others its result is that of the source.

    >>> acts({"changes": ["bn"]}, "gn")
    False
    """
    changes = node.get("changes")
    return changes is None or activation in changes or activation not in ACTIVATIONS


def _each(weight: Any) -> list[float]:
    """The different weights of one or a list; 1 and 1.0 are one, and have one name."""
    return list(dict.fromkeys(map(float, weight if isinstance(weight, list) else [weight])))


def _unit_job(
    context: Context,
    method: str,
    node: Mapping[str, Any],
    target: str | None,
    after: UnitJob | None = None,
) -> UnitJob:
    """One unit; ``after`` is the unit whose weights it starts from."""
    cfg, (norm, norm_node) = context.cfg, context.norm
    facts = identity.unit_facts(
        norm=identity.norm_facts(norm, norm_node),
        model=identity.model_facts(context.model, context.weights),
        method=identity.method_facts(method, node),
        source=context.source,
        target=target,
        seed=context.seed,
        start=after.id if after else context.start_name,
        shared=context.shared,
    )
    run_id = identity.unit_name(facts)
    start = after.weights if after else context.start
    recipe = node.get("recipe") or cfg["finetune"]
    config = {
        "unit": _unit(context, method, node, target, recipe),
        "experiment": identity.digest(context.shared),
        "facts": facts,
        **computing(cfg),
        "norm": norm_node,
        "model": context.model,
        "method": node,
        "finetune": recipe,
        "protocol": cfg["protocol"],
        "normalize": cfg["normalize"],
        "data": cfg["data"],
        "logger": cfg["logger"],
        "keep": cfg["keep"],
        "keep_epochs": cfg["keep_epochs"],
        "label_firewall": cfg["label_firewall"],
        "start": None if start is None else str(start),
        "start_norm": None if context.start is None or context.start_norm is None else dict([context.start_norm]),
        "keep_head": bool(cfg["pretrain"].get("keep_head")),
        "needs": after.id if after else None,
    }
    images = context.images(target if after and target else context.source)
    if not after and recipe.get("epoch_steps"):
        images = recipe["epoch_steps"] * recipe.get("batch_size", 1)
    cost = PASSES[node["phase"]] * images * recipe.get("epochs", 1)
    return UnitJob(run_id, config, float(cost), context.store.run(run_id), start, after.id if after else None)


def _unit(
    context: Context, method: str, node: Mapping[str, Any], target: str | None, recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """The plan of a unit, see :class:`~da_wa.records.schema.Plan`."""
    cfg, (norm, norm_node) = context.cfg, context.norm
    pretrain = cfg["pretrain"]
    trained = trains(pretrain, context.model)
    return {
        "factors": {
            "norm": norm,
            **levels(context.norm, context.model),
            "method": method,
            "method_weight": node.get("weight"),
            "model": context.model["name"],
            "dataset": cfg["data"]["name"],
            "protocol": cfg["protocol"]["name"],
            "size": (recipe.get("augment") or recipe.get("input") or {}).get("size") or cfg["data"]["size"],
            "batch_size": recipe.get("batch_size"),
            "epochs": recipe.get("epochs"),
            "lr": (recipe.get("optimizer") or {}).get("lr"),
            "seed": context.seed,
            "pretraining": _pretraining(context),
            "pretraining_epochs": epochs_of(pretrain, started_with(pretrain, norm)) if trained else None,
            "pretraining_seed": context.network_seed,
        },
        "labels": {"norm": norm_node.get("label", norm), "method": node["label"]},
        "source": context.source,
        "target": target,
        "domains": [domain.name for domain in context.domains],
    }


def computing(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Where and how to compute; not part of a job's name."""
    return {"trainer": cfg["trainer"], "cache_dir": cfg["cache_dir"]}


def trains(pretrain: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    """Whether networks of a model are pre-trained here: they are neither given nor untrained, nor bring weights."""
    return pretrain["recipe"] is not None and pretrain["checkpoint"] is None and model.get("weights") is None


def started_with(pretrain: Mapping[str, Any], norm: str) -> str:
    """The norm of the pre-trained network that units of a norm start from.

    >>> started_with({"norm": "bn"}, "bn_wa"), started_with({"norm": None}, "bn_wa")
    ('bn', 'bn_wa')
    """
    return pretrain.get("norm") or norm


def epochs_of(pretrain: Mapping[str, Any], norm: str) -> int:
    """The epochs of the pre-training of a norm.

    >>> pretrain = {"epochs": {"bn": 4}, "recipe": {"epochs": 20}}
    >>> epochs_of(pretrain, "bn"), epochs_of(pretrain, "gn")
    (4, 20)
    """
    epochs: int = pretrain.get("epochs", {}).get(norm, pretrain["recipe"]["epochs"])
    return epochs


def _pretraining(context: Context) -> str | None:
    """What the starting weights were trained on, or where they come from; None without any."""
    pretrain, model = context.cfg["pretrain"], context.model
    if pretrain["checkpoint"] is not None or trains(pretrain, model):
        return str(pretrain["name"])
    if model.get("weights") is None:
        return None
    return str((model.get("factors") or {}).get("pretraining") or Path(model["weights"]).stem)


def _content(checkpoint: Path | None) -> str | None:
    """The digest of a file that the user gave."""
    if checkpoint is None:
        return None
    try:
        return file_digest(checkpoint)
    except WeightsError as error:
        raise ConfigError(f"pretrain.checkpoint={error}") from error
