"""Turn an experiment into jobs with stable names, pre-training before fine-tuning."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from da_wa.config.choices import ACTIVATIONS
from da_wa.config.compose import Experiment
from da_wa.data.manifest import DomainManifest
from da_wa.errors import ConfigError, nearest
from da_wa.records import identity
from da_wa.records.identity import Facts
from da_wa.records.store import Store
from da_wa.runs.inputs import load_pretraining
from da_wa.runs.jobs import Job, PretrainJob, UnitJob


def plan(experiment: Experiment, domains: Sequence[DomainManifest], out: Path, checkpoint_dir: Path) -> list[Job]:
    """All jobs of an experiment, including finished ones.

    A pre-trained network is shared by all sources and seeds of its norm. The name of a job is a hash of the
    facts that its numbers depend on, without ``trainer``, ``launcher`` and folders.

    Args:
        experiment: the composed experiment.
        domains: manifests in display order; empty for pre-training alone.
        out: the folder of the experiment.
        checkpoint_dir: folder of pre-trained networks.

    Raises:
        ConfigError: a source that is not a domain, a checkpoint that cannot be read, or ``out`` contains finished runs
            with different settings.
    """
    cfg = experiment.cfg
    networks = _pretraining(experiment, checkpoint_dir)
    jobs: list[Job] = list(networks.values())
    store, shared = Store(out), _shared(cfg, domains) if domains else {}
    sources = chosen_sources(cfg["sources"], [domain.name for domain in domains]) if domains else []
    for seed, network_seed in product(dict.fromkeys(cfg["seeds"]), _network_seeds(cfg["pretrain"])):
        for (model, model_node), (norm, norm_node), source in product(
            experiment.models.items(), experiment.norms.items(), sources
        ):
            network = networks.get((model, norm, network_seed))
            context = _Context(
                cfg=cfg,
                store=store,
                shared=shared,
                domains=domains,
                norm=(norm, norm_node),
                model=model_node,
                source=source,
                seed=seed,
                network_seed=network_seed,
                network=network,
                start=network.checkpoint if network else _given(cfg["pretrain"], norm),
            )
            jobs += _units(context, experiment.methods)
    _refuse_other_settings(store, [job for job in jobs if isinstance(job, UnitJob)])
    return jobs


@dataclass(frozen=True)
class _Context:
    """What units of one network, source and seed share."""

    cfg: Mapping[str, Any]
    store: Store
    shared: Facts
    domains: Sequence[DomainManifest]
    norm: tuple[str, Mapping[str, Any]]
    model: Mapping[str, Any]
    source: str
    seed: int
    network_seed: int | None
    network: PretrainJob | None
    start: Path | None

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


def _units(context: _Context, methods: Mapping[str, Mapping[str, Any]]) -> list[UnitJob]:
    """The units of every method; training on the source first where another method starts from it."""
    chosen = [(name, node) for name, node in methods.items() if acts(node, context.norm)]
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


def acts(node: Mapping[str, Any], norm: tuple[str, Mapping[str, Any]]) -> bool:
    """Whether a method changes networks of this norm; for others its result is that of training on the source.

    >>> acts({"changes": ["bn"]}, ("gn", {"factors": {"activation": "gn"}}))
    False
    """
    changes, level = node.get("changes"), (norm[1].get("factors") or {}).get("activation", norm[0])
    return changes is None or level in changes or level not in ACTIVATIONS


def _each(weight: Any) -> list[float]:
    return list(dict.fromkeys(weight)) if isinstance(weight, list) else [weight]


def _unit_job(
    context: _Context,
    method: str,
    node: Mapping[str, Any],
    target: str | None,
    after: UnitJob | None = None,
) -> UnitJob:
    """One unit; ``after`` is the unit whose weights it starts from."""
    cfg, (norm, norm_node) = context.cfg, context.norm
    facts = identity.unit_facts(
        norm=identity.norm_facts(norm, norm_node),
        model=identity.model_facts(context.model),
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
        **_computing(cfg),
        "norm": norm_node,
        "model": context.model,
        "method": node,
        "finetune": recipe,
        "protocol": cfg["protocol"],
        "normalize": cfg["normalize"],
        "data": cfg["data"],
        "logger": cfg["logger"],
        "keep": cfg["keep"],
        "label_firewall": cfg["label_firewall"],
        "start": None if start is None else str(start),
        "needs": after.id if after else None,
    }
    images = context.images(target if after and target else context.source)
    cost = PASSES[node["phase"]] * images * recipe["epochs"]
    return UnitJob(run_id, config, float(cost), context.store.run(run_id), start, after.id if after else None)


def _pretraining(experiment: Experiment, folder: Path) -> dict[tuple[str, str, int | None], PretrainJob]:
    """The pre-training of every (model, norm, seed); empty if networks are given or untrained."""
    cfg = experiment.cfg
    pretrain = cfg["pretrain"]
    if not _trains(pretrain):
        return {}
    images = _own_images(pretrain, cfg["cache_dir"])
    jobs = {}
    for seed, (model, model_node), (norm, norm_node) in product(
        _network_seeds(pretrain), experiment.models.items(), experiment.norms.items()
    ):
        recipe = _at_rate(pretrain["recipe"], pretrain["rates"].get(norm))
        facts = identity.network_facts(
            norm=identity.norm_facts(norm, norm_node),
            model=identity.model_facts(model_node),
            dataset=pretrain["label"],
            size=pretrain["size"],
            recipe=identity.recipe_facts(recipe) or {},
            normalize=cfg["normalize"],
            dtype=pretrain["dtype"],
            seed=seed or 0,
            images=images,
            holdout=pretrain["holdout"],
        )
        name = identity.network_name(pretrain["name"], facts)
        config = {
            "facts": facts,
            "norm": norm_node,
            "model": model_node,
            "recipe": recipe,
            "data": pretrain["data"],
            **_computing(cfg),
        }
        cost = 50_000.0 * pretrain["recipe"]["epochs"]
        jobs[model, norm, seed] = PretrainJob(name, config, cost, folder / f"{name}.safetensors")
    return jobs


def _at_rate(recipe: Mapping[str, Any], rate: float | None) -> Mapping[str, Any]:
    """A recipe with the learning rate of one norm."""
    return recipe if rate is None else {**recipe, "optimizer": {**recipe["optimizer"], "lr": rate}}


def _computing(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Where and how to compute; not part of a job's name."""
    return {"trainer": cfg["trainer"], "cache_dir": cfg["cache_dir"]}


def _trains(pretrain: Mapping[str, Any]) -> bool:
    """Whether networks are pre-trained here, neither given nor untrained."""
    return pretrain["recipe"] is not None and pretrain["checkpoint"] is None


def _network_seeds(pretrain: Mapping[str, Any]) -> list[int | None]:
    """The seeds of the pre-training; one None where there is none."""
    if not _trains(pretrain):
        return [None]
    return list(dict.fromkeys(pretrain["seeds"] or [pretrain["seed"]]))


def _own_images(pretrain: Mapping[str, Any], cache_dir: str) -> dict[str, str]:
    """The digests of a pre-training set that need not be the original one; the original is known by its name."""
    if pretrain["verify"]:
        return {}
    subsets = load_pretraining(pretrain["data"], pretrain["size"], Path(cache_dir))
    return {domain.name: domain.digest for domain in subsets}


def _shared(cfg: Mapping[str, Any], domains: Sequence[DomainManifest]) -> Facts:
    pretrain = cfg["pretrain"]
    how: Any = None if pretrain["checkpoint"] is None else "given"
    if _trains(pretrain):
        keys = ("name", "size", "dtype", "holdout")
        how = {**{k: pretrain[k] for k in keys}, "recipe": identity.recipe_facts(pretrain["recipe"])}
        how |= {"rates": pretrain["rates"]} if pretrain["rates"] else {}
    return identity.shared_facts(
        finetune=identity.recipe_facts(cfg["finetune"]) or {},
        protocol=cfg["protocol"],
        normalize=cfg["normalize"],
        size=cfg["data"]["size"],
        pretraining=how,
        images={domain.name: domain.digest for domain in domains},
        classes=domains[0].classes,
    )


def _unit(
    context: _Context, method: str, node: Mapping[str, Any], target: str | None, recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """The plan of a unit, see :class:`~da_wa.records.schema.Plan`."""
    cfg, (norm, norm_node) = context.cfg, context.norm
    pretrain, factors = cfg["pretrain"], norm_node.get("factors") or {}
    trained = _trains(pretrain)
    return {
        "factors": {
            "norm": norm,
            "weight": factors.get("weight", norm),
            "activation": factors.get("activation", norm),
            "method": method,
            "method_weight": node.get("weight"),
            "model": context.model["name"],
            "dataset": cfg["data"]["name"],
            "protocol": cfg["protocol"]["name"],
            "size": cfg["data"]["size"],
            "batch_size": recipe["batch_size"],
            "epochs": recipe["epochs"],
            "lr": recipe["optimizer"].get("lr"),
            "seed": context.seed,
            "pretraining": pretrain["name"] if trained or pretrain["checkpoint"] is not None else None,
            "pretraining_epochs": pretrain["recipe"]["epochs"] if trained else None,
            "pretraining_seed": context.network_seed,
        },
        "labels": {"norm": norm_node.get("label", norm), "method": node["label"]},
        "source": context.source,
        "target": target,
        "domains": [domain.name for domain in context.domains],
    }


def _refuse_other_settings(store: Store, planned: Sequence[UnitJob]) -> None:
    """Raise if the results would not be comparable with those in ``out``."""
    if not planned:
        return
    wanted, ids = planned[0].config, {job.id for job in planned}
    for run in store.runs():
        record = run.record()
        if record is None:
            continue
        if record.experiment == wanted["experiment"]:
            break
        known = run.config().get("facts", {}).get("shared")
        differ = "they are of an earlier version" if known is None else _differences(known, wanted["facts"]["shared"])
        raise _not_comparable(store, differ)
    for kind in ("norm", "model", "method"):  # one name in a table is one network
        now = {job.config["facts"][kind]["name"]: _comparable(job.config["facts"][kind]) for job in planned}
        for run in store.runs():
            if run.id in ids or not (run.path / "record.json").exists():
                continue
            old = _comparable(run.config().get("facts", {}).get(kind, {}))
            same = now.get(old.get("name"), old)
            if old != same:
                raise _not_comparable(store, f"{kind} {old['name']}: {_differences(old, same)}")


def _comparable(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without the weight of a method, which is a factor."""
    return {key: value for key, value in facts.items() if key != "weight"}


def _not_comparable(store: Store, differ: str) -> ConfigError:
    return ConfigError(
        f"{store.path} contains runs with different settings; results are not comparable ({differ}). "
        "Use a separate out=DIR per experiment."
    )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, now = _flat(old), _flat(new)
    differ = [
        f"{k}: {before.get(k)} there, {now.get(k)} now"
        for k in dict.fromkeys([*before, *now])
        if before.get(k) != now.get(k)
    ]
    return "; ".join(differ[:5])


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, Mapping):
        return {prefix: node}
    return {k: v for key, child in node.items() for k, v in _flat(child, f"{prefix}.{key}" if prefix else key).items()}


def chosen_sources(wanted: Any, names: Sequence[str]) -> list[str]:
    """The domains to train on.

    Args:
        wanted: ``all`` or their names.
        names: of all domains.

    >>> chosen_sources(["W", "W"], ["A", "W", "D"])
    ['W']

    Raises:
        ConfigError: one is not a domain.
    """
    if wanted == "all":
        return list(names)
    for source in wanted:
        if source not in names:
            raise ConfigError(f"sources: there is no domain {source!r}. {nearest(str(source), names)}")
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
        raise ConfigError(
            f"pretrain.checkpoint={path} must contain exactly one file *-{norm}-*.safetensors; found: {listed}."
        )
    return found[0]


def _content(checkpoint: Path | None) -> str | None:
    """The digest of a file that the user gave."""
    if checkpoint is None:
        return None
    try:
        with checkpoint.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise ConfigError(f"pretrain.checkpoint={checkpoint} cannot be read: {error.strerror}.") from error
