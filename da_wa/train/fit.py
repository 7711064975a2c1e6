"""Training on the source, or adaptation, as the recipe says: of a network, or of what follows a frozen one."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import singledispatch
from typing import Any

from da_wa.data.augment import Normalize
from da_wa.data.datamodule import unchanged
from da_wa.models.backbone import Backbone
from da_wa.models.bottleneck import Bottleneck
from da_wa.train.features import Extractor
from da_wa.train.flops import count_flops
from da_wa.train.frozen import Frozen, on_features
from da_wa.train.recipe import AnyRecipe, Recipe
from da_wa.train.train import Task, Trained, train


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
    assert isinstance(task.normalize, Normalize) and task.cache is not None, "features are kept by their inputs"
    settings = replace(task.settings, compile=None).resolve(network)
    settings.prepare(network)
    return Extractor(network, recipe.view_for(network), task.normalize, settings, task.cache, task.facts)


fit.register(Recipe, train)


@fit.register
def _frozen(recipe: Frozen, task: Task) -> Trained:
    model, started = task.model, time.perf_counter()
    assert isinstance(model, Bottleneck), "Frozen.network makes one"
    extract = extractor(recipe, task, model.network)
    subsets, computed = on_features(task.subsets, extract)
    seconds = time.perf_counter() - started
    settings = replace(extract.settings, precision="32-true")
    precision = extract.settings.precision
    onward = replace(
        task,
        model=model.on_features(),
        subsets=subsets,
        normalize=unchanged,
        settings=settings,
        precision=precision,
    )
    trained = train(recipe.on_features(), onward)
    image, cost = extract.shape(task.subsets.evaluate[0].domain), trained.cost
    known = None if cost.flops is None else cost.flops + computed * count_flops(model, image).prediction
    with_features = replace(
        cost,
        settings=replace(extract.settings, precision=cost.settings.precision),
        eval_s=cost.eval_s + seconds,
        total_s=cost.total_s + seconds,
        flops=known,
    )
    return replace(trained, cost=with_features)
