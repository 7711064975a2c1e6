"""Claims of the paper: its numbers, what each rule compares, and verdicts on runs with known errors."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from da_wa.errors import DataError
from da_wa.records.design import Design, Refusal, write_design
from da_wa.report import paper
from da_wa.report.cells import read_cells
from da_wa.report.claims import Claim, claims, finding, findings, printed
from da_wa.report.claims_page import write_claims
from da_wa.report.grid import frame, study_table, write_study
from da_wa.report.rules import absent, comparisons
from tests.report.conftest import LABELS, LEVELS, Experiment

TRANSCRIPT = Path(__file__).resolve().parents[3] / "shared" / "paper" / "paper_tables.yaml"
CONF = Path(__file__).resolve().parents[2] / "conf" / "study"
TEST = 1000
Errors = Callable[[str, str, int], float]
"""(norm, batch size, seed) -> percent."""


def study(
    out: Path, errors: Errors, norms: Sequence[str], sizes: Sequence[str] = ("64",), seeds: int = 3, **changes: Any
) -> Path:
    """Runs of 100 classes whose error is known; wrong images are spread alike in all of them."""
    for size in sizes:
        made = Experiment(
            out / size,
            {"train": 200, "test": TEST},
            lambda norm, source, domain, seed, size=size: round(TEST * (1 - errors(norm, size, seed) / 100)),
            [f"class {k}" for k in range(100)],
        )
        for norm in norms:
            for seed in range(seeds):
                made.add(norm, "train", seed, batch_size=int(size))
    given = {
        "study": "table1", "scope": "small", "title": "T", "factors": {"norm": list(norms), "batch_size": list(sizes)},
        "rows": ["norm"], "columns": ["batch_size"], "names": {"norm": LABELS}, "folders": list(sizes),
        "norms": {norm: dict(zip(("weight", "activation"), LEVELS[norm], strict=True)) for norm in norms},
    }  # fmt: skip
    write_design(out, Design(**{**given, **changes}))
    return out


def verdicts(out: Path) -> dict[str, str]:
    return {found.claim.id: found.verdict for found in findings(read_cells(out))}


def test_the_papers_numbers_are_as_transcribed() -> None:
    numbers = printed()
    for norm, label in LABELS.items():
        assert numbers["table1"].of({"norm": norm}) == paper.TABLE_I[label]
    if not TRANSCRIPT.is_file():
        pytest.skip("the transcript of the paper's tables is not beside the repository")
    tables = yaml.safe_load(TRANSCRIPT.read_text())
    for size in ("64", "1"):
        for label, error in tables["table_II"][f"batch_{size}"].items():
            norm = next(norm for norm, name in LABELS.items() if name.replace(" ", "") == label)
            text = numbers["table2"].of({"norm": norm, "batch_size": size})
            assert text == ("–" if error is None else f"{error:.2f}"), (label, size)
        for model, error in tables["table_III"][f"batch_{size}"].items():
            assert numbers["table3"].of({"model": model.lower(), "batch_size": size}) == f"{error:.2f}"
    for norm, row in (("none", 0), ("wa", 3)):
        for model in ("VGG16", "ResNet18"):
            error = tables["table_IV"]["rows"][row][model]
            text = numbers["table4"].of({"norm": norm, "model": model.lower()})
            assert text == ("–" if error is None else f"{error:.2f}")
    for row in tables["table_V"]["rows"]:
        norm = next(norm for norm, name in LABELS.items() if name.replace(" ", "") == row["method"])
        for top in (1, 5):
            text = numbers["table5"].of({"norm": norm, "model": row["model"].lower()}, top)
            assert text == ("–" if row[f"top{top}"] is None else f"{row[f'top{top}']:.2f}")
    assert numbers["table4"].of({"norm": "wa", "model": "vgg16"}, 5) is None


def test_every_claim_compares_cells_that_its_study_has() -> None:
    for claim in claims():
        node = yaml.safe_load((CONF / f"{claim.table}.yaml").read_text())
        assert node["study"] == claim.table
        factors = node.get("factors") or {"norm": node["norms"]}  # segmentation has norms alone
        levels = {factor: [str(level) for level in found] for factor, found in factors.items()}
        named: dict[str, set[str]] = {}
        for selection in claim.rule.values():
            for factor, chosen in selection.items() if isinstance(selection, dict) else ():
                named.setdefault(factor, set()).update(chosen if isinstance(chosen, list) else [chosen])
        for factor in named.keys() & levels.keys():
            assert named[factor] <= set(levels[factor]), (claim.id, factor)
        assert named.keys() <= {*levels, "weight", "activation"}, claim.id


def test_the_paper_contradicts_its_own_claim_in_one_comparison_of_table_ii() -> None:
    """LN + WA has 5.12 at batch size 64, LN 5.02; BN is not trained at batch size 1."""
    levels = {
        (norm, size): {
            "norm": norm, "batch_size": size, **dict(zip(("weight", "activation"), LEVELS[norm], strict=True)),
        }
        for norm in LABELS
        for size in ("64", "1")
        if size == "64" or norm not in ("bn", "bn_wa")
    }  # fmt: skip
    claim = next(claim for claim in claims() if claim.id == "wa-adds-cifar10")
    numbers = printed()["table2"]
    differences = {
        found.terms[0][1]: sum(f * float(str(numbers.of(levels[key]))) for f, key in found.terms)
        for found in comparisons(claim.rule, levels, 90.0)
    }
    assert set(differences) == {(f"{n}_wa", s) for n in ("bn", "in", "ln", "gn") for s in ("64", "1")} - {
        ("bn_wa", "1")
    }
    assert [key for key, difference in differences.items() if difference >= 0] == [("ln_wa", "64")]


def test_a_gap_is_a_difference_of_differences() -> None:
    levels = {
        (norm, model): {"norm": norm, "model": model, "weight": LEVELS[norm][0], "activation": LEVELS[norm][1]}
        for norm in ("bn", "wa")
        for model in ("vgg16", "resnet18")
    }
    rule = {"gap": {"norm": "wa"}, "below": {"norm": "bn"}, "smaller_at": {"model": "resnet18"},
            "than_at": {"model": "vgg16"}}  # fmt: skip
    (found,) = comparisons(rule, levels, 99.0)
    errors = {("bn", "vgg16"): 50.0, ("wa", "vgg16"): 30.0, ("bn", "resnet18"): 36.0, ("wa", "resnet18"): 31.0}
    assert sum(factor * errors[key] for factor, key in found.terms) == (36 - 31) - (50 - 30)
    assert found.margin(-15.0) == 15.0


def test_verdicts_follow_the_intervals(tmp_path: Path) -> None:
    errors = {"bn": 20.0, "bn_wa": 15.0, "wa": 30.0, "none": 40.0, "in": 50.0, "ln": 30.2, "gn": 45.0, "gn_wa": 20.9}
    errors |= {"in_wa": 45.0, "ln_wa": 25.0}
    out = study(tmp_path, lambda norm, size, seed: errors[norm] + 0.1 * seed, list(errors))
    found = verdicts(out)
    assert found["wa-beats-baseline"] == "holds"
    assert found["bn-beats-wa"] == "holds"
    assert found["wa-adds"] == "holds"
    assert found["gn-wa-equals-bn"] == "open"  # 0.9 points are 9 of 1000 images: ± 0.6
    assert found["wa-beats-in-ln-gn"] == "open"  # LN is above WA by 2 images: ± 0.3
    one = next(f for f in findings(read_cells(out)) if f.claim.id == "wa-beats-in-ln-gn")
    assert (one.as_claimed, one.measured, one.planned, one.seeds) == (3, 3, 3, 3)
    assert one.paper == (3, 3)
    assert one.evidence.startswith("WA, batch size 64 against LN, batch size 64: −0.2 (")


def test_one_contrary_comparison_decides_and_one_seed_does_not(tmp_path: Path) -> None:
    errors = {"wa": 30.0, "in": 50.0, "ln": 20.0, "gn": 45.0}
    assert verdicts(study(tmp_path / "3", lambda n, b, s: errors[n] + s / 10, list(errors)))["wa-beats-in-ln-gn"] == (
        "does not"
    )
    out = study(tmp_path / "1", lambda norm, size, seed: errors[norm], list(errors), seeds=1)
    assert verdicts(out)["wa-beats-in-ln-gn"] == "open"


def test_a_claim_about_norms_that_were_not_run_stays_open(tmp_path: Path) -> None:
    errors = {"wa": 30.0, "in": 50.0, "bn_wa": 20.0}
    out = study(tmp_path, lambda norm, size, seed: errors[norm] + seed / 10, list(errors))
    found = {f.claim.id: f for f in findings(read_cells(out))}
    one = found["wa-beats-in-ln-gn"]  # 20 points ahead of IN; LN and GN are absent
    assert (one.verdict, one.as_claimed, one.measured, one.planned) == ("open", 1, 1, 3)
    assert found["wa-adds"].verdict == "open"
    assert absent({"lower": {"norm": "bn_wa"}, "than": {"norm": "wa"}}, read_cells(out).levels) == []
    alone = {("wa", "1"): {"norm": "wa", "size": "1"}, ("bn", "2"): {"norm": "bn", "size": "2"}}
    assert absent({"lower": {"norm": "wa"}, "than": {"norm": "bn"}}, alone) == ["wa 1"]


def test_a_contrary_comparison_is_corrected_at_the_degrees_of_freedom_of_its_seeds(tmp_path: Path) -> None:
    """LN − WA is −20 ± 12.7 by two seeds that differ by 2 points; for three comparisons ± 38.2 (t of 0.05/6, 1 df)."""
    errors = {"wa": 40.0, "in": 70.0, "ln": 20.0, "gn": 70.0}
    out = study(tmp_path, lambda n, b, s: errors[n] + 2.0 * s * (n == "wa"), list(errors), seeds=2)
    one = next(f for f in findings(read_cells(out)) if f.claim.id == "wa-beats-in-ln-gn")
    measured = read_cells(out).measure([(1.0, ("wa", "64")), (-1.0, ("ln", "64"))])
    assert measured is not None
    assert measured.value == pytest.approx(21.0)
    low, high = measured.bounds(0.05 / 3)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(1 - 0.05 / 6, 1), rel=1e-6)
    assert measured.bounds()[0] > 0 > low
    assert (one.verdict, one.as_claimed) == ("open", 2)


def test_equal_predictions_decide_nothing(tmp_path: Path) -> None:
    out = study(tmp_path, lambda norm, size, seed: 99.0, ["wa", "none"])
    assert verdicts(out)["wa-beats-baseline"] == "open"


def test_the_evidence_is_what_decides(tmp_path: Path) -> None:
    """IN is 3 points below WA in every seed; LN 9 on average, but 30 above in one of them."""
    errors = {("wa", s): 40.0 for s in range(3)} | {("gn", s): 60.0 for s in range(3)}
    errors |= {("in", s): 37.0 for s in range(3)} | {("ln", s): e for s, e in enumerate((10.0, 13.0, 70.0))}
    out = study(tmp_path, lambda n, b, s: errors[n, s], ["wa", "in", "ln", "gn"])
    one = next(f for f in findings(read_cells(out)) if f.claim.id == "wa-beats-in-ln-gn")
    assert one.verdict == "does not"
    assert one.evidence.startswith("WA, batch size 64 against IN, batch size 64: +3.0 (")


def test_the_evidence_of_a_gap_names_all_four_cells(tmp_path: Path) -> None:
    errors = {("wa", "64"): 31.0, ("bn", "64"): 36.0, ("wa", "2"): 30.0, ("bn", "2"): 50.0}
    out = study(tmp_path, lambda n, b, s: errors[n, b] + s / 10, ["wa", "bn"], ["64", "2"])
    rule = {"gap": {"norm": "wa"}, "below": {"norm": "bn"}, "smaller_at": {"batch_size": "64"},
            "than_at": {"batch_size": "2"}}  # fmt: skip
    found = finding(Claim("x", "table1", "", rule), read_cells(out))
    cells = "(BN, batch size 64 − WA, batch size 64) − (BN, batch size 2 − WA, batch size 2)"
    assert found.evidence.startswith(f"{cells}: −15.0 (")


def test_a_plan_of_other_settings_does_not_undo_a_result(tmp_path: Path) -> None:
    out = study(tmp_path, lambda norm, size, seed: 6.0, ["wa"], seeds=2)
    made = Experiment(out / "64", {"train": 200, "test": TEST}, lambda *_: 0, [f"class {k}" for k in range(100)])
    made.plan("wa", "train", 1, batch_size=64, id="of another recipe")
    assert read_cells(out).cells["wa", "64"].open == 0
    made.plan("wa", "train", 2, batch_size=64, id="the third seed")
    made.plan("wa", "train", 2, batch_size=64, id="the third seed of another recipe")
    assert read_cells(out).cells["wa", "64"].open == 1


def test_norms_with_one_label_have_rows_of_their_own(tmp_path: Path) -> None:
    errors = {"wa": 10.0, "bn": 20.0}
    out = study(tmp_path, lambda norm, size, seed: errors[norm], list(errors), names={"norm": {"wa": "X", "bn": "X"}})
    table = study_table(read_cells(out))
    assert [row[0] for row in table.rows] == ["X (wa)", "X (bn)"]
    assert [row[1][:5] for row in table.rows] == ["10.00", "20.00"]


def test_notes_say_what_intervals_leave_out(tmp_path: Path) -> None:
    out = study(tmp_path, lambda norm, size, seed: 6.0, ["wa"], seeds=2)
    Experiment(out / "64", {"train": 200, "test": TEST}, lambda *_: 0, [f"class {k}" for k in range(100)]).add(
        "none", "train", 0, batch_size=64, pretraining_seed=None
    )
    design = read_cells(out).design
    factors = {**design.factors, "norm": ["wa", "none"]}
    write_design(out, design.model_copy(update={"factors": factors}))
    notes = study_table(read_cells(out)).notes
    assert any("1 to 2 seeds" in note and "over images alone for one seed" in note for note in notes)
    assert any("do not include the variance of pre-training" in note for note in notes)


def test_notes_say_where_runs_differ_in_precision(tmp_path: Path) -> None:
    out = study(tmp_path, lambda norm, size, seed: 6.0, ["wa"], sizes=["64", "1"], seeds=1)
    assert not any("Runs differ" in note for note in study_table(read_cells(out)).notes)
    other = Experiment(out / "1", {"train": 200, "test": TEST}, lambda *_: 0, [f"class {k}" for k in range(100)])
    other.add(
        "wa", "train", 1, batch_size=1, provenance=other.record("wa", "train")["provenance"] | {"precision": "bf16"}
    )
    (note,) = [note for note in study_table(read_cells(out)).notes if "Runs differ" in note]
    assert note == "Runs differ in precision (32-true 2 and bf16 1), which can change results."


def test_what_trains_is_far_from_guessing_and_what_diverged_fails(tmp_path: Path) -> None:
    errors = {"none": 99.0, "wa": 80.0, "bn": 88.9}
    out = study(tmp_path, lambda norm, size, seed: errors[norm], list(errors), seeds=1)
    Experiment(out / "64", {"train": 200, "test": TEST}, lambda *_: 0, [f"class {k}" for k in range(100)]).diverge(
        "gn", "train"
    )
    design = read_cells(out).design
    factors = {**design.factors, "norm": [*errors, "gn"]}
    write_design(out, design.model_copy(update={"factors": factors, "norms": {**design.norms, "gn": {}}}))
    cells = read_cells(out)

    def verdict(rule: str, norm: str) -> str:
        return finding(Claim("x", "table1", "", {rule: {"norm": norm}}), cells).verdict

    assert [verdict("trains", norm) for norm in ("none", "wa", "bn", "gn")] == ["does not", "holds", "open", "does not"]
    assert [verdict("fails", norm) for norm in ("none", "wa", "bn", "gn")] == ["holds", "does not", "open", "holds"]
    assert "diverged" in {text for row in study_table(cells).rows for text in [line.split("\n")[0] for line in row]}


def test_the_table_has_ours_the_papers_and_what_was_refused(tmp_path: Path) -> None:
    refused = Refusal(levels={"norm": "bn", "batch_size": "1"}, reason="one image has no statistics.")
    out = study(tmp_path, lambda norm, size, seed: 6.0, ["wa", "bn"], ["64"], study="table2",
                factors={"norm": ["wa", "bn"], "batch_size": ["64", "1"]}, refused=[refused])  # fmt: skip
    table = study_table(read_cells(out))
    assert table.header == ["norm", "batch size 64", "batch size 1"]
    assert [row[0] for row in table.rows] == ["WA", "BN"]
    assert table.rows[0][1].endswith("\npaper 6.21 (−0.21)")
    assert table.rows[0][1].startswith("6.00 ± ")
    assert table.rows[0][2] == "–\npaper 6.61"
    assert table.rows[1][2] == "–\npaper –"
    assert table.bold == {(0, 1), (1, 1)}  # equally good
    assert "–: one image has no statistics." in table.notes
    assert "Small: the paper's number and the difference." in table.notes
    cells = frame(read_cells(out)).set_index(["norm", "batch_size"])
    assert cells.at[("wa", "64"), "error"] == pytest.approx(6.0)
    assert cells.at[("wa", "64"), "difference"] == pytest.approx(6.0 - 6.21)


def ranked(out: Path, right: dict[str, tuple[int, int]], classes: int, measures: Sequence[str]) -> Experiment:
    """Runs of Table V by norm: images that are right, more whose class is the fifth; of the others it is the sixth."""
    made = Experiment(out / "r", {"train": 9, "test": TEST}, lambda *_: 700, [f"class {k}" for k in range(classes)])
    truth, images = np.arange(TEST) % classes, np.arange(TEST)
    for norm, (first, fifth) in right.items():
        for seed in range(3):
            rank = np.select([images < first + seed, images < first + fifth + seed], [0, 4], 5).astype(np.int16)
            predicted = np.where(rank == 0, truth, (truth + 1) % classes)[None]
            fields = made.record(norm, "train", seed, model="resnet50")
            made.finish(fields, [30], {"test": (truth, predicted)}, rank={"test": rank})
    factors = {"norm": [*right, "wa"], "model": ["resnet50"]}
    names = {"norm": LABELS, "model": {"resnet50": "ResNet50"}}
    write_design(out, Design(study="table5", scope="small", title="T", measures=list(measures), factors=factors,
                             rows=["norm"], columns=["model"], names=names, folders=["r"]))  # fmt: skip
    return made


def test_top_5_has_its_own_columns_and_is_not_recorded_without_ranks(tmp_path: Path) -> None:
    made = ranked(tmp_path, {"bn": (699, 200), "bn_wa": (749, 170)}, 100, ["error", "top5_error"])
    for seed in range(3):
        made.add("wa", "train", seed, model="resnet50")
    cells = read_cells(tmp_path)
    table = study_table(cells)
    assert table.header == ["norm", "ResNet50, error", "ResNet50, top-5 error"]
    rows = {row[0]: row[1:] for row in table.rows}
    assert [text.split(" ±")[0] for text in rows["BN"]] == ["30.00", "10.00"]
    assert [text.split("\n")[1] for text in rows["BN + WA"]] == ["paper 24.04 (+0.96)", "paper 7.12 (+0.88)"]
    assert rows["WA"][0].startswith("30.00 ± ")
    assert rows["WA"][1] == "not recorded\npaper 8.91"
    assert any(note.startswith("Not recorded: 3 runs") for note in table.notes)
    found = frame(cells).set_index("norm")
    assert found["top5_error"].tolist() == pytest.approx([10.0, 8.0, math.nan], nan_ok=True)
    bn = found.loc["bn"]
    assert bn["top5_error_high"] - bn["top5_error_low"] < bn["high"] - bn["low"]  # 10 % vary less than 30 %
    assert bn["top5_error_difference"] == pytest.approx(10.0 - 7.71)
    decided = {f.claim.id: f for f in findings(cells)}
    assert decided["imagenet-wa-adds-top5"].evidence.startswith("BN + WA, ResNet50 against BN, ResNet50: −2.0 (")
    assert decided["imagenet-wa-adds-top5"].paper == (1, 1)
    assert cells.chance(5) == 95.0


def test_top_5_of_four_classes_says_nothing_and_accuracy_has_no_number_of_the_paper(tmp_path: Path) -> None:
    ranked(tmp_path, {"bn": (900, 100)}, 4, ["accuracy", "top5_accuracy"])
    cells = read_cells(tmp_path)
    table = study_table(cells)
    assert table.rows[0][1].startswith("90.10 ± ")
    assert "paper" not in table.rows[0][1]
    assert "Small: the paper's number and the difference." not in table.notes
    assert "Of 4 classes, the true one always is: top-5 says nothing." in table.notes
    assert cells.chance(5) == 0.0


def test_designs_of_earlier_versions_have_one_measure(tmp_path: Path) -> None:
    out = study(tmp_path, lambda norm, size, seed: 6.0, ["wa"], seeds=1)
    text = (out / "study.json").read_text().replace('"measures": [\n  "error"\n ]', '"measure": "accuracy"')
    (out / "study.json").write_text(text)
    assert read_cells(out).design.measures == ["accuracy"]


def test_a_report_says_how_many_planned_runs_have_no_result(tmp_path: Path) -> None:
    out = study(tmp_path, lambda norm, size, seed: 6.0, ["wa", "none"], seeds=2)
    finished = sorted(out.rglob("record.json"))
    assert len(finished) == 4
    assert "without a result" not in write_study(out).summary()
    for record in finished[1:]:
        record.unlink()
    assert "3 planned runs without a result yet" in write_study(out).summary()


def test_the_overview_reads_several_studies_and_names_what_was_not_run(tmp_path: Path) -> None:
    study(tmp_path / "out" / "a", lambda norm, size, seed: 30.0 + 10 * (norm == "none") + seed / 10, ["wa", "none"])
    study(tmp_path / "out" / "b", lambda norm, size, seed: 30.0, ["wa", "none"], ["1"], study="table2", scope="full")
    write_study(tmp_path / "out" / "a")
    table = write_claims([tmp_path / "out"], tmp_path / "to")
    rows = {row[0]: row for row in table.rows}
    assert len(rows) == len(claims())
    assert rows["WA has a lower error than no normalisation."][2:4] == ["small", "holds"]
    assert rows["WA trains with a batch size of 1."][2:4] == ["full", "holds"]
    assert rows["WA trains very deep networks, at batch sizes 1 and 64."][3] == "not run"
    page = (tmp_path / "to" / "page.html").read_text()
    assert "What of the paper holds" in page
    known = [row[3] for row in table.rows if row[3] != "not run"]
    counts = ", ".join(f"{known.count(verdict)} {verdict}" for verdict in ("holds", "does not", "open"))
    assert f"{len(known)} claims, 2 studies: {counts}. {len(table.rows) - len(known)} more not run." in page
    with pytest.raises(DataError, match="no study was run there"):
        write_claims([tmp_path / "to"], tmp_path / "to")


def test_the_readme_has_the_overview_of_the_published_runs(tmp_path):
    root = Path(__file__).resolve().parents[2]
    write_claims([root / "results" / "paper_small"], tmp_path)
    decided = [row for row in (tmp_path / "claims.md").read_text().splitlines() if row.startswith("|")]
    decided = [row for row in decided if "| not run |" not in row]
    assert len(decided) > 4
    readme = (root / "README.md").read_text()
    assert "\n".join(decided) in readme
    holds, not_, open_ = (sum(f"| {verdict} |" in row for row in decided) for verdict in ("holds", "does not", "open"))
    assert f"**{holds} hold, {not_} do not and {open_} are open**" in readme
    assert readme.count(f"{holds + not_ + open_} claims") == 2
    lead = f"{holds + not_ + open_} claims, 9 studies: {holds} holds, {not_} does not, {open_} open."
    assert lead in (tmp_path / "page.html").read_text()


def test_a_cell_fails_only_when_no_run_is_left(tmp_path: Path) -> None:
    out = study(tmp_path, lambda norm, size, seed: 6.0, ["wa"], seeds=1)
    made = Experiment(out / "64", {"train": 200, "test": TEST}, lambda *_: 0, [f"class {k}" for k in range(100)])
    made.diverge("gn", "train", 0)
    planned = made.plan("gn", "train", 1)
    design = read_cells(out).design
    factors = {**design.factors, "norm": ["wa", "gn"]}
    write_design(out, design.model_copy(update={"factors": factors, "norms": {**design.norms, "gn": {}}}))
    assert read_cells(out).measure([(1.0, ("gn", "64"))]) is None
    assert finding(Claim("x", "table1", "", {"fails": {"norm": "gn"}}), read_cells(out)).verdict == "open"
    shutil.rmtree(planned.path)
    made.diverge("gn", "train", 1)
    measured = read_cells(out).measure([(1.0, ("gn", "64")), (-1.0, ("wa", "64"))])
    assert measured is not None
    assert (measured.value, measured.seeds) == (math.inf, 1)
