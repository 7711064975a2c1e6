"""``study.json`` and records of segmentation: files that are not valid are named, with the field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from da_wa.errors import DataError
from da_wa.records.design import Design, read_design, write_design
from da_wa.records.segmentation import SegmentationRecord, read_run, write_run

DESIGN = Design(
    study="mine", scope="full", title="Mine", factors={"norm": ["bn"]}, rows=["norm"], columns=[], folders=["table"]
)
RECORD = SegmentationRecord(
    study="voc",
    scope="full",
    norm="bn",
    label="BN",
    seed=0,
    classes=[],
    images=[],
    facts={},
    curve=[],
    cost={},
    provenance={},
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"title": 5}, "title: Input should be a valid string. Rerun the study."),
        ({"rows": []}, "Value error, rows [] and columns [] must be the factors ['norm']. Rerun the study."),
        (None, "Expecting value: line 1 column 1 (char 0). Rerun the study."),
    ],
)
def test_a_design_that_is_not_valid_is_named_with_its_field(change, said, tmp_path: Path) -> None:
    write_design(tmp_path, DESIGN)
    assert read_design(tmp_path) == DESIGN
    path = tmp_path / "study.json"
    path.write_text("?" if change is None else json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError) as error:
        read_design(tmp_path)
    assert str(error.value) == f"{path} is not valid: {said}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": "one"}, "seed: Input should be a valid integer, unable to parse string as an integer."),
        (None, "Expecting value: line 1 column 1 (char 0)."),
    ],
)
def test_a_record_of_segmentation_that_is_not_valid_is_named_with_its_field(change, said, tmp_path: Path) -> None:
    write_run(tmp_path, RECORD)
    assert read_run(tmp_path) == (RECORD, None)
    path = tmp_path / "record.json"
    path.write_text("?" if change is None else json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError) as error:
        read_run(tmp_path)
    assert str(error.value) == f"{path} is not valid: {said} Delete {tmp_path} to run it again."


def test_names_that_are_not_utf8_are_read_back(odd: str, tmp_path: Path) -> None:
    """As file systems give them: of evaluated images, of a folder."""
    record = RECORD.model_copy(update={"images": [odd, "写真"]})
    write_run(tmp_path / "run", record)
    assert read_run(tmp_path / "run") == (record, None)
    design = DESIGN.model_copy(update={"folders": [odd]})
    write_design(tmp_path, design)
    assert read_design(tmp_path) == design
