"""What every method must prove, for networks with and without BatchNorm.

The class is a bright colour channel; the target has less contrast and a colour cast.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from da_wa.adapt import oracles
from da_wa.adapt.adaptable import adaptable
from da_wa.adapt.conformance import seeded_inputs
from da_wa.adapt.domain_norm import DomainNorm, separate_domains
from da_wa.adapt.losses import entropy
from da_wa.adapt.method import Method, Seen, Step
from da_wa.adapt.methods.mcc import MCC
from da_wa.adapt.methods.sar import SAR
from da_wa.config.make import make
from da_wa.config.methods import method_nodes
from da_wa.config.tree import folders
from da_wa.data.augment import Augment, Normalize
from da_wa.data.cache import DecodedDomain
from da_wa.data.splits import Full
from da_wa.errors import ConfigError, Diverged
from da_wa.models.backbone import Backbone
from da_wa.models.resnet import BasicBlock, ResNet
from da_wa.norm import fold, named
from da_wa.train import schedule, subsets
from da_wa.train.adaptation import Adaptation
from da_wa.train.recipe import Recipe
from da_wa.train.settings import Settings
from da_wa.train.train import Task, Trained, train

SETTINGS = Settings(accelerator="cpu", precision="32-true", channels_last=False, save_every_s=0.0)
NORMALIZE = Normalize([0.5] * 3, [0.25] * 3)


def domain(name: str, seed: int, contrast: tuple[int, int], cast: float = 0.0, n: int = 60) -> DecodedDomain:
    """Three classes shown by which colour channel is bright; ``cast`` is added to red."""
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    pixels = draw.normal(60, 25, (n, 3, 8, 8))
    pixels[np.arange(n), labels] += draw.uniform(*contrast, (n, 1, 1))
    pixels[:, 0] += cast
    digest = f"{name}-{seed}-{cast}"
    return DecodedDomain(
        name, np.clip(pixels, 0, 255).astype(np.uint8), labels, tuple(map(str, range(n))), digest, ("r", "g", "b")
    )


@dataclass(frozen=True)
class Run:
    """A network after training or adaptation, and how it got there."""

    model: ResNet
    trained: Trained
    method: Method | None

    @property
    def accuracy(self) -> float:
        """On the target, after the last epoch."""
        outputs = self.trained.outputs.domains["T"]
        return float(outputs.correct[-1] / len(outputs.index))

    def same_weights(self, other: Run) -> bool:
        """Whether no bit of network and method differs."""
        modules = [(self.model, other.model)]
        if self.method is not None and other.method is not None:
            modules.append((self.method, other.method))
        return all(
            one.state_dict().keys() == two.state_dict().keys()
            and all(torch.equal(tensor, two.state_dict()[key]) for key, tensor in one.state_dict().items())
            for one, two in modules
        )


def made(name: str, **build: Any) -> tuple[Method, dict[str, Any]]:
    """A method as ``conf/method`` has it, with other arguments, and how the training uses it."""
    node = method_nodes([name], [], {}, folders())[name]
    wide = {"width": 16} if "width" in node["build"] else {}
    method: Method = make({**node["build"], **wide, **build})
    return method, {key: node[key] for key in ("weight", "statistics", "order") if key in node}


def network(norm: str, seed: int = 0) -> ResNet:
    """Two blocks."""
    torch.manual_seed(seed)
    return ResNet(named(norm), 3, block=BasicBlock, depths=[1, 1], widths=[8, 16])


def run(
    folder: Path,
    domains: Sequence[DecodedDomain],
    model: ResNet,
    method: Method | None = None,
    *,
    epochs: int = 2,
    batch: int = 12,
    lr: float = 0.02,
    anneal: Callable[..., Any] = schedule.cosine,
    augment: Augment = Augment(),  # noqa: B008
    notify: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> Run:
    """Train on S, or adapt to T, with the training state in ``folder``."""
    folder.mkdir(exist_ok=True)
    if method is None:
        chosen, adaptation = subsets.transfer(domains, "S", Full(0.1), 0), None
    else:
        joint = method.phase == "joint"
        chosen = subsets.adaptation(domains, "S", "T", Full(0.1), 0, with_source=joint)
        adaptation = Adaptation(method, **options)
    recipe = Recipe(
        1 if method is not None and method.phase == "stream" else epochs,
        batch,
        partial(torch.optim.SGD, lr=lr, momentum=0.9),
        anneal,
        augment,
    )
    task = Task(
        model,
        chosen,
        NORMALIZE,
        SETTINGS,
        seed=0,
        state=folder / "last.ckpt",
        adaptation=adaptation,
        notify=notify,
    )
    return Run(model, train(recipe, task), method)


def test_an_adaptation_is_not_compiled_and_its_operations_are_not_counted(tmp_path, monkeypatch):
    """It calls parts of the network, which a compiled network does not compile."""
    monkeypatch.setattr(sys.modules[__name__], "SETTINGS", replace(SETTINGS, compile=True))
    monkeypatch.setattr("da_wa.train.train.count_flops", None)
    trained = run(tmp_path, SMALL, network("gn"), MCC(), epochs=1).trained
    assert trained.cost.settings.compile is None
    assert trained.cost.flops is None


def test_what_a_method_is_made_of_depends_on_the_seed_alone(tmp_path):
    """DANN's discriminator starts from the seed of the task, whatever was drawn before."""
    weights, found = network("gn").state_dict(), []
    for k, before in enumerate((5, 6)):
        model = network("gn")
        model.load_state_dict(weights)
        torch.manual_seed(before)
        found.append(run(tmp_path / str(k), SMALL, model, made("dann")[0], epochs=1).model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def permuted(of: DecodedDomain) -> DecodedDomain:
    """The same images with other labels."""
    return replace(of, labels=np.random.default_rng(1).permutation(of.labels))


SMALL = [domain("S", 0, (60, 120), n=30), domain("T", 1, (40, 90), 30.0, n=24)]
"""Source and target for tests that only compare weights."""


@pytest.fixture(scope="session")
def small_source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, torch.Tensor]]:
    """The weights after training on the source of :data:`SMALL`, by norm."""

    @cache
    def of(norm: str) -> dict[str, torch.Tensor]:
        return run(tmp_path_factory.mktemp(norm), SMALL, network(norm)).model.state_dict()

    return of


def start(method: Method, norm: str, weights: Callable[[str], dict[str, torch.Tensor]]) -> ResNet:
    """The network that a method starts from."""
    model = network(norm)
    if method.phase != "joint":
        model.load_state_dict(weights(norm))
    return model


def features_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters below the head."""
    return {name: p for name, p in model.named_parameters() if not name.startswith("head.")}


NORMS = ["bn", "bn_wa", "gn", "wa"]
METHODS = sorted(path.stem for path in (folders()[0] / "method").glob("*.yaml") if path.stem != "none")
JOINT = [name for name in METHODS if made(name)[0].phase == "joint"]
STREAMS = [name for name in METHODS if made(name)[0].phase == "stream"]
TRAINED = [name for name in METHODS if made(name)[0].trains]
"""All but AdaBN, which has no steps to interrupt."""
LEARNING = [name for name in STREAMS if hasattr(made(name)[0], "lr")]
"""Streams that take a step after each batch."""


def images(of, first=0, n=12):
    return NORMALIZE(torch.from_numpy(of.pixels[first : first + n]))


def labels(of, n=12):
    return torch.from_numpy(of.labels[:n])


def test_there_are_fifteen():
    assert len(METHODS) == 15


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, small_source):
    """The run of a method and a norm, made once."""
    known = {}

    def of(name, norm):
        if (name, norm) not in known:
            method, options = made(name)
            folder = tmp_path_factory.mktemp(f"{name}-{norm}")
            known[name, norm] = run(folder, SMALL, start(method, norm, small_source), method, **options)
        return known[name, norm]

    return of


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", METHODS)
def test_permuted_target_labels_change_no_bit_of_the_weights(undisturbed, small_source, tmp_path, name, norm):
    method, options = made(name)
    domains = [SMALL[0], permuted(SMALL[1])]
    other = run(tmp_path, domains, start(method, norm, small_source), method, **options)
    assert (domains[1].labels != SMALL[1].labels).any()
    assert other.same_weights(undisturbed(name, norm))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", [name for name in TRAINED if name not in STREAMS])
def test_interrupted_and_resumed_is_undisturbed(undisturbed, small_source, tmp_path, name, norm):
    def cut(done, total):
        raise RuntimeError("power cut")

    whole = undisturbed(name, norm)
    method, options = made(name)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, SMALL, start(method, norm, small_source), method, notify=cut, **options)
    again, _ = made(name)
    resumed = run(tmp_path, SMALL, start(again, norm, small_source), again, **options)
    assert resumed.trained.resumed_from == 1
    assert resumed.trained.cost.flops is None  # methods look at images more often than steps do
    assert resumed.same_weights(whole)
    assert resumed.trained.curve == whole.trained.curve
    assert (resumed.trained.outputs.domains["T"].logits == whole.trained.outputs.domains["T"].logits).all()


@pytest.mark.parametrize("norm", [*NORMS, "brn"])
@pytest.mark.parametrize("name", STREAMS)
def test_an_interrupted_stream_starts_anew(monkeypatch, undisturbed, small_source, tmp_path, name, norm):
    whole = undisturbed(name, norm)
    method, options = made(name)
    observe, seen = type(method).observe, []

    def interrupted(self, backbone, batch):
        seen.append(len(batch))
        if len(seen) == 2:
            raise RuntimeError("power cut")
        return observe(self, backbone, batch)

    with monkeypatch.context() as patch:
        patch.setattr(type(method), "observe", interrupted)
        with pytest.raises(RuntimeError, match="power cut"):
            run(tmp_path, SMALL, start(method, norm, small_source), method, **options)
    again, _ = made(name)
    resumed = run(tmp_path, SMALL, start(again, norm, small_source), again, **options)
    assert resumed.same_weights(whole)
    for one, two in zip(resumed.trained.online, whole.trained.online, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", JOINT)
def test_statistics_modes_are_one_function_without_batch_norm_only(tmp_path, name, norm):
    logits = {}
    for statistics in ("joint", "separate", "domain"):
        method, options = made(name)
        ran = run(
            tmp_path / statistics, SMALL, network(norm), method, epochs=1, **{**options, "statistics": statistics}
        )
        logits[statistics] = torch.from_numpy(ran.trained.outputs.domains["T"].logits[-1].astype("float32"))
    gaps = [float((logits["joint"] - logits[other]).abs().max()) for other in ("separate", "domain")]
    gaps.append(float((logits["separate"] - logits["domain"]).abs().max()))
    if norm in ("bn", "bn_wa"):
        assert min(gaps) > 1e-2
    else:
        assert max(gaps) < 5e-3  # logits are kept in half precision


def step_on(model, method, small, progress=0.5, n=12):
    """A step of ``method`` on the first images of the domains."""
    model.train()

    def seen(x):
        features = model.features(x)
        return Seen(features, model.head(features))

    source, target = seen(images(small[0], n=n)), seen(images(small[1], n=n))
    joint = method.phase == "joint"
    return Step(
        source if joint else None,
        labels(small[0], n) if joint else None,
        target,
        torch.arange(n),
        progress,
        lambda: seen(images(small[1], n=n).flip(3)),
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", [name for name in TRAINED if name not in (*STREAMS, "dsbn")])
def test_the_gradient_of_its_term_reaches_every_feature_parameter(small_source, name, norm):
    build = {"threshold": 0.0} if name == "fixmatch" else {}
    method, _ = made(name, **build)
    model = network(norm)
    model.load_state_dict(small_source(norm))
    method.build(model, 3, 24)
    sum(method.loss(step_on(model, method, SMALL)).values()).backward()
    for key, parameter in features_of(model).items():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    first = next(p for p in features_of(model).values() if p.ndim == 4)
    assert first.grad.abs().max() > 0


@pytest.mark.parametrize("name", [name for name in TRAINED if name not in (*STREAMS, "dsbn")])
def test_every_term_has_a_gradient_in_the_smallest_batch(small_source, name):
    """A method that had none would be training on the source only, under another name."""
    method, _ = made(name, **({"threshold": 0.0} if name == "fixmatch" else {}))
    model = network("gn")
    model.load_state_dict(small_source("gn"))
    method.build(model, 3, 24)
    for term, value in method.loss(step_on(model, method, SMALL, n=method.least_images)).items():
        model.zero_grad()
        value.backward(retain_graph=True)
        assert max(p.grad.abs().max() for p in features_of(model).values() if p.grad is not None) > 1e-6, term


@pytest.mark.parametrize("name", [name for name in TRAINED if name not in (*STREAMS, "dsbn")])
def test_logits_that_are_not_numbers_give_a_loss_that_is_none_and_no_error(name):
    """The run is then recorded as diverged."""
    method, _ = made(name)
    model = network("gn")
    method.build(model, 3, 12)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    step = step_on(model, method, SMALL)
    method.refresh(lambda: step.target)
    loss = sum(method.loss(step).values())
    assert loss.requires_grad
    if name != "fixmatch":  # no image is confident: its loss is 0, and that of the source is not a number
        assert not loss.isfinite()


WRONG = [
    ("adabn", "alpha", 2, "a number from 0 to 1"),
    ("adabn", "exact", "no", "true or false"),
    ("afn", "step", 0, "a number above 0"),
    ("cdan", "map_size", 0, "a whole number, 1 or more"),
    ("cdan", "width", 16.0, "a whole number, 1 or more"),
    ("cdan", "entropy", "no", "true or false"),
    ("cdan", "unit_scale", 1, "true or false"),
    ("coral", "unit_scale", "false", "true or false"),
    ("dann", "width", 0, "a whole number, 1 or more"),
    ("dann", "width", True, "a whole number, 1 or more"),
    ("dann", "unit_scale", None, "true or false"),
    ("fixmatch", "threshold", 90, "a number from 0 to 1"),
    ("fixmatch", "relative", "yes", "true or false"),
    ("fixmatch", "align", 0, "true or false"),
    ("mcc", "temperature", 0, "a number above 0"),
    ("mcc", "temperature", "hot", "a number above 0"),
    ("mcc", "temperature", float("inf"), "a number above 0"),
    ("mdd", "gamma", -4, "a number above 0"),
    ("mdd", "reversal", 0, "a number above 0"),
    ("mdd", "width", -1, "a whole number, 1 or more"),
    ("sar", "lr", "1e-3", "a number above 0"),
    ("sar", "momentum", 1, "a number, 0 or more and less than 1"),
    ("sar", "share", 0, "a number above 0"),
    ("sar", "share", 40, "a number from 0 to 1"),
    ("sar", "rho", -1, "a number, 0 or more"),
    ("sar", "reset_below", float("nan"), "a number, 0 or more"),
    ("sar", "decay", 1.5, "a number, 0 or more and less than 1"),
    ("shot", "pseudo", -1, "a number, 0 or more"),
    ("tent", "lr", 0, "a number above 0"),
    ("tent", "momentum", -0.9, "a number, 0 or more and less than 1"),
]


@pytest.mark.parametrize(("name", "option", "value", "said"), WRONG)
def test_an_option_that_is_not_allowed_is_named(name, option, value, said):
    node = method_nodes([name], [], {}, folders())[name]
    with pytest.raises(ConfigError, match=rf"^{option}={value} must be {said}$"):
        make({**node["build"], option: value})


def test_every_option_of_a_method_is_checked():
    options = {(name, key) for name in METHODS for key in inspect.signature(type(made(name)[0])).parameters}
    assert options == {(name, option) for name, option, *_ in WRONG}


DRAWN = seeded_inputs(0)
"""Features and logits of 12 source and 9 target images, 5 classes."""
ORDER = np.array([3, 0, 8, 1, 7, 2, 6, 5, 4])
"""Positions of the target images of the batch."""


def drawn_step() -> tuple[Step, list[torch.Tensor]]:
    """A step of :data:`DRAWN` at a progress of 0.3, and its features, which record gradients."""
    tensors = {key: torch.from_numpy(value) for key, value in DRAWN.items()}
    features = [tensors[f"{domain}_features"].requires_grad_() for domain in ("source", "target")]
    source, target = (Seen(f, tensors[f"{d}_logits"]) for f, d in zip(features, ("source", "target"), strict=True))
    strong = Seen(features[1], tensors["strong_logits"])
    return Step(source, torch.arange(12) % 5, target, torch.from_numpy(ORDER), 0.3, lambda: strong), features


class Judged(nn.Module):
    """A discriminator of float64 inputs, without dropout, that computes in float64."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers.double().eval()

    def array(self, inputs: np.ndarray) -> np.ndarray:
        outputs: np.ndarray = self.layers(torch.from_numpy(inputs)).detach().numpy()
        return outputs

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layers(inputs)
        return outputs


def built(name: str, **build: Any) -> Method:
    method, _ = made(name, **build)
    torch.manual_seed(0)
    backbone = Backbone()
    backbone.num_features = 4
    method.build(backbone, 5, 9)
    for own in ("discriminator", "adversary"):
        if hasattr(method, own):
            setattr(method, own, Judged(getattr(method, own)))
    return method


def scaled(scale: bool) -> tuple[np.ndarray, np.ndarray]:
    both = [DRAWN["source_features"], DRAWN["target_features"]]
    rms = np.sqrt((both[0] ** 2).mean()) if scale else 1.0
    return both[0] / rms, both[1] / rms


def dann_by_hand(method: Any, scale: bool) -> float:
    return oracles.domain_bce(*(method.discriminator.array(f)[:, 0] for f in scaled(scale)))


def cdan_by_hand(method: Any, entropy: bool, scale: bool) -> float:
    logits = DRAWN["source_logits"], DRAWN["target_logits"]
    if method.of_features is None:
        inputs = [oracles.condition(f, z) for f, z in zip(scaled(scale), logits, strict=True)]
    else:
        maps = method.of_features.double().numpy(), method.of_classes.double().numpy()
        inputs = [oracles.condition_randomly(f, z, *maps) for f, z in zip(scaled(scale), logits, strict=True)]
    outputs = [method.discriminator.array(x)[:, 0] for x in inputs]
    return oracles.entropy_weighted_bce(*outputs, *logits) if entropy else oracles.domain_bce(*outputs)


def mdd_by_hand(method: Any, gamma: float) -> float:
    s, t = (method.adversary.array(DRAWN[f"{domain}_features"]) for domain in ("source", "target"))
    return oracles.mdd(DRAWN["source_logits"], s, DRAWN["target_logits"], t, gamma=gamma)


def fixmatch_by_hand(threshold: float, relative: bool, align: bool) -> float:
    weak, source = DRAWN["target_logits"], DRAWN["source_logits"]
    limit = oracles.relative_threshold(source, threshold) if relative else threshold
    weak = np.log(oracles.align_distribution(weak, source)) if align else weak
    return oracles.fixmatch(DRAWN["strong_logits"], weak, limit)


def shot_by_hand(pseudo: float) -> float:
    f, z = DRAWN["target_features"], DRAWN["target_logits"]
    labels = oracles.centroid_labels(f, z).astype(int)
    wrong = -np.log(oracles.softmax(z)[np.arange(9), labels[ORDER]])
    return oracles.information_maximization(z) + pseudo * float(wrong.mean())


BY_HAND: list[tuple[str, dict[str, Any], Callable[[Any], float]]] = [
    ("coral", {"unit_scale": True}, lambda method: oracles.coral(*scaled(True))),
    ("coral", {"unit_scale": False}, lambda method: oracles.coral(*scaled(False))),
    ("dan", {}, lambda method: oracles.mmd(*scaled(False))),
    ("dann", {"unit_scale": True}, lambda method: dann_by_hand(method, True)),
    ("dann", {"unit_scale": False}, lambda method: dann_by_hand(method, False)),
    ("cdan", {"entropy": True, "unit_scale": True}, lambda method: cdan_by_hand(method, True, True)),
    ("cdan", {"entropy": False, "unit_scale": False}, lambda method: cdan_by_hand(method, False, False)),
    ("mdd", {"gamma": 2.5}, lambda method: mdd_by_hand(method, 2.5)),
    ("mcc", {"temperature": 1.3}, lambda method: oracles.mcc(DRAWN["target_logits"], 1.3)),
    ("bnm", {}, lambda method: oracles.bnm(DRAWN["target_logits"])),
    ("afn", {"step": 0.5}, lambda method: 2 * 0.5**2),
    ("fixmatch", {"threshold": 0.6}, lambda method: fixmatch_by_hand(0.6, False, False)),
    ("fixmatch", {"threshold": 0.9, "relative": True}, lambda method: fixmatch_by_hand(0.9, True, False)),
    ("fixmatch", {"threshold": 0.5, "align": True}, lambda method: fixmatch_by_hand(0.5, False, True)),
    ("shot", {"pseudo": 0.7}, lambda method: shot_by_hand(0.7)),
    ("shot", {"pseudo": 0.0}, lambda method: shot_by_hand(0.0)),
]


@pytest.mark.parametrize(("name", "build", "by_hand"), BY_HAND, ids=[f"{n}-{b}" for n, b, _ in BY_HAND])
def test_the_loss_of_a_method_is_its_formula_with_the_options_given(name, build, by_hand):
    method, (step, features) = built(name, **build), drawn_step()
    whole = Seen(features[1].detach(), step.target.logits)
    method.refresh(lambda: whole)
    assert sum(method.loss(step).values()).item() == pytest.approx(by_hand(method), rel=1e-6)


def test_random_maps_of_cdan_replace_the_product(monkeypatch):
    monkeypatch.setattr("da_wa.adapt.methods.cdan.LARGEST_PRODUCT", 19)  # one less than 4 · 5
    method = built("cdan", map_size=7)
    assert method.of_features.shape == (4, 7)
    assert method.loss(drawn_step()[0])["domain"].item() == pytest.approx(cdan_by_hand(method, True, True), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "build", "top"),
    [("dann", {}, 1.0), ("cdan", {"entropy": False}, 1.0), ("mdd", {"reversal": 0.2}, 0.2)],
)
def test_features_get_the_reversed_gradient_of_the_schedule(monkeypatch, name, build, top):
    method, (step, features) = built(name, **build), drawn_step()
    reversed_ = torch.autograd.grad(sum(method.loss(step).values()), features)
    own = torch.autograd.grad(sum(method.loss(step).values()), list(method.parameters()))
    monkeypatch.setattr(f"da_wa.adapt.methods.{name}.reverse_gradient", lambda x, scale: x)
    plain = torch.autograd.grad(sum(method.loss(step).values()), features)
    scale = top * (2 / (1 + np.exp(-10 * 0.3)) - 1)
    for one, other in zip(reversed_, plain, strict=True):
        torch.testing.assert_close(one, -scale * other, rtol=1e-5, atol=1e-9)
    again = torch.autograd.grad(sum(method.loss(step).values()), list(method.parameters()))
    for one, other in zip(own, again, strict=True):  # that of the discriminator itself is not reversed
        torch.testing.assert_close(one, other)


def test_the_gradient_of_a_discriminator_is_reversed_for_the_features_only(small_source):
    """A step against the gradient improves the discriminator and makes the features harder to tell apart."""
    method, _ = made("dann")
    model = network("gn")
    model.load_state_dict(small_source("gn"))
    method.build(model, 3, 24)
    method.eval()
    step = step_on(model, method, SMALL)
    step.source.features.retain_grad()
    loss = method.loss(step)["domain"]
    loss.backward()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter -= 1e-2 * parameter.grad
        assert method.loss(step)["domain"] < loss
        for parameter in method.parameters():
            parameter += 1e-2 * parameter.grad
        moved = Seen(step.source.features - 1e-1 * step.source.features.grad, step.source.logits)
        harder = Step(moved, step.labels, step.target, step.index, step.progress, step.strong)
        assert method.loss(harder)["domain"] > loss


@pytest.mark.parametrize("norm", [*NORMS, "brn"])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_shows_every_image_once_and_predicts_before_it_learns(undisturbed, small_source, name, norm):
    whole = undisturbed(name, norm)
    index, logits = whole.trained.online
    assert sorted(index.tolist()) == list(range(24))
    assert index.tolist() != sorted(index.tolist())
    method, _ = made(name)
    model = start(method, norm, small_source)
    method.build(model, 3, 24)
    with torch.no_grad():
        before = model(NORMALIZE(torch.from_numpy(SMALL[1].pixels[index[:12].numpy()])))
    torch.testing.assert_close(logits[:12], before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", STREAMS)
def test_a_sorted_stream_has_the_order_of_the_files(small_source, tmp_path, name):
    method, options = made(name)
    ran = run(tmp_path, SMALL, start(method, "gn", small_source), method, **{**options, "order": "sorted"})
    assert ran.trained.online[0].tolist() == list(range(24))


@pytest.mark.parametrize("norm", [*NORMS, "brn"])
@pytest.mark.parametrize("name", LEARNING)
def test_a_stream_changes_affine_parameters_only(small_source, tmp_path, name, norm):
    build = {"lr": 0.1, "share": 1.0} if name == "sar" else {"lr": 0.1}
    method, options = made(name, **build)
    model = start(method, norm, small_source)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    run(tmp_path, SMALL, model, method, **options)
    changed = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    allowed = {key for key, _ in adaptable(model)}
    assert changed <= allowed
    assert len(changed) > len(allowed) / 2


class OwnNorm(nn.Module):
    """BatchNorm by its role: no subclass of torch's, and without its options."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)


class Normed(Backbone):
    """A norm of the images, then a convolution with another."""

    num_features, min_size = 4, 4

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.first, self.conv, self.second = norm(3), nn.Conv2d(3, 4, 3), norm(4)
        self.head = self.make_head(3)

    def features(self, x):
        return self.second(self.conv(self.first(x))).relu().mean((2, 3))


def test_layers_with_running_statistics_need_a_batch():
    assert Normed(OwnNorm).needs_batch and Normed().needs_batch
    assert Normed(partial(nn.BatchNorm2d, track_running_stats=False)).needs_batch
    assert not Normed(partial(nn.GroupNorm, 1)).needs_batch


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, OwnNorm])
@pytest.mark.parametrize("name", STREAMS)
def test_after_every_batch_of_a_stream_statistics_are_those_of_all_images(name, norm):
    """NumPy's mean and variance over images sorted by class, which differ much from batch to batch; the last is small.

    SAR forwards a batch twice, and counts it once.
    """
    draw = np.random.default_rng(0)
    seen = np.concatenate([draw.normal(4.0 * k, 1 + k, (64 if k < 9 else 5, 3, 4, 4)) for k in range(10)])
    torch.manual_seed(0)
    method, model = made(name, **({"lr": 0.1} if name in LEARNING else {}))[0], Normed(norm).double()
    method.build(model, 3, len(seen))
    inputs = []
    model.conv.register_forward_hook(lambda layer, given, output: inputs.append(output.detach().numpy()))
    for k in range(10):
        method.observe(model, torch.from_numpy(seen[64 * k : 64 * (k + 1)]))
        for layer, values in [
            (model.first, seen[: 64 * (k + 1)]),
            (model.second, np.concatenate(inputs[:: 2 if name == "sar" else 1])),
        ]:
            np.testing.assert_allclose(layer.running_mean, values.mean((0, 2, 3)), rtol=1e-10)
            np.testing.assert_allclose(layer.running_var, values.var((0, 2, 3)), rtol=1e-10)
    model.eval()(torch.zeros(2, 3, 4, 4, dtype=torch.float64))
    np.testing.assert_allclose(model.first.running_var, seen.var((0, 2, 3)), rtol=1e-10)


@pytest.mark.parametrize("norm", ["bn", "brn"])
@pytest.mark.parametrize("name", STREAMS)
def test_running_statistics_are_those_of_the_stream_for_every_norm(small_source, tmp_path, name, norm):
    """Also where SAR forwards a batch twice; a last batch of one image is not one."""
    method, options = made(name, **({"lr": 1e-9} if name in LEARNING else {}))
    model = start(method, norm, small_source)
    ran = run(tmp_path, SMALL, model, method, batch=23, **{**options, "order": "sorted"})
    assert len(ran.trained.online[0]) == 24
    fresh = start(method, norm, small_source)
    expected = fresh.stem[0](images(SMALL[1], n=24)).detach()
    first = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert first.num_batches_tracked == 1
    torch.testing.assert_close(first.running_mean, expected.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(first.running_var, expected.var((0, 2, 3), correction=0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("norm", ["bn", "bn_wa", "brn"])
def test_batch_statistics_predict_as_batch_norm_in_training_mode_and_train_nothing(undisturbed, small_source, norm):
    """Two batches of 12, each forwarded by hand with BatchNorm's formula."""
    ran = undisturbed("bn_stats", norm)
    index, logits = ran.trained.online
    by_hand = start(made("bn_stats")[0], norm, small_source).eval()
    for name, layer in list(by_hand.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            by_hand.set_submodule(name, OwnStatistics(layer, 1.0))
    seen = NORMALIZE(torch.from_numpy(SMALL[1].pixels[index.numpy()]))
    with torch.no_grad():
        expected = torch.cat([by_hand(batch) for batch in seen.split(12)])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert (by_hand.train()(seen) - expected).abs().max() > 1e-2  # not those of one batch of all images
    for key, parameter in ran.model.named_parameters():
        assert torch.equal(parameter, small_source(norm)[key])


@pytest.mark.parametrize("name", LEARNING)
def test_means_over_a_stream_are_over_images(small_source, tmp_path, name):
    """Of batches of 15 and 9 images."""
    method, options = made(name, lr=1e-9, **({"share": 1.0, "rho": 0.0} if name == "sar" else {}))
    model = start(method, "gn", small_source)
    ran = run(tmp_path, SMALL, model, method, batch=15, **options)
    expected = float(entropy(ran.trained.online[1]).mean())
    assert ran.trained.curve[-1]["loss"] == pytest.approx(expected, rel=1e-4)
    assert ran.trained.curve[-1]["terms"]["loss"] == pytest.approx(expected, rel=1e-4)


class Sloped(Backbone):
    """GroupNorm and a PReLU, whose slope autocast computes with in half precision."""

    num_features, min_size = 4, 4

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(1, 4), nn.PReLU()
        self.head = self.make_head(3)

    def features(self, x):
        return self.act(self.norm(self.conv(x))).mean((2, 3))


def test_the_second_pass_of_sar_sees_moved_parameters_under_autocast():
    """Autocast keeps copies of parameters in half precision: they must not be those from before the move."""
    moved = []
    for cached in (True, False):
        torch.manual_seed(0)
        model, method = Sloped(), SAR(lr=0.1, share=1.0, rho=2.0)
        method.build(model, 3, 24)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            method.observe(model, images(SMALL[1]))
        moved.append(model.state_dict())
    assert all(torch.equal(value, moved[1][key]) for key, value in moved[0].items())


@pytest.mark.parametrize(("share", "used"), [(1e-6, 0.0), (1.0, 1.0)])
def test_sar_reports_the_share_of_images_that_it_used(small_source, tmp_path, share, used):
    method, options = made("sar", share=share, lr=0.1)
    model = start(method, "gn", small_source)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    ran = run(tmp_path, SMALL, model, method, **options)
    assert ran.trained.curve[-1]["terms"]["used"] == pytest.approx(used, abs=0.1)
    unchanged = all(torch.equal(p, before[key]) for key, p in model.named_parameters())
    assert unchanged == (used == 0)


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("batch", [12, 24])
def test_a_stream_whose_network_became_nan_is_a_divergence(small_source, tmp_path, name, batch):
    """After the first of two batches, and after the only batch, which an evaluation alone can show."""
    method, options = made(name, lr=1e38, **({"share": 1.0} if name == "sar" else {}))
    said = "stream" if batch == 12 else "S"
    with pytest.raises(Diverged, match=f"logits of .*{said} were not finite in epoch 1") as caught:
        run(tmp_path, SMALL, start(method, "gn", small_source), method, batch=batch, **options)
    assert (caught.value.epoch, caught.value.curve) == (1, [])


class Breaks(Method):
    phase, trains = "target", False

    def calibrate(self, backbone, batches):
        backbone.head.bias.fill_(torch.nan)


class Early(Method):
    phase = "target"

    def loss(self, step):
        if step.progress < 0.5:
            self.watched = {"early": torch.tensor(step.progress)}
        return {"total": step.target.logits.sum()}


def test_what_a_step_does_not_log_is_not_logged_again(small_source, tmp_path):
    """In the second of two epochs nothing is logged."""
    ran = run(tmp_path, SMALL, start(Early(), "gn", small_source), Early(), epochs=2, lr=1e-9)
    assert ["early" in row["terms"] for row in ran.trained.curve] == [True, False]
    assert ran.trained.curve[0]["terms"]["early"] == pytest.approx(0.125)  # two steps of four


class Records(Method):
    """Keeps what ``refresh`` and ``loss`` see."""

    phase = "joint"

    def __init__(self, backbone):
        super().__init__()
        self.backbone = [backbone]  # in a list: it is no part of the method
        self.modes, self.unchanged, self.pairs = [], [], []

    def note(self, when):
        self.modes.append((when, {module.training for module in self.backbone[0].modules()}))

    def refresh(self, look):
        before = {key: value.clone() for key, value in self.backbone[0].state_dict().items()}
        self.note("refresh")
        self.rows = look()
        after = self.backbone[0].state_dict()
        self.unchanged.append(all(torch.equal(value, after[key]) for key, value in before.items()))

    def loss(self, step):
        self.note("loss")
        self.pairs.append((step.target.features.detach(), self.rows.features[step.index]))
        return {}


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_a_method_looks_at_the_target_once_an_epoch_without_changing_the_network(small_source, tmp_path, norm):
    """Rows are those of the target's images at ``Step.index``: what a step sees of them, if the norm is GroupNorm."""
    model = network(norm)
    model.load_state_dict(small_source(norm))
    method = Records(model)
    run(tmp_path, SMALL, model, method, epochs=3, lr=1e-12, augment=Augment(crop=0.0, flip=False))
    steps = len(method.pairs) // 3
    assert steps > 1
    assert method.modes == [("refresh", {False}), *[("loss", {True})] * steps] * 3
    assert method.unchanged == [True] * 3
    assert len(method.rows.features) == 24
    if norm == "gn":
        for seen, rows in method.pairs:
            torch.testing.assert_close(seen, rows, rtol=1e-4, atol=1e-4)


def test_the_strong_view_of_fixmatch_uses_the_statistics_of_the_target(small_source, tmp_path, monkeypatch):
    """In each step the target's BatchNorms see two batches, the source's one."""
    method, options = made("fixmatch")
    steps, loss = [], method.loss
    monkeypatch.setattr(method, "loss", lambda step: steps.append(step.progress) or loss(step))
    model = start(method, "bn", small_source)
    before = int(next(value for key, value in model.state_dict().items() if "num_batches_tracked" in key))
    run(tmp_path, SMALL, model, method, **{**options, "statistics": "domain"})
    seen = {key: int(value) - before for key, value in model.state_dict().items() if "num_batches_tracked" in key}
    assert len(steps) > 1
    assert {key for key in seen if ".source." in key} and {key for key in seen if ".target." in key}
    assert all(count == len(steps) * (2 if ".target." in key else 1) for key, count in seen.items())


class Mute(Method):
    phase = "target"


def test_a_method_without_a_loss_is_told_how_to_do_without(small_source, tmp_path):
    with pytest.raises(ConfigError, match=r"set `trains = False` and override `calibrate`"):
        run(tmp_path, SMALL, start(Mute(), "gn", small_source), Mute())


class Returns(Method):
    phase = "target"

    def __init__(self, loss):
        super().__init__()
        self.loss = loss


@pytest.mark.parametrize(
    "loss",
    [
        lambda step: step.target.logits.mean(),
        lambda step: {"vector": step.target.logits.mean(0)},
        lambda step: {"number": 1.0},
        lambda step: None,
    ],
)
def test_a_loss_of_another_form_is_told_which_one(loss, small_source, tmp_path):
    method = Returns(loss)
    with pytest.raises(ConfigError, match=r"Returns: `loss` must return a dict of scalars, e\.g\. \{'gap'"):
        run(tmp_path, SMALL, start(method, "gn", small_source), method)


class Sees(Method):
    phase, trains = "target", False

    def calibrate(self, backbone, batches):
        self.seen = torch.cat(list(batches()))


def test_a_calibration_sees_all_target_images_in_random_order(small_source, tmp_path):
    """In the order of the files every batch would be one class."""
    method = Sees()
    run(tmp_path, SMALL, start(method, "gn", small_source), method)
    order = [(method.seen == image).flatten(1).all(1).nonzero().item() for image in images(SMALL[1], n=24)]
    assert sorted(order) == list(range(24)) != order


def test_a_calibration_after_which_logits_are_not_finite_is_a_divergence(small_source, tmp_path):
    with pytest.raises(Diverged, match="logits of S were not finite"):
        run(tmp_path, SMALL, start(Breaks(), "gn", small_source), Breaks())


def sar_by_hand(model, batches, lr, momentum, share, rho, reset_below, decay):
    """Algorithm 1 of the paper; after a reset momentum and average start anew.

    The authors' code clears the momentum too, but goes on with the average from before the reset.
    """
    parameters = [p for _, p in adaptable(model)]
    start, velocity = [p.detach().clone() for p in parameters], [torch.zeros_like(p) for p in parameters]
    average, resets = None, 0
    for batch in batches:
        first = entropy(model(batch))
        kept = first < share * np.log(3)
        gradients = torch.autograd.grad(first[kept].mean(), parameters)
        length = torch.sqrt(sum((g**2).sum() for g in gradients))
        here = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p += rho * g / length
        second = entropy(model(batch))
        both = kept & (second < share * np.log(3))
        gradients = torch.autograd.grad(second[both].mean(), parameters)
        loss = second[both].mean().item()
        average = loss if average is None else decay * average + (1 - decay) * loss
        reset = average < reset_below
        with torch.no_grad():
            for p, old, first_value, v, g in zip(parameters, here, start, velocity, gradients, strict=True):
                v.copy_(torch.zeros_like(v) if reset else momentum * v + g)
                p.copy_(first_value if reset else old - lr * v)
        average, resets = (None, resets + 1) if reset else (average, resets)
    return resets


def with_batch_statistics(model):
    """Evaluation mode, but for BatchNorm."""
    model.eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train()
    return model


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_tent_is_sgd_with_momentum_on_the_entropy(small_source, norm):
    """Three steps, v = 0.9 v + g and θ = θ - lr · v; predictions are from before each."""
    method, _ = made("tent", lr=0.05, momentum=0.9)
    ours, theirs = (start(method, norm, small_source) for _ in range(2))
    method.build(ours, 3, 24)
    with_batch_statistics(theirs)
    parameters = [p for _, p in adaptable(theirs)]
    velocity = [torch.zeros_like(p) for p in parameters]
    for first in (0, 8, 16):
        logits = theirs(images(SMALL[1], first, 8))
        p = logits.softmax(1)
        gradients = torch.autograd.grad(-(p * p.log()).sum(1).mean(), parameters)
        torch.testing.assert_close(method.observe(ours, images(SMALL[1], first, 8)), logits.detach())
        with torch.no_grad():
            for parameter, v, g in zip(parameters, velocity, gradients, strict=True):
                v.copy_(0.9 * v + g)
                parameter -= 0.05 * v
    for (key, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("norm", ["bn", "gn"])
@pytest.mark.parametrize(
    ("lr", "share", "rho", "reset_below"), [(0.005, 0.6, 1.0, 0.0), (0.005, 0.6, 0.0, 0.0), (0.1, 1.0, 0.3, 0.36)]
)
def test_sar_is_the_algorithm_of_its_paper(small_source, norm, lr, share, rho, reset_below):
    options = {"lr": lr, "momentum": 0.9, "share": share, "rho": rho, "reset_below": reset_below, "decay": 0.6}
    method, _ = made("sar", **options)
    ours, theirs = (start(method, norm, small_source) for _ in range(2))
    with torch.no_grad():
        for model in (ours, theirs):
            model.head.weight *= 20  # predictions of all confidences
    batches = [images(SMALL[1], first, 8) for first in (0, 8, 16, 0, 8, 16)]
    resets = sar_by_hand(with_batch_statistics(theirs), batches, **options)
    assert 0 < resets < 5 if reset_below else resets == 0
    method.build(ours, 3, 24)
    counted = 0.0
    for batch in batches:
        method.observe(ours, batch)
        counted += float(method.watched["reset"])
    assert counted == resets
    for (key, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=key)


def test_sar_goes_back_to_the_source_when_its_loss_is_low(small_source, tmp_path):
    method, options = made("sar", share=1.0, lr=0.1, reset_below=100.0)
    model = start(method, "gn", small_source)
    ran = run(tmp_path, SMALL, model, method, **options)
    assert ran.trained.curve[-1]["terms"]["reset"] == 1
    fresh = small_source("gn")
    assert all(torch.equal(p, fresh[key]) for key, p in model.named_parameters())


def test_shot_leaves_the_head_as_it_was(undisturbed, small_source):
    trained = undisturbed("shot", "bn").model.state_dict()
    before = small_source("bn")
    assert torch.equal(trained["head.weight"], before["head.weight"])
    assert torch.equal(trained["head.bias"], before["head.bias"])
    assert any(not torch.equal(trained[key], value) for key, value in before.items())


@pytest.mark.parametrize("norm", ["bn", "bn_wa"])
@pytest.mark.parametrize("batch", [1, 5, 24])
def test_adabn_predicts_as_one_batch_of_all_images_in_training_mode(small_source, tmp_path, norm, batch):
    """For every batch size: the statistics are those of all images, layer by layer."""
    method, options = made("adabn")
    adapted = run(tmp_path, SMALL, start(method, norm, small_source), method, batch=batch, **options).model.eval()
    source = start(method, norm, small_source)
    with torch.no_grad():
        seen = images(SMALL[1], n=24)
        expected = source.train()(seen)
        torch.testing.assert_close(adapted(seen), expected, rtol=1e-4, atol=1e-4)
        source.load_state_dict(small_source(norm))
        assert (source.eval()(seen) - expected).abs().max() > 0.1


class OwnStatistics(nn.Module):
    """BatchNorm with (1 - α) · running + α · batch statistics; keeps its inputs."""

    def __init__(self, norm: nn.BatchNorm2d, alpha: float) -> None:
        super().__init__()
        self.norm, self.alpha, self.inputs = norm, alpha, []

    def expected(self, x):
        var, mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
        running = (self.norm.running_mean.double(), self.norm.running_var.double())
        return [(1 - self.alpha) * old + self.alpha * new for old, new in zip(running, (mean, var), strict=True)]

    def forward(self, x):
        self.inputs.append(x)
        mean, var = (value[:, None, None] for value in self.expected(x))
        weight, bias = self.norm.weight[:, None, None], self.norm.bias[:, None, None]
        return ((x - mean) / (var + self.norm.eps).sqrt() * weight + bias).float()


@pytest.mark.parametrize("norm", ["bn", "bn_wa"])
@pytest.mark.parametrize("sizes", [[24], [12, 12], [7, 7, 10]])
@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_adabn_in_one_pass_merges_the_statistics_of_batches(small_source, norm, sizes, alpha):
    """Every layer normalizes a batch with the batch's own until the end."""
    method, _ = made("adabn", exact=False, alpha=alpha)
    model, reference = (start(method, norm, small_source).eval() for _ in range(2))
    own = {}
    for name, layer in list(reference.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            own[name] = OwnStatistics(layer, alpha)
            reference.set_submodule(name, own[name])
    seen = images(SMALL[1], n=24).split(sizes)
    shown = []
    method.calibrate(model, lambda: (shown.append(len(batch)) or batch for batch in seen))
    assert shown == [sizes[0], *sizes]  # the first for the order of the layers, then one pass
    with torch.no_grad():
        for batch in seen:
            reference(batch)
    assert len(own) > 4
    for name, layer in own.items():
        mean, var = layer.expected(torch.cat(layer.inputs))
        changed = model.get_submodule(name)
        torch.testing.assert_close(changed.running_mean.double(), mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(changed.running_var.double(), var, rtol=1e-4, atol=1e-5)


def test_one_batch_of_all_images_makes_both_kinds_of_adabn_equal(small_source):
    (exact, _), (once, _) = made("adabn"), made("adabn", exact=False)
    one, other = (start(exact, "bn", small_source).eval() for _ in range(2))
    exact.calibrate(one, lambda: [images(SMALL[1], n=24)])
    once.calibrate(other, lambda: [images(SMALL[1], n=24)])
    for key, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("exact", [True, False])
def test_adabn_refuses_a_batch_norm_that_is_used_twice(exact):
    class Twice(Normed):
        def features(self, x):
            return super().features(self.first(x))

    method, _ = made("adabn", exact=exact)
    with pytest.raises(ConfigError, match=r"; first is used twice or more\. Use a BatchNorm of its own at"):
        method.calibrate(Twice(), lambda: [images(SMALL[1])])


@pytest.mark.parametrize("norm", ["bn", "bn_wa"])
def test_fold_then_adabn_is_adabn_then_fold(small_source, tmp_path, norm):
    """Folding replaces the convolutions of a network by plain ones with the same weights."""
    (one, options), (other, _) = made("adabn"), made("adabn")
    model = start(one, norm, small_source)
    folded_first = run(tmp_path / "1", SMALL, fold(model.eval()), one, **options).model.eval()
    adapted_first = fold(run(tmp_path / "2", SMALL, start(other, norm, small_source), other, **options).model.eval())
    seen = images(SMALL[1], n=24)
    with torch.no_grad():
        torch.testing.assert_close(folded_first(seen), adapted_first(seen), rtol=1e-4, atol=1e-4)
        assert (folded_first(seen) - fold(model)(seen)).abs().max() > 0.1


@pytest.mark.parametrize("norm", ["gn", "wa"])
def test_adabn_does_nothing_without_batch_norm(undisturbed, small_source, norm):
    weights = undisturbed("adabn", norm).model.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in small_source(norm).items())


def test_adabn_with_alpha_0_is_the_source(small_source, tmp_path):
    method, options = made("adabn", alpha=0.0)
    weights = run(tmp_path, SMALL, start(method, "bn", small_source), method, **options).model.state_dict()
    for key, value in small_source("bn").items():
        torch.testing.assert_close(weights[key], value)


@pytest.mark.parametrize("name", ["coral", "shot", "tent", "sar"])
def test_what_is_frozen_stays_frozen_and_the_rest_can_be_trained_afterwards(small_source, tmp_path, name):
    method, _ = made(name)
    model = start(method, "bn", small_source)
    model.stem.requires_grad_(False)
    before = [p.requires_grad for p in model.parameters()]
    stem = [p.clone() for p in model.stem.parameters()]
    run(tmp_path / "run", SMALL, model, method, epochs=1)
    assert all(torch.equal(p, q) for p, q in zip(model.stem.parameters(), stem, strict=True))
    assert [p.requires_grad for p in model.parameters()] == before


def test_a_batch_norm_that_is_used_twice_becomes_one_for_each_domain():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.BatchNorm2d(3)
            self.second, self.inside = self.first, nn.Sequential(self.first)

    model = Twice()
    separate_domains(model)
    assert isinstance(model.first, DomainNorm)
    assert model.second is model.first and model.inside[0] is model.first
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == 2


def test_dsbn_keeps_statistics_of_both_domains(undisturbed):
    weights = undisturbed("dsbn", "bn").model.state_dict()
    sides = [(key, key.replace(".source.", ".target.")) for key in weights if ".source.running_mean" in key]
    assert sides
    assert all(not torch.equal(weights[source], weights[target]) for source, target in sides)


SHIFT = {"bn": 65.0, "bn_wa": 65.0, "gn": 55.0, "wa": 70.0}
"""The cast on which a network of this norm is wrong for a fifth to a half of the target."""

HELPS: dict[str, dict[str, object]] = {
    "adabn": {},
    "coral": {"weight": 10.0},
    "dan": {},
    "dsbn": {},
    "mcc": {},
    "bnm": {},
    "shot": {},
    "mdd": {"build": {"reversal": 1.0, "width": 64}},
    "fixmatch": {"build": {"threshold": 0.6, "relative": True, "align": True}},
    "dann": {"weight": 5.0, "epochs": 20, "build": {"width": 64}},
    "cdan": {"weight": 5.0, "epochs": 20, "build": {"entropy": False, "width": 64}},
    "afn": {},
    "bn_stats": {},
    "tent": {"build": {"lr": 0.1}},
    "sar": {"build": {"lr": 0.1, "share": 1.0}},
}
"""What a method needs on a toy of a hundred steps: stronger terms than its defaults, which are those of its paper."""

HELPS_WITH: dict[tuple[str, str], dict[str, object]] = {
    ("mdd", "bn"): {"weight": 0.3, "epochs": 20},
    ("mdd", "bn_wa"): {"weight": 0.1},
    ("mdd", "wa"): {"weight": 0.1},
}
"""MDD at weight 1 diverges with wa, and falls below the training without its term with bn and bn_wa."""

# Casts, weights and rates of this test were chosen so that methods succeed: it proves that a method can help, and says
# nothing about its defaults. Where no choice was found, this is what happened (source only: 0.83 for gn, 0.82 for wa).
NOT_HERE = {
    **{
        (name, norm): "it is the identity without BatchNorm"
        for name in ("adabn", "bn_stats", "dsbn")
        for norm in ("gn", "wa")
    },
    ("tent", "gn"): "accuracy falls from 0.83 to 0.80 (lr 0.1) or 0.67 (lr 0.3)",
    ("sar", "gn"): "accuracy falls from 0.83 to 0.80 (lr 0.1) or 0.67 (lr 0.3)",
    ("tent", "wa"): "accuracy stays at 0.82 (lr 0.1) or rises to 0.85 (lr 0.3), less than the margin",
    ("sar", "wa"): "accuracy stays at 0.82 (lr 0.1 and 0.3)",
    ("fixmatch", "gn"): "accuracy stays at 0.83",
    ("afn", "gn"): "accuracy falls from 0.83 to between 0.75 and 0.78",
    ("afn", "wa"): "features grow without bound: it diverges, or at lr 0.0003 accuracy falls to 0.78 or less",
    ("dann", "wa"): "accuracy stays at 0.82 (weight 1) or falls to 0.68 (weight 5)",
    ("cdan", "wa"): "accuracy stays at 0.82 (weight 1) or falls to 0.47 (weight 5)",
}  # fmt: skip


@pytest.fixture(scope="module")
def shifted(tmp_path_factory):
    """Source and target with a cast, and the network trained on the source, by norm."""

    @cache
    def of(norm: str):
        domains = [domain("S", 0, (60, 120)), domain("T", 1, (40, 90), SHIFT[norm])]
        source = run(tmp_path_factory.mktemp(norm), domains, network(norm), epochs=12, anneal=schedule.constant)
        return domains, source.model.state_dict(), source.accuracy

    return of


@pytest.fixture(scope="module")
def without_term(shifted, tmp_path_factory):
    """Target accuracy after the same training with the weight of the method at 0: further steps, batch statistics."""

    @cache
    def of(phase: str, norm: str, epochs: int) -> float:
        method, options = made({"joint": "mcc", "target": "shot"}[phase])
        return trained_on(
            shifted(norm), tmp_path_factory.mktemp(norm), norm, method, epochs, **{**options, "weight": 0.0}
        )

    return of


def trained_on(start, folder: Path, norm: str, method: Method, epochs: int = 10, **options: Any) -> float:
    """Target accuracy of a method that starts from the network trained on the source."""
    domains, weights, _ = start
    model = network(norm)
    model.load_state_dict(weights)
    return run(
        folder, domains, model, method, epochs=epochs, anneal=schedule.constant, **{"lr": 0.01, **options}
    ).accuracy


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", METHODS)
def test_training_with_it_raises_target_accuracy(shifted, without_term, tmp_path, name, norm):
    """All methods start from the network trained on the source; it is wrong for at least a tenth of the target."""
    if (name, norm) in NOT_HERE:
        pytest.skip(NOT_HERE[name, norm])
    before = shifted(norm)[2]
    assert before < 0.9, before
    chosen = HELPS[name] | HELPS_WITH.get((name, norm), {})
    method, options = made(name, **chosen.pop("build", {}))
    after = trained_on(shifted(norm), tmp_path, norm, method, **options | chosen)
    assert after >= before + 0.05
    if name in JOINT or name == "shot":
        control = without_term(method.phase, norm, chosen.get("epochs", 10))
        if control <= 0.9 and name != "dsbn":  # else batch statistics of the target alone are enough; DSBN has no term
            assert after >= control + 0.05
