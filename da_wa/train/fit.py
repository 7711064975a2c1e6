"""Training on the source, or adaptation, as the recipe says: of a network, or of what follows a frozen one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import singledispatch
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from torch import Tensor

from da_wa.data.augment import Normalize
from da_wa.data.datamodule import unchanged
from da_wa.models.backbone import Backbone
from da_wa.models.bottleneck import Bottleneck
from da_wa.train.adaptation import Adaptation
from da_wa.train.classifier import cross_entropy
from da_wa.train.features import Extractor
from da_wa.train.flops import count_flops
from da_wa.train.frozen import Frozen, on_features
from da_wa.train.progress import Notify
from da_wa.train.recipe import AnyRecipe, Recipe
from da_wa.train.settings import Settings
from da_wa.train.subsets import Subsets
from da_wa.train.train import Trained, train


@dataclass(frozen=True)
class Task:
    """What to train, and on what.

    Attributes:
        model: with a head for the classes of the images; it holds the result.
        facts: what the network is, beside its weights: plain values.
        subsets: images to train on and to evaluate.
        normalize: of the images.
        settings: device, precision, memory layout.
        seed: of everything random.
        state: the file of the training state, for recipes that have one.
        cache: the folder of features.
        adaptation: the adaptation method.
        notify: called after every epoch.
        after_epoch: called with the number of every epoch, before a state is saved that resumes after it.
        loggers: Lightning loggers.
        logged: hyperparameters for the loggers.
    """

    model: Backbone
    facts: Mapping[str, Any]
    subsets: Subsets
    normalize: Normalize
    settings: Settings
    seed: int
    state: Path
    cache: Path
    adaptation: Adaptation | None = None
    notify: Notify = lambda done, epochs: None
    after_epoch: Callable[[int], None] = lambda epoch: None
    loggers: Sequence[Logger] = ()
    logged: Mapping[str, Any] = field(default_factory=dict)


@singledispatch
def fit(recipe: Any, task: Task) -> Trained:
    """Train the network of a task. A recipe of another kind is registered with ``@fit.register``.

    Args:
        recipe: how, see :func:`~da_wa.train.recipe.make_recipe`.
        task: what.
    """
    raise TypeError(f"{recipe!r} is not a kind of recipe")


def extractor(recipe: AnyRecipe, task: Task, network: Backbone) -> Extractor:
    """What computes the features of the task's images by ``network``, prepared for the task's device."""
    settings = replace(task.settings, compile=None).resolve(network)
    settings.prepare(network)
    return Extractor(network, recipe.view_for(network), task.normalize, settings, task.cache, task.facts)


@fit.register
def _descent(recipe: Recipe, task: Task) -> Trained:
    return _train(recipe, task, task.model, task.subsets, task.normalize, task.settings)


@fit.register
def _frozen(recipe: Frozen, task: Task) -> Trained:
    model, started = task.model, time.perf_counter()
    assert isinstance(model, Bottleneck), "Frozen.network makes one"
    extract = extractor(recipe, task, model.network)
    subsets, computed = on_features(task.subsets, extract)
    seconds = time.perf_counter() - started
    settings = replace(extract.settings, precision="32-true")
    trained = _train(recipe.on_features(), task, model.on_features(), subsets, unchanged, settings)
    image, cost = extract.shape(task.subsets.evaluate[0].domain), trained.cost
    known = None if cost.flops is None else cost.flops + computed * count_flops(model, image).prediction
    with_features = replace(
        cost,
        settings=extract.settings,
        eval_s=cost.eval_s + seconds,
        total_s=cost.total_s + seconds,
        flops=known,
    )
    return replace(trained, cost=with_features)


def _train(
    recipe: Recipe,
    task: Task,
    model: Backbone,
    subsets: Subsets,
    normalize: Callable[[Tensor], Tensor],
    settings: Settings,
) -> Trained:
    return train(
        model,
        subsets,
        cross_entropy(recipe.label_smoothing),
        recipe,
        settings,
        adaptation=task.adaptation,
        normalize=normalize,
        seed=task.seed,
        state=task.state,
        notify=task.notify,
        after_epoch=task.after_epoch,
        loggers=task.loggers,
        logged=task.logged,
    )
