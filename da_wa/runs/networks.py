"""The networks of jobs: as configured, pre-trained with one norm and converted to another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from da_wa.config.make import make
from da_wa.models.backbone import Backbone
from da_wa.models.pretrained import converted


def built(config: Mapping[str, Any], num_classes: int, load: Callable[[Backbone], None] | None = None) -> Backbone:
    """The network of a job: made with the norm of its pre-training and loaded, then converted to its own norm.

    Args:
        config: of the job.
        num_classes: of its head.
        load: loads the pre-trained weights in place; None: the network keeps its initialisation.
    """
    before = next(iter((config.get("start_norm") or {}).values()), None)
    model: Backbone = make(config["model"]["build"])(make(before or config["norm"]), num_classes)
    if load is not None:
        load(model)
    if before is not None:
        conversion, model = converted(model, make(config["norm"]), "head")
        model.conversion = conversion
    return model
