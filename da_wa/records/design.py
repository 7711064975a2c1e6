"""``study.json``: what a study varies, as a frozen, validated type.

A study is a table over factors; its records are in several ``out`` folders. Levels are text, as
:func:`level_text` writes them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from da_wa.errors import DataError
from da_wa.records.files import read_bytes, write_json
from da_wa.records.schema import validated

FILE = "study.json"

Key = tuple[str, ...]
"""The levels that identify a cell, in the order of :attr:`Design.factors`."""

Measure = Literal["error", "accuracy", "top5_error", "top5_accuracy"]
"""Top-5: the true class is among the five most likely."""

Task = Literal["classification", "segmentation"]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Refusal(_Frozen):
    """Cells that cannot be trained at all.

    Attributes:
        levels: of the factors that identify them.
        reason: one sentence.
    """

    levels: dict[str, str]
    reason: str


class Design(_Frozen):
    """Which cells a study has, and how its table shows them.

    Attributes:
        study: its name, e.g. ``table2``.
        scope: ``full``, ``small`` or ``smoke``.
        title: one line.
        caption: what differs from the paper in this scope.
        task: what the networks do, and so what its records are.
        measures: what the table of a classification shows, in percent; ``measure`` in files of earlier versions, which
            have one.
        factors: the levels of every factor, in display order.
        rows: factors whose levels are the rows.
        columns: factors whose levels are the columns.
        names: display names of levels, by factor.
        norms: ``weight`` and ``activation`` of every norm.
        folders: ``out`` folders of the experiments, relative to the study's; of segmentation, one for each run.
        refused: cells that cannot be trained.
        settings: of segmentation: a digest of what all its runs share; empty in files of earlier versions.
    """

    study: str
    scope: str
    title: str
    caption: str = ""
    task: Task = "classification"
    measures: Annotated[list[Measure], BeforeValidator(_listed)] = Field(
        default=["error"], min_length=1, validation_alias=AliasChoices("measures", "measure")
    )
    factors: dict[str, list[str]]
    rows: list[str]
    columns: list[str]
    names: dict[str, dict[str, str]] = {}
    norms: dict[str, dict[str, str]] = {}
    folders: list[str]
    refused: list[Refusal] = []
    settings: str = ""

    @model_validator(mode="after")
    def _every_factor_is_shown(self) -> Design:
        if sorted([*self.rows, *self.columns]) != sorted(self.factors):
            raise ValueError(f"rows {self.rows} and columns {self.columns} must be the factors {list(self.factors)}")
        return self

    def name(self, factor: str, level: str) -> str:
        """How a level is shown, e.g. ``BN + WA`` or ``batch size 64``; with itself where others are shown alike."""
        names = self.names.get(factor, {})
        shown = names.get(level, f"{factor.replace('_', ' ')} {level}")
        alike = any(names.get(other) == shown for other in self.factors.get(factor, ()) if other != level)
        return f"{shown} ({level})" if alike else shown

    def label(self, key: Key, factors: list[str] | None = None) -> str:
        """How a cell is called, e.g. ``WA, batch size 1``; ``factors``: only these of its levels."""
        levels = dict(zip(self.factors, key, strict=True))
        shown = list(self.factors) if factors is None else factors
        return ", ".join(self.name(factor, levels[factor]) for factor in shown)


def level_text(value: Any) -> str:
    """A level of a factor as text.

    >>> level_text(None), level_text(64), level_text(0.1), level_text("bn")
    ('none', '64', '0.1', 'bn')
    """
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def joined(design: Design, earlier: Design, chosen: Mapping[str, Sequence[str]]) -> Design:
    """A design with the levels of an earlier command too, whose runs are in the same folder.

    Args:
        design: of this command.
        earlier: if it is of another study, scope or table, ``design`` is returned as it is.
        chosen: the factors whose levels a command chooses, with the study's own levels, which come first.

    >>> known = dict(study="s", scope="small", title="T", rows=["norm"], columns=[], folders=["."])
    >>> now, before = (Design(factors={"norm": norms}, **known) for norms in (["mine", "gn"], ["wa", "bn"]))
    >>> joined(now, before, {"norm": ["bn", "gn", "wa"]}).factors
    {'norm': ['bn', 'gn', 'wa', 'mine']}
    """
    same = ("study", "scope", "rows", "columns")
    if any(getattr(design, field) != getattr(earlier, field) for field in same):
        return design
    factors = dict(design.factors)
    for factor, own in chosen.items():
        known = [*design.factors[factor], *earlier.factors[factor]]
        factors[factor] = [level for level in dict.fromkeys([*own, *known]) if level in known]
    gone = [
        refusal
        for refusal in earlier.refused
        if any(level not in design.factors[factor] for factor, level in refusal.levels.items() if factor in chosen)
    ]
    names = {f: earlier.names.get(f, {}) | design.names.get(f, {}) for f in (*earlier.names, *design.names)}
    changed = {"factors": factors, "refused": [*design.refused, *gone], "names": names}
    return design.model_copy(update={**changed, "norms": {**earlier.norms, **design.norms}})


def write_design(out: Path, design: Design) -> None:
    """Write ``study.json`` into the folder of a study.

    Raises:
        DataError: it cannot be written.
    """
    write_json(out / FILE, design.model_dump())


def folders_of(out: Path) -> list[Path]:
    """The folders with the runs of a study, or ``out`` itself, if it is the folder of an experiment.

    Raises:
        DataError: ``study.json`` is not valid, or of segmentation, whose runs are no experiments.
    """
    if not os.path.exists(out / FILE):
        return [out]
    design = read_design(out)
    if design.task == "segmentation":
        raise DataError(
            f"{out} is a study of segmentation; each folder in {out / 'runs'} is one of its runs. This command is for "
            "experiments and studies of classification."
        )
    return [out / folder for folder in design.folders]


def read_design(out: Path) -> Design:
    """Read the ``study.json`` of a study.

    Raises:
        DataError: there is none, or it is not valid.
    """
    content = read_bytes(out / FILE)
    if content is None:
        raise DataError(f"{out} is not the folder of a study: it has no {FILE}. Run a study first, e.g. study=table1.")
    complaint, advice = f"{out / FILE} is not valid", "Rerun the study."
    try:
        raw = json.loads(content)
    except ValueError as error:
        raise DataError(f"{complaint}: {error}. {advice}") from error
    return validated(Design, raw, complaint, advice)
