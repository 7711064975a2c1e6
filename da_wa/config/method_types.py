"""Types of adaptation methods, by their phase: ``conf/method``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from da_wa.config import choices
from da_wa.config.nodes import Node, Part
from da_wa.config.recipe_types import AnyRecipe
from da_wa.config.types import Allowed, Count, OneOf, Positive, Text


class SourceOnly(Node):
    """No adaptation: one unit per source, evaluated on every other domain."""

    label: Text
    phase: Annotated[str, OneOf(("source",))]


class Joint(Node):
    """A method that trains on source and target images together, with the recipe of ``finetune``."""

    label: Text
    phase: Annotated[str, OneOf(("joint",))]
    version: Count = 1
    changes: list[Text] | None = None
    statistics: Annotated[str, OneOf(choices.STATISTICS)]
    weight: Annotated[
        Positive | Annotated[list[Positive], Field(min_length=1)], Allowed("a number, 0 or more, or a list of them")
    ]
    build: Part


class TargetOnly(Node):
    """A method that starts from the network trained on the source; ``recipe`` changes that of ``finetune``."""

    label: Text
    phase: Annotated[str, OneOf(("target",))]
    version: Count = 1
    changes: list[Text] | None = None
    recipe: AnyRecipe
    build: Part


class Streaming(TargetOnly):
    """Likewise; the target arrives in batches, once."""

    phase: Annotated[str, OneOf(("stream",))]
    order: Annotated[str, OneOf(choices.STREAM_ORDERS)]


class UnknownPhase(BaseModel):
    """Any other ``phase``."""

    model_config = ConfigDict(extra="allow")
    phase: Annotated[str, OneOf(("source", "joint", "target", "stream"))]


def _phase(node: Any) -> str:
    phase = node.get("phase") if isinstance(node, dict) else None
    return f"<{phase}>" if phase in ("source", "joint", "target", "stream") else "<unknown>"


AnyMethod = Annotated[
    Annotated[SourceOnly, Tag("<source>")]
    | Annotated[Joint, Tag("<joint>")]
    | Annotated[TargetOnly, Tag("<target>")]
    | Annotated[Streaming, Tag("<stream>")]
    | Annotated[UnknownPhase, Tag("<unknown>")],
    Discriminator(_phase),
]
