"""The report of segmentation: mean intersection over union beside the paper's numbers, per class, and as images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from da_wa.errors import DataError
from da_wa.records.design import Design, Key, read_design
from da_wa.records.files import write_bytes
from da_wa.records.segmentation import Outputs, SegmentationRecord, norm_of, read_run
from da_wa.report import tables
from da_wa.report.cells import Measured, Terms
from da_wa.report.claims import findings, printed
from da_wa.report.collection import mixed
from da_wa.report.content import NONE, Table
from da_wa.report.figures import contact_sheet, rendered
from da_wa.report.grid import StudyReport, interval_notes, write_tables
from da_wa.report.iou import class_iou, combination, interval, mean_iou
from da_wa.report.statistics import Interval
from da_wa.report.wording import change, counted, number, signed, within

Runs = Sequence[tuple[SegmentationRecord, Outputs | None]]

Shown = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
"""Images (n, 3, h, w) and masks (n, h, w)."""

NOTES = (
    "mIoU: the mean of intersection over union over classes, from the confusion matrix of all test images. Void pixels "
    "are not counted; classes in neither truth nor prediction are left out of the mean.",
    "Differences with their 95 % interval, paired. Intervals: bootstrap of images, t over seeds.",
    f"Small: the paper's number and the difference. Bold: the best norm. {NONE}: no result.",
)


@dataclass(frozen=True)
class Scores:
    """All runs of a study.

    Attributes:
        design: of the study; its only factor is the norm.
        runs: finished ones.
    """

    design: Design
    runs: Runs

    @property
    def missing(self) -> int:
        """How many planned runs have no result."""
        return len(self.design.folders) - len(self.runs)

    @property
    def refused(self) -> Mapping[Key, Mapping[str, str]]:
        """None."""
        return {}

    @cached_property
    def intervals(self) -> Mapping[str, Interval]:
        """The mIoU of each norm with results, in percent."""
        return {norm: 100 * interval(confusion) for norm, (_, confusion) in self.norms.items()}

    @cached_property
    def norms(self) -> Mapping[str, tuple[list[int], npt.NDArray[np.integer]]]:
        """Of each norm with results, in order: its seeds, and (seeds, images, k, k) confusion matrices."""
        found: dict[str, tuple[list[int], npt.NDArray[np.integer]]] = {}
        for norm in self.design.factors["norm"]:
            own = sorted(
                ((r.seed, o.confusion) for r, o in self.runs if r.norm == norm and o is not None),
                key=lambda run: run[0],
            )
            if own:
                found[norm] = ([seed for seed, _ in own], np.stack([confusion for _, confusion in own]))
        return found

    @property
    def levels(self) -> Mapping[Key, Mapping[str, str]]:
        """All norms; each can be trained."""
        return {(norm,): {"norm": norm, **self.design.norms.get(norm, {})} for norm in self.design.factors["norm"]}

    def chance(self, top: int = 1) -> float:
        """NaN: no claim compares mean intersection over union with guessing."""
        return math.nan

    def measure(self, terms: Terms, top: int = 1) -> Measured | None:
        """Σ factor · mIoU over norms and common seeds, in points.

        A norm whose planned runs have all diverged counts as minus infinity. None where some have, where a norm has no
        result, where the norms have no seed in common, or where two such norms cancel.
        """
        names = {norm for _, (norm,) in terms}
        diverged = Counter(record.norm for record, _ in self.runs if record.error is not None)
        planned = Counter(map(norm_of, self.design.folders))
        if any(diverged[norm] and (norm in self.norms or diverged[norm] < planned[norm]) for norm in names):
            return None
        if not names <= self.norms.keys() | diverged.keys():
            return None
        if infinite := {-math.copysign(1.0, factor) for factor, (norm,) in terms if diverged[norm]}:
            fewest = min(sum(record.norm == norm for record, _ in self.runs) for norm in names)
            return Measured(infinite.pop() * math.inf, seeds=fewest) if len(infinite) == 1 else None
        common = sorted(set.intersection(*(set(self.norms[norm][0]) for norm in names)))
        if not common:
            return None
        chosen = []
        for factor, (norm,) in terms:
            seeds, confusion = self.norms[norm]
            chosen.append((100 * factor, confusion[[seeds.index(seed) for seed in common]]))
        return Measured(*combination(chosen), len(common))

    def difference(self, norm: str) -> Interval | None:
        """The mIoU of a norm minus that of the first one, in points."""
        reference = self.design.factors["norm"][0]
        found = None if norm == reference else self.measure([(1.0, (norm,)), (-1.0, (reference,))])
        return None if found is None or math.isinf(found.value) else Interval(found.value, *found.bounds())

    def theirs(self, norm: str) -> str | None:
        """The number of the paper."""
        paper = printed().get(self.design.study)
        return paper.of({"norm": norm}) if paper else None


def read_scores(out: Path) -> Scores:
    """Read the records of a study.

    Raises:
        DataError: ``out`` is not the folder of a study, or a file cannot be read.
    """
    design = read_design(out)
    found = [read_run(out / folder) for folder in design.folders]
    return Scores(design, [run for run in found if run is not None])


def write_segmentation(out: Path, shown: Callable[[], Shown]) -> StudyReport:
    """Write ``table.*``, ``claims.*``, ``page.html``, ``runs.csv`` and ``examples.png`` from the records of a study.

    Args:
        out: folder of the study.
        shown: gives the first evaluated images and their masks.

    Raises:
        DataError: ``out`` is not the folder of a study or has no finished run, a file cannot be read, or ``out``
            cannot be written.
    """
    scores = read_scores(out)
    if not scores.runs:
        raise DataError(
            f"{out}: no run of the study is finished, so there is nothing to report; run stage=train first."
        )
    found, table = findings(scores), segmentation_table(scores)
    write_tables(out, scores.design, table, frame(scores), found)
    write_bytes(out / "runs.csv", tables.csv(runs_frame(scores.runs), "%.4f").encode())
    if (figure := example_figure(*shown(), scores.runs)) is not None:
        write_bytes(out / "examples.png", figure)
    return StudyReport(table, found, scores.missing)


def frame(scores: Scores) -> pd.DataFrame:
    """One row per norm: mIoU, interval and differences in percent, the paper's number, IoU of every class."""
    rows = []
    for norm, (seeds, confusion) in scores.norms.items():
        own, less = scores.intervals[norm], scores.difference(norm) or Interval(math.nan)
        per_class = zip(_classes(scores), _class_means(confusion), strict=True)
        rows.append(
            {
                "norm": norm,
                "label": scores.design.label((norm,)),
                "miou": own.value,
                "low": own.low,
                "high": own.high,
                "seeds": len(seeds),
                "images": confusion.shape[1],
                "paper": scores.theirs(norm),
                "minus_reference": less.value,
                "minus_low": less.low,
                "minus_high": less.high,
                **{f"iou {name}": 100 * value for name, value in per_class},
            }
        )
    return pd.DataFrame(rows)


def runs_frame(runs: Runs) -> pd.DataFrame:
    """One row per run."""
    return pd.DataFrame(
        {
            "norm": record.norm,
            "seed": record.seed,
            "miou": math.nan if outputs is None else 100 * float(mean_iou(outputs.confusion.sum(0))),
            "loss": record.curve[-1]["loss"] if record.curve else math.nan,
            "epochs": len(record.curve),
            "images_per_s": record.cost.get("images_per_s"),
            "train_cpu_s": record.cost.get("train_cpu_s"),
            "error": record.error or "",
            "device": record.provenance.get("cpu") if record.cost.get("device") == "cpu" else record.cost.get("device"),
            "commit": record.provenance.get("commit"),
        }
        for record, outputs in runs
    )


def segmentation_table(scores: Scores) -> Table:
    """A row per norm: mIoU, the difference to the first norm, and every class."""
    design, rows = scores.design, []
    names, classes = design.factors["norm"], _classes(scores)
    for norm in names:
        label = design.label((norm,))
        if norm not in scores.norms:
            ended = any(record.norm == norm for record, _ in scores.runs)
            rows.append([label, "diverged" if ended else NONE, *[NONE] * (1 + len(classes))])
            continue
        confusion = scores.norms[norm][1]
        own, less, theirs = scores.intervals[norm], scores.difference(norm), scores.theirs(norm)
        beside = "" if theirs is None else f"\npaper {theirs} ({signed(own.value - float(theirs), 2)})"
        per_class = [number(100 * value) for value in _class_means(confusion)]
        rows.append([label, within(own, 2) + beside, change(less, 2) if less else NONE, *per_class])
    values = {norm: own.value for norm, own in scores.intervals.items()}
    best = max(values, key=values.__getitem__) if len(values) > 1 else None
    bold = frozenset((place, 1) for place, norm in enumerate(names) if norm == best)
    header = ["Norm", "mIoU", f"minus {design.label((names[0],))}", *classes]
    notes = [f"Scope {design.scope}. {design.caption}", *_counts(scores), *NOTES]
    notes += [told] if (told := mixed([record.provenance for record, _ in scores.runs])) else []
    return Table("table", f"{design.title}: mean intersection over union (%)", header, rows, bold, notes)


def _classes(scores: Scores) -> Sequence[str]:
    return scores.runs[0][0].classes if scores.runs else []


def _class_means(confusion: npt.NDArray[np.integer]) -> list[float]:
    """The mean over seeds of every class, NaN where no seed has it."""
    per_seed = class_iou(confusion.sum(1))
    known = ~np.isnan(per_seed)
    total = np.where(known, per_seed, 0).sum(0)
    return [float(t / n) if n else math.nan for t, n in zip(total, known.sum(0), strict=True)]


def _counts(scores: Scores) -> list[str]:
    seeds = {len(own) for own, _ in scores.norms.values()}
    images = len(scores.runs[0][0].images) if scores.runs else 0
    failed = sum(record.error is not None for record, _ in scores.runs)
    return [
        *interval_notes(seeds, images),
        *([f"{counted(failed, 'run')} diverged and not counted."] if failed else []),
        *([f"{counted(scores.missing, 'planned run')} without a result."] if scores.missing else []),
    ]


def example_figure(images: npt.NDArray[np.uint8], masks: npt.NDArray[np.uint8], runs: Runs) -> bytes | None:
    """Images, their masks, and the predictions of every norm's first seed, as PNG; None without a run.

    Args:
        images: (n, 3, h, w).
        masks: (n, h, w); void is white.
        runs: with predictions of the same images.
    """
    first: dict[str, npt.NDArray[np.uint8]] = {}
    for record, outputs in sorted((run for run in runs if run[1] is not None), key=lambda run: run[0].seed):
        if outputs is not None and outputs.predicted.shape == masks.shape:
            first.setdefault(record.label, outputs.predicted)
    if not first:
        return None
    columns = [("image", images), ("truth", coloured(masks))]
    columns += [(label, coloured(np.where(masks == 255, 255, found))) for label, found in first.items()]
    names = next(record.images for record, _ in runs)
    rows = [(names[i], [(pixels[i], title) for title, pixels in columns]) for i in range(len(images))]
    return rendered(contact_sheet(rows), "png")


def coloured(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Labels (n, h, w) as colours (n, 3, h, w): those of VOC, where a class's bits are spread over the channels.

    >>> coloured(np.array([[[1, 2, 255]]]))[0, :, 0].T.tolist()
    [[128, 0, 0], [0, 128, 0], [255, 255, 255]]
    """
    colours = np.zeros((256, 3), np.uint8)
    index = np.arange(256)
    for shift in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> channel) & 1) << (7 - shift)).astype(np.uint8)
        index = index >> 3
    colours[255] = 255
    return np.moveaxis(colours[labels], -1, 1)
