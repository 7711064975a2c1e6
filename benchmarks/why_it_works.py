"""Why WeightAlign works, measured: what becomes of weights and activations with every norm.

Writes tables (csv) and figures (png) of three measurements: a plain network at initialisation (the paper's
Figs. 2, 7 and 8), trained networks (Figs. 4 and 5), and how the second moment grows with depth.

    uv run benchmarks/why_it_works.py --out docs                    # docs/why_it_works.md is about its outcome
    uv run benchmarks/why_it_works.py --norms none wa bn --images PATH/cifar100/test
"""

import argparse
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from layer_values import (
    CLASSIFIER,
    SMOKE,
    Layer,
    Sizes,
    initial_layers,
    measures,
    second_moments,
    top_class,
    trained_layers,
)
from PIL import Image
from torch import Tensor

from da_wa.data.digits import digits
from da_wa.data.domains import read_domain
from da_wa.data.images import Images
from da_wa.errors import ConfigError, DataError, UserError
from da_wa.norm import named
from da_wa.records.files import write_atomically
from da_wa.report.figures.style import COLOURS, plain_style, rendered

NORMS = ("none", "wa", "bn", "bn_wa", "gn", "gn_wa", "in", "in_wa", "ln", "ln_wa")
CHECKPOINTS = Path(__file__).resolve().parents[1] / "da_wa" / "checkpoints"
SHOWN = 8
"""Channels in a figure: the first ones of a layer. The tables are about all of them."""


# Tables and figures


def curve_values(rows: Tensor, most: int = 1000) -> pd.DataFrame:
    """At most ``most`` values of the first channels, drawn at random, as columns ``channel`` and ``value``."""
    chosen = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(0))[:most]
    shown = rows[:SHOWN, chosen]
    channels = torch.arange(len(shown)).repeat_interleave(shown.shape[1])
    return pd.DataFrame({"channel": channels.numpy(), "value": shown.flatten().numpy()})


def pipe_table(frame: pd.DataFrame) -> str:
    """A Markdown table with the index as its first columns; what is not there is a dash."""
    cells = frame.reset_index().astype(object).fillna("–")
    rule = ["---", *["---:"] * (len(cells.columns) - 1)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in [cells.columns, rule, *cells.to_numpy()])


def distribution_table(found: pd.DataFrame) -> str:
    """A row for every norm, the measures of every layer."""
    layers = found["layer"].unique()
    wide = found.pivot(index="norm", columns="layer", values=["offset", "spread", "skewness", "top_class"])
    wide = wide.swaplevel(axis=1).reindex(found["norm"].unique())[layers].dropna(axis=1, how="all")
    wide = wide.map("{:.2f}".format)
    wide.columns = [f"{layer}: {measure.replace('_', ' ')}" for layer, measure in wide.columns]
    return pipe_table(wide)


def growth_table(found: pd.DataFrame) -> str:
    """The factor of the second moment per step, the geometric mean, and from the first step to the last."""
    ends = found.groupby(["network", "start"], sort=False)["second_moment"].agg(["first", "last", "size"])
    total = ends["last"] / ends["first"]
    text = (total ** (1 / (ends["size"] - 1))).map("{:.3f}".format) + total.map(" ({:.2g})".format)
    wide = text.unstack("start")
    return pipe_table(wide.loc[found["network"].unique(), found["start"].unique()])


def picture(grid: sns.axisgrid.Grid, colours: int = 48) -> bytes:
    """A png with a palette: a third of the size, and no difference to see."""
    with Image.open(io.BytesIO(rendered(grid.figure, "png"))) as image:
        small = io.BytesIO()
        image.convert("RGB").quantize(colours).save(small, "png", optimize=True)
    return small.getvalue()


def draw_distributions(values: pd.DataFrame, tails: float = 0.005) -> bytes:
    """A figure (png) with a row for every norm, a column for every layer, a curve for every channel.

    Args:
        values: columns ``norm``, ``layer``, ``channel`` and ``value``.
        tails: the share of a layer's values, over all norms, that lies outside at either end.
    """
    limits = values.groupby("layer")["value"].quantile([tails, 1 - tails]).unstack()

    def draw(data: pd.DataFrame, **_: object) -> None:
        ends = tuple(limits.loc[data["layer"].iloc[0]])
        palette = sns.color_palette("cividis", data["channel"].nunique())
        sns.kdeplot(
            data, x="value", hue="channel", palette=palette, clip=ends, common_norm=False, warn_singular=False,
            legend=False, linewidth=0.8,
        )  # fmt: skip

    with plain_style():
        grid = sns.FacetGrid(
            values, row="norm", col="layer", sharex="col", sharey=False, height=1.0, aspect=3.6, margin_titles=True
        )
        grid.map_dataframe(draw)
        grid.set_titles(row_template="{row_name}", col_template="{col_name}")
        grid.set(yticks=[], ylabel="", xlabel="")
        grid.refline(x=0, color="0.6", linestyle=":", linewidth=0.8)
        return picture(grid)


def draw_growth(found: pd.DataFrame) -> bytes:
    """A figure (png): the second moment against the layer or block, relative to the first; a panel per network."""
    first = found.groupby(["network", "start"])["second_moment"].transform("first")
    with plain_style():
        grid = sns.relplot(
            found.assign(relative=found["second_moment"] / first),
            x="step", y="relative", hue="start", style="start", col="network", col_wrap=3, kind="line",
            palette=COLOURS[: found["start"].nunique()], height=2.2, aspect=1.15, linewidth=1.4,
            facet_kws={"sharex": False, "sharey": False},
        )  # fmt: skip
        grid.set(yscale="log").set_axis_labels("layer or block", "second moment / first")
        grid.set_titles("{col_name}")
        sns.move_legend(grid, "upper center", bbox_to_anchor=(0.45, 0), ncols=3, title="")
        return picture(grid)


@dataclass(frozen=True)
class Outcome:
    """What a part leaves.

    Attributes:
        found: the table that becomes a csv file.
        figures: png files by name.
        tables: for the page, in Markdown, by name.
    """

    found: pd.DataFrame
    figures: Mapping[str, bytes]
    tables: Mapping[str, str]


Shown = Mapping[str, tuple[str, Sequence[str]]]
"""Name of a figure and table -> the quantity and the layers it shows."""


def selections(frame: pd.DataFrame, shown: Shown) -> dict[str, pd.DataFrame]:
    """The rows of ``frame`` that each figure and table shows."""
    return {
        name: frame[(frame["quantity"] == quantity) & frame["layer"].isin(layers)]
        for name, (quantity, layers) in shown.items()
    }


def distribution_tables(found: pd.DataFrame, shown: Shown) -> dict[str, str]:
    """Tables of measures, in Markdown, by name."""
    return {name: distribution_table(rows) for name, rows in selections(found, shown).items()}


def distributions(layers: Iterable[Layer], shown: Shown) -> Outcome:
    """Measure all layers, draw and tabulate some."""
    rows, values = [], []
    for layer in layers:
        key = {"norm": layer.norm, "layer": layer.layer, "quantity": layer.quantity}
        answers = {"top_class": top_class(layer.rows)} if layer.layer == CLASSIFIER else {}
        rows.append({**key, **measures(layer.rows), **answers})
        values.append(curve_values(layer.rows).assign(**key))
    found, curves = pd.DataFrame(rows), selections(pd.concat(values), shown)
    figures = {name: draw_distributions(chosen) for name, chosen in curves.items()}
    return Outcome(found, figures, distribution_tables(found, shown))


# The parts of the command


def find_checkpoint(folder: Path, norm: str) -> Path:
    """The checkpoint of ``norm`` in ``folder``.

    Raises:
        ConfigError: there is none, or more than one.
    """
    found = sorted(folder.glob(f"resnet20-*-{norm}-*.safetensors"))
    if len(found) != 1:
        listed = ", ".join(path.name for path in found) or "none"
        raise ConfigError(
            f"{folder} needs one file resnet20-*-{norm}-*.safetensors; found: {listed}. Leave {norm} out of --norms, "
            f"or train it: run_office31.py experiment=checkpoints norms=[{norm}] checkpoint_dir={folder}"
        )
    return found[0]


def image_batch(folder: Path | None, count: int) -> Tensor:
    """Images at random from ``folder/<class>/…``, or of the built-in natural digits: (count, 3, 32, 32) uint8.

    Raises:
        DataError: the folder cannot be used, or holds too few images.
    """
    images: Images = digits()["N"].images if folder is None else read_domain(folder).images
    if len(images) < count:
        raise DataError(f"{folder} holds {len(images)} images; {count} are needed")
    chosen = np.random.default_rng(0).permutation(len(images))[:count]
    return torch.from_numpy(np.stack([images.decode(index, 32) for index in chosen]))


def initial(options: argparse.Namespace, sizes: Sizes) -> Outcome:
    """Figs. 2, 7 and 8: a plain network at initialisation."""
    return distributions(initial_layers(options.norms, sizes), INITIAL)


def trained(options: argparse.Namespace, sizes: Sizes) -> Outcome:
    """Figs. 4 and 5: trained networks."""
    checkpoints = {name: find_checkpoint(options.checkpoints, name) for name in options.norms}
    return distributions(trained_layers(checkpoints, image_batch(options.images, sizes.batch)), TRAINED)


def growth(options: argparse.Namespace, sizes: Sizes) -> Outcome:
    """The growth of the second moment; it is not about ``options.norms``."""
    found = second_moments(sizes)
    return Outcome(found, {"growth": draw_growth(found)}, {"growth": growth_table(found)})


PARTS = (initial, trained, growth)
INITIAL = {"initial": ("activations", ["layer 3", CLASSIFIER])}
TRAINED = {
    "trained_weights": ("weights", ["block 5", "block 9"]),
    "trained_activations": ("activations", ["block 5", CLASSIFIER]),
}


def save(outcome: Outcome, name: str, folder: Path) -> None:
    """Write the csv and the figures, and print the tables.

    Raises:
        DataError: the folder cannot be written.
    """
    files = {f"{name}.csv": outcome.found.to_csv(index=False, float_format="%.5g").encode()}
    files |= {f"figures/{figure}.png": png for figure, png in outcome.figures.items()}
    for path, content in files.items():
        write_atomically(folder / path, partial(_write, content))
    for table, markdown in outcome.tables.items():
        print(f"{table}\n\n{markdown}\n", flush=True)


def _write(content: bytes, file: IO[bytes]) -> None:
    file.write(content)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status, 2 when something given to it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/why"), help="folder of the csv files and figures/")
    parser.add_argument("--norms", nargs="+", default=NORMS, metavar="NORM", help="files of conf/norm")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="folder of the trained ResNet20")
    parser.add_argument("--images", type=Path, help="class folders; without it the built-in digits")
    names = [part.__name__ for part in PARTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="some of the three measurements")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args(argv)
    mpl.use("Agg")
    try:
        for name in options.norms:
            named(name)  # a wrong one is told before anything is computed
        for part in PARTS:
            if part.__name__ in options.only:
                save(part(options, SMOKE if options.smoke else Sizes()), part.__name__, options.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
