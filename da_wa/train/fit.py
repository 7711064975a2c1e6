"""Training on the source, or adaptation, as the recipe says: by gradient descent or with a linear probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from da_wa.data.augment import Normalize
from da_wa.models.backbone import Backbone
from da_wa.train.adaptation import Adaptation
from da_wa.train.classifier import cross_entropy
from da_wa.train.features import Extractor
from da_wa.train.probe import Probe, probe
from da_wa.train.progress import Notify
from da_wa.train.recipe import Recipe
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


@fit.register
def _descent(recipe: Recipe, task: Task) -> Trained:
    return train(
        task.model,
        task.subsets,
        cross_entropy(recipe.label_smoothing),
        recipe,
        task.settings,
        adaptation=task.adaptation,
        normalize=task.normalize,
        seed=task.seed,
        state=task.state,
        notify=task.notify,
        loggers=task.loggers,
        logged=task.logged,
    )


@fit.register
def _probe(recipe: Probe, task: Task) -> Trained:
    settings = task.settings.resolve(task.model)
    settings.prepare(task.model)
    return probe(
        task.subsets,
        recipe,
        Extractor(task.model, task.normalize, settings, task.cache, task.facts),
        seed=task.seed,
        notify=task.notify,
        loggers=task.loggers,
        logged=task.logged,
    )
