"""A lower bound of the cost of the default experiment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from da_wa.config.compose import Experiment
from da_wa.config.make import make
from da_wa.data.office31 import COUNTS
from da_wa.launchers.progress import duration
from da_wa.train.flops import count_flops, matrix_rate, matrix_type

PRETRAINING_IMAGES = 50_000  # of CIFAR-10 and CIFAR-100


def estimate(experiment: Experiment) -> str:
    """The size of an experiment on Office-31 and a lower bound of its time on this machine.

    The bound is the arithmetic of all training steps over the rate of large matrix products, see ``train/flops.py``.
    """
    cfg = experiment.cfg
    images = sum(sum(counts.values()) for counts in COUNTS.values())
    fits = len(experiment.norms) * len(experiment.models)
    networks = fits * PRETRAINING_IMAGES * cfg["pretrain"]["recipe"]["epochs"]
    units = fits * len(cfg["seeds"]) * images * cfg["finetune"]["epochs"]
    model = _network(cfg, next(iter(experiment.norms.values())))
    flops = sum(
        passes * count_flops(model, (3, size, size)).training
        for passes, size in ((networks, cfg["pretrain"]["size"]), (units, cfg["data"]["size"]))
    )
    settings = make(cfg["trainer"]).resolve(model)
    rate = matrix_rate(settings.device, matrix_type(settings.precision), torch.get_num_threads())
    return (
        f"The default experiment: {', '.join(experiment.models)}, "
        f"{len(experiment.norms)} norms, {len(cfg['seeds'])} seeds, every pair of Office-31.\n"
        f"{fits} networks are trained on {cfg['pretrain']['label']} for {cfg['pretrain']['recipe']['epochs']} epochs, "
        f"then fine-tuned {fits * len(cfg['seeds']) * len(COUNTS)} times for {cfg['finetune']['epochs']} epochs.\n"
        f"On this machine ({settings.device}) the arithmetic alone takes {duration(flops / rate)}, a lower bound."
    )


def _network(cfg: Mapping[str, Any], norm: Mapping[str, Any]) -> torch.nn.Module:
    with torch.device("meta"):
        made: torch.nn.Module = make(cfg["model"]["build"])(make(norm), 31)
    return made
