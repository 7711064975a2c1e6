"""Training recipes: epochs, batch size, optimiser, schedule, augmentation."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, optim
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from da_wa.adapt.method import Method
from da_wa.config import choices
from da_wa.config.make import make
from da_wa.data.augment import Augment, Changed, Stored, View
from da_wa.data.crops import Crops
from da_wa.data.splits import check_batch
from da_wa.errors import ConfigError
from da_wa.models.backbone import Backbone
from da_wa.train.schedule import SCHEDULES

MakeOptimizer = Callable[..., Optimizer]
MakeSchedule = Callable[..., LRScheduler]

OPTIMIZERS: dict[str, type[Optimizer]] = {name: getattr(optim, cls) for name, cls in choices.OPTIMIZERS.items()}
"""Optimisers of ``torch.optim`` by name in lower case."""


VIEWS: dict[str, Callable[..., View]] = {"pad": Augment, "crops": Crops}
"""Augmentations by name; without a name it is ``pad``."""


class AnyRecipe:
    """A way to train, see :func:`da_wa.train.fit.fit`: what it does to images, networks and methods.

    Attributes:
        trains_network: it trains the whole network; others need one that is trained already.
        new_head: it fits a head of its own, whatever head the network has.
    """

    trains_network: ClassVar[bool] = False
    new_head: ClassVar[bool] = False

    @property
    def view(self) -> View:
        """How images are shown to the network: as they are stored."""
        return Stored()

    def view_for(self, model: Backbone) -> View:
        """The view with what this network expects for ``auto``."""
        if model.expects is None:
            return self.view.resolved(0.875, "bilinear")
        return self.view.resolved(model.expects.crop, model.expects.interpolation)

    def check(self) -> None:
        """Raise a TypeError, ValueError or UserError if the options do not fit together."""

    def check_images(self, name: str, labels: np.ndarray) -> None:
        """Raise a UserError if the training images ``labels`` (n,) of the source ``name`` do not suffice."""

    def network(self, backbone: Backbone) -> Backbone:
        """The network that is trained and kept, made of the one that was built or pre-trained; its head is replaced."""
        return backbone

    def adapted(self, backbone: Backbone, method: Method, changes: Sequence[str] | None) -> Backbone:
        """The part of a network that an adaptation method changes.

        Args:
            backbone: the network as it was built.
            method: not built yet.
            changes: the norms that the method changes; None: not a matter of norms.

        Raises:
            ConfigError: the method cannot be used with this recipe.
        """
        raise ConfigError("this recipe does not adapt networks; use finetune=features or finetune=default with it")


@dataclass(frozen=True)
class Recipe(AnyRecipe):
    """Gradient descent on the whole network: a training, apart from its data and its network.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step.
        optimizer: parameter groups -> optimiser.
        schedule: (optimiser, total_steps) -> learning-rate schedule, stepped after every batch.
        augment: uint8 batch (n, 3, h, w) -> uint8 batch; a :class:`~da_wa.data.augment.View` also says how images are
            evaluated.
        label_smoothing: of the cross-entropy, in [0, 1).
        evaluations: upper limit of the number of evaluations of all domains, evenly spaced; the last is after the
            last epoch.
        backbone_rate: learning rate of the backbone, relative to that of the head (and of a method's own networks).
        epoch_steps: steps in an epoch of training on source images; None: one pass over them.
        frozen_statistics: BatchNorms normalise by the statistics that the network starts with, in training as in
            evaluation, instead of by those of the batch.
    """

    epochs: int
    batch_size: int
    optimizer: MakeOptimizer
    schedule: MakeSchedule
    augment: Callable[[Tensor], Tensor]
    label_smoothing: float = 0.0
    evaluations: int = 1
    backbone_rate: float = 1.0
    epoch_steps: int | None = None
    frozen_statistics: bool = False
    trains_network: ClassVar[bool] = True

    def check(self) -> None:
        """Make optimiser and schedule for one parameter.

        Raises:
            TypeError, ValueError: one of them cannot be made.
        """
        optimizer = self.optimizer([{"params": [torch.zeros(1, requires_grad=True)]}])
        self.schedule(optimizer, total_steps=2)

    def check_images(self, name: str, labels: np.ndarray) -> None:
        """Check that the training images ``labels`` (n,) of the source ``name`` suffice.

        Raises:
            ConfigError: they are fewer than one batch.
        """
        check_batch(name, len(labels), self.batch_size)

    @property
    def view(self) -> View:
        """How images are shown to the network."""
        return self.augment if isinstance(self.augment, View) else Changed(self.augment)

    def adapted(self, backbone: Backbone, method: Method, changes: Sequence[str] | None) -> Backbone:
        return backbone

    @property
    def evaluate_every(self) -> int:
        """Epochs between evaluations."""
        return math.ceil(self.epochs / self.evaluations)


def too_few_images(recipe: AnyRecipe, method: Method, backbone: Backbone) -> str:
    """Why the batches of a recipe are too small for a method and the network that it trains; empty if they are not."""
    size = getattr(recipe, "batch_size", None)
    if size is None or not method.trains:
        return ""
    if size < method.least_images:
        return f"needs {method.least_images} images of a domain in every batch"
    if size == 1 and backbone.needs_batch and not getattr(recipe, "frozen_statistics", False):
        return "uses statistics over the images of a batch, and one image has none"
    return ""


def make_recipe(node: Mapping[str, Any]) -> Any:
    """The recipe that a configuration node (``finetune``, ``pretrain.recipe``) describes.

    A node with a ``_target_`` is another kind of recipe, e.g. :class:`~da_wa.train.probe.Probe`. Others are a
    :class:`Recipe`. In both:

    ``optimizer`` and ``schedule`` have a ``name`` (see :data:`OPTIMIZERS` and
    :data:`~da_wa.train.schedule.SCHEDULES`), ``augment`` has the options of
    :class:`~da_wa.data.augment.Augment`, or with ``name: crops`` those of :class:`~da_wa.data.crops.Crops`.
    The user's own callable has a ``_target_``, its import path, instead. Other keys are its arguments.

    >>> recipe = make_recipe({
    ...     "epochs": 30,
    ...     "batch_size": 64,
    ...     "optimizer": {"name": "sgd", "lr": 0.001, "momentum": 0.9},
    ...     "schedule": {"name": "cosine"},
    ...     "augment": {"crop": 0.125, "flip": True, "erase": 0.0},
    ... })
    >>> recipe.optimizer.func.__name__, recipe.optimizer.keywords
    ('SGD', {'lr': 0.001, 'momentum': 0.9})

    Raises:
        ConfigError: an argument that the callable does not take, or a path that cannot be imported.
    """
    made: dict[str, Any] = {
        key: _callable(key, node[key], known)
        for key, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES))
        if key in node
    }
    made |= {"augment": _augment(node["augment"])} if "augment" in node else {}
    others = {key: value for key, value in node.items() if key not in made}
    return make(others, **made) if "_target_" in node else Recipe(**others, **made)


def _augment(node: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    if "_target_" in node:
        made: Callable[[Tensor], Tensor] = make(node)
        return made
    return VIEWS[node.get("name", "pad")](**{str(name): value for name, value in node.items() if name != "name"})


def _callable(key: str, node: Mapping[str, Any], known: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    if "_target_" in node:
        made: Callable[..., Any] = make({**node, "_partial_": True})
        return made
    options = {str(name): value for name, value in node.items() if name != "name"}
    name = node["name"]
    accepted = inspect.signature(known[name]).parameters
    if others := [option for option in options if option not in accepted]:
        option = f"{key}.{others[0]}"
        raise ConfigError(
            f"{key}.name={name}: {name} has no option {others[0]!r}; remove it with '~finetune.{option}', of "
            f"pre-training with '~pretrain.recipe.{option}'"
        )
    return partial(known[name], **options)
