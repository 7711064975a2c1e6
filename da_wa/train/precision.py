"""Which precision is faster for a backbone on this device: measured once, then kept beside the pixel cache.

Two measurements of one network may differ, and results of two precisions differ in rounding. So the first process that
needs a decision measures under a lock and writes it down; others, and resumed runs, read it. The decision holds for
every norm of the backbone, because norms are compared with one another: it is measured with the norm that comes first.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from da_wa.records.files import locked, write_bytes
from da_wa.records.provenance import cpu
from da_wa.train.flops import wait
from da_wa.train.settings import Settings

_ADVICE = "Make room there or set another folder with cache_dir=PATH, then rerun the command."

STEPS = 2
"""Timed training steps of each precision, after one that sets up the libraries."""


def decided(
    settings: Settings, model: nn.Module, images: Sequence[int], folder: Path, backbone: Mapping[str, Any]
) -> Settings:
    """Settings with ``precision=auto`` replaced by the faster one.

    Where the device has no bfloat16 units, it is float32 without a measurement.

    Args:
        settings: of the training.
        model: images -> logits; unchanged.
        images: the shape of a batch, (n, c, h, w).
        folder: where decisions are kept, one small file each.
        backbone: plain facts about the network that do not depend on its norm; equal ones share a decision.

    Raises:
        DataError: the folder cannot be written.
    """
    resolved = settings.resolve(model)
    if settings.precision != "auto" or resolved.precision == "32-true":
        return settings
    path = folder / f"{_key(resolved, images, backbone)}.json"
    with locked(path, advice=_ADVICE):
        try:
            seconds = json.loads(path.read_text())["seconds"]
            _ = float(seconds["32-true"]), float(seconds[resolved.precision])
        except (OSError, ValueError, LookupError, TypeError):  # absent or damaged
            seconds = {name: step_seconds(model, images, resolved, name) for name in ("32-true", resolved.precision)}
            found = {"model": type(model).__name__, "images": list(images), "seconds": seconds}
            write_bytes(path, json.dumps(found).encode(), _ADVICE)
    return replace(settings, precision=min(seconds, key=lambda name: float(seconds[name])))


def step_seconds(model: nn.Module, images: Sequence[int], settings: Settings, precision: str) -> float:
    """The shortest of :data:`STEPS` training steps, in seconds; leaves model and random generators as they are.

    >>> from da_wa.train.settings import Settings
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    >>> step_seconds(net, (2, 3, 8, 8), Settings("cpu").resolve(net), "32-true") > 0
    True
    """
    device = settings.device
    half = nullcontext() if precision == "32-true" else torch.autocast(device, torch.bfloat16)
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    network = copy.deepcopy(model).to(device).to(memory_format=layout).train()
    batch = torch.zeros(*images, device=device)
    taken = []
    with torch.random.fork_rng():
        for _ in range(1 + STEPS):
            wait(device)
            started = time.perf_counter()
            with half:
                loss = network(batch).float().square().sum()
            loss.backward()
            wait(device)
            taken.append(time.perf_counter() - started)
    return min(taken[1:])


def _key(settings: Settings, images: Sequence[int], backbone: Mapping[str, Any]) -> str:
    """The device, the threads and the backbone."""
    gpu = settings.accelerator == "gpu"
    told = {
        "device": torch.cuda.get_device_name() if gpu else f"{settings.accelerator}: {cpu()}",
        "torch": torch.__version__,
        "threads": None if gpu else torch.get_num_threads(),
        "backbone": backbone,
        "images": list(images),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
