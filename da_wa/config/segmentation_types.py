"""Types of a study of segmentation: the scopes of ``conf/study/voc.yaml``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StrictInt

from da_wa.config.nodes import Node, Part
from da_wa.config.schema import Normalize, Trainer
from da_wa.config.types import (
    Allowed,
    Below1,
    Count,
    Finite,
    Flag,
    Name,
    NormNames,
    Pixels,
    Positive,
    Seeds,
    Text,
)


class MaskedData(Normalize):
    """Where images and masks are; see :mod:`da_wa.data.masks`."""

    layout: Text
    root: Text
    train: Text
    test: Text
    classes: Annotated[list[Name], Field(min_length=2, max_length=254), Allowed("a list of 2 to 254 names")]
    void: Annotated[StrictInt, Field(ge=0, le=255), Allowed("a whole number, 0 to 255")]


class PixelRecipe(Node):
    """See :class:`da_wa.tasks.segmentation.SegmentationRecipe`."""

    epochs: Count
    batch_size: Annotated[StrictInt, Field(ge=2), Allowed("a whole number, 2 or more")]
    lr: Positive
    momentum: Below1
    weight_decay: Positive
    power: Positive
    crop: Annotated[tuple[Pixels, Pixels], Allowed("height and width in pixels, 1 to 4096, e.g. [513,513]")]
    scale: Annotated[
        tuple[Annotated[Finite, Field(gt=0)], Annotated[Finite, Field(gt=0)]],
        Allowed("two numbers, more than 0, e.g. [0.5,2.0]"),
    ]
    flip: Flag = True


class SegmentationOptions(Node):
    """All options of a scope."""

    caption: Text
    norms: NormNames
    seeds: Seeds
    data: MaskedData
    model: Part
    recipe: PixelRecipe
    trainer: Trainer

    @property
    def cfg(self) -> dict[str, Any]:
        """The options as nested plain values."""
        return self.model_dump(by_alias=True)
