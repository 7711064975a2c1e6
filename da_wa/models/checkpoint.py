"""Checkpoints: safetensors files with facts and result of the training in the header."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from da_wa.errors import UserError

HEAD = "head."


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or does not match the network."""


@dataclass(frozen=True)
class Header:
    """The metadata of a checkpoint.

    Attributes:
        facts: everything that determines the weights, as nested plain values.
        result: the outcome of the training: correct, n, epochs, curve, cost, provenance.

    >>> Header({"model": "resnet20"}, {"correct": 6012, "n": 10000}).result["n"]
    10000
    """

    facts: Mapping[str, Any]
    result: Mapping[str, Any]


def save(path: Path, model: nn.Module, header: Header, dtype: torch.dtype = torch.float32) -> None:
    """Write the state of ``model`` atomically, with floating-point tensors converted to ``dtype``.

    Raises:
        CheckpointError: a value is too large for ``dtype``, or the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "net.safetensors"
    ...     save(path, nn.Linear(2, 2), Header({"model": "linear"}, {}), torch.float16)
    ...     read_header(path).facts
    {'model': 'linear'}
    """
    content = packed(model, header, dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path} ({error}); free disk space or choose another folder") from error


def packed(model: nn.Module, header: Header, dtype: torch.dtype = torch.float32) -> bytes:
    """The content of a checkpoint, see :func:`save`.

    Raises:
        CheckpointError: a value is too large for ``dtype``.
    """
    state = {}
    for key, tensor in model.state_dict().items():
        stored = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)  # tied tensors share memory
        if stored.is_floating_point():
            finite, stored = stored.isfinite(), stored.to(dtype)
            if not stored[finite].isfinite().all():
                raise CheckpointError(
                    f"{key} has values that are too large for {dtype}; save as torch.float32, with "
                    "pretrain.dtype=float32 after a pre-training"
                )
        state[key] = stored
    metadata = {"facts": json.dumps(header.facts, sort_keys=True), "result": json.dumps(header.result)}
    content: bytes = safetensors.torch.save(state, metadata)
    return content


def read_header(path: Path) -> Header:
    """Read the header only, no weights. For an example see :func:`save`.

    Raises:
        CheckpointError: the file does not exist, is damaged, or was not written by this package.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path} does not exist; check pretrain.checkpoint=PATH") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is not a valid safetensors file ({error}); delete it to train the network again, or, if it is "
            "your own, check pretrain.checkpoint=PATH"
        ) from error
    if "recipe" in metadata:
        raise CheckpointError(f"{path} was written by an earlier version; convert it with: da-wa migrate {path.parent}")
    if not {"facts", "result"} <= metadata.keys():
        raise CheckpointError(f"{path} has no facts in its header; write checkpoints with da_wa.models.checkpoint.save")
    return Header(json.loads(metadata["facts"]), json.loads(metadata["result"]))


def head_classes(path: Path) -> int | None:
    """The number of classes of a checkpoint's linear classifier; None where it has another one. No weights are read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "net.safetensors"
    ...     save(path, nn.ModuleDict({"head": nn.Linear(2, 31)}), Header({}, {}))
    ...     head_classes(path)
    31
    """
    with safe_open(path, framework="numpy") as file:
        weight = f"{HEAD}weight"
        return int(file.get_slice(weight).get_shape()[0]) if weight in file.keys() else None  # noqa: SIM118


def load_backbone(path: Path, model: nn.Module) -> None:
    """Load a checkpoint into ``model`` except for the head, converted to the floating-point type of ``model``.

    Raises:
        CheckpointError: the keys or shapes do not match the architecture or norm; nothing is loaded.

    >>> import tempfile
    >>> from da_wa.models.resnet import ResNet
    >>> from da_wa.norm import named
    >>> trained = ResNet(named("bn"), 100, block="basic", depths=[1, 1], widths=[4, 8])
    >>> fresh = ResNet(named("bn"), 31, block="basic", depths=[1, 1], widths=[4, 8])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(Path(folder) / "net.safetensors", trained, Header({}, {}))
    ...     load_backbone(Path(folder) / "net.safetensors", fresh)
    >>> torch.equal(fresh.stem[0].weight, trained.stem[0].weight), fresh.head.out_features
    (True, 31)
    """
    _load(path, model, lambda key: not key.startswith(HEAD))


def load_network(path: Path, model: nn.Module) -> None:
    """Load a whole checkpoint into ``model``, the head included, see :func:`load_backbone`.

    Raises:
        CheckpointError: the keys or shapes do not match; nothing is loaded.
    """
    _load(path, model, lambda key: True)


def _load(path: Path, model: nn.Module, chosen: Callable[[str], bool]) -> None:
    read_header(path)
    stored = {k: v for k, v in load_file(path).items() if chosen(k)}
    wanted = {k: v for k, v in model.state_dict().items() if chosen(k)}
    problems = [
        *_listed("missing", sorted(wanted.keys() - stored.keys())),
        *_listed("unexpected", sorted(stored.keys() - wanted.keys())),
        *_listed(
            "different shapes",
            [
                f"{k} {tuple(stored[k].shape)} instead of {tuple(wanted[k].shape)}"
                for k in sorted(wanted.keys() & stored.keys())
                if stored[k].shape != wanted[k].shape
            ],
        ),
    ]
    if problems:
        raise CheckpointError(
            f"{path} does not match the architecture or norm: {'; '.join(problems)}. Check model= and norms="
        )
    model.load_state_dict(stored, strict=False)


def _listed(what: str, keys: list[str], most: int = 5) -> list[str]:
    if not keys:
        return []
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return [f"{what}: {', '.join(keys[:most])}{more}"]
