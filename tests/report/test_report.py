from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from da_wa.cli import main
from da_wa.errors import ConfigError, DataError
from da_wa.report import write_report
from da_wa.report.facts import load_facts

FILES = {
    "accuracy.csv",
    "results.csv",
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
    """All but what depends on seconds and dates."""
    timed = ("page.html", "report.json", "tables/cost.", "tables/environment.")
    return {name: content for name, content in contents(out).items() if not name.startswith(timed)}


@pytest.mark.figures
def test_equal_runs_give_equal_reports(experiment: Any, tmp_path: Path) -> None:
    experiment.fill(["bn", "bn_wa"], seeds=[0, 1])
    write_report(experiment.out)
    first = repeatable(experiment.out)
    assert set(contents(experiment.out)) >= FILES
    assert all(
        (experiment.out / name).is_file() for name in json.loads((experiment.out / "report.json").read_bytes())["files"]
    )
    experiment.out = tmp_path / "again"
    experiment.fill(["bn_wa", "bn"], seeds=[1, 0])  # in another order, with other timings
    experiment.add("bn", "A", cost={"total_s": 99.0})
    write_report(experiment.out)
    assert repeatable(experiment.out) == first


def test_the_report_says_what_is_missing(experiment: Any) -> None:
    experiment.fill(["bn"])
    experiment.diverge("ln", "A")
    report = write_report(experiment.out)
    assert report.missing == [f"LN  A->{t}  seed 0: diverged at epoch 3: the loss is nan" for t in "WD"]
    assert "Missing: 2" in report.summary()
    assert report.matrix.mean.at["BN", "Avg"] == pytest.approx(report.matrix.mean.loc["BN"][:-1].mean())


@pytest.mark.figures
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


def test_the_command(experiment: Any, capsys: pytest.CaptureFixture[str]) -> None:
    experiment.fill(["bn"])
    assert main(["report", str(experiment.out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Writing the report\n")
    assert "A→W" in said


def test_the_command_puts_experiments_side_by_side(experiment: Any, tmp_path: Path) -> None:
    experiment.fill(["bn"])
    first, experiment.out = experiment.out, tmp_path / "other"
    experiment.fill(["bn"])
    assert main(["report", str(first), f"compare=[{experiment.out}]"]) == 0
    assert "Comparison with other experiments" in (first / "page.html").read_text()


def test_the_command_names_a_folder_without_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nowhere")]) == 2
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


def test_an_unchanged_report_is_not_written_again(experiment: Any) -> None:
    experiment.fill(["bn"])
    phases: list[str] = []
    write_report(experiment.out, progress=phases.append)
    assert phases[0] == "reading runs"
    assert len(phases) > 5
    before = {file: file.stat().st_mtime_ns for file in experiment.out.rglob("*") if file.is_file()}
    phases.clear()
    report = write_report(experiment.out, progress=phases.append)
    assert phases == ["reading runs", "nothing changed"]
    assert report.matrix.mean.notna().all(axis=None)
    assert {file: file.stat().st_mtime_ns for file in experiment.out.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("change", ["run", "file", "spread", "contents"])
def test_a_report_is_written_again_after_a_change(experiment: Any, change: str) -> None:
    experiment.fill(["bn"], seeds=[0, 1])
    write_report(experiment.out)
    options: dict[str, Any] = {}
    if change == "run":
        experiment.add("bn", "A", 2)
    elif change == "file":
        (experiment.out / "matrix.csv").unlink()
    elif change == "contents":
        (experiment.out / "report.json").write_text('{"files": 3, "inputs": null}')
    else:
        options = {"spread": "std"}
    phases: list[str] = []
    write_report(experiment.out, progress=phases.append, **options)
    assert "nothing changed" not in phases
    assert (experiment.out / "matrix.csv").is_file()


def test_an_unknown_spread_is_refused(experiment: Any) -> None:
    with pytest.raises(ConfigError, match=r"report\.spread=sdt .*'std'"):
        write_report(experiment.out, spread="sdt")  # type: ignore[arg-type]


@pytest.mark.figures
def test_the_worst_collapse_is_the_largest_share_and_not_the_largest_count(experiment: Any) -> None:
    experiment.images = {"A": 40, "W": 300}
    experiment.correct = lambda norm, source, target, seed: 20
    truth = {domain: np.arange(n) % 3 for domain, n in experiment.images.items()}
    for source, target, share in (("A", "W", 0.8), ("W", "A", 1.0)):
        n = experiment.images[target]
        answers = np.where(np.arange(n) < share * n, 0, truth[target])
        predicted = {source: (truth[source], truth[source][None]), target: (truth[target], answers[None])}
        experiment.finish(experiment.record("bn", source), [30], predicted)
    (told,) = load_facts(experiment.out).warnings
    assert "at worst class back_pack for 40 of 40 images" in told


def test_a_constant_classifier_is_warned_about(experiment: Any) -> None:
    experiment.images = {"A": 463, "B": 463}
    experiment.classes = ["cat", "dog", "fox"]
    truth = np.repeat([0, 1, 2], [319, 72, 72])  # 68.9 % cats
    for norm, answers in (("bn", truth), ("bn_wa", np.where(np.arange(463) < 458, 0, truth))):
        for source in "AB":
            predicted = {domain: (truth, answers[None]) for domain in "AB"}
            experiment.finish(experiment.record(norm, source), [30], predicted)
    report = write_report(experiment.out)
    told = "\n".join(report.warnings)
    assert "Imbalanced targets, with the share of the largest class: B (cat: 68.9 %) and A (cat: 68.9 %)." in told
    assert (
        "BN + WA predicts one class for most images on A→B (1 run) and B→A (1 run); at worst class cat for 458 of 463"
        in told
    )
    assert "BN predicts" not in told
    for text in (report.summary(), (experiment.out / "page.html").read_text()):
        assert "458 of 463" in text
    for name in ("table.md", "table.tex"):
        assert "458 of 463" in (experiment.out / name).read_text()
    frame = pd.read_csv(experiment.out / "results.csv").query("label == 'BN + WA' and role == 'target'")
    recalls = balanced_accuracy_score(truth, np.where(np.arange(463) < 458, 0, truth))
    assert frame["balanced_accuracy"].to_numpy() == pytest.approx(recalls, abs=1e-6)
    assert "Balanced accuracy on the target" in (experiment.out / "page.html").read_text()


@pytest.mark.figures
@pytest.mark.parametrize("names", [["A->B", "C", "A", "B->C"], ["caf\udce9", "W"]])
def test_odd_names_of_domains_and_classes(experiment: Any, names: list[str]) -> None:
    experiment.images = dict.fromkeys(names, 60)
    experiment.classes = ["a->b", "na\udcefve", "x"]
    experiment.fill(["bn", "bn_wa"])
    report = write_report(experiment.out)
    assert report.matrix.mean.notna().all(axis=None)
    assert len(set(report.matrix.mean.columns)) == len(names) * (len(names) - 1) + 1
    report.summary().encode()
    for file in contents(experiment.out).items():
        if file[0].endswith((".csv", ".md", ".tex", ".html")):
            file[1].decode()


def test_many_classes_take_little_memory(experiment: Any) -> None:
    experiment.images = {"A": 200, "W": 200}
    experiment.classes = [f"class {c}" for c in range(10_000)]
    experiment.fill(["bn"])
    assert write_report(experiment.out).missing == []
