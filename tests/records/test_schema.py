from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from da_wa.errors import DataError
from da_wa.records.plain import plain
from da_wa.records.schema import Evaluation, Record, parse, parse_plan, select

Raw = Callable[..., dict[str, Any]]


def test_a_record_survives_json(record: Record, odd: str) -> None:
    text = json.dumps(plain(record.model_dump(by_alias=True)))
    again = parse(json.loads(text), "toy")
    assert again == record
    assert again.domains[2] == odd
    assert set(again.images) == {"A", "W", odd}
    assert json.loads(text)["schema"] == 2


@given(st.text(st.characters(), min_size=1), st.text(st.characters()))
def test_any_name_survives_json(domain: str, label: str) -> None:
    row = Evaluation(domain=domain, role="target", epoch=1, correct=1, n=2)
    assert Evaluation.model_validate(json.loads(json.dumps(row.model_dump()))) == row
    factors = {"norm": label, "model": "m", "dataset": domain, "protocol": "full", "size": 1, "seed": 0}
    plan = parse_plan({"factors": factors, "labels": {"norm": label}, "source": domain, "domains": [domain]}, "toy")
    assert parse_plan(json.loads(json.dumps(plan.model_dump())), "toy") == plan


def test_names_are_strings(raw_record: Raw) -> None:
    with pytest.raises(DataError, match=r"^toy is not a valid record: source: "):
        parse(raw_record(source=3), "toy")


def test_records_cannot_be_changed(record: Record) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        record.source = "W"


def test_targets_follow_from_the_unit(raw_record: Raw, odd: str) -> None:
    assert parse(raw_record(), "toy").targets == ["W", odd]
    rows = [row for row in raw_record()["evaluations"] if row["domain"] != odd]
    assert parse(raw_record(target="W", evaluations=rows), "toy").targets == ["W"]


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (["schema"], 1, "has schema 1"),
        (["schema"], "2", "has schema '2'"),
        (["factors", "seed"], "0", r"factors\.seed"),
        (["factors", "seed"], -1, r"factors\.seed"),
        (["factors", "seed"], True, r"factors\.seed"),
        (["factors", "lr"], float("nan"), r"factors\.lr"),
        (["factors", "colour"], 1, r"factors\.colour"),
        (["status"], "done", "status"),
        (["source"], "C", "'C' not among its domains"),
        (["target"], "C", "'C' not among its domains"),
        (["target"], "A", "its target is its source"),
        (["seen"], ["C"], "'C' not among its domains"),
        (["seen"], ["\udcff"], r"'\\udcff' not among its domains"),
        (["domains"], ["A", "W"], "not among its domains"),
        (["domains"], "AW", "domains"),
        (["domains", 2], "W", "a domain is listed twice"),
        (["images", "A", "digest"], None, r"images\.A\.digest"),
        (["evaluations", 0, "correct"], 5, "5 of 4 images are correct"),
        (["evaluations", 0, "correct"], -1, r"evaluations\.0\.correct"),
        (["evaluations", 0, "correct"], 2.5, r"evaluations\.0\.correct"),
        (["evaluations", 0, "n"], 0, r"evaluations\.0\.n"),
        (["evaluations", 0, "role"], "target", "wrong role"),
        (["evaluations", 2, "role"], "source", "wrong role"),
        (["evaluations", 0, "domain"], "C", "evaluations of 'C', neither source nor target"),
        (["evaluations", 3, "epoch"], 1, "twice in one epoch"),
        (["evaluations", 3, "epoch"], 3, "in the last epoch"),
        (["evaluations"], [], "no evaluation of 'W', 'dömä"),
        (["error"], {"epoch": 1, "message": "nan"}, "a finished one has none"),
        (["curve", 0, "loss"], float("inf"), r"curve\.0\.loss"),
        (["outputs"], {"crc32": 1}, r"outputs\.bytes"),
        (["versions"], {"norm": "one"}, r"versions\.norm"),
        (["surprise"], 1, "surprise"),
    ],
)
def test_an_invalid_record_names_the_field(raw_record: Raw, path: list[Any], value: Any, reason: str) -> None:
    raw = raw_record()
    node = raw
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(DataError, match=reason):
        parse(raw, "toy")


@pytest.mark.parametrize("field", ["id", "factors", "source", "domains", "classes", "images", "experiment"])
def test_a_missing_field_is_named(raw_record: Raw, field: str) -> None:
    raw = raw_record()
    del raw[field]
    with pytest.raises(DataError, match=f"{field}: "):
        parse(raw, "toy")


def test_a_diverged_unit_has_an_error_and_no_evaluations(raw_record: Raw) -> None:
    error = {"epoch": 1, "message": "the loss is nan"}
    assert parse(raw_record(status="diverged", error=error, evaluations=[]), "toy").results == []
    with pytest.raises(DataError, match="a diverged unit has evaluations"):
        parse(raw_record(status="diverged", error=error), "toy")
    with pytest.raises(DataError, match="a diverged unit has an error"):
        parse(raw_record(status="diverged", evaluations=[]), "toy")


@pytest.mark.parametrize("raw", [None, [], 3, "record"])
def test_what_is_not_a_mapping_is_not_a_record(raw: Any) -> None:
    with pytest.raises(DataError, match="toy is not a valid record"):
        parse(raw, "toy")
    with pytest.raises(DataError, match="toy is not a valid plan"):
        parse_plan(raw, "toy")


def rows(*counts: tuple[str, int, int]) -> list[Evaluation]:
    return [
        Evaluation(domain=d, role="source" if d == "A" else "target", epoch=e, correct=c, n=10) for d, e, c in counts
    ]


def chosen(evaluations: list[Evaluation], selection: str) -> dict[str, int]:
    return {row.domain: row.epoch for row in select(evaluations) if row.selection == selection}


def test_selection_rules() -> None:
    table = rows(("A", 1, 9), ("A", 2, 8), ("A", 3, 8), ("W", 1, 4), ("W", 2, 6), ("W", 3, 5), ("D", 1, 7), ("D", 2, 1))
    table += rows(("D", 3, 2))
    assert chosen(table, "last") == {"A": 3, "W": 3, "D": 3}
    assert chosen(table, "source_val") == {"A": 1, "W": 1, "D": 1}
    assert chosen(table, "target_oracle") == {"W": 2, "D": 1}  # each target its own epoch, no row of the source


def test_of_equally_good_epochs_the_latest_counts() -> None:
    table = rows(("A", 1, 9), ("A", 2, 9), ("A", 3, 1), ("W", 1, 4), ("W", 2, 4), ("W", 3, 0))
    assert chosen(table, "source_val") == {"A": 2, "W": 2}
    assert chosen(table, "target_oracle") == {"W": 2}


def test_without_held_out_source_images_there_is_no_source_val() -> None:
    assert {row.selection for row in select(rows(("W", 1, 4)))} == {"last", "target_oracle"}
    assert select([]) == []


def test_no_rule_but_the_oracle_looks_at_target_counts() -> None:
    one = rows(("A", 1, 9), ("A", 2, 8), ("W", 1, 0), ("W", 2, 10))
    other = rows(("A", 1, 9), ("A", 2, 8), ("W", 1, 10), ("W", 2, 0))
    for rule in ("last", "source_val"):
        assert chosen(one, rule) == chosen(other, rule)
    assert chosen(one, "target_oracle") != chosen(other, "target_oracle")
