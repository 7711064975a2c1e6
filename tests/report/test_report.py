from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from da_wa.errors import DataError
from da_wa.report import __main__ as command
from da_wa.report import write_report

FILES = {
    "accuracy.csv",
    "matrix.csv",
    "table.md",
    "table.tex",
    "heatmap.png",
    "heatmap.pdf",
    "pretraining.csv",
    "pretraining.md",
    "pretraining.tex",
    "page.html",
    "report.json",
}


def contents(out: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(out)): file.read_bytes()
        for file in out.rglob("*")
        if "runs" not in file.parts and file.is_file()
    }


def repeatable(out: Path) -> dict[str, bytes]:
    """All but what tells seconds and dates."""
    timed = ("page.html", "tables/cost.", "tables/environment.")
    return {name: content for name, content in contents(out).items() if not name.startswith(timed)}


def test_equal_runs_give_equal_reports(experiment: Any, tmp_path: Path) -> None:
    experiment.fill(["bn", "bn_wa"], seeds=[0, 1])
    write_report(experiment.out)
    first = repeatable(experiment.out)
    assert set(contents(experiment.out)) >= FILES
    assert all((experiment.out / name).is_file() for name in json.loads(first["report.json"])["files"])
    experiment.out = tmp_path / "again"
    experiment.fill(["bn_wa", "bn"], seeds=[1, 0])  # in another order, with other timings
    experiment.add("bn", "A", timing={"total_s": 99.0}, finished="2027-01-01T00:00:00+00:00")
    write_report(experiment.out)
    assert repeatable(experiment.out) == first


def test_the_report_says_what_is_missing(experiment: Any) -> None:
    experiment.fill(["bn"])
    experiment.diverge("ln", "A")
    report = write_report(experiment.out)
    assert report.missing == [f"LN  A->{t}  seed 0: diverged at epoch 3: the loss is nan" for t in "WD"]
    assert "Missing: 2" in report.summary()
    assert report.matrix.mean.at["BN", "Avg"] == pytest.approx(report.matrix.mean.loc["BN"][:-1].mean())


def test_a_report_of_nothing_but_plans(experiment: Any) -> None:
    experiment.plan("bn", "A")
    report = write_report(experiment.out)
    assert report.missing == ["BN  A->W  seed 0: not finished", "BN  A->D  seed 0: not finished"]
    assert (experiment.out / "accuracy.csv").read_text().count("\n") == 1
    assert set(contents(experiment.out)) >= FILES


def test_a_later_report_replaces_the_earlier(experiment: Any) -> None:
    experiment.plan("bn", "A")
    write_report(experiment.out)
    experiment.fill(["bn"])
    assert write_report(experiment.out).missing == []
    assert "–" not in (experiment.out / "table.md").read_text().splitlines()[2]


def test_a_report_that_cannot_be_written(experiment: Any) -> None:
    experiment.fill(["bn"])
    (experiment.out / "matrix.csv").mkdir()
    with pytest.raises(DataError, match=r"matrix\.csv.*out=DIR"):
        write_report(experiment.out)


def test_the_command(experiment: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    experiment.fill(["bn"])
    monkeypatch.setattr(sys, "argv", ["report", str(experiment.out)])
    assert command.main() == 0
    assert "A→W" in capsys.readouterr().out


def test_the_command_puts_experiments_side_by_side(
    experiment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment.fill(["bn"])
    first, experiment.out = experiment.out, tmp_path / "other"
    experiment.fill(["bn"])
    monkeypatch.setattr(sys, "argv", ["report", str(first), "--compare", str(experiment.out)])
    assert command.main() == 0
    assert "Beside other experiments" in (first / "page.html").read_text()


def test_the_command_names_a_folder_without_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "nowhere")])
    assert command.main() == 1
    assert "There are no runs to report in" in capsys.readouterr().err


def test_a_report_never_loads_torch_and_loads_figure_libraries_late(experiment: Any) -> None:
    experiment.plan("bn", "A")
    code = (
        "import sys, pathlib, da_wa.report\n"
        "print([name for name in ('torch', 'seaborn', 'matplotlib') if name in sys.modules])\n"
        "da_wa.report.write_report(pathlib.Path(sys.argv[1]))\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, experiment.out], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "False"]
