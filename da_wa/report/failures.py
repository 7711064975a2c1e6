"""Errors of the networks: confusions, worst classes, and confidently misclassified images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from da_wa.records.contrasts import Pair
from da_wa.report.content import NONE, WIDE, Part, Plot, Section, Table
from da_wa.report.facts import Facts
from da_wa.report.figures import contact_sheet, heatmap
from da_wa.report.matrix import AVERAGE
from da_wa.report.outcomes import Array, Outcome
from da_wa.report.wording import arrow, counted, listed

TITLE = "Where does it fail?"
WORST = 12
"""Classes, and confusions of a pair, that are listed."""

SHOWN = 8
"""Images of a pair on the contact sheet."""

PLOTTED = 150
"""With more classes than this no class × class figure is drawn: its cells could not be seen."""

NAMED = 80
"""With more classes than this no figure of every class is drawn: their names could not be read."""


def section(facts: Facts) -> Section:
    """The classes that are confused with each other, by norm and over all norms."""
    by_pair: dict[Pair, list[Outcome]] = {pair: [] for pair in facts.matrix.pairs}
    for outcome in facts.outcomes:
        by_pair[outcome.source, outcome.target].append(outcome)
    by_pair = {pair: found for pair, found in by_pair.items() if found}
    if not by_pair:
        return Section(TITLE, ["No run has saved its predictions, so its failures are not known."])
    classes = facts.classes
    best = facts.matrix.mean[AVERAGE].dropna()
    chosen = str(best.idxmax()) if len(best) else ""
    shown = {pair: [o for o in found if o.label == chosen] or found for pair, found in by_pair.items()}
    recall = _recall(by_pair, len(classes))
    mean = recall.mean(axis=1).sort_values(kind="stable").dropna()
    sentence = f"Hardest: {listed([f'{classes[k]} ({mean[k]:.0f} %)' for k in mean.index[:3]])}. " if len(mean) else ""
    sentence += "In brackets: the share of a class's images that is recognised, mean over pairs."
    first, *others = _sheets(by_pair, classes, facts.images)
    details: list[Part] = [
        *others,
        _worst(recall, classes),
        *_recall_plot(recall, classes),
        _confusions(shown, classes, f"{chosen}, the best row on average," if chosen else "All rows"),
        *_confusion_plots(shown, classes, chosen or "all rows"),
    ]
    data = {"confusion": _long(by_pair, classes), "class_accuracy": _named(recall, classes)}
    return Section(TITLE, [sentence, first], data, details=details)


def confusion(found: Sequence[Outcome]) -> pd.DataFrame:
    """How many images of each class were predicted as each class: truth, predicted, count (above 0), by class.

    Its size grows with the number of images, not with the number of classes.

    >>> outcome = Outcome("BN", "A", "W", 0, np.arange(3), np.array([0, 0, 1]), np.array([0, 1, 1]), None)
    >>> confusion([outcome]).to_numpy().tolist()
    [[0, 0, 1], [0, 1, 1], [1, 1, 1]]
    """
    truth, predicted = (np.concatenate([getattr(o, name) for o in found]) for name in ("truth", "predicted"))
    pairs, counts = np.unique(np.stack([truth, predicted]).astype(np.int64), axis=1, return_counts=True)
    return pd.DataFrame({"truth": pairs[0], "predicted": pairs[1], "count": counts})


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


def _recall(by_pair: Mapping[Pair, Sequence[Outcome]], classes: int) -> pd.DataFrame:
    """(classes, pairs) percent right of each class's images, over all norms and seeds; NaN for a class without any."""
    columns = {}
    for pair, found in by_pair.items():
        truth, right = (np.concatenate([getattr(o, name) for o in found]) for name in ("truth", "right"))
        total = np.bincount(truth, minlength=classes)
        columns[pair] = np.where(
            total > 0, 100 * np.bincount(truth, right, minlength=classes) / np.maximum(total, 1), np.nan
        )
    return pd.DataFrame(columns)


def _named(recall: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    named = pd.DataFrame(recall.to_numpy(), columns=["->".join(pair) for pair in recall.columns])
    named.insert(0, "class", list(classes), allow_duplicates=True)
    return named


def _worst(recall: pd.DataFrame, classes: Sequence[str]) -> Table:
    mean = recall.mean(axis=1).sort_values(kind="stable")
    rows = [
        [classes[k], *(f"{v:.0f}" if np.isfinite(v) else NONE for v in recall.loc[k]), f"{mean[k]:.0f}"]
        for k in mean.dropna().index[:WORST]
    ]
    return Table(
        "worst_classes",
        "The classes with the lowest accuracy (% of their images)",
        ["Class", *(arrow(*pair) for pair in recall.columns), "Mean"],
        rows,
        notes=["Over all norms and seeds, after the last epoch."],
    ).transposed_if_wide()


def _recall_plot(recall: pd.DataFrame, classes: Sequence[str]) -> list[Part]:
    if len(recall) > NAMED:
        return [f"With {len(recall)} classes, the accuracy of each is in class_accuracy.csv only."]
    order = recall.mean(axis=1).sort_values(kind="stable").index
    frame = recall.loc[order].set_axis([arrow(*pair) for pair in recall.columns], axis=1)
    frame.index = pd.Index([classes[k] for k in order])
    number, width = ("{:.0f}", 0.6) if frame.shape[1] <= WIDE else (None, 0.25)  # narrow cells hold no numbers
    figure = heatmap(frame, "Accuracy by class (%)", number, cell=(width, 0.21), top=100.0)
    return [Plot("class_accuracy", figure, "Every class, the worst at the top; all norms and seeds.", wide=False)]


def _confusions(shown: Mapping[Pair, Sequence[Outcome]], classes: Sequence[str], who: str) -> Table:
    rows = []
    for pair, found in shown.items():
        counts = confusion(found)
        counts["share"] = 100 * counts["count"] / counts.groupby("truth")["count"].transform("sum")
        wrong = counts[counts["truth"] != counts["predicted"]]
        common = wrong.sort_values("count", ascending=False, kind="stable").head(4)
        named = [f"{classes[c.truth]} as {classes[c.predicted]} ({c.share:.0f} %)" for c in common.itertuples()]
        rows.append([arrow(*pair), listed(named) if named else "none"])
    return Table(
        "confusions",
        "The most frequent confusions of each pair",
        ["Pair", "Confusions"],
        rows,
        notes=[f"{who} over all seeds. In brackets: the share of the class's images."],
    )


def _confusion_plots(shown: Mapping[Pair, Sequence[Outcome]], classes: Sequence[str], who: str) -> list[Part]:
    if len(classes) > PLOTTED:
        return [f"With {len(classes)} classes, confusions are not drawn; confusion.csv has every one."]
    return [_confusion_plot(number, pair, shown[pair], classes, who) for number, pair in enumerate(shown, 1)]


def _confusion_plot(number: int, pair: Pair, found: Sequence[Outcome], classes: Sequence[str], who: str) -> Plot:
    found_counts = confusion(found)
    counts = np.zeros((len(classes), len(classes)))
    counts[found_counts["truth"], found_counts["predicted"]] = found_counts["count"]
    total = counts.sum(axis=1, keepdims=True)
    share = np.where(total > 0, 100 * counts / np.maximum(total, 1), np.nan)
    names = list(classes)
    size = min(max(4 / len(names), 0.13), 0.3, 9 / len(names))
    figure = heatmap(pd.DataFrame(share, names, names), "", None, cell=(size, size), top=100.0)
    axes = figure.axes[0]
    axes.set_xlabel("predicted", fontsize=7)
    axes.set_ylabel("true", fontsize=7)
    caption = f"{arrow(*pair)}, {who}, {counted(len(found), 'run')}: share of each class (row), dark 0 %, light 100 %."
    return Plot(f"confusion_{number:02d}", figure, caption, wide=False)


def _sheets(
    by_pair: Mapping[Pair, Sequence[Outcome]], classes: Sequence[str], images: Mapping[str, Array] | None
) -> list[Part]:
    if images is None:
        return ["Images are not shown: the report was written without images."]
    sheets: dict[str, list[tuple[str, list[tuple[Array, str]]]]] = {}
    for pair, found in by_pair.items():
        sure = [o for o in found if o.confidence is not None]
        if sure and pair[1] in images and max(int(o.index.max()) for o in sure) < len(images[pair[1]]):
            cells = [
                (
                    np.asarray(images[pair[1]][i]),
                    f"{classes[truth]}\nas {classes[taken]}\n{_runs(wrong, len(sure))}{100 * mean:.0f} %",
                )
                for i, truth, taken, wrong, mean in most_confidently_wrong(sure)
            ]
            if cells:
                sheets.setdefault(pair[0], []).append((arrow(*pair), cells))
    if not sheets:
        return ["No images are shown: none was wrong, or no confidences were saved."]
    below = "Below each: its class, the class predicted most often, and how many runs were wrong and how confident"
    return [
        Plot(
            f"most_confidently_wrong_{number:02d}",
            contact_sheet(rows),
            f"The most confident errors after training on {source}, one image of each confusion. {below}.",
        )
        for number, (source, rows) in enumerate(sheets.items(), 1)
    ]


def _runs(wrong: int, runs: int) -> str:
    return f"{wrong} of {runs} runs, " if runs > 1 else ""


def _long(by_pair: Mapping[Pair, Sequence[Outcome]], classes: Sequence[str]) -> pd.DataFrame:
    """Every confusion that happened, norm by norm, summed over seeds."""
    names = np.array(classes, dtype=object)
    frames = []
    for (source, target), found in by_pair.items():
        for label in dict.fromkeys(o.label for o in found):
            counts = confusion([o for o in found if o.label == label])
            true, predicted = (names[counts[name].to_numpy()] for name in ("truth", "predicted"))
            frames.append(
                pd.DataFrame(
                    {"label": label, "source": source, "target": target, "true": true, "predicted": predicted}
                ).assign(count=counts["count"])
            )
    return pd.concat(frames, ignore_index=True)
