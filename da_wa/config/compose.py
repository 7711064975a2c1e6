"""Stand-in until the config room is merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from da_wa import _conf
from da_wa.records.migrate import _LEVELS, recipe


@dataclass(frozen=True)
class Experiment:
    """A composed experiment."""

    cfg: dict[str, Any]
    norms: dict[str, Any]
    models: dict[str, Any]


def compose_experiment(overrides: Sequence[str], extra_dir: Path | None = None) -> Experiment:
    """Compose."""
    cfg, norms = _conf.compose_experiment(overrides, extra_dir)
    cfg["keep"] = None
    cfg["finetune"] = recipe(cfg["finetune"])
    p = cfg["pretrain"]
    for k, v in {"seeds": None, "holdout": 0.0, "verify": True, "checkpoint": None, "seed": 0}.items():
        p.setdefault(k, v)
    if p["recipe"]:
        p["recipe"] = recipe(p["recipe"])
    return Experiment(cfg, norms, {cfg["model"]["name"]: cfg["model"]})
