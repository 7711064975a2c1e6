"""Image trees drawn by the tests: every class a shape, every domain a look."""

from __future__ import annotations

import colorsys
import gc
import io
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: the workers share the cores
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = cores // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(share, 1)))
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # before Ray is imported; see da_wa/launchers/ray.py
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's is 15: its tasks would wait for all other tests

hypothesis.settings.register_profile("any machine", deadline=None)  # else a busy one fails the first example
hypothesis.settings.load_profile("any machine")

DOMAINS = ("blueprint", "paper", "sunset")
CLASSES = ("mug", "pen", "ruler")

DrawTree = Callable[..., Path]


def _blank(figure: Figure, kind: str) -> bytes:
    assert isinstance(figure, Figure)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(buffer, {"png": "PNG", "pdf": "PDF"}[kind])
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def blank_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time of a report; only tests marked ``figures``, and other processes, do it."""
    if request.node.get_closest_marker("figures") is None:
        monkeypatch.setattr("da_wa.report.rendered", _blank)


def draw_shape(label: int, look: int, side: int, rng: np.random.Generator) -> Image.Image:
    """A polygon with ``label + 3`` corners in the label's colour on the look's background, with noise."""
    paper = tuple(int(255 * c) for c in colorsys.hsv_to_rgb(look * 0.31 % 1, 0.3, 0.35 + 0.2 * (look % 3)))
    ink = tuple(int(255 * c) for c in colorsys.hsv_to_rgb(label * 0.38 % 1, 0.9, 0.95))
    image = Image.new("RGB", (side, side), paper)
    x, y = side * rng.uniform(0.4, 0.6, size=2)
    radius, turn = side * rng.uniform(0.25, 0.4), rng.uniform(0, 2 * math.pi)
    corners = [turn + 2 * math.pi * i / (label + 3) for i in range(label + 3)]
    ImageDraw.Draw(image).polygon([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in corners], fill=ink)
    noisy = np.asarray(image) + rng.normal(0, 8, size=(side, side, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def draw_tree_at(
    root: Path,
    domains: Sequence[str] = DOMAINS,
    classes: Sequence[str] = CLASSES,
    per_class: int = 4,
    side: int = 40,
    layout: str = "{domain}/{label}",
    suffix: str = ".png",
    seed: int = 0,
) -> Path:
    """Draw ``root/<layout>/000.png`` … for every domain and class; returns ``root``."""
    rng = np.random.default_rng(seed)
    for look, domain in enumerate(domains):
        for number, label in enumerate(classes):
            folder = root / layout.format(domain=domain, label=label)
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(per_class):
                draw_shape(number, look, side, rng).save(folder / f"{i:03d}{suffix}")
    return root


@pytest.fixture(scope="session", autouse=True)
def modules_are_not_garbage() -> Iterator[None]:
    """As in a worker: the collection before each training need not look at what was imported."""
    import pytorch_lightning  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> None:
    """A shell starts background commands with SIGINT ignored, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def draw_tree() -> DrawTree:
    """The function that draws a tree, for tests that need their own, see :func:`draw_tree_at`."""
    return draw_tree_at


@pytest.fixture(scope="session")
def domains_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three domains, three classes, eight images of each; read-only by agreement."""
    return draw_tree_at(tmp_path_factory.mktemp("domains"), per_class=8)


@pytest.fixture(scope="session")
def cifar_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train/`` and ``test/`` over four classes, 32×32; read-only by agreement."""
    root = tmp_path_factory.mktemp("cifar")
    classes = ("apple", "bear", "clock", "dolphin")
    draw_tree_at(root, domains=("train",), classes=classes, per_class=12, side=32, seed=1)
    return draw_tree_at(root, domains=("test",), classes=classes, per_class=4, side=32, seed=2)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For networks so small that threads only wait for each other, and for sums down to the last digit."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
