"""Records of segmentation: ``record.json`` and ``confusion.npz`` in one folder for each run."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from da_wa.errors import DataError
from da_wa.records.files import read_bytes, write_bytes, write_json
from da_wa.records.identity import digest
from da_wa.records.plain import plain
from da_wa.records.schema import validated

RECORD, OUTPUTS = "record.json", "confusion.npz"


class SegmentationRecord(BaseModel):
    """One run.

    Attributes:
        schema_version: of this type.
        study: its name.
        scope: of the study.
        norm: the name of the norm.
        label: how it is shown.
        seed: of everything random.
        classes: their names.
        images: names of the evaluated images, in the order of the confusion matrices.
        facts: all that determines the result.
        curve: loss and learning rate of every epoch.
        cost: time and device.
        provenance: versions, machine, commit, command.
        error: why there is no result, e.g. a loss that is not finite.
        outputs: digest of ``confusion.npz``; None without a result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal[1] = 1
    study: str
    scope: str
    norm: str
    label: str
    seed: int
    classes: list[str]
    images: list[str]
    facts: dict[str, Any]
    curve: list[dict[str, float]]
    cost: dict[str, Any]
    provenance: dict[str, Any]
    error: str | None = None
    outputs: str | None = None


@dataclass(frozen=True)
class Outputs:
    """What a network predicted.

    Attributes:
        confusion: (images, k, k) pixels by true and predicted class.
        predicted: (shown, h, w) labels of the first images.
    """

    confusion: npt.NDArray[np.integer]
    predicted: npt.NDArray[np.uint8]


def run_name(facts: Mapping[str, Any]) -> str:
    """The name of a run and of its folder, by all that determines its result.

    >>> run_name({"norm": {"name": "bn_wa"}, "seed": 3})
    'bn_wa-seed3-a71e9fbc'
    """
    return f"{facts['norm']['name']}-seed{facts['seed']}-{digest(facts)}"


def norm_of(folder: str) -> str:
    """The norm of a run, which need not be finished.

    >>> norm_of("runs/bn_wa-seed3-a71e9fbc")
    'bn_wa'
    """
    return Path(folder).name.rsplit("-", 2)[0]


def seed_of(folder: str) -> int:
    """The seed of a run, which need not be finished.

    >>> seed_of("runs/bn_wa-seed3-a71e9fbc")
    3
    """
    return int(Path(folder).name.rsplit("-", 2)[1].removeprefix("seed"))


def write_run(folder: Path, record: SegmentationRecord, outputs: Outputs | None = None) -> None:
    """Write outputs, then the record: a folder with a record is a finished run.

    Raises:
        DataError: it cannot be written.
    """
    if outputs is not None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, confusion=outputs.confusion.astype(np.int32), predicted=outputs.predicted)
        write_bytes(folder / OUTPUTS, buffer.getvalue())
        record = record.model_copy(update={"outputs": _digest(buffer.getvalue())})
    write_json(folder / RECORD, plain(record.model_dump()))


def read_run(folder: Path) -> tuple[SegmentationRecord, Outputs | None] | None:
    """The record and outputs of a run; None if it is not finished.

    Raises:
        DataError: a file is damaged.
    """
    content = read_bytes(folder / RECORD)
    if content is None:
        return None
    complaint, advice = f"{folder / RECORD} is not valid", f"Delete {folder} to run it again."
    try:
        raw = json.loads(content)
    except ValueError as error:
        raise DataError(f"{complaint}: {error}. {advice}") from error
    record = validated(SegmentationRecord, raw, complaint, advice)
    if record.outputs is None:
        return record, None
    found = read_bytes(folder / OUTPUTS)
    if found is None or _digest(found) != record.outputs:
        raise DataError(f"{folder / OUTPUTS} is missing or is not that of its record; delete {folder} to run it again.")
    with np.load(io.BytesIO(found), allow_pickle=False) as arrays:
        return record, Outputs(arrays["confusion"], arrays["predicted"])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
