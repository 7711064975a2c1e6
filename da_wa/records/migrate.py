"""Read schema 1 as schema 2: records, plans, predictions, and headers of pre-trained networks.

In schema 1 a run was one source, a record held results and the evaluations they derive from, arrays were numbered by
domain, and names were hashes of class paths and labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from da_wa.errors import DataError
from da_wa.records import identity
from da_wa.records.identity import Facts
from da_wa.records.outputs import DomainOutputs, Outputs, by_epoch, read_arrays
from da_wa.records.schema import Plan, Record, parse, parse_plan

OUTPUTS = "predictions.npz"
"""Where schema 1 kept its outputs."""

NO_EPOCHS = np.zeros(0, np.int32)

_LEVELS = {
    "none": ("plain", "none"),
    "bn": ("plain", "bn"),
    "bn_cwn": ("center", "bn"),
    "bn_wa": ("align", "bn"),
    "bn_ws": ("standardize", "bn"),
    "brn": ("plain", "brn"),
    "cwn": ("center", "none"),
    "evonorm_s0": ("plain", "evonorm_s0"),
    "frn": ("plain", "frn"),
    "gn": ("plain", "gn"),
    "gn_wa": ("align", "gn"),
    "gn_ws": ("standardize", "gn"),
    "in": ("plain", "in"),
    "in_wa": ("align", "in"),
    "ln": ("plain", "ln"),
    "ln_wa": ("align", "ln"),
    "scaled_ws": ("scaled_standardize", "none"),
    "wa": ("align", "none"),
    "wa_double": ("align_double", "none"),
    "wa_half": ("align_half", "none"),
    "wa_mean": ("align_mean", "none"),
    "wa_std": ("align_std", "none"),
    "wn": ("weight_norm", "none"),
}
"""Weight and activation normalisation of the norms that schema 1 knew by name alone."""

_BLOCKS = {"da_wa.models.resnet.BasicBlock": "basic", "da_wa.models.resnet.Bottleneck": "bottleneck"}
_AUGMENT = "da_wa.data.augment.Augment"
_PROVENANCE = ("started", "finished")


def is_schema_1(raw: Any) -> bool:
    """Whether plain values of a ``record.json`` are of schema 1."""
    return isinstance(raw, dict) and raw.get("schema") == 1


def record(raw: Mapping[str, Any], config: Mapping[str, Any], where: str) -> Record:
    """A record of schema 1, and its ``config.yaml``, as schema 2.

    Raises:
        DataError: a field is missing or invalid; results that do not follow from the evaluations.
    """
    try:
        pretrain = raw.get("pretrain")
        upgraded = {
            "schema": 2,
            "id": raw["id"],
            "status": raw["status"],
            "factors": _factors(raw, config, pretrain),
            "labels": {"norm": raw["label"]},
            "source": raw["source"],
            "target": None,
            "domains": raw["domains"],
            "classes": raw["classes"],
            "images": {name: {k: data.get(k) for k in ("digest", "n")} for name, data in raw["data"].items()},
            "experiment": raw["recipe"],
            "evaluations": raw.get("evaluations") or [],
            "curve": raw.get("curve") or [],
            "pretraining": pretrain,
            "parameters": raw.get("parameters"),
            "cost": _cost(raw),
            "provenance": (raw.get("environment") or {}) | {k: raw[k] for k in _PROVENANCE if k in raw},
            "outputs": raw["predictions"],
            "error": raw.get("error"),
        }
    except (KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{where} is not a valid record of schema 1 ({error!r}).") from error
    found = parse(upgraded, where)
    if raw.get("results") != [row.model_dump() for row in found.results]:
        raise DataError(f"{where}: its results do not follow from its evaluations.")
    return found


def plan(config: Mapping[str, Any], where: str) -> Plan:
    """A ``config.yaml`` of schema 1 as the plan of a unit.

    Raises:
        DataError: a field is missing or invalid.
    """
    try:
        raw = {
            "factors": _factors(config, config, None),
            "labels": {"norm": config["label"]},
            "source": config["source"],
            "domains": config.get("domains") or [config["source"], *config["targets"]],
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where} does not say what was planned ({error!r}).") from error
    return parse_plan(raw, where)


def outputs(content: bytes, domains: Sequence[str], where: str) -> Outputs:
    """The content of a ``predictions.npz``, whose arrays are numbered in the order of ``domains``.

    Raises:
        DataError: it cannot be read.
    """
    arrays, found = read_arrays(content, where), {}
    try:
        for k, domain in enumerate(domains):
            if f"predicted_{k}" in arrays:
                optional = {
                    new: arrays.get(f"{old}_{k}")
                    for new, old in (
                        ("confidence", "confidence"),
                        ("feature_index", "feature_index"),
                        ("features", "feature"),
                    )
                }
                if (features := optional["features"]) is not None:
                    optional["features"] = by_epoch(features)
                found[domain] = DomainOutputs(
                    arrays[f"index_{k}"], arrays[f"label_{k}"], None, arrays[f"predicted_{k}"], **optional
                )
        return Outputs(arrays.get("epochs", NO_EPOCHS), found)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{where} does not hold the predictions of a run ({error}).") from error


def network(old: Mapping[str, Any], norm: str) -> Facts:
    """The facts of a pre-trained network from a header of schema 1.

    Args:
        old: the header's recipe.
        norm: the file name of its norm, which the header does not hold.

    Raises:
        DataError: a field is missing or invalid.
    """
    try:
        return identity.network_facts(
            norm=identity.norm_facts(norm, old["norm"]),
            model=identity.model_facts(_model(old["model"])),
            dataset=old["dataset"],
            size=old["size"],
            recipe=recipe(old["recipe"]),
            normalize=old["normalise"],
            dtype=old["dtype"],
            seed=old["seed"],
            images=old.get("images"),
            holdout=old.get("holdout", 0.0),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"The network's header does not say how it was pre-trained ({error!r}).") from error


def network_result(old: Mapping[str, Any]) -> Facts:
    """The result in a header of schema 1 under the present names."""
    kept = {k: v for k, v in old.items() if k not in ("timing", "environment")}
    return kept | {"cost": _cost(old), "provenance": old.get("environment") or {}}


def recipe(old: Mapping[str, Any]) -> Facts:
    """A training recipe of schema 1, whose callables were class paths, with their names; a user's own keep their path.

    >>> recipe({"epochs": 6, "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1}})
    {'epochs': 6, 'optimizer': {'name': 'sgd', 'lr': 0.1}}
    """
    found = {}
    for key, value in old.items():
        if isinstance(value, Mapping):
            package, _, name = str(value["_target_"]).rpartition(".")
            ours = (
                {"name": name.lower()}
                if package in ("torch.optim", "da_wa.train.schedule")
                else {"name": value["_target_"]}
            )
            value = ({} if value["_target_"] == _AUGMENT else ours) | identity.parameters(value)
        found[key] = value
    return found


def _model(old: Mapping[str, Any]) -> Facts:
    """A model of schema 1, whose block was a class path, with the block's name."""
    build = dict(old["build"])
    if isinstance(build.get("block"), Mapping):
        path = build["block"]["path"]
        build["block"] = _BLOCKS.get(path, path)
    return {**old, "build": build}


def _factors(raw: Mapping[str, Any], config: Mapping[str, Any], pretrain: Mapping[str, Any] | None) -> Facts:
    norm = raw["norm"]
    weight, activation = _LEVELS.get(norm, (norm, norm))
    details = config.get("details") or {}
    finetune, before = details.get("finetune") or {}, details.get("pretrain")
    before = before if isinstance(before, Mapping) else {}
    return {
        "norm": norm,
        "weight": weight,
        "activation": activation,
        "model": raw["model"],
        "dataset": raw["dataset"],
        "protocol": raw["protocol"],
        "size": raw["size"],
        "batch_size": finetune.get("batch_size"),
        "epochs": finetune.get("epochs"),
        "lr": (finetune.get("optimizer") or {}).get("lr"),
        "seed": raw["seed"],
        "pretraining": before.get("name") or ((pretrain or {}).get("dataset")),
        "pretraining_epochs": (pretrain or {}).get("epochs") or (before.get("recipe") or {}).get("epochs"),
        "pretraining_seed": before.get("seed"),
    }


def _cost(raw: Mapping[str, Any]) -> Facts:
    timing = {("compute_bound_s" if k == "floor_s" else k): v for k, v in (raw.get("timing") or {}).items()}
    return timing | ({"peak_memory_mb": raw["peak_memory_mb"]} if "peak_memory_mb" in raw else {})
