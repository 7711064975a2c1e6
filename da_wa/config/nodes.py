"""What all types of configuration nodes share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from da_wa.config.types import Text


def rule(text: str) -> PydanticCustomError:
    """Options that do not fit together; the text starts with one of them."""
    return PydanticCustomError("rule", text)


class Node(BaseModel):
    """Options with known names."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Part(BaseModel):
    """A callable and its arguments; those unknown here are checked when it is called."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())
    target: Text = Field(alias="_target_")


def kind_at(*path: str) -> Discriminator:
    """Distinguish nodes of the package from the user's own, by the ``_target_`` at ``path``."""

    def kind(node: Any) -> str:
        for key in path:
            node = node.get(key) if isinstance(node, dict) else None
        target = node.get("_target_") if isinstance(node, dict) else None
        return "<own>" if isinstance(target, str) and not target.startswith("da_wa.") else "<shipped>"

    return Discriminator(kind)


def named_or_own(node: Any) -> str:
    """Distinguish nodes with a ``name`` of ours from the user's own, with a ``_target_``."""
    return "<own>" if isinstance(node, dict) and "_target_" in node else "<shipped>"


Own = Annotated[Part, Tag("<own>")]
