"""What a norm changed of networks that were trained without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pandas as pd

from da_wa.records.schema import Conversion, Record
from da_wa.report.content import NONE, Section, Table
from da_wa.report.wording import counted, listed

TITLE = "What did each norm change of the trained network?"


def conversions(records: Iterable[Record], label: Callable[[Record], str]) -> dict[str, Conversion]:
    """The conversion of every row of the table that has one, by label."""
    return {label(record): record.conversion for record in records if record.conversion is not None}


def notices(found: Mapping[str, Conversion]) -> list[str]:
    """Which rows need re-training, a sentence for each reason; nothing where every trained value was kept.

    >>> kept = Conversion(replaced={"Conv2d -> WeightAlignConv2d": 2}, reached=2, layers=3, stale=2)
    >>> notices({"BN + WA": kept})
    ["BN + WA started without BN's calibration (the filters of 2 of 3 layers changed): it needs re-training."]
    """
    lines = []
    for label, conversion in found.items():
        share = f"of {conversion.reached} of {counted(conversion.layers, 'layer')}"
        if conversion.stale:
            lines.append(
                f"{label} started without BN's calibration (the filters {share} changed): it needs re-training."
            )
        elif conversion.changed:
            lines.append(f"{label} started with other filters ({share}) than those trained: it needs re-training.")
        if conversion.lost:
            layers = counted(sum(conversion.lost.values()), "layer")
            lines.append(f"{label} started without trained values of {layers}: it needs re-training.")
    return lines


def section(found: Mapping[str, Conversion]) -> Section:
    """A row for each norm: layers replaced, kept and lost."""
    rows = [
        [label, f"{c.reached} of {c.layers}", _kinds(c.replaced), _kinds(c.kept), _kinds(c.lost), str(c.stale)]
        for label, c in found.items()
    ]
    table = Table(
        "conversions",
        "Conversion of the trained network",
        ["Norm", "Layers reached", "Replaced", "Kept", "Lost", "BatchNorms out of date"],
        rows,
        notes=[
            "Layers reached: convolution and linear layers of the wanted kind, without the classifier. "
            "BatchNorms out of date: their running statistics, or the biases that they were merged into, are those of "
            "the original filters until training adapts them. Rows that are not listed kept the network as it was."
        ],
    )
    answer = " ".join(notices(found)) or "Every trained value was kept."
    frame = pd.DataFrame([{"label": label, **_numbers(c)} for label, c in found.items()])
    return Section(TITLE, [answer, table], {"conversions": frame})


def _kinds(counts: Mapping[str, int]) -> str:
    return listed([f"{n} × {kind}" for kind, n in counts.items()]) or NONE


def _numbers(conversion: Conversion) -> dict[str, int]:
    totals = {name: sum(getattr(conversion, name).values()) for name in ("replaced", "kept", "lost")}
    return totals | {"reached": conversion.reached, "layers": conversion.layers, "stale": conversion.stale}
