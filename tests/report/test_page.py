"""The whole report of a small experiment with awkward names, written once for all tests of this file."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from da_wa.errors import printable
from da_wa.report import page, write_report
from da_wa.report.content import Section, Table

DOMAINS = {"A & <b>B</b>": 40, "W_100% ą": 30, "写真": 25}
NORMS = ["bn", "bn_wa", "<i>50% & $x_1$</i> \U0001f600"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    experiment: Any = request.getfixturevalue("experiment_class")(tmp_path_factory.mktemp("page"), DOMAINS)
    experiment.simulate(NORMS, (0, 1), features=20, classes=4)
    draw = np.random.default_rng(0)
    images = {d: draw.integers(0, 255, (n, 3, 8, 8), dtype=np.uint8) for d, n in DOMAINS.items()}
    write_report(experiment.out, images=images)
    return Path(experiment.out)


class Checked(HTMLParser):
    """Collects what a browser would load, and sees that elements are closed."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href") and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_loads_nothing_from_elsewhere(out: Path) -> None:
    text = (out / "page.html").read_text()
    seen = Checked(text)
    assert all(address.startswith(("data:image/png;base64,", "#s")) for address in seen.loaded)
    assert not {"script", "link", "iframe", "object"} & set(seen.tags)
    assert "url(" not in text and "@import" not in text


def test_names_are_text_and_not_markup(out: Path) -> None:
    seen = Checked((out / "page.html").read_text())
    assert "i" not in seen.tags
    told = "".join(seen.text)
    for name in (*DOMAINS, NORMS[2]):
        assert name in told


def test_the_page_holds_every_figure_and_table(out: Path) -> None:
    seen = Checked((out / "page.html").read_text())
    figures = {file.stem for file in (out / "figures").iterdir()}
    assert seen.tags.count("img") == len(figures) == len(list((out / "figures").glob("*.pdf")))
    assert figures >= {
        "heatmap",
        "effect",
        "selection",
        "confusion_01",
        "most_confidently_wrong_01",
        "tsne",
        "pca",
        "curves_01",
    }
    assert seen.tags.count("table") == len(list((out / "tables").glob("*.tex")))
    assert {file.stem for file in (out / "tables").glob("*.csv")} >= {
        "intervals",
        "effect",
        "selection",
        "confusion",
        "cost",
    }


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_every_tex_file_compiles(out: Path, tmp_path: Path) -> None:
    files = [*(out / "tables").glob("*.tex"), *out.glob("*.tex")]
    inputs = "".join(rf"\input{{{file.stem}}}" + "\n" for file in files)
    for file in files:
        shutil.copy(file, tmp_path)
    head = r"\documentclass{article}\usepackage{booktabs,siunitx}\usepackage[T1]{fontenc}"
    (tmp_path / "paper.tex").write_text(head + r"\begin{document}" + inputs + r"\end{document}")
    command = ["pdflatex", "-draftmode", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


def test_no_image_without_leave_and_none_left_from_before(out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copied"
    shutil.copytree(out, copy)
    (copy / "figures" / "mine.png").write_bytes(b"not of the report")
    write_report(copy)
    assert not list(copy.rglob("most_confidently_wrong*"))
    assert (copy / "figures" / "mine.png").exists()
    assert "the report was written without images" in (copy / "page.html").read_text()


def test_a_table_of_contents_that_lies_harms_nobody(out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    names = '"../precious.txt", "tables/../../precious.txt", "runs/x", "tables/..", "figures/."'
    (copy / "report.json").write_text(f'{{"files": [{names}]}}')
    write_report(copy)
    assert precious.read_text() == "mine"


def test_details_and_notes_are_folded_and_the_answer_is_not() -> None:
    table = Table("t", "C", ["Norm", "x"], [["a", "1"]], notes=["a note"])
    text = page.html("T", "L", [], [Section("S", ["answer", table], details=["statistics"])], {})
    visible = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    assert "answer" in visible and "<td>1</td>" in visible
    assert "a note" not in visible and "statistics" not in visible
    assert "a note" in text and "statistics" in text
    Checked(text)


def test_tables_scroll_in_their_own_container() -> None:
    table = Table("t", "C", ["Norm", *map(str, range(31))], [["a", *["1"] * 31]])
    text = page.html("T", "L", [], [Section("S", [table])], {})
    assert re.search(r'<div class="scroll"[^>]*><table>', text)
    assert re.search(r"\.scroll \{[^}]*overflow-x: auto", page.STYLE)


@pytest.mark.parametrize("name", ["caf\udce9", "a -> b", "<b>&\"'", "tab\there"])
def test_awkward_names_are_encodable_text(name: str) -> None:
    table = Table("t", name, ["Norm", name], [[name, "1"]], notes=[name])
    text = page.html(name, name, [name], [Section(name, [name, table])], {})
    seen = Checked(text.encode().decode())
    assert "b" not in seen.tags
    assert "".join(seen.text).count(printable(" ".join(name.split()))) == 11


def test_second_lines_and_bold_cells() -> None:
    table = Table("t", "C", ["Norm", "x"], [["a", "1 < 2\nn=3"]], frozenset({(0, 1)}), ["note"])
    text = page.html("T", "L", ["G"], [Section("S", [table, "words"])], {})
    assert re.search(r"<td[^>]*><b>1 &lt; 2</b><small>n=3</small></td>", text)
    Checked(text)


def test_the_summary_names_the_section_that_lists_what_is_missing(experiment: Any) -> None:
    experiment.images = {"A": 40, "W": 30}
    experiment.fill(["bn"])
    experiment.add("bn", "A", target="W", method="dann")
    experiment.plan("bn", "W", target="A", method="dann")
    write_report(experiment.out)
    text = " ".join(Checked((experiment.out / "page.html").read_text()).text)
    found = re.search(r"1 planned result missing; see section (\d+)\.", text)
    assert found
    section = text.split(f" {found[1]}. Which norm transfers best?")[1].split(f" {int(found[1]) + 1}. ")[0]
    assert "Missing, 1 in all: BN · DANN W->A" in section
