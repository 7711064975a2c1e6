"""The report of segmentation: mean intersection over union beside the paper's numbers, per class, and as images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from da_wa.records.files import write_bytes
from da_wa.records.segmentation import Outputs, SegmentationRecord
from da_wa.report import tables
from da_wa.report.claims import printed
from da_wa.report.content import NONE, Table
from da_wa.report.figures import contact_sheet, rendered
from da_wa.report.iou import class_iou, interval, mean_iou
from da_wa.report.latex import table_latex
from da_wa.report.statistics import Interval
from da_wa.report.wording import change, counted, number, signed, within

Runs = Sequence[tuple[SegmentationRecord, Outputs | None]]

NOTES = (
    "mIoU: the mean of intersection over union over classes, from the confusion matrix of all test images, after the "
    "last epoch. Void pixels are not counted; classes in neither truth nor prediction are left out of the mean.",
    "± half of the 95 % interval, differences with their 95 % interval: over seeds and images (bootstrap of images, t "
    "over seeds); with one seed over images alone.",
    "Small: the paper's number (VOC 2012, another network) and the difference.",
)


def write_segmentation(out: Path, study: str, title: str, caption: str, runs: Runs, missing: int) -> str:
    """Write ``table.md``, ``.tex``, ``.csv`` and ``runs.csv``; returns the table as text.

    Args:
        out: the folder of the study.
        study: its name in ``paper.yaml``.
        title: of the table.
        caption: what differs from the paper.
        runs: finished ones.
        missing: how many planned runs are not finished.

    Raises:
        DataError: ``out`` cannot be written.
    """
    table = segmentation_table(study, title, caption, runs, missing)
    files = {
        "table.md": tables.table_markdown(table),
        "table.tex": table_latex(table),
        "table.csv": tables.csv(frame(study, runs), "%.4f"),
        "runs.csv": tables.csv(runs_frame(runs), "%.4f"),
    }
    for name, content in files.items():
        write_bytes(out / name, content.encode())
    return tables.table_text(table)


def stacked(runs: Runs) -> dict[str, tuple[SegmentationRecord, list[int], npt.NDArray[np.integer]]]:
    """By norm: its first record, its seeds in ascending order, and (seeds, images, k, k) confusion matrices."""
    found: dict[str, tuple[SegmentationRecord, list[int], npt.NDArray[np.integer]]] = {}
    for norm in dict.fromkeys(record.norm for record, _ in runs):
        own = sorted(
            ((r.seed, r, o.confusion) for r, o in runs if r.norm == norm and o is not None), key=lambda run: run[0]
        )
        if own:
            found[norm] = (own[0][1], [seed for seed, _, _ in own], np.stack([confusion for *_, confusion in own]))
    return found


def difference(runs: Runs, norm: str, reference: str) -> tuple[Interval, int] | None:
    """The mIoU of ``norm`` minus that of ``reference`` over their common seeds, and how many these are."""
    found = stacked(runs)
    if norm == reference or not {norm, reference} <= found.keys():
        return None
    (_, seeds, first), (_, others, second) = found[norm], found[reference]
    common = sorted(set(seeds) & set(others))
    if not common:
        return None
    chosen = [seeds.index(seed) for seed in common], [others.index(seed) for seed in common]
    return interval(first[chosen[0]], second[chosen[1]]), len(common)


def frame(study: str, runs: Runs) -> pd.DataFrame:
    """One row per norm: mIoU, interval and differences in percent, the paper's number, IoU of every class."""
    rows, found = [], stacked(runs)
    reference = next(iter(dict.fromkeys(record.norm for record, _ in runs)), "")
    for norm, (record, seeds, confusion) in found.items():
        own, less = interval(confusion), difference(runs, norm, reference)
        theirs = printed()[study].of({"norm": norm}) if study in printed() else None
        per_class = _class_means(confusion)
        rows.append(
            {
                "norm": norm,
                "label": record.label,
                "miou": 100 * own.value,
                "low": 100 * own.low,
                "high": 100 * own.high,
                "seeds": len(seeds),
                "images": confusion.shape[1],
                "paper": theirs,
                "minus_reference": math.nan if less is None else 100 * less[0].value,
                "minus_low": math.nan if less is None else 100 * less[0].low,
                "minus_high": math.nan if less is None else 100 * less[0].high,
                **{f"iou {name}": 100 * value for name, value in zip(record.classes, per_class, strict=True)},
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


def segmentation_table(study: str, title: str, caption: str, runs: Runs, missing: int) -> Table:
    """A row per norm: mIoU, the difference to the first norm, and every class."""
    found, labels = stacked(runs), {record.norm: record.label for record, _ in runs}
    reference = next(iter(labels), "")
    classes = runs[0][0].classes if runs else []
    rows = []
    for norm, label in labels.items():
        if norm not in found:
            rows.append([label, "diverged", *[NONE] * (1 + len(classes))])
            continue
        confusion = found[norm][2]
        own, less = 100 * interval(confusion), difference(runs, norm, reference)
        theirs = printed()[study].of({"norm": norm}) if study in printed() else None
        beside = "" if theirs is None else f"\npaper {theirs} ({signed(own.value - float(theirs), 2)})"
        per_class = [number(100 * value) for value in _class_means(confusion)]
        rows.append([label, within(own, 2) + beside, change(100 * less[0], 2) if less else NONE, *per_class])
    values = {norm: float(interval(confusion).value) for norm, (_, _, confusion) in found.items()}
    best = max(values, key=values.__getitem__) if len(values) > 1 else None
    bold = frozenset((place, 1) for place, norm in enumerate(labels) if norm == best)
    notes = [caption, *_counts(runs, missing), *NOTES, *_verdict(runs, list(labels))]
    header = ["Norm", "mIoU", f"minus {labels.get(reference, '')}", *classes]
    return Table("table", f"{title}: mean intersection over union (%)", header, rows, bold, notes)


def _class_means(confusion: npt.NDArray[np.integer]) -> list[float]:
    """The mean over seeds of every class, NaN where no seed has it."""
    per_seed = class_iou(confusion.sum(1))
    known = ~np.isnan(per_seed)
    total = np.where(known, per_seed, 0).sum(0)
    return [float(t / n) if n else math.nan for t, n in zip(total, known.sum(0), strict=True)]


def _counts(runs: Runs, missing: int) -> list[str]:
    seeds = {norm: len(own) for norm, (_, own, _) in stacked(runs).items()}
    images = len(runs[0][0].images) if runs else 0
    failed = sum(record.error is not None for record, _ in runs)
    return [
        f"{counted(min(seeds.values(), default=0), 'seed')} or more, {counted(images, 'test image')}.",
        *([f"{counted(failed, 'run')} diverged and not counted."] if failed else []),
        *([f"{counted(missing, 'planned run')} without a result."] if missing else []),
    ]


def _verdict(runs: Runs, norms: Sequence[str]) -> list[str]:
    """Whether the paper's claim, that the second norm is better than the first, holds."""
    found = difference(runs, norms[1], norms[0]) if len(norms) > 1 else None
    if found is None:
        return []
    less, seeds = found
    verdict = "open"
    if seeds > 1 and (less.low > 0 or less.high < 0):
        verdict = "holds" if less.low > 0 else "does not"
    labels = {record.norm: record.label for record, _ in runs}
    return [
        f"The paper's claim, {labels[norms[1]]} has a higher mIoU than {labels[norms[0]]}: {verdict}, "
        f"{change(100 * less, 2)} points, {counted(seeds, 'common seed')}."
    ]


def example_figure(
    images: npt.NDArray[np.uint8], masks: npt.NDArray[np.uint8], names: Sequence[str], runs: Runs
) -> bytes | None:
    """Images, their masks, and the predictions of every norm's first seed, as PNG; None without a run.

    Args:
        images: (n, 3, h, w).
        masks: (n, h, w); void is white.
        names: of the images.
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
    rows = [(name, [(pixels[i], title) for title, pixels in columns]) for i, name in enumerate(names)]
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
