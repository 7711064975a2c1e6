from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from da_wa.report import paper

TRANSCRIPT = Path(__file__).resolve().parents[3] / "shared" / "paper" / "paper_tables.yaml"


@pytest.fixture
def transcript() -> Any:
    if not TRANSCRIPT.is_file():
        pytest.skip("the transcript of the paper's tables is not beside the repository")
    return yaml.safe_load(TRANSCRIPT.read_text())


def test_averages_are_the_means_of_their_rows() -> None:
    for label, printed in paper.TABLE_VI.items():
        *cells, average = map(float, printed)
        assert len(cells) == len(paper.PAIRS)
        assert sum(cells) / len(cells) == pytest.approx(average, abs=0.005), label


def test_rows_are_the_known_ones() -> None:
    assert set(paper.TABLE_I) == set(paper.ROWS)
    assert list(paper.TABLE_VI) == [row for row in paper.ROWS if row != "Baseline"]
    assert all(len(number.split(".")[1]) == 2 for row in paper.TABLE_VI.values() for number in row)
    assert all(len(number.split(".")[1]) == 2 for number in paper.TABLE_I.values())


def test_cells_are_fractions_of_the_inferred_counts() -> None:
    exceptions = []
    for label, printed in paper.TABLE_VI.items():
        for (source, target), number in zip(paper.PAIRS, printed, strict=False):
            n = paper.EVALUATED[target]
            if number not in {f"{100 * k / n:.2f}" for k in range(n + 1)}:
                exceptions.append((label, source, target))
    assert len(exceptions) == 6  # five truncated, one a misprint


def test_table_vi_is_as_transcribed(transcript: Any) -> None:
    table = transcript["table_VI"]
    assert {label.replace(" ", ""): list(row) for label, row in paper.TABLE_VI.items()} == table["results"]
    assert [f"{s}>{t}" for s, t in paper.PAIRS] == table["columns"][:-1]
    assert table["inferred_eval_sizes"] == paper.EVALUATED


def test_table_i_is_as_transcribed(transcript: Any) -> None:
    results = transcript["table_I"]["results"]
    assert {label.replace(" ", ""): float(error) for label, error in paper.TABLE_I.items()} == results
