"""Why WeightAlign works, measured: what becomes of weights and activations with every norm.

Writes tables (csv) and figures (png) of three measurements: a plain network at initialisation (the paper's
Figs. 2, 7 and 8), trained networks (Figs. 4 and 5), and how the second moment grows with depth.

    uv run benchmarks/why_it_works.py --out docs                    # docs/why_it_works.md is about its outcome
    uv run benchmarks/why_it_works.py --norms none wa bn --images PATH/cifar100/test
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file
from scipy import stats
from torch import Tensor, nn

from da_wa._conf import conf_dir
from da_wa.data.augment import Normalise
from da_wa.data.digits import digits
from da_wa.data.domains import Images, read_domain
from da_wa.errors import ConfigError, DataError, UserError
from da_wa.models.backbone import Backbone
from da_wa.models.checkpoint import load_backbone, read_header
from da_wa.models.resnet import init_kaiming
from da_wa.norm import NormalisedConv2d, Norm, fold, named
from da_wa.report.figures.style import COLOURS, plain_style, rendered
from da_wa.runs.ledger import write_atomically

NORMS = ("none", "wa", "bn", "bn_wa", "gn", "gn_wa", "in", "in_wa", "ln", "ln_wa")
CHECKPOINTS = Path(__file__).resolve().parents[1] / "da_wa" / "checkpoints"
SHOWN = 8
"""Channels in a figure: the first ones of a layer. The tables are about all of them."""


@dataclass(frozen=True)
class Sizes:
    """How much is computed.

    Attributes:
        batch: images, of noise or real.
        side: of the plain network's input, in pixels; a residual network sees 32.
        width: channels of the plain network.
        layers: convolutions of the plain network whose growth is measured.
        draws: images whose growth is measured.
        depths: the residual networks whose growth is measured.
    """

    batch: int = 128
    side: int = 16
    width: int = 64
    layers: int = 20
    draws: int = 4
    depths: tuple[int, ...] = (18, 34, 50, 101, 152)


SMOKE = Sizes(batch=16, side=4, width=16, layers=4, draws=1, depths=(18,))


# Networks


def plain_network(norm: Norm, *, layers: int, width: int, side: int, classes: int = 10) -> nn.Sequential:
    """Convolutions without shortcuts, then one linear classifier: Kaiming initialisation, no biases (Sec. III-D).

    The borders are circular, since zeros there would lower the second moment. The same random state gives
    every norm the same raw weights.

    Args:
        norm: how it normalises.
        layers: 3×3 convolutions.
        width: channels of each.
        side: of the images, in pixels. The classifier sees every pixel of the last map.
        classes: its outputs.

    Returns:
        ``[convolution and norm, non-linearity] · layers, flatten, classifier``.
    """
    modules: list[nn.Module] = []
    for c_in in (3, *[width] * (layers - 1)):
        conv = norm.conv(c_in, width, 3, padding=1, padding_mode="circular", bias=False)
        after = nn.Identity() if norm.activation is None else norm.activation(width)
        modules += [nn.Sequential(conv, after), norm.nonlinearity(width)]
    network = nn.Sequential(*modules, nn.Flatten(), nn.Linear(width * side**2, classes, bias=False))
    for module in network.modules():
        if isinstance(module, NormalisedConv2d):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network


def residual_network(name: str, norm: str, classes: int, gain_init: str = "one") -> Backbone:
    """The network of ``conf/model/<name>.yaml`` at its initialisation."""
    config = OmegaConf.load(conf_dir() / "model" / f"{name}.yaml")
    config.gain_init = gain_init
    model: Backbone = instantiate(config.build)(named(norm), classes)
    return model


def trained_network(path: Path, norm: str) -> Backbone:
    """The ResNet20 of a checkpoint with its classifier, in evaluation mode.

    Raises:
        CheckpointError: the file is no checkpoint, or of another architecture or norm.
    """
    read_header(path)
    weights = load_file(path)
    model = residual_network("resnet20", norm, len(weights["head.bias"]))
    load_backbone(path, model)
    model.load_state_dict(weights)  # the head, too
    return model.eval()


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


def blocks(model: Backbone) -> list[nn.Module]:
    """The residual blocks from the first to the last."""
    return [block for stage in model.get_submodule("stages").children() for block in stage.children()]


def last_conv(block: nn.Module) -> str:
    """The name, within a residual block, of the last convolution of its branch."""
    return [name for name, m in block.named_modules() if name.startswith("branch") and isinstance(m, nn.Conv2d)][-1]


# Measures


@torch.no_grad()
def outputs(model: nn.Module, modules: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """What each of ``modules`` gives while ``model`` sees ``x``, as rows of channels: (channels, values)."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, arguments: object, output: Tensor) -> None:
        kept.append(output.transpose(0, 1).flatten(1).clone())  # a ReLU may overwrite the output

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return kept


def measures(rows: Tensor) -> dict[str, float]:
    """What a distribution is like, from rows of channels (or filters) of equal length, (channels, values).

    ``second_moment``: mean of squares. ``offset``: the share of it that is the squares of the channels' means, 0
    when every channel is centred and 1 when all are constant. ``spread``: the standard deviation of the channels'
    standard deviations over their mean, 0 when all are equally wide. ``skewness``: its absolute value, the
    median over the channels that are not constant.
    """
    x = rows.double().numpy()
    second, std = np.square(x).mean(), x.std(1)
    wide = x[std > 1e-6 * np.sqrt(second)]
    return {
        "second_moment": float(second),
        "offset": float(np.square(x.mean(1)).mean() / second),
        "spread": float(std.std() / std.mean()),
        "skewness": float(np.median(np.abs(stats.skew(wide, axis=1)))),
    }


def top_class(logits: Tensor) -> float:
    """The share of the images, (classes, images), that get the most frequent answer."""
    return logits.argmax(0).bincount().max().item() / logits.shape[1]


def curves(rows: Tensor, most: int = 1000) -> pd.DataFrame:
    """At most ``most`` values of the first channels, drawn at random, as columns ``channel`` and ``value``."""
    shown = rows[:SHOWN, torch.randperm(rows.shape[1])[:most]]
    channels = torch.arange(len(shown)).repeat_interleave(shown.shape[1])
    return pd.DataFrame({"channel": channels.numpy(), "value": shown.flatten().numpy()})


# The three measurements


@dataclass(frozen=True)
class Layer:
    """The values of one layer.

    Attributes:
        norm: the norm's label.
        network: ``initial`` or ``trained``.
        layer: the layer.
        quantity: ``weights`` or ``activations``.
        rows: (channels, values).
    """

    norm: str
    network: str
    layer: str
    quantity: str
    rows: Tensor

    @property
    def key(self) -> dict[str, str]:
        """Everything but the values."""
        return {"norm": self.norm, "network": self.network, "layer": self.layer, "quantity": self.quantity}


CLASSIFIER = "classifier"


def initial_layers(names: Sequence[str], sizes: Sizes) -> Iterator[Layer]:
    """The responses of an 8-layer network to noise, before the non-linearity, and its classifier's outputs."""
    for name in names:
        norm = named(name)
        torch.manual_seed(0)
        network = plain_network(norm, layers=7, width=sizes.width, side=sizes.side).train()  # BN: the batch's statistics
        noise = torch.randn(sizes.batch, 3, sizes.side, sizes.side)
        *maps, logits = outputs(network, [*network[0:-2:2], network[-1]], noise)
        for number, rows in enumerate(maps, start=1):
            yield Layer(norm.label, "initial", f"layer {number}", "activations", rows)
        yield Layer(norm.label, "initial", CLASSIFIER, "activations", logits)


def trained_layers(checkpoints: dict[str, Path], images: Tensor) -> Iterator[Layer]:
    """The filters that a trained ResNet20 computes with, and its responses to ``images`` (n, 3, h, w) uint8.

    The layers are the last of the residual branch, in the middle block and in the last.
    """
    for name, path in checkpoints.items():
        label, model = named(name).label, trained_network(path, name)
        every, plain = blocks(model), blocks(fold(model))
        chosen = {f"block {number}": number - 1 for number in (len(every) // 2 + 1, len(every))}
        for layer, index in chosen.items():
            weight = plain[index].get_submodule(last_conv(plain[index])).get_parameter("weight").detach()
            yield Layer(label, "trained", layer, "weights", weight.flatten(1))
        branches = [every[index].get_submodule("branch") for index in chosen.values()]
        ends = [list(branch.children())[-1] for branch in branches]
        x = Normalise(**read_header(path).recipe["normalise"])(images)
        for layer, rows in zip((*chosen, CLASSIFIER), outputs(model, [*ends, model.head], x), strict=True):
            yield Layer(label, "trained", layer, "activations", rows)


def beginnings(sizes: Sizes) -> Iterator[tuple[str, str, nn.Module, Sequence[nn.Module]]]:
    """Networks at initialisation: name, how it starts, the network, and its layers or blocks in order."""

    def residual(start: str, norm: str, gain_init: str = "one") -> tuple[str, str, Backbone, Sequence[nn.Module]]:
        torch.manual_seed(0)
        model = residual_network(f"resnet{depth}", norm, 10, gain_init)
        return f"ResNet{depth}", start, model, blocks(model)

    for start, norm in {"Kaiming": "none", "WA, gain 1": "wa", "scaled WS": "scaled_ws", "BN": "bn"}.items():
        torch.manual_seed(0)
        model = plain_network(named(norm), layers=sizes.layers, width=sizes.width, side=32)
        yield f"plain, {sizes.layers} layers", start, model, model[0:-2:2]
    for depth in sizes.depths:
        kaiming = residual("Kaiming", "none")
        init_kaiming(kaiming[2])  # in the place of Fixup's initialisation
        yield kaiming
        yield residual("Fixup", "none")
        yield residual("WA, gain 1", "wa")
        yield residual("WA, Fixup's gain", "wa", "fixup")
        yield residual("BN", "bn")


def growth(sizes: Sizes) -> pd.DataFrame:
    """The second moment behind every layer or block at initialisation, for noise.

    Returns:
        Columns ``network``, ``start``, ``step`` (1, 2, …) and ``second_moment``.
    """
    noise = torch.randn(sizes.draws, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = []
    for network, start, model, steps in beginnings(sizes):
        for step, rows in enumerate(outputs(model.train(), steps, noise), start=1):
            found.append((network, start, step, rows.double().square().mean().item()))
    return pd.DataFrame(found, columns=["network", "start", "step", "second_moment"])


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


# Tables and figures


def pipe_table(frame: pd.DataFrame) -> str:
    """A Markdown table with the index as its first columns; what is not there is a dash."""
    cells = frame.reset_index().astype(object).fillna("–")
    lines = [cells.columns, ["---", *["---:"] * (len(cells.columns) - 1)], *cells.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def distribution_table(found: pd.DataFrame, network: str, quantity: str, layers: Sequence[str]) -> str:
    """The measures of ``layers``, a row for every norm."""
    chosen = found.query("network == @network and quantity == @quantity and layer in @layers")
    wide = chosen.pivot(index="norm", columns="layer", values=["offset", "spread", "skewness", "top_class"])
    wide = wide.reindex(chosen["norm"].unique()).dropna(axis=1, how="all").map("{:.2f}".format)
    wide = wide[[(measure, layer) for layer in layers for measure in wide.columns.unique(0) if (measure, layer) in wide]]
    wide.columns = [f"{layer}: {measure.replace('_', ' ')}" for measure, layer in wide.columns]
    return pipe_table(wide)


def growth_table(found: pd.DataFrame) -> str:
    """The factor of the second moment per step, the geometric mean, and from the first step to the last."""
    ends = found.groupby(["network", "start"], sort=False)["second_moment"].agg(["first", "last", "size"])
    total = ends["last"] / ends["first"]
    text = (total ** (1 / (ends["size"] - 1))).map("{:.3f}".format) + total.map(" ({:.2g})".format)
    wide = text.unstack("start")
    return pipe_table(wide.loc[found["network"].unique(), found["start"].unique()])


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
        return rendered(grid.figure, "png")


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
        grid.set(yscale="log", xlabel="layer or block", ylabel="second moment / first")
        grid.set_titles("{col_name}")
        sns.move_legend(grid, "upper center", bbox_to_anchor=(0.45, 0), ncols=found["start"].nunique(), title="")
        return rendered(grid.figure, "png")


FIGURES = {
    "initial": ("initial", "activations", ("layer 3", CLASSIFIER)),
    "trained_weights": ("trained", "weights", ("block 5", "block 9")),
    "trained_activations": ("trained", "activations", ("block 5", CLASSIFIER)),
}
"""Name of a figure -> the network, the quantity and the two layers it shows."""


def measure(layers: Iterable[Layer]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The measures of every layer, and the values that are drawn."""
    rows, drawn = [], []
    for layer in layers:
        answers = {"top_class": top_class(layer.rows)} if layer.layer == CLASSIFIER else {}
        rows.append(layer.key | measures(layer.rows) | answers)
        drawn.append(curves(layer.rows).assign(**layer.key))
    return pd.DataFrame(rows), pd.concat(drawn, ignore_index=True)


def run(options: argparse.Namespace) -> None:
    """Measure, write tables and figures, and print the tables of the page.

    Raises:
        UserError: a norm, a checkpoint or an image that cannot be used, or a folder that cannot be written.
    """
    sizes = SMOKE if options.smoke else Sizes()
    checkpoints = {name: find_checkpoint(options.checkpoints, name) for name in options.norms}
    images = image_batch(options.images, sizes.batch)

    initial, initial_values = measure(initial_layers(options.norms, sizes))
    trained, trained_values = measure(trained_layers(checkpoints, images))
    found, values = pd.concat([initial, trained]), pd.concat([initial_values, trained_values])
    grown = growth(sizes)

    for name, frame in {"distributions": found, "growth": grown}.items():
        text = frame.to_csv(index=False, float_format="%.5g")
        write_atomically(options.out / f"{name}.csv", lambda file, text=text: file.write(text.encode()))
    figures = {"growth": draw_growth(grown)}
    for name, (network, quantity, layers) in FIGURES.items():
        chosen = values.query("network == @network and quantity == @quantity and layer in @layers")
        figures[name] = draw_distributions(chosen)
        print(f"{name}\n\n{distribution_table(found, network, quantity, layers)}\n")
    print(f"growth\n\n{growth_table(grown)}")
    for name, png in figures.items():
        write_atomically(options.out / "figures" / f"{name}.png", lambda file, png=png: file.write(png))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status, 2 when something given to it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/why"), help="folder of the csv files and figures/")
    parser.add_argument("--norms", nargs="+", default=NORMS, metavar="NORM", help="files of conf/norm")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="folder of the trained ResNet20")
    parser.add_argument("--images", type=Path, help="class folders; without it the built-in digits")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs")
    try:
        run(parser.parse_args(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    mpl.use("Agg")
    sys.exit(main())
