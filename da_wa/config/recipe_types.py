"""Types of a training recipe: ``conf/finetune`` and the ``recipe`` of pre-trainings and methods."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from da_wa.config import choices
from da_wa.config.nodes import Node, Own, Part, named_or_own, rule
from da_wa.config.types import (
    Allowed,
    AutoCrop,
    Below1,
    Count,
    Finite,
    Flag,
    Fraction,
    Fractions,
    OneOf,
    Pixels,
    Positive,
    Text,
)


class Optimizer(BaseModel):
    """A ``torch.optim`` class by its name in lower case, with its arguments."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: Annotated[str, OneOf(tuple(choices.OPTIMIZERS))]
    lr: Positive
    momentum: Fraction = 0.0
    weight_decay: Positive = 0.0


class Schedule(Node):
    """A function of ``da_wa.train.schedule`` by name, with its arguments."""

    name: Annotated[str, OneOf(tuple(choices.SCHEDULES))]
    warmup: Fraction = 0.0
    start: Fraction = 0.0
    at: Fractions = Field(default=[])
    gamma: Positive = 0.0
    power: Positive = 0.0

    @model_validator(mode="after")
    def _own_options(self) -> Schedule:
        if others := sorted(self.model_fields_set - {"name", *choices.SCHEDULES[self.name]}):
            raise rule(f"{others[0]}={getattr(self, others[0])}: {self.name} has no such option")
        return self


class Augment(Node):
    """See :class:`da_wa.data.augment.Augment`."""

    name: Annotated[str, OneOf(choices.AUGMENTATIONS)] = "pad"
    crop: Fraction
    flip: Flag
    erase: Fraction


class Crops(Node):
    """See :class:`da_wa.data.crops.Crops`, which checks that ranges are in order."""

    name: Annotated[str, OneOf(choices.AUGMENTATIONS)]
    size: Pixels
    crop: AutoCrop
    interpolation: Annotated[str, OneOf(("auto", *choices.INTERPOLATIONS))]
    scale: Fractions | None
    ratio: Annotated[list[Positive], Allowed("two positive numbers, e.g. [0.75,1.333]")]
    flip: Flag
    erase: Fraction


def _view(node: Any) -> str:
    if isinstance(node, dict) and "_target_" in node:
        return "<own>"
    return "<crops>" if isinstance(node, dict) and node.get("name") == "crops" else "<shipped>"


class Descent(Node):
    """What all recipes by gradient descent have."""

    epochs: Count
    batch_size: Count
    optimizer: Annotated[Own | Annotated[Optimizer, Tag("<shipped>")], Discriminator(named_or_own)]
    schedule: Annotated[Own | Annotated[Schedule, Tag("<shipped>")], Discriminator(named_or_own)]
    label_smoothing: Below1 = 0.0
    evaluations: Count = 1
    epoch_steps: Annotated[
        Annotated[int, Field(strict=True, ge=1)] | None, Allowed("null or a whole number of steps")
    ] = None


class Recipe(Descent):
    """See :class:`da_wa.train.recipe.Recipe`."""

    augment: Annotated[
        Own | Annotated[Augment, Tag("<shipped>")] | Annotated[Crops, Tag("<crops>")], Discriminator(_view)
    ]
    backbone_rate: Positive = 1.0
    frozen_statistics: Flag = False


class Input(Node):
    """See :func:`da_wa.data.crops.central`."""

    size: Annotated[Pixels | None, Allowed("a whole number of pixels, or null: images as they are stored")]
    crop: AutoCrop
    interpolation: Annotated[str, OneOf(("auto", *choices.INTERPOLATIONS))]


class Frozen(Descent):
    """See :class:`da_wa.train.frozen.Frozen`."""

    target: Text = Field(alias="_target_")
    name: Text
    input: Input
    width: Count


class Probe(Part):
    """See :class:`da_wa.train.probe.Probe`."""

    model_config = ConfigDict(extra="forbid")
    name: Text
    C: Annotated[
        list[Annotated[Finite, Field(gt=0)]],
        Field(min_length=1),
        Allowed("a list of numbers, more than 0, e.g. [0.01,1.0]; one number needs no cross-validation"),
    ]
    folds: Annotated[Count, Field(ge=2), Allowed("a whole number, 2 or more")]
    iterations: Count
    input: Input


SHIPPED = {"da_wa.train.frozen.Frozen": "<features>", "da_wa.train.probe.Probe": "<probe>"}
"""Tags of our kinds of recipes."""


def _recipe(node: Any) -> str:
    """Gradient descent on the whole network has no ``_target_``; other ways to train are callables."""
    named = isinstance(node, dict) and "_target_" in node
    return SHIPPED.get(str(node["_target_"]), "<own>") if named else "<descent>"


AnyRecipe = Annotated[
    Annotated[Recipe, Tag("<descent>")] | Annotated[Frozen, Tag("<features>")] | Annotated[Probe, Tag("<probe>")] | Own,
    Discriminator(_recipe),
]
"""The nodes of ``conf/finetune``."""
