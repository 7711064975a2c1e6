"""Where it fails: confusions, worst classes, and the images that were most confidently wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from da_wa.report.content import WIDE, Plot, Section, Table
from da_wa.report.figures import contact_sheet, heatmap
from da_wa.report.matrix import AVERAGE, Matrix
from da_wa.report.outcomes import Array, Outcome
from da_wa.report.wording import arrow, counted, listed

TITLE = "Where does it fail?"
WORST = 12
"""Classes, and confusions of a pair, that are listed."""

SHOWN = 8
"""Images of a pair on the contact sheet."""


def section(
    matrix: Matrix, classes: Sequence[str], outcomes: Sequence[Outcome], images: Mapping[str, Array] | None
) -> Section:
    """What is taken for what, norm by norm and over all of them.

    Args:
        matrix: names pairs and norms in order.
        classes: their names.
        outcomes: of all runs.
        images: by domain its (n, 3, h, w) uint8 pixels; no image is shown without them.
    """
    by_pair: dict[tuple[str, str], list[Outcome]] = {pair: [] for pair in matrix.pairs}
    for outcome in outcomes:
        by_pair[outcome.source, outcome.target].append(outcome)
    by_pair = {pair: found for pair, found in by_pair.items() if found}
    if not by_pair:
        return Section(TITLE, ["No run has saved what it predicted, so its failures are not known."])
    best = matrix.mean[AVERAGE].dropna()
    chosen = str(best.idxmax()) if len(best) else ""
    shown = {pair: [o for o in found if o.label == chosen] or found for pair, found in by_pair.items()}
    who = f"{chosen}, the norm that is best on average," if chosen else "All norms"
    recall = _recall(by_pair, len(classes))
    parts: list[str | Table | Plot] = [_worst(recall, classes), *_recall_plot(recall, classes)]
    parts += [_confusions(shown, classes, who)]
    for number, (pair, found) in enumerate(shown.items(), 1):
        parts.append(_confusion_plot(number, pair, found, classes, chosen or "all norms"))
    parts += _sheet(by_pair, classes, images)
    return Section(TITLE, parts, {"confusion": _long(by_pair, classes), "class_accuracy": _named(recall, classes)})


def confusion(found: Sequence[Outcome], classes: int) -> Array:
    """(classes, classes) how many images of the row's class were taken for the column's, over all outcomes."""
    from sklearn.metrics import confusion_matrix

    truth, predicted = (np.concatenate([getattr(o, name) for o in found]) for name in ("truth", "predicted"))
    return np.asarray(confusion_matrix(truth, predicted, labels=np.arange(classes)))


def most_confidently_wrong(found: Sequence[Outcome]) -> list[tuple[int, int, int, int, float]]:
    """The images that runs get wrong with the most confidence, one of each confusion.

    Args:
        found: outcomes of one pair, with confidences.

    Returns:
        (image, its class, the class most often predicted wrongly, number of runs that are wrong, their mean
        confidence), sorted by the confidence in wrong classes, its mean over all runs that saw the image.
    """
    rows = pd.DataFrame(
        {
            "image": np.concatenate([o.index for o in found]),
            "truth": np.concatenate([o.truth for o in found]),
            "predicted": np.concatenate([o.predicted for o in found]),
            "confidence": np.concatenate([o.confidence for o in found if o.confidence is not None]),
        }
    )
    rows["wrong"] = rows["truth"] != rows["predicted"]
    rows["score"] = rows["confidence"].where(rows["wrong"], 0.0)
    if not rows["wrong"].any():
        return []
    score = rows.groupby("image")["score"].mean()
    mistakes = rows[rows["wrong"]].groupby("image")
    images = mistakes.agg(truth=("truth", "first"), runs=("wrong", "size"), sure=("confidence", "mean"))
    counts = rows[rows["wrong"]].value_counts(["image", "predicted"], sort=False).sort_values(kind="stable")
    images["taken"] = counts.reset_index("predicted")["predicted"].groupby("image").last()
    worst = images.assign(score=score).sort_values("score", ascending=False, kind="stable")
    worst = worst.drop_duplicates(["truth", "taken"]).head(SHOWN)
    return [(int(i), int(r.truth), int(r.taken), int(r.runs), float(r.sure)) for i, r in worst.iterrows()]


def _recall(by_pair: Mapping[tuple[str, str], Sequence[Outcome]], classes: int) -> pd.DataFrame:
    """(classes, pairs) percent right of each class's images, over all norms and seeds; NaN for a class without any."""
    columns = {}
    for pair, found in by_pair.items():
        counts = confusion(found, classes)
        total = counts.sum(axis=1)
        columns[pair] = np.where(total > 0, 100 * np.diag(counts) / np.maximum(total, 1), np.nan)
    return pd.DataFrame(columns)


def _named(recall: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    named = pd.DataFrame(recall.to_numpy(), columns=["->".join(pair) for pair in recall.columns])
    named.insert(0, "class", list(classes))
    return named


def _worst(recall: pd.DataFrame, classes: Sequence[str]) -> Table:
    mean = recall.mean(axis=1).sort_values(kind="stable")
    rows = [
        [classes[k], *(f"{v:.0f}" if np.isfinite(v) else "–" for v in recall.loc[k]), f"{mean[k]:.0f}"]
        for k in mean.dropna().index[:WORST]
    ]
    return Table(
        "worst_classes",
        "The classes that are recognised least, percent of their images",
        ["Class", *(arrow(*pair) for pair in recall.columns), "Mean"],
        rows,
        notes=["Over all norms and seeds, after the last epoch."],
    ).transposed_if_wide()


def _recall_plot(recall: pd.DataFrame, classes: Sequence[str]) -> list[Plot]:
    order = recall.mean(axis=1).sort_values(kind="stable").index
    frame = recall.loc[order].set_axis([arrow(*pair) for pair in recall.columns], axis=1)
    frame.index = pd.Index([classes[k] for k in order])
    if len(frame) > 80:
        return []
    title = "Images recognised, by class (%)"
    number, width = ("{:.0f}", 0.6) if frame.shape[1] <= WIDE else (None, 0.25)  # narrow cells hold no numbers
    figure = heatmap(frame, title, number, cell=(width, 0.21), top=100.0)
    return [
        Plot("class_accuracy", figure, "Every class, the worst at the top; all norms and seeds together.", wide=False)
    ]


def _confusions(shown: Mapping[tuple[str, str], Sequence[Outcome]], classes: Sequence[str], who: str) -> Table:
    rows = []
    for pair, found in shown.items():
        counts = confusion(found, len(classes)).astype(float)
        total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
        np.fill_diagonal(counts, 0)
        common = np.dstack(np.unravel_index(np.argsort(-counts, axis=None, kind="stable")[:4], counts.shape))[0]
        told = [
            f"{classes[t]} as {classes[p]} ({100 * counts[t, p] / total[t, 0]:.0f} %)"
            for t, p in common
            if counts[t, p]
        ]
        rows.append([arrow(*pair), listed(told) if told else "none"])
    return Table(
        "confusions",
        "The commonest confusions of each pair",
        ["Pair", "Confusions"],
        rows,
        notes=[f"{who} over all its seeds. In brackets: the share of the class's images."],
    )


def _confusion_plot(
    number: int, pair: tuple[str, str], found: Sequence[Outcome], classes: Sequence[str], who: str
) -> Plot:
    counts = confusion(found, len(classes)).astype(float)
    total = counts.sum(axis=1, keepdims=True)
    share = np.where(total > 0, 100 * counts / np.maximum(total, 1), np.nan)
    names = list(classes)
    size = min(max(4 / len(names), 0.13), 0.3, 9 / len(names))
    figure = heatmap(pd.DataFrame(share, names, names), "", None, cell=(size, size), top=100.0)
    axes = figure.axes[0]
    axes.set_xlabel("predicted", fontsize=7)
    axes.set_ylabel("true", fontsize=7)
    runs = counted(len(found), "run")
    return Plot(
        f"confusion_{number:02d}",
        figure,
        f"{arrow(*pair)}, {who}, {runs}: rows true, columns predicted, dark 0 %, light 100 % of the row.",
        wide=False,
    )


def _sheet(
    by_pair: Mapping[tuple[str, str], Sequence[Outcome]], classes: Sequence[str], images: Mapping[str, Array] | None
) -> list[str | Plot]:
    if images is None:
        return ["The images that were most confidently wrong are not shown: the report was written without images."]
    sheets: dict[str, list[tuple[str, list[tuple[Array, str]]]]] = {}
    for pair, found in by_pair.items():
        sure = [o for o in found if o.confidence is not None]
        if sure and pair[1] in images and max(int(o.index.max()) for o in sure) < len(images[pair[1]]):
            cells = [
                (
                    np.asarray(images[pair[1]][i]),
                    f"{classes[truth]}\nas {classes[taken]}\n{_runs(wrong, len(sure))}{100 * mean:.0f} % sure",
                )
                for i, truth, taken, wrong, mean in most_confidently_wrong(sure)
            ]
            if cells:
                sheets.setdefault(pair[0], []).append((arrow(*pair), cells))
    if not sheets:
        return ["No image is shown: none was wrong, or the runs saved no confidences."]
    told = "what they are, what most runs that err take them for, how many runs err and how sure those are"
    return [
        Plot(
            f"most_confidently_wrong_{number:02d}",
            contact_sheet(rows),
            f"The images most confidently wrong after training on {source}, one of each confusion: {told}.",
        )
        for number, (source, rows) in enumerate(sheets.items(), 1)
    ]


def _runs(wrong: int, runs: int) -> str:
    return f"{wrong} of {runs} runs, " if runs > 1 else ""


def _long(by_pair: Mapping[tuple[str, str], Sequence[Outcome]], classes: Sequence[str]) -> pd.DataFrame:
    """Every confusion that happened, norm by norm, summed over seeds."""
    rows = []
    for (source, target), found in by_pair.items():
        for label in dict.fromkeys(o.label for o in found):
            counts = confusion([o for o in found if o.label == label], len(classes))
            rows += [
                (label, source, target, classes[t], classes[p], int(counts[t, p]))
                for t, p in np.argwhere(counts).tolist()
            ]
    return pd.DataFrame(rows, columns=["label", "source", "target", "true", "predicted", "count"])
