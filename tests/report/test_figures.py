from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from PIL import Image

from da_wa.report.facts import load_facts
from da_wa.report.figures import Panel, contact_sheet, dots, relation, rendered
from da_wa.report.figures import matrix_heatmap as heatmap
from da_wa.report.figures.style import COLOURS, MARKERS, look, plain
from da_wa.report.statistics import Interval


def matrix_of(experiment: Any) -> Any:
    return load_facts(experiment.out).matrix


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
    assert plain("a very long source→a very long target", 21) == "a very lo…→a very lo…"
    assert plain("A→W", 21) == "A→W"
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


def test_the_title_counts_the_networks(experiment: Any) -> None:
    for p in (0, 1, 2):
        experiment.fill(["bn"], pretraining_seed=p)
    title = heatmap(matrix_of(experiment)).axes[0].get_title(loc="left")
    assert title.endswith("mean of 1 seed of each of 3 pre-trained networks")


def lab(colour: str) -> np.ndarray:
    """CIELAB coordinates of an sRGB colour (D65)."""
    rgb = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ linear / [0.9505, 1.0, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_no_two_series_look_alike() -> None:
    assert len({look(k) for k in range(len(COLOURS) * len(MARKERS))}) == len(COLOURS) * len(MARKERS)
    distances = [np.linalg.norm(lab(a) - lab(b)) for k, a in enumerate(COLOURS) for b in COLOURS[:k]]
    assert min(distances) > 34  # Okabe and Ito's two oranges, which looked alike, are 33.4 apart


def test_a_few_points_are_named_where_they_are() -> None:
    names = [f"norm {k}" for k in range(10)]
    frame = pd.DataFrame({"x": np.arange(10.0), "y": np.arange(10.0) % 3, "norm": names})
    figure = relation(frame, "x", "y", "norm")
    assert [text.get_text() for text in figure.axes[0].texts] == names
    assert figure.legends == []
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


def test_many_points_have_a_legend() -> None:
    frame = pd.DataFrame({"x": np.arange(60.0), "y": np.arange(60.0), "pair": [f"p{k % 6}" for k in range(60)]})
    figure = relation(frame, "x", "y", "pair")
    assert len(figure.legends[0].get_texts()) == 6
    assert all(size >= 40 for points in figure.axes[0].collections for size in points.get_sizes())


def test_dots_are_filled_but_for_hollow_rows() -> None:
    panel = Panel("P", {"a": [Interval(1.0), Interval(2.0)], "b": [Interval(1.5), None]}, frozenset({1}))
    figure = dots(["r", "s"], [panel], "unit")
    first, second = (c for c in figure.axes[0].collections if isinstance(c, PathCollection))
    filled = [bool((face[:3] < 0.999).any()) for face in first.get_facecolors()]
    assert filled == [True, False]
    assert (second.get_facecolors()[0][:3] < 0.999).any()


@pytest.mark.parametrize("name", ["caf\udce9", "a -> b", "$x", "写真"])
def test_every_name_can_be_drawn(name: str) -> None:
    sheet = contact_sheet([(name, [(np.zeros((3, 4, 4), np.uint8), f"{name}\nas {name}")])])
    points = relation(pd.DataFrame({"x": [1.0, 2.0], "y": [1.0, 2.0], "n": [name, "other"]}), "x", "y", "n")
    for figure in (sheet, points):
        for kind in ("png", "pdf"):
            assert rendered(figure, kind)
