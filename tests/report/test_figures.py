from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from da_wa.report.figures import matrix_heatmap as heatmap
from da_wa.report.figures import rendered
from da_wa.report.figures.style import plain
from da_wa.report.matrix import collect, transfer_matrix
from da_wa.runs.ledger import Ledger


def matrix_of(experiment: Any) -> Any:
    return transfer_matrix(collect(Ledger(experiment.out)))


def numbers(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_every_cell_shows_its_number(experiment: Any) -> None:
    experiment.fill(["bn", "ln"])
    m = matrix_of(experiment)
    assert numbers(heatmap(m)) == [f"{percent:.1f}" for percent in m.mean.to_numpy().ravel()]


def test_a_hole_is_no_number_and_no_colour(experiment: Any) -> None:
    experiment.fill(["bn"])
    experiment.add("ln", "A")
    experiment.plan("ln", "D")
    m = matrix_of(experiment)
    figure = heatmap(m)
    assert [text == "–" for text in numbers(figure)] == m.mean.isna().to_numpy().ravel().tolist()
    coloured: Any = figure.axes[0].collections[0].get_array()
    assert coloured.mask.ravel().tolist() == m.mean.isna().to_numpy().ravel().tolist()


def test_nothing_finished_yet(experiment: Any) -> None:
    experiment.plan("bn", "A")
    assert numbers(heatmap(matrix_of(experiment))) == ["–"] * 3


def test_many_pairs_become_rows(experiment: Any) -> None:
    experiment.images = dict.fromkeys(["a", "b", "c", "d", "e"], 500)
    experiment.fill(["bn", "ln"])
    axes = heatmap(matrix_of(experiment)).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["BN", "LN"]
    assert [label.get_text() for label in axes.get_yticklabels()][-2:] == ["e→d", "Avg"]


def test_a_long_pair_keeps_both_its_ends() -> None:
    assert plain("a very long source->a very long target", 21) == "a very lo…→a very lo…"
    assert plain("A->W", 21) == "A→W"
    assert plain("a very long name", 10) == "a very lo…"


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_equal_runs_give_equal_bytes(experiment: Any, kind: str) -> None:
    experiment.fill(["bn", "ln"])
    m = matrix_of(experiment)
    assert rendered(heatmap(m), kind) == rendered(heatmap(m), kind)


def test_formula_signs_in_names_are_letters(experiment: Any) -> None:
    experiment.images = {"$\\alpha$": 500, "x_{2": 500}
    experiment.fill(["bn"])
    image = Image.open(io.BytesIO(rendered(heatmap(matrix_of(experiment)), "png")))
    assert min(image.size) > 50


def test_the_title_counts_the_seeds(experiment: Any) -> None:
    experiment.fill(["bn"])
    title = heatmap(matrix_of(experiment)).axes[0].get_title(loc="left")
    assert title == "Accuracy on the target (%)\nOffice-31, resnet20, one seed"
    experiment.fill(["bn"], seeds=[1])
    assert heatmap(matrix_of(experiment)).axes[0].get_title(loc="left").endswith("mean of 2 seeds")
    experiment.add("bn", "A", seed=2)
    assert heatmap(matrix_of(experiment)).axes[0].get_title(loc="left").endswith("mean of up to 3 seeds")
