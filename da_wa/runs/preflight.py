"""Fail before the first job: create every object once, networks without memory for weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import signature
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from da_wa.config.compose import Experiment
from da_wa.config.make import make
from da_wa.config.validate import shown
from da_wa.data.manifest import DomainManifest
from da_wa.data.splits import check_batch, stratified_holdout
from da_wa.errors import ConfigError, DataError, UserError, printable
from da_wa.models.backbone import Backbone, has_running_statistics
from da_wa.models.checkpoint import CheckpointError, head_classes, read_header
from da_wa.models.pretrained import activation_level
from da_wa.records.identity import norm_facts
from da_wa.runs.inputs import find_pretraining
from da_wa.runs.jobs import Job, PretrainJob, UnitJob
from da_wa.runs.networks import built
from da_wa.runs.started import pretraining
from da_wa.runs.units import acts, levels, started_with, trains
from da_wa.select.catalogue import imported
from da_wa.train.recipe import AnyRecipe, make_recipe, too_few_images

MISTAKES = (TypeError, ValueError, AttributeError, LookupError)
"""What a mistake in the user's own norm, network or method raises."""


def preflight(experiment: Experiment, domains: Sequence[DomainManifest], jobs: Sequence[Job]) -> None:
    """Raise errors that would otherwise appear only inside a job.

    Args:
        experiment: the composed experiment.
        domains: manifests of the domains.
        jobs: the planned jobs.

    Raises:
        ConfigError: an object that cannot be made as configured, a device that is not available, images too small for
            the network or too few for a batch, batches too small for a norm or a method, a precision in which a method
            cannot train.
        DataError: one class only; a domain that cannot be split as the protocol says; the images for pre-training are
            missing.
        CheckpointError: a pre-trained network that cannot be used, is of another norm or model, or of which is not
            known what it was trained on.
    """
    cfg = experiment.cfg
    launcher = make(cfg["launcher"])
    if not launcher.remote:  # else every worker checks the device of its machine
        make(cfg["trainer"]).check_device()
    if domains and len(domains[0].classes) < 2:
        raise DataError(
            f"The domains have one class, {printable(domains[0].classes[0])}; a classifier needs two or more. "
            "Check the folders below data.root, or data.classes."
        )
    _check_splits(cfg, domains, jobs)
    for key, node in {"finetune": cfg["finetune"], "pretrain.recipe": cfg["pretrain"]["recipe"]}.items():
        if node is not None:
            _check_recipe(key, node)
    uncropped: dict[str, None] = {}
    for model_node in experiment.models.values():
        for name, norm in experiment.norms.items():
            skeleton = _skeleton(experiment, model_node, name)
            _check_start(cfg, model_node, name, skeleton)
            _check_size(cfg, model_node, skeleton)
            if cfg["sources"] and make_recipe(cfg["finetune"]).view_for(skeleton).crops_nothing:
                uncropped[model_node["name"]] = None
            if norm.get("keep"):
                _check_level(model_node, skeleton)
    if uncropped:
        warnings.warn(
            f"{', '.join(uncropped)}: evaluated on whole images (finetune.augment.crop), so training has no random "
            "crops; to have some write finetune.augment.scale=[0.08,1.0], see docs/backbones.md",
            stacklevel=2,
        )
    for reason in refused(experiment).values():
        raise ConfigError(f"{reason} Leave it out of norms=[…], or choose a larger batch_size.")
    classes = len(domains[0].classes) if domains else 2
    for name, node in experiment.methods.items():
        _check_method(cfg, name, node, experiment, classes)
    for job in jobs:
        if isinstance(job, UnitJob) and job.start is not None and job.needs is None and job.start.exists():
            _check_checkpoint(job.start, job.config, classes)
    if any(isinstance(job, PretrainJob) and not job.done for job in jobs):
        _check_pretraining(cfg["pretrain"])
        if domains and cfg["pretrain"].get("keep_head"):
            there, here = find_pretraining(cfg["pretrain"]["data"]).classes, domains[0].classes
            _check_head(cfg["pretrain"]["label"], len(there), classes)
            if other := next((pair for pair in zip(there, here, strict=True) if pair[0] != pair[1]), None):
                raise ConfigError(
                    f"pretrain.keep_head=true: the class {printable(other[0])} of {cfg['pretrain']['label']} would be "
                    f"{printable(other[1])} of the images. Use images with the same classes in the same order; lists "
                    "need a class file. Or write pretrain.keep_head=false."
                )
    _check_loggers(cfg["logger"])
    imported(experiment.scores)


def refused(experiment: Experiment) -> dict[str, str]:
    """Norms that cannot train with batches of this size, by name, and why.

    BatchNorm and its relatives normalise by statistics over the images of a batch. One image has none: they would train
    another function, that of instance normalisation, than the one they evaluate. Recipes that leave the network, or its
    statistics, as they are do not need any.

    Raises:
        ConfigError: a network cannot be built.
    """
    cfg = experiment.cfg
    found: dict[str, str] = {}
    recipe = make_recipe(cfg["finetune"])
    adapts = cfg["sources"] and recipe.trains_network and not getattr(recipe, "frozen_statistics", False)
    for model, name in product(experiment.models.values(), experiment.norms):
        sizes = {"finetune.batch_size": cfg["finetune"].get("batch_size") if adapts else None}
        if trains(cfg["pretrain"], model):
            sizes["pretrain.recipe.batch_size"] = cfg["pretrain"]["recipe"]["batch_size"]
        for key, size in sizes.items():
            if size == 1 and _skeleton(experiment, model, name).needs_batch:
                found.setdefault(
                    name, f"{key}=1: norm {name} uses statistics over the images of a batch, and one image has none."
                )
    return found


@contextmanager
def without_memory() -> Iterator[None]:
    """Networks that are made in the block have no memory for their weights, and compute shapes only."""
    with torch.device("meta"), warnings.catch_warnings():
        # A network that loads its own weights says for each of them that there is nothing to load into.
        warnings.filterwarnings("ignore", ".*copying from a non-meta parameter")
        yield


def _skeleton(experiment: Experiment, model: Mapping[str, Any], name: str, classes: int = 2) -> Backbone:
    """The network that units start from, without memory for its weights."""
    pretrain, norms = experiment.cfg["pretrain"], experiment.norms
    before = started_with(pretrain, name)
    given = pretrain["checkpoint"] is not None or trains(pretrain, model)
    other = given and before != name and before in norms  # a study leaves out norms that cannot be trained
    start_norm = {before: norms[before]} if other else None
    with without_memory():
        try:
            made = built({"model": model, "norm": norms[name], "start_norm": start_norm}, classes)
        except MISTAKES as error:
            raise ConfigError(f"{model['name']} cannot be built with norm {name}: {_told(error)}") from error
    if lacking := [each for each in ("num_features", "min_size", "head") if not hasattr(made, each)]:
        raise ConfigError(
            f"{model['name']}: {type(made).__name__} does not set {', '.join(lacking)}; see docs/extending.md"
        )
    return made


def _check_method(
    cfg: Mapping[str, Any], name: str, node: Mapping[str, Any], experiment: Experiment, classes: int
) -> None:
    """Make a method, and build it for every network that it changes."""
    if "build" not in node:
        return
    recipe = make_recipe(node.get("recipe") or cfg["finetune"])
    named = f", finetune={cfg['finetune']['name']}" if "name" in cfg["finetune"] else ""
    if getattr(recipe, "frozen_statistics", False) and node.get("statistics") == "domain":
        raise ConfigError(
            f"method {name} has statistics of each domain, and finetune.frozen_statistics=true keeps those of neither; "
            "leave one of them out"
        )
    if node["phase"] == "stream" and cfg["trainer"].get("precision") == "16-mixed":
        raise ConfigError(
            "trainer.precision=16-mixed: small gradients are 0 in this type unless they are scaled, and the steps of "
            f"method {name} do not scale them; use bf16-mixed or 32-true"
        )
    try:
        made = make(node["build"])
    except (*MISTAKES, UserError) as error:
        raise ConfigError(f"method.{name}.build: {_told(error)}") from error
    _check_options(name, node, made)
    for model_node, (norm, norm_node) in product(experiment.models.values(), experiment.norms.items()):
        if not acts(node, levels((norm, norm_node), model_node)["activation"]):
            changes_bn = "bn" in (node.get("changes") or ())
            if changes_bn and any(
                map(has_running_statistics, _skeleton(experiment, model_node, norm, classes).modules())
            ):
                raise ConfigError(
                    f"norm {norm} leaves layers with running statistics in {model_node['name']}, which method {name} "
                    'would change, but tables would show "=", no change. Leave one of them out.'
                )
            continue
        try:
            method = make(node["build"])
            backbone = _skeleton(experiment, model_node, norm, classes)
            with torch.device("meta"):
                backbone = recipe.adapted(backbone, method, node.get("changes"))
                method.build(backbone, classes, _least_images(recipe))
            trained = list(method.trained(backbone))
        except RuntimeError as error:
            raise ConfigError(
                f"method {name} cannot be built with norm {norm}{named} before the first run, when networks and new "
                f"tensors have shapes and no values (device meta): {error}"
            ) from error
        except (*MISTAKES, UserError) as error:
            raise ConfigError(f"method {name} cannot be used with norm {norm}{named}: {_told(error)}") from error
        phase = getattr(method, "phase", None)
        if phase != node["phase"]:
            raise ConfigError(f"method {name}: its class has phase {phase!r}, its file says {node['phase']!r}")
        if phase != "stream" and method.trains and not trained and not list(method.parameters()):
            raise ConfigError(f"method {name} trains no parameters of {model_node['name']} with norm {norm}")
        if reason := too_few_images(recipe, method, backbone):
            key = f"method.{name}.recipe.batch_size" if "recipe" in node else "finetune.batch_size"
            raise ConfigError(
                f"{key}={recipe.batch_size}: method {name} with norm {norm} {reason}. Choose a larger batch size, or "
                "leave one of them out."
            )
    if "recipe" in node:
        _check_recipe(f"method {name}: recipe", node["recipe"])


def _check_options(name: str, node: Mapping[str, Any], method: Any) -> None:
    """Refuse options with which a method is another one, or that make no difference."""
    needed = getattr(method, "statistics", None)
    if needed is not None and node.get("statistics") != needed:
        raise ConfigError(
            f"method.{name}.statistics={node.get('statistics')}: {node['label']} has statistics={needed} by "
            "definition. Set those of the other methods by name, e.g. method.mcc.statistics=separate."
        )
    weight = node.get("weight", 1)
    if weight not in (1, [1]) and not getattr(method, "weighted", True):
        raise ConfigError(
            f"method.{name}.weight={shown(weight)}: {node['label']} has no loss of its own, so weights make no "
            "difference. Set those of the other methods by name, e.g. method.mcc.weight=[0.1,1]."
        )


def _told(error: Exception) -> str:
    """What an error says; the text of a missing key is its name alone."""
    return f"KeyError: {error}" if isinstance(error, KeyError) else str(error)


def _least_images(recipe: AnyRecipe) -> int:
    """Target images that an adaptation needs: a batch; recipes of the user's own may have none."""
    least: int = getattr(recipe, "batch_size", 1)
    return least


def _check_start(cfg: Mapping[str, Any], node: Mapping[str, Any], norm: str, model: Backbone) -> None:
    """Refuse to start from a network, a head or statistics that the recipe cannot use."""
    if not cfg["sources"]:
        return
    recipe, pretrain = make_recipe(cfg["finetune"]), cfg["pretrain"]
    started = model.weights is not None or pretrain["checkpoint"] is not None or trains(pretrain, node)
    name = cfg["finetune"].get("name")
    if not started and not recipe.trains_network:
        raise ConfigError(
            f"finetune={name} freezes the network ({type(recipe).__name__}.trains_network is False), so {node['name']} "
            "would stay as it was initialised, at random. Start from trained weights: model.weights=… for networks of "
            "timm and torchvision, pretrain=… for others"
        )
    if recipe.new_head and pretrain.get("keep_head"):
        raise ConfigError(
            f"pretrain.keep_head=true: finetune={name} always fits a head of its own. Use pretrain.keep_head=false, or "
            "a finetune=… that trains the network, such as finetune=default"
        )
    option = "finetune.frozen_statistics=true"
    frozen = getattr(recipe, "frozen_statistics", False)
    if frozen and not started:
        raise ConfigError(
            f"{option}: {node['name']} starts from its initialisation, so its BatchNorms have no statistics yet. Start "
            "from trained weights: model.weights=… for networks of timm and torchvision, pretrain=… for others"
        )
    if not recipe.trains_network:
        trainable = "a finetune=… that trains the network, such as finetune=default"
        _check_statistics(f"finetune={name}", trainable, node, norm, model)
    elif frozen and model.needs_batch:  # else the norm leaves no BatchNorm
        _check_statistics(option, "finetune.frozen_statistics=false", node, norm, model)


def _check_statistics(option: str, instead: str, node: Mapping[str, Any], norm: str, model: Backbone) -> None:
    """Refuse to keep statistics of filters that a norm has changed."""
    if model.conversion is not None and model.conversion.stale:
        known = "norms=[keep]" if model.weights is not None else "pretrain.norm=null, which pre-trains every norm"
        raise ConfigError(
            f"{option}: norm {norm} changes the filters of {node['name']}, so the statistics of "
            f"{model.conversion.stale} BatchNorms no longer fit, and nothing adapts them. Use {known}, or {instead}"
        )


def _check_size(cfg: Mapping[str, Any], node: Mapping[str, Any], model: Backbone) -> None:
    """Show the network, without memory, images of the sizes that it will see."""
    name = node["name"]
    sizes: dict[int, str] = {}
    if cfg["sources"]:
        stored, view = cfg["data"]["size"], make_recipe(cfg["finetune"]).view
        side = view.side(stored)
        sizes[side] = "data.size" if side == stored else f"finetune.{view.option}.size"
    if trains(cfg["pretrain"], node):
        sizes.setdefault(cfg["pretrain"]["size"], "pretrain.size")
    for size, key in sizes.items():
        if size < model.min_size:
            raise ConfigError(
                f"{key}={size} is too small for {name}, which needs images of {model.min_size} pixels or more."
            )
        try:
            with torch.no_grad():
                model(torch.empty(2, 3, size, size, device="meta"))
        except Exception as error:  # anything, from a network of the user's own
            trained = "" if model.expects is None else f"; it was trained at {model.expects.size} pixels"
            raise ConfigError(
                f"{key}={size}: {name} fails on images of {size}×{size} pixels{trained} "
                f"({type(error).__name__}: {error})"
            ) from error


def _check_level(node: Mapping[str, Any], model: Backbone) -> None:
    """Compare the declared activation norm of a network that is kept with its layers."""
    declared, found = (node.get("factors") or {}).get("activation"), activation_level(model)
    if declared != found:
        raise ConfigError(
            f"model.factors.activation={declared}: the activation norm of {node['name']} is {found}, "
            f"so tables would compare it with the wrong rows; write model.factors.activation={found}"
        )


def _check_splits(cfg: Mapping[str, Any], domains: Sequence[DomainManifest], jobs: Sequence[Job]) -> None:
    """Split the domains as the units will."""
    protocol, recipe = make(cfg["protocol"]), make_recipe(cfg["finetune"])
    units = [job for job in jobs if isinstance(job, UnitJob)]
    for source, seed in dict.fromkeys((job.unit.source, job.unit.factors.seed) for job in units):
        for domain in domains:
            if domain.name == source:
                kept, _ = protocol.source(source, domain.labels, seed)
                recipe.check_images(source, domain.labels[kept])
            else:
                protocol.target(domain.name, domain.labels, seed)
    for job in units:
        config, factors = job.config, job.unit.factors
        if job.unit.target is not None:
            domain = next(domain for domain in domains if domain.name == job.unit.target)
            images = protocol.target(domain.name, domain.labels, factors.seed)
            own = f"method.{factors.method}.recipe.batch_size" if "recipe" in config["method"] else None
            least = _least_images(make_recipe(config["finetune"]))
            check_batch(domain.name, len(images), least, "target", own or "finetune.batch_size")
            if config["method"].get("order") == "sorted" and not _in_blocks(domain.labels[images]):
                raise ConfigError(
                    f"method.{factors.method}.order=sorted shows images in the order of the data, by class, but the "
                    f"classes of {printable(domain.name)} are mixed. Sort the lines of its list by label, or use "
                    "order=shuffled."
                )


def _in_blocks(labels: npt.NDArray[np.int64]) -> bool:
    """Whether the images of each class follow one another."""
    return bool(np.count_nonzero(np.diff(labels)) == len(np.unique(labels)) - 1)


def _check_pretraining(pretrain: Mapping[str, Any]) -> None:
    """Find the images for pre-training, and split them as the job will."""
    train, batch_size = find_pretraining(pretrain["data"]).domains[0], pretrain["recipe"]["batch_size"]
    images, holdout = len(train.labels), pretrain.get("holdout", 0.0)
    if holdout:
        images = len(stratified_holdout(train.labels, holdout, seed=0).train)
    check_batch(train.name, images, batch_size, "pre-training", "pretrain.recipe.batch_size")


def _check_recipe(key: str, node: Mapping[str, Any]) -> None:
    """Make a recipe and its parts."""
    recipe = make_recipe(node)
    try:
        recipe.check()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key} cannot be used: {error}") from error


def _check_loggers(loggers: Mapping[str, Any]) -> None:
    """Compare the options of loggers with what they take; every unit makes its own."""
    for name, node in loggers.items():
        made = make(node)
        try:
            whole = made if isinstance(made, partial) else partial(made)
            signature(whole.func).bind(*whole.args, **{**whole.keywords, "save_dir": Path()})
        except TypeError as error:
            raise ConfigError(
                f"logger.{name}: {node['_target_']} cannot be called with these options: {error}"
            ) from error


def _check_head(of: object, there: int, classes: int) -> None:
    if there != classes:
        raise ConfigError(
            f"pretrain.keep_head=true: the classifier of {of} has {there} classes, the images have {classes}. Use "
            "images of its classes, or pretrain.keep_head=false."
        )


def _check_checkpoint(path: Path, config: Mapping[str, Any], classes: int) -> None:
    """Compare the header of a checkpoint with the unit that starts from it."""
    there, wanted = read_header(path).facts, config["facts"]
    norms = [norm_facts(name, node) for name, node in (config.get("start_norm") or {}).items()]
    pairs = {
        "norm": (there.get("norm"), norms[0] if norms else wanted["norm"]),
        "model": ((there.get("model") or {}).get("name"), wanted["model"]["name"]),
        "normalize": (there.get("normalize"), config["normalize"]),
    }
    differ = [what for what, (found, needed) in pairs.items() if found != needed]
    if differ:
        factors = config["unit"]["factors"]
        raise CheckpointError(
            f"{path} cannot be used for {factors['model']} with norm {factors['norm']}: "
            f"it was trained with another {' and '.join(differ)}. Choose another file with pretrain.checkpoint=PATH."
        )
    pretraining(path)
    if config["keep_head"] and (kept := head_classes(path)) is not None:
        _check_head(path, kept, classes)
