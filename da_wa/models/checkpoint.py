"""Weights on disk: safetensors, with the recipe and the result of the training in the header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from da_wa.errors import UserError

HEAD = "head."


class CheckpointError(UserError):
    """A checkpoint that is missing, torn, or of another network."""


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself.

    Attributes:
        facts: everything that determined the weights, as nested plain values.
        result: correct, n, epochs, curve, cost, provenance.
    """

    facts: Mapping[str, Any]
    result: Mapping[str, Any]


def save(path: Path, model: nn.Module, header: Header, dtype: torch.dtype = torch.float32) -> None:
    """Write the state of ``model``, floating-point tensors as ``dtype``; the file appears whole or not at all.

    Raises:
        CheckpointError: a value that ``dtype`` cannot hold, or a disk that is full.
    """
    state = {}
    for key, tensor in model.state_dict().items():
        stored = tensor.detach().cpu().contiguous()
        if stored.is_floating_point():
            stored = stored.to(dtype)
            if not stored.isfinite().all():
                raise CheckpointError(f"{key} holds values that are not finite as {dtype}; store it as float32")
        state[key] = stored
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    metadata = {"facts": json.dumps(header.facts, sort_keys=True), "result": json.dumps(header.result)}
    try:
        save_file(state, draft, metadata)
        draft.chmod(0o644)  # safetensors makes files that only their owner can read
        os.replace(draft, path)
    except (OSError, SafetensorError) as error:
        draft.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path} could not be written ({error}); free some space or set checkpoint_dir=…"
        ) from error


def read_header(path: Path) -> Header:
    """The header alone, without reading any weights.

    Raises:
        CheckpointError: no such file, or not a checkpoint of this package.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}; check pretrain.checkpoint=…") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); delete it to train it again"
        ) from error
    if "recipe" in metadata:
        raise CheckpointError(f"{path} was written by an earlier version; convert it with: da-wa migrate {path.parent}")
    if not {"facts", "result"} <= metadata.keys():
        raise CheckpointError(f"{path} has no facts in its header: it was not written by this package")
    return Header(json.loads(metadata["facts"]), json.loads(metadata["result"]))


def load_backbone(path: Path, model: nn.Module) -> None:
    """Copy everything but the head from a checkpoint into ``model``, converting to its floating type.

    Raises:
        CheckpointError: the keys or shapes are those of another architecture or norm; both lists are named.
    """
    read_header(path)
    stored = {k: v for k, v in load_file(path).items() if not k.startswith(HEAD)}
    wanted = {k: v for k, v in model.state_dict().items() if not k.startswith(HEAD)}
    problems = [
        *_listed("it lacks", sorted(wanted.keys() - stored.keys())),
        *_listed("it has, and the network has not,", sorted(stored.keys() - wanted.keys())),
        *_listed(
            "of another shape are",
            [
                f"{k} {tuple(stored[k].shape)} for {tuple(wanted[k].shape)}"
                for k in sorted(wanted.keys() & stored.keys())
                if stored[k].shape != wanted[k].shape
            ],
        ),
    ]
    if problems:
        raise CheckpointError(f"{path} is of another architecture or norm: {'; '.join(problems)}")
    model.load_state_dict(stored, strict=False)


def _listed(what: str, keys: list[str], most: int = 5) -> list[str]:
    if not keys:
        return []
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return [f"{what} {', '.join(keys[:most])}{more}"]
