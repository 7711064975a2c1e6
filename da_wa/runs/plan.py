"""Turn an experiment into jobs with stable names, pre-training before fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any

from da_wa.config.compose import Experiment
from da_wa.config.make import make
from da_wa.data.manifest import DomainManifest
from da_wa.errors import ConfigError, nearest
from da_wa.models.weights import PUBLISHED, file_digest, given_file
from da_wa.records import identity
from da_wa.records.identity import Facts
from da_wa.records.store import Store
from da_wa.runs.inputs import load_pretraining
from da_wa.runs.jobs import Job, PretrainJob, UnitJob
from da_wa.runs.units import Context, computing, epochs_of, started_with, trains, units


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
        ConfigError: a source that is not a domain, a ``pretrain.norm`` that is not compared, a checkpoint that cannot
            be read, or ``out`` contains runs with different settings that are finished or in progress.
    """
    cfg = experiment.cfg
    if (common := cfg["pretrain"].get("norm")) not in (None, *experiment.norms):
        raise ConfigError(f"pretrain.norm={common} is not one of norms=[{','.join(experiment.norms)}]; add it there.")
    networks = _pretraining(experiment, checkpoint_dir)
    jobs: list[Job] = list(networks.values())
    store, shared = Store(out), _shared(experiment, domains) if domains else {}
    sources = chosen_sources(cfg["sources"], [domain.name for domain in domains]) if domains else []
    own = {model: _own_weights(node) for model, node in experiment.models.items()} if domains else {}
    network_seeds = {model: _network_seeds(cfg["pretrain"], node) for model, node in experiment.models.items()}
    for seed, network_seed in product(dict.fromkeys(cfg["seeds"]), dict.fromkeys(chain(*network_seeds.values()))):
        for (model, model_node), (norm, norm_node), source in product(
            experiment.models.items(), experiment.norms.items(), sources
        ):
            if network_seed not in network_seeds[model]:
                continue
            started = started_with(cfg["pretrain"], norm)
            network = networks.get((model, started, network_seed))
            context = Context(
                cfg=cfg,
                store=store,
                shared=shared,
                domains=domains,
                norm=(norm, norm_node),
                model=model_node,
                weights=own[model],
                source=source,
                seed=seed,
                network_seed=network_seed,
                network=network,
                start_norm=None if started == norm else (started, experiment.norms[started]),
                start=network.checkpoint if network else _given(cfg["pretrain"], started),
            )
            jobs += units(context, experiment.methods)
    _refuse_other_settings(store, [job for job in jobs if isinstance(job, UnitJob)])
    return jobs


def _pretraining(experiment: Experiment, folder: Path) -> dict[tuple[str, str, int | None], PretrainJob]:
    """The pre-training of every (model, norm, seed); empty if networks are given or untrained."""
    cfg = experiment.cfg
    pretrain = cfg["pretrain"]
    models = {model: node for model, node in experiment.models.items() if trains(pretrain, node)}
    if not models:
        return {}
    images = _own_images(pretrain, cfg["cache_dir"])
    norms = dict.fromkeys(started_with(pretrain, norm) for norm in experiment.norms)
    jobs = {}
    for seed, (model, model_node), norm in product(_seeds(pretrain), models.items(), norms):
        norm_node = experiment.norms[norm]
        recipe = _recipe(pretrain, norm)
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
            holdout=pretrain.get("holdout", 0.0),
        )
        name = identity.network_name(pretrain["name"], facts)
        config = {
            "facts": facts,
            "norm": norm_node,
            "model": model_node,
            "recipe": recipe,
            "data": pretrain["data"],
            **computing(cfg),
        }
        cost = 50_000.0 * recipe["epochs"]
        jobs[model, norm, seed] = PretrainJob(name, config, cost, folder / f"{name}.safetensors")
    return jobs


def _recipe(pretrain: Mapping[str, Any], norm: str) -> Mapping[str, Any]:
    """The recipe of the pre-training with the learning rate and the epochs of one norm."""
    recipe = {**pretrain["recipe"], "epochs": epochs_of(pretrain, norm)}
    rate = pretrain.get("rates", {}).get(norm)
    return recipe if rate is None else {**recipe, "optimizer": {**recipe["optimizer"], "lr": rate}}


def _network_seeds(pretrain: Mapping[str, Any], model: Mapping[str, Any]) -> list[int | None]:
    """The seeds of the pre-training of a model; one None where there is none."""
    return _seeds(pretrain) if trains(pretrain, model) else [None]


def _seeds(pretrain: Mapping[str, Any]) -> list[int | None]:
    return list(dict.fromkeys(pretrain.get("seeds") or [pretrain["seed"]]))


def _own_weights(model: Mapping[str, Any]) -> str | None:
    """The digest of the weights that a model brings along."""
    weights = model.get("weights")
    if weights is None:
        return None
    if weights != PUBLISHED:
        return file_digest(given_file(weights))
    library = make(model["build"]["library"])  # imports torch
    return file_digest(library.published())


def _own_images(pretrain: Mapping[str, Any], cache_dir: str) -> dict[str, str]:
    """The digests of a pre-training set that need not be the original one; the original is known by its name."""
    if pretrain["verify"]:
        return {}
    subsets = load_pretraining(pretrain["data"], pretrain["size"], Path(cache_dir))
    return {domain.name: domain.digest for domain in subsets}


def _shared(experiment: Experiment, domains: Sequence[DomainManifest]) -> Facts:
    cfg = experiment.cfg
    pretrain = cfg["pretrain"]
    how: Any = None
    if pretrain["checkpoint"] is not None:
        how = {"given": True, "keep_head": True} if pretrain.get("keep_head") else "given"
    if any(trains(pretrain, model) for model in experiment.models.values()):
        keys = ("name", "size", "dtype", "holdout")
        how = {**{k: pretrain[k] for k in keys}, "recipe": identity.recipe_facts(pretrain["recipe"])}
        how |= {key: pretrain[key] for key in ("norm", "keep_head") if pretrain.get(key)}
    return identity.shared_facts(
        finetune=identity.recipe_facts(cfg["finetune"]) or {},
        protocol=cfg["protocol"],
        normalize=cfg["normalize"],
        size=cfg["data"]["size"],
        pretraining=how,
        images={domain.name: domain.digest for domain in domains},
        classes=domains[0].classes,
    )


def _refuse_other_settings(store: Store, planned: Sequence[UnitJob]) -> None:
    """Raise if the results would not be comparable with those in ``out``, or with those that a process works on.

    Other unfinished runs do not count: their command may have been given up.
    """
    if not planned:
        return
    wanted, ids = planned[0].config, {job.id for job in planned}
    for run in store.runs():
        record = run.record()
        if record is None and not run.held:
            continue
        if (record.experiment if record else run.config().get("experiment")) == wanted["experiment"]:
            break
        known = run.config().get("facts", {}).get("shared")
        differ = "they are of an earlier version" if known is None else _differences(known, wanted["facts"]["shared"])
        raise _not_comparable(store, differ)
    started = (run for run in store.runs() if run.held or (run.path / "record.json").exists())
    others = {run.id: run.config() for run in started if run.id not in ids}
    for kind in ("norm", "model", "method"):  # one name in a table is one network
        now = {job.config["facts"][kind]["name"]: _comparable(job.config["facts"][kind]) for job in planned}
        for config in others.values():
            old = _comparable(config.get("facts", {}).get(kind, {}))
            same = now.get(old.get("name"), old)
            if old != same:
                raise _not_comparable(store, f"{kind} {old['name']}: {_differences(old, same)}")
    starts = {_network(job.config): job.config["facts"]["start"] for job in planned if job.needs is None}
    for name, config in others.items():  # a row of a table is about one network
        if "unit" in config and not config.get("needs"):
            start = config["facts"]["start"]
            same = starts.get(_network(config), start)
            if start != same:
                raise _not_comparable(store, f"run {name}: {_differences({'start': start}, {'start': same})}")
    cells = {_cell(job.config): job.config["facts"] for job in planned}
    for name, config in others.items():  # one cell of a table is one run
        if "unit" in config and (twin := cells.get(_cell(config))):
            raise _not_comparable(store, f"run {name}: {_differences(config['facts'], twin)}")


def _network(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells the starting networks of a table apart."""
    factors = config["unit"]["factors"]
    return tuple(factors.get(key) for key in ("norm", "model", "pretraining_seed", "pretraining_epochs"))


def _cell(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """The results that a unit gives: numbers of a table, with their seeds."""
    unit = config["unit"]
    return (unit["source"], unit["target"], *sorted(unit["factors"].items()))


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
        if identity.digest(before.get(k)) != identity.digest(now.get(k))  # 1 and 1.0 have two names
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
    path = Path(pretrain["checkpoint"]).expanduser()
    if not path.is_dir():
        return path
    return one_file(path, f"*-{norm}-*.safetensors", "Choose the file or its folder with pretrain.checkpoint=PATH.")


def one_file(folder: Path, pattern: str, advice: str) -> Path:
    """The file of a pattern in a folder.

    Raises:
        ConfigError: there is none, or more than one; ``advice`` ends the message.
    """
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        listed = ", ".join(path.name for path in found) or "none"
        raise ConfigError(f"{folder} must contain exactly one file {pattern}; found: {listed}. {advice}")
    return found[0]
