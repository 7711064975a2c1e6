"""The measurements of docs/why_it_works.md against formulas, and the page against its tables."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from da_wa.cli import main
from da_wa.config.make import make
from da_wa.data.folders import from_folders
from da_wa.errors import ConfigError, DataError
from da_wa.models.checkpoint import Header, save
from da_wa.models.plain import plain_network
from da_wa.models.resnet import Bottleneck, ResNet, init_kaiming
from da_wa.models.responses import blocks, last_conv, responses
from da_wa.norm import named
from da_wa.report.distributions import measures, quantiles, top_class
from da_wa.report.why import SHOWN, branch_table, distribution_tables, growth_table
from da_wa.studies.layer_values import (
    branch_shares,
    image_batch,
    residual_network,
    shipped,
    trained_layers,
    trained_network,
)
from da_wa.studies.run import composed
from da_wa.studies.why import find_network

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "why_it_works.md"
BUILD = shipped("model", "resnet20").build
NORMALIZE = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def checkpoints(tmp_path):
    """A ResNet20 with WA whose weights and gains have moved, as training moves them."""
    model = residual_network("resnet20", "wa", 8)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(0.3).add_(0.1)
                module.gain.uniform_(0.2, 1.2)
        model.head.weight.normal_()
    save(tmp_path / "resnet20-cifar100-wa-0.safetensors", model, Header({"normalize": NORMALIZE}, {}))
    return tmp_path


def block_moments(norm, widths, init=lambda model: None, count=7):
    """The second moment behind each of some bottlenecks of one stage, all but the first with an identity shortcut."""
    model = ResNet(named(norm), 2, block=Bottleneck, depths=[count], widths=[widths])
    init(model)
    rows = responses(model, blocks(model), torch.randn(2, 3, 16, 16))
    return np.array([r.double().square().mean().item() for r in rows])


INSIDE = ((3 * 16 - 2) / (3 * 16)) ** 2
"""The share of a 3×3 filter's positions that fall inside a 16×16 map, not on its border of zeros."""


def mean_field(branch_variance, count=7, draws=200_000):
    """E[x²] behind ``x <- relu(x + N(0, v))`` from a centred start: infinitely many channels."""
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal(draws), 0)
    moments = [np.mean(x**2)]
    for _ in range(count - 1):
        v = branch_variance(np.mean(x**2), np.mean(x))
        x = np.maximum(x + math.sqrt(v) * rng.standard_normal(draws), 0)
        moments.append(np.mean(x**2))
    return np.array(moments)


@pytest.mark.parametrize(("norm", "expected"), [("wa", 1 - 1 / math.pi), ("scaled_ws", 1.0), ("bn", 1.0)])
def test_a_plain_relu_layer_multiplies_the_variance_by(norm, expected):
    network = plain_network(named(norm), layers=6, width=64, side=8)
    rows = responses(network, list(network)[0:-2:2], torch.randn(4, 3, 8, 8))
    found = [measures(r)["second_moment"] for r in rows]
    # From the first layer on, whose input is centred: there nothing is lost.
    assert (found[-1] / found[0]) ** (1 / 5) == pytest.approx(expected, rel=0.03)


def test_a_plain_network_without_norm_drifts_and_wa_does_not():
    offsets = {}
    for norm in ("none", "wa"):
        network = plain_network(named(norm), layers=7, width=64, side=8)
        rows = responses(network, list(network)[0:-2:2], torch.randn(8, 3, 8, 8))
        offsets[norm] = [measures(r)["offset"] for r in rows]
    assert offsets["none"][6] > 0.4 > 0.1 > offsets["none"][0]
    assert max(offsets["wa"]) < 0.1


def test_every_norm_starts_from_the_same_weights():
    def weights(norm):
        network = plain_network(named(norm), layers=3, width=8, side=4)
        return [m.weight for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]

    for norm in ("wa", "bn", "ln_wa"):
        assert all(torch.equal(a, b) for a, b in zip(weights("none"), weights(norm), strict=True))


def test_outputs_are_those_before_a_relu_in_place():
    network = plain_network(named("none"), layers=2, width=8, side=4)
    x = torch.randn(5, 3, 4, 4)
    (rows,) = responses(network, [network[0]], x)
    expected = torch.nn.functional.conv2d(nn.functional.pad(x, (1, 1, 1, 1), mode="circular"), network[0][0].weight)
    torch.testing.assert_close(rows, expected.transpose(0, 1).reshape(8, -1))
    assert rows.min() < 0


@pytest.mark.parametrize(
    ("norm", "init", "variance"),
    [
        ("none", init_kaiming, lambda square, mean: 2 * square * INSIDE),
        ("wa", lambda model: None, lambda square, mean: 2 * (square - mean**2) * (1 - 1 / math.pi) ** 2),
    ],
)
def test_residual_growth_is_that_of_the_mean_field(norm, init, variance):
    found, expected = block_moments(norm, 64, init), mean_field(variance)
    growth, theory = ((m[-1] / m[0]) ** (1 / 6) for m in (found, expected))
    assert growth == pytest.approx(theory, rel=0.06)


def test_fixup_keeps_the_second_moment_within_a_stage():
    for norm, gain_init in (("none", "one"), ("wa", "fixup")):
        model = residual_network("resnet20", norm, gain_init=gain_init)
        rows = responses(model, blocks(model), torch.randn(2, 3, 16, 16))
        moments = np.array([r.square().mean().item() for r in rows]).reshape(3, 3)
        np.testing.assert_allclose(moments / moments[:, :1], 1, rtol=1e-6)


def test_aligned_weights_have_mean_zero_and_the_gains_deviation(checkpoints):
    path = find_network(checkpoints, "resnet20", "wa")
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    layers = list(trained_layers(path, BUILD, named("wa"), images))
    weights = {layer.layer: layer.rows.double() for layer in layers if layer.quantity == "weights"}
    model = trained_network(path, partial(make(BUILD), named("wa")))
    for number, n in ((5, 9 * 32), (9, 9 * 64)):
        rows = weights[f"block {number}"]
        gain = last_conv(blocks(model)[number - 1]).gain.detach().double()
        assert rows.shape[1] == n
        torch.testing.assert_close(rows.mean(1), torch.zeros_like(gain), atol=1e-7, rtol=0)
        torch.testing.assert_close(rows.std(1, correction=0), gain * math.sqrt(2 / n), rtol=1e-5, atol=0)


def test_activations_of_a_trained_network_are_its_logits_and_branches(checkpoints):
    path = find_network(checkpoints, "resnet20", "wa")
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    layers = [layer for layer in trained_layers(path, BUILD, named("wa"), images) if layer.quantity == "activations"]
    assert [(layer.layer, *layer.rows.shape) for layer in layers] == [
        ("block 5", 32, 4 * 16 * 16),
        ("block 9", 64, 4 * 8 * 8),
        ("classifier", 8, 4),
    ]
    x = (images.float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(layers[-1].rows.T, trained_network(path, partial(make(BUILD), named("wa")))(x).detach())


def test_measures_of_known_distributions():
    draw = torch.Generator().manual_seed(1)
    normal = torch.randn(4, 50_000, generator=draw)
    shifted = measures(normal + torch.tensor([1.0, -1, 1, -1])[:, None])
    assert shifted["second_moment"] == pytest.approx(2, rel=0.02)
    assert shifted["offset"] == pytest.approx(0.5, abs=0.01)
    assert shifted["spread"] == pytest.approx(0, abs=0.01)
    assert shifted["skewness"] == pytest.approx(0, abs=0.03)
    wide = measures(normal * torch.tensor([1.0, 3, 1, 3])[:, None])
    assert wide["spread"] == pytest.approx(0.5, abs=0.01)  # deviations 1 and 3: mean 2, deviation 1
    exponential = measures(-torch.log(torch.rand(2, 200_000, generator=draw).clamp_min(1e-9)))
    assert exponential["skewness"] == pytest.approx(2, abs=0.1)
    dead = torch.cat([normal, torch.full((1, 50_000), 0.3)])
    assert math.isfinite(measures(dead)["skewness"])


def test_top_class():
    logits = torch.tensor([[1.0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    assert top_class(logits) == 0.75


@pytest.mark.parametrize("norm", ["bn", "wa"])
def test_branch_shares_are_those_of_the_variances_of_the_two_terms(norm):
    model = residual_network("resnet20", norm, 8).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    block, x = model.stages[1][0], torch.randn(4, 3, 32, 32)  # with a shortcut that is a convolution
    with torch.no_grad():
        seen = model.stages[0](model.stem(x))
        if norm == "bn":
            branch, shortcut = block.branch(seen), block.shortcut(seen)
            last = block.branch[-1]
        else:
            shifted = seen + block.before[0].value
            inside = torch.relu(block.branch[0](shifted) + block.after[0].value) + block.before[1].value
            branch, shortcut = block.multiplier.value * block.branch[1](inside), block.shortcut(shifted)
            last = block.multiplier
    first, second = (term.double().var((0, 2, 3), correction=0).sum().item() for term in (branch, shortcut))
    shares = branch_shares(model, x)
    assert len(shares) == 9
    assert shares[3] == pytest.approx(first / (first + second), rel=1e-5)
    with torch.no_grad():
        next(last.parameters()).zero_()
    assert branch_shares(model, x)[3] == 0


def test_growth_table_is_the_geometric_mean_and_the_total():
    found = pd.DataFrame(
        [("net", "start", step, 3.0 * 2.0**step) for step in range(1, 6)],
        columns=["network", "start", "step", "second_moment"],
    )
    assert growth_table(found).splitlines()[-1] == "| net | 2.000 (16) |"


def test_the_command_writes_tables_and_figures(checkpoints, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["study=why", "scope=smoke", "norms=[wa]", f"checkpoint_dir={checkpoints}", f"out={out}"]
    for stage in ("initial", "growth", "trained"):
        assert main([*command, f"stage={stage}"]) == 0
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    figures = [f"figures/{name}.png" for name in ("growth", "initial", "trained_activations", "trained_weights")]
    assert written == sorted([*figures, "branches.csv", "growth.csv", "initial.csv", "trained.csv"])
    assert list(pd.read_csv(out / "branches.csv")["block"]) == list(range(1, 10))
    trained = pd.read_csv(out / "trained.csv").query("quantity == 'weights'")
    assert list(trained["layer"]) == ["block 5", "block 9"]
    assert (trained["offset"] < 1e-10).all()
    assert "| WA |" in capsys.readouterr().out


def test_over_epochs_measures_the_weights_that_runs_kept(tmp_path, domains_root, one_thread):
    out = tmp_path / "out"
    command = [
        "study=why", "scope=smoke", "stage=over_epochs", "norms=[wa,none]", "finetune.epochs=2", "keep_epochs=[0,1,2]",
        "finetune.batch_size=8", "keep=[weights]", f"out={out}", f"cache_dir={tmp_path / 'cache'}", "data=folders",
        f"data.root={domains_root}", "sources=[paper]", "launcher.workers=1", "launcher.threads=1",
    ]  # fmt: skip
    assert main(command) == 0
    found = pd.read_csv(out / "over_epochs.csv")
    assert {*map(tuple, found[["norm", "epoch", "layer", "quantity"]].to_numpy())} == {
        (norm, epoch, layer, quantity)
        for norm in ("WA", "Baseline")
        for epoch in (0, 1, 2)
        for layer, quantity in [
            ("block 2", "weights"), ("block 3", "weights"),
            ("block 2", "activations"), ("block 3", "activations"), ("classifier", "activations"),
        ]
    }  # fmt: skip
    aligned = found[(found["norm"] == "WA") & (found["quantity"] == "weights")]
    assert (aligned["offset"] < 1e-10).all()
    start = aligned[aligned["epoch"] == 0]  # all gains are 1, filters have n = 9 · 8 weights
    np.testing.assert_allclose(start["std"], math.sqrt(2 / 72), rtol=1e-3)
    fixup = found[(found["norm"] == "Baseline") & (found["epoch"] == 0)]  # its last layers start at zero
    assert (fixup["second_moment"] == 0).all() and fixup["offset"].isna().all()
    runs = {path.name[:2]: path for path in (out / "over_epochs" / "runs").iterdir()}
    kept = [load_file(runs["wa"] / f"weights-{epoch}.safetensors") for epoch in (0, 1, 2)]
    last = load_file(runs["wa"] / "weights.safetensors")
    assert all(torch.equal(tensor, kept[2][name]) for name, tensor in last.items())
    for before, after in pairwise(kept):
        assert not torch.equal(before["head.weight"], after["head.weight"])

    done = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    content = (out / "over_epochs.csv").read_bytes()
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert (out / "over_epochs.csv").read_bytes() == content
    (runs["wa"] / "weights-1.safetensors").unlink()
    assert main(command) == 2


def test_quantiles_are_those_of_all_values():
    normal = np.random.default_rng(0).standard_normal((4, 50_000))
    found = quantiles(2 * normal + 1)
    assert found["std"] == pytest.approx(2, rel=0.01)
    assert [found[name] for name in ("q05", "q50", "q99")] == pytest.approx(
        [1 - 2 * 1.6449, 1, 1 + 2 * 2.3263], abs=0.03
    )


@pytest.mark.parametrize("scope", ["full", "small", "smoke"])
def test_every_scope_composes(scope):
    (experiment,) = composed(["study=why", f"scope={scope}"]).values()
    assert {"bn", "wa"} <= set(experiment.norms)
    assert experiment.cfg["sources"] == ["N"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["norms=[bn]"], "resnet20-*-bn-*.safetensors"),
        (["norms=[bn_va]"], "bn_wa"),
        (["data=folders", "data.root=nowhere"], "nowhere"),
        (["sources=[]"], "no images to measure"),
        (["scope=smal"], "Did you mean 'small'"),
        (["stage=trainde"], "Did you mean 'trained'"),
        (["nroms=[wa]"], "there is no option 'nroms'"),
        (["model=vgg16", "norms=[wa]"], "vgg16-*-wa-*.safetensors"),
        (["methods=[none,dann]"], "compares norms alone"),
    ],
)
def test_what_cannot_be_used_is_named(checkpoints, tmp_path, capsys, options, said):
    command = ["study=why", "scope=smoke", "stage=trained", "norms=[wa]", f"checkpoint_dir={checkpoints}"]
    assert main([*command, f"out={tmp_path}", *options]) == 2
    assert said in capsys.readouterr().err


def test_a_domain_of_few_images_is_named(draw_tree, tmp_path):
    few = from_folders(draw_tree(tmp_path, domains=("few",), per_class=2))["few"]
    with pytest.raises(DataError, match="6 images; 16"):
        image_batch(few, 16, 32)
    assert image_batch(few, 6, 32).shape == (6, 3, 32, 32)


def test_a_network_without_blocks_is_named():
    with pytest.raises(ConfigError, match="model=resnet20"):
        blocks(nn.Sequential())


def test_the_page_shows_the_tables_of_the_command():
    names = ("initial", "trained", "growth", "branches")
    initial, trained, growth, branches = (pd.read_csv(PAGE.with_name(f"{name}.csv")) for name in names)
    tables = [
        branch_table(branches),
        growth_table(growth),
        *distribution_tables(initial, SHOWN["initial"](initial)).values(),
        *distribution_tables(trained, SHOWN["trained"](trained)).values(),
    ]
    page = PAGE.read_text()
    assert [table for table in tables if table not in page] == []
