"""Networks of timm and torchvision as backbones: the same outputs, any norm, and what goes wrong."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from da_wa.adapt.methods.shot import SHOT
from da_wa.data.augment import Normalize
from da_wa.data.cache import DecodedDomain
from da_wa.data.crops import Crops
from da_wa.data.splits import Full
from da_wa.errors import ConfigError
from da_wa.models import libraries
from da_wa.models.libraries import Timm, Torchvision
from da_wa.models.pretrained import Pretrained, activation_level, converted, read_state
from da_wa.models.weights import WeightsError
from da_wa.norm import WeightAlignConv2d, fold, named
from da_wa.norm.normalized_conv import NormalizedConv2d
from da_wa.train import schedule, subsets
from da_wa.train.adaptation import Adaptation
from da_wa.train.recipe import Recipe
from da_wa.train.settings import Settings
from da_wa.train.subsets import transfer
from da_wa.train.train import Task, train

TWELVE = {
    "test_resnet": "bn",
    "resnet10t": "bn",
    "regnetx_002": "bn",
    "mobilenetv3_small_050": "bn",
    "lcnet_035": "bn",
    "tinynet_e": "bn",
    "test_byobnet": "bn",
    "test_efficientnet_gn": "gn",
    "test_convnext": "ln",
    "test_vit": "ln",
    "test_mambaout": "ln",
    "test_nfnet": "none",
}
"""Small networks of many families, and their activation norm."""

SIZE = {"test_vit": 160}

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*reaches.*layers of:UserWarning"),
]


def trained(name: str) -> nn.Module:
    """A network of timm whose statistics are not those of an initialisation."""
    torch.manual_seed(0)
    network = timm.create_model(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("name", TWELVE)
def test_a_network_of_timm_is_kept_or_converted_trained_folded_and_loaded_again(name, tmp_path):
    theirs = trained(name)
    file = tmp_path / "weights.safetensors"
    save_file(theirs.state_dict(), file)
    library, images = Timm(name), torch.randn(4, 3, *2 * [SIZE.get(name, 64)])

    kept = Pretrained(named("keep"), theirs.num_classes, library=library, weights=str(file)).eval()
    kept.head.load_state_dict(theirs.get_classifier().state_dict())
    with torch.no_grad():
        assert torch.equal(kept(images), theirs(images))
    assert kept.conversion is None
    assert activation_level(kept) == TWELVE[name]

    model = Pretrained(named("bn_wa"), 3, library=library, weights=str(file))
    assert model.conversion.reached == sum(isinstance(m, WeightAlignConv2d) for m in model.modules())
    statistics = sum(isinstance(m, nn.BatchNorm2d) for m in theirs.modules())
    assert model.conversion.stale == (statistics if model.conversion.reached else 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 0])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
    model.eval()
    again = Pretrained(named("bn_wa"), 3, library=library).eval()
    again.load_state_dict(model.state_dict())
    folded = fold(model)
    assert not any(isinstance(m, WeightAlignConv2d) for m in folded.modules())
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
        torch.testing.assert_close(folded(images), model(images), rtol=1e-4, atol=1e-4)


def test_a_network_of_torchvision_is_kept_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    theirs = libraries.torchvision.models.get_model("mobilenet_v3_small", weights=None).eval()
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}}, file)
    ours = Pretrained(named("keep"), 1000, library=Torchvision("mobilenet_v3_small"), weights=str(file)).eval()
    ours.head.load_state_dict(theirs.classifier[3].state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))
    assert (ours.expects.size, ours.expects.crop) == (224, 0.875)


@pytest.mark.parametrize(("name", "side"), [("googlenet", 64), ("inception_v3", 80)])
def test_auxiliary_classifiers_are_left_out(name, side, tmp_path):
    """Trained weights expect the input that torchvision gives them, and the network returns its logits in training."""
    torch.manual_seed(0)
    theirs = libraries.torchvision.models.get_model(name, init_weights=False, transform_input=True).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    library = Torchvision(name, {"init_weights": False})
    ours = Pretrained(named("keep"), 1000, library=library, weights=str(tmp_path / "weights.pth")).eval()
    ours.head.load_state_dict(theirs.fc.state_dict())
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))
    with torch.device("meta"):
        model = Pretrained(named("bn_wa"), 3, library=library)
        model(torch.zeros(2, 3, side, side)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_tag_of_a_name_says_which_images_a_file_of_weights_expects():
    """torchvision's first weights of ResNet50 were evaluated at 224/256, bilinear; timm's later ones were not."""
    expected = libraries.torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms()
    with torch.device("meta"):
        tagged, plain = (Timm(name).expects(timm.create_model(name)) for name in ("resnet50.tv_in1k", "resnet50"))
    assert (tagged.crop, tagged.interpolation) == (224 / expected.resize_size[0], expected.interpolation.value)
    assert (plain.crop, plain.interpolation) != (tagged.crop, tagged.interpolation)


@pytest.mark.parametrize(
    ("name", "norm", "changed", "stale"),
    [
        ("test_resnet", "bn_wa", True, True),
        ("test_resnet", "wa", True, True),  # the merged biases hold means of the filters as they were
        ("test_resnet", "wn", False, False),
        ("test_resnet", "none", False, False),
        ("test_resnet", "gn_wa", True, False),  # BatchNorms are lost, and counted there
        ("resnet50_gn", "gn_wa", True, False),
    ],
)
def test_a_conversion_says_what_no_longer_fits(name, norm, changed, stale):
    with torch.device("meta"):
        network = timm.create_model(name)
        batch_norms = sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
        found, model = converted(network, named(norm), "fc")
    convolutions = sum(isinstance(m, NormalizedConv2d) for m in model.modules())
    assert (found.changed, found.stale) == (convolutions if changed else 0, batch_norms if stale else 0)


def test_an_initialisation_is_not_converted():
    assert Pretrained(named("bn_wa"), 3, library=Timm("test_resnet")).conversion is None


def test_converted_filters_keep_their_scale():
    """Apart from the removed means the network computes the same: the gain is the deviation of a filter."""
    library = Timm("test_resnet")
    torch.manual_seed(0)
    kept = Pretrained(named("keep"), 2, library=library)
    torch.manual_seed(0)
    aligned = Pretrained(named("bn_wa"), 2, library=library)
    before = next(m for m in kept.network.modules() if isinstance(m, nn.Conv2d)).weight.double()
    after = next(m for m in aligned.network.modules() if isinstance(m, WeightAlignConv2d)).normalized_weight().double()
    centred = before - before.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(after, centred, rtol=1e-4, atol=1e-6)


def test_a_classifier_of_any_number_of_classes_is_dropped(tmp_path):
    file = tmp_path / "weights.safetensors"
    torch.manual_seed(1)
    theirs = timm.create_model("test_resnet", num_classes=7)
    save_file(theirs.state_dict(), file)
    model = Pretrained(named("keep"), 31, library=Timm("test_resnet"), weights=str(file))
    assert model.head.out_features == 31
    assert all(torch.equal(a, b) for a, b in zip(model.network.parameters(), theirs.parameters(), strict=False))


def broken(tmp_path: Path, kind: str) -> Path:
    state = dict(timm.create_model("test_resnet").state_dict())
    first = next(iter(state))
    file = tmp_path / "weights.safetensors"
    if kind == "missing":
        del state[first]
    elif kind == "unexpected":
        state["mystery"] = torch.zeros(1)
    elif kind == "size mismatch":
        state[first] = torch.zeros(3, 3, 3, 3)
    if kind == "damaged":
        file.write_bytes(b"not a file of tensors")
    else:
        save_file(state, file)
    return file


@pytest.mark.parametrize("kind", ["missing", "unexpected", "size mismatch", "damaged"])
@pytest.mark.parametrize("device", ["cpu", "meta"])  # meta: before the first job
def test_weights_of_another_network_are_refused(tmp_path, kind, device):
    file = broken(tmp_path, kind)
    with pytest.raises(WeightsError, match=kind) as caught, torch.device(device):
        Pretrained(named("keep"), 2, library=Timm("test_resnet"), weights=str(file))
    assert str(file) in str(caught.value)


def test_a_torch_file_is_never_executed(tmp_path):
    file = tmp_path / "weights.pt"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "more": partial(print, "executed")}, file)
    with pytest.raises(WeightsError, match="tensors alone"):
        read_state(file)


@pytest.mark.parametrize(
    "content", [b"", b"hello world\n", b"a,b,c\n1,2,3\n", b"0.1,0.2\n", b"GIF89a", b"\xff\xd8\xff"]
)
def test_a_file_of_another_kind_is_named(tmp_path, content):
    """torch reads each of these as other instructions, which fail in other ways."""
    file = tmp_path / "weights.csv"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"weights\.csv is not a .*Give another one: model\.weights=FILE"):
        read_state(file)


def test_too_little_memory_is_not_a_fault_of_the_file(tmp_path, monkeypatch):
    def full(*args, **options):
        raise MemoryError

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(MemoryError):
        read_state(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("library", "weights", "reason"),
    [
        (Timm("resnet50.tv"), None, r"resnet50 has no weights 'tv'.*tv_in1k"),
        (Timm("resnet51"), None, r"resnet51: timm has no such network.*resnet50"),
        (Torchvision("resnet51"), None, r"resnet51: torchvision has no such network.*resnet50"),
        (Timm("test_resnet", {"depth": 3}), None, "model.options"),
        (Timm("test_resnet"), "nowhere.safetensors", "no such file"),
        (Timm("dla46_c"), None, "Conv2d, not nn.Linear"),
        (Torchvision("squeezenet1_1"), None, "squeezenet1_1: it has no nn.Linear.*mobilenet_v3_small"),
        (Timm("deit_tiny_distilled_patch16_224"), None, "one classifier"),
    ],
)
def test_a_wrong_name_option_or_path_is_a_sentence(library, weights, reason):
    with pytest.raises((ConfigError, WeightsError), match=reason):
        Pretrained(named("keep"), 2, library=library, weights=weights)


def test_without_internet_the_error_names_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"cannot be downloaded.*model\.weights=FILE"):
        Pretrained(named("keep"), 2, library=Timm("test_resnet"), weights="imagenet")


def test_without_timm_the_error_names_the_package(monkeypatch):
    monkeypatch.setattr(libraries, "timm", None)
    with pytest.raises(ConfigError, match=r"pip install 'PATH_OF_CLONE\[timm\]'"):
        Pretrained(named("keep"), 2, library=Timm("test_resnet"))


def domain(name: str, seed: int) -> DecodedDomain:
    """Two classes that differ in brightness."""
    draw, labels = np.random.default_rng(seed), np.arange(24) % 2
    pixels = (draw.integers(0, 100, (24, 3, 40, 40)) + 100 * labels[:, None, None, None]).astype(np.uint8)
    return DecodedDomain(name, pixels, labels, tuple(map(str, range(24))), name, ("dark", "bright"))


@pytest.mark.parametrize(("norm", "frozen"), [("bn_wa", False), ("keep", True)])
def test_a_training_in_crops_resumes_to_the_same_numbers(norm, frozen, tmp_path):
    domains = [domain("A", 0), domain("B", 1)]
    recipe = Recipe(
        epochs=2,
        batch_size=8,
        optimizer=partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True),
        schedule=schedule.inverse,
        augment=Crops(32, crop="auto", interpolation="auto"),
        evaluations=2,
        backbone_rate=0.1,
        epoch_steps=3,
        frozen_statistics=frozen,
    )

    def run(folder: str, cut: bool = False):
        torch.manual_seed(0)
        model = Pretrained(named(norm), 2, library=Timm("test_resnet"))

        def notify(done: int, total: int) -> None:
            if cut and done == 1:
                raise RuntimeError("power cut")

        (tmp_path / folder).mkdir(exist_ok=True)
        settings = Settings(accelerator="cpu", precision="32-true", save_every_s=0.0)
        task = Task(
            model, transfer(domains, "A", Full(0.2), 0), Normalize(model.expects.mean, model.expects.std), settings,
            seed=0, state=tmp_path / folder / "last.ckpt", notify=notify,
        )  # fmt: skip
        return model, train(recipe, task)

    model, whole = run("whole")
    with pytest.raises(RuntimeError, match="power cut"):
        run("cut", cut=True)
    resumed_model, resumed = run("cut")
    assert resumed.resumed_from == 1
    assert resumed.curve == whole.curve
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, resumed_model.state_dict()[name]), name
    assert whole.curve[-1]["lr"] == pytest.approx(0.01 * (1 + 0.001 * 6) ** -0.75)  # of the head, after 6 steps


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_statistics_are_those_of_the_start_in_every_step(frozen, tmp_path):
    domains = [domain("A", 0), domain("B", 1)]
    recipe = Recipe(
        epochs=2,
        batch_size=8,
        optimizer=partial(torch.optim.SGD, lr=0.01),
        schedule=schedule.constant,
        augment=Crops(32, crop="auto", interpolation="auto"),
        evaluations=2,
        epoch_steps=2,
        frozen_statistics=frozen,
    )
    model = Pretrained(named("keep"), 2, library=Timm("test_resnet"))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in norms:
        module.running_mean.uniform_(-0.1, 0.1)
        module.running_var.uniform_(0.5, 1.5)
    start = copy.deepcopy(model).train()
    for module in start.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(not frozen)
    steps: list[tuple[Tensor, Tensor]] = []

    def look(module: nn.Module, images: tuple[Tensor], logits: Tensor) -> None:
        if torch.is_grad_enabled() and not logits.is_meta:
            assert {norm.training for norm in norms} == {not frozen}
            assert all(other.training for other in model.modules() if other not in norms)
            steps.append((images[0].clone(), logits.detach()))

    model.register_forward_hook(look)
    task = Task(
        model, transfer(domains, "A", Full(0.2), 0), Normalize(model.expects.mean, model.expects.std),
        Settings(accelerator="cpu", precision="32-true"), seed=0, state=tmp_path / "last.ckpt",
    )  # fmt: skip
    train(recipe, task)
    assert len(steps) == 4  # of both epochs, with an evaluation in between
    images, logits = steps[0]
    torch.testing.assert_close(logits, start(images), rtol=1e-3, atol=1e-4)
    left = [torch.equal(tensor, dict(start.named_buffers())[name]) for name, tensor in model.named_buffers()]
    if frozen:
        assert all(left)
    before = [norm.weight for norm in start.modules() if isinstance(norm, nn.BatchNorm2d)]
    moved = [not torch.equal(norm.weight, gain) for norm, gain in zip(norms, before, strict=True)]
    assert sum(moved) > len(norms) / 2  # gains are trained


def test_frozen_statistics_stay_so_when_a_method_looks_at_the_target(tmp_path):
    """SHOT looks in evaluation mode before every epoch."""
    chosen = subsets.adaptation([domain("A", 0), domain("B", 1)], "A", "B", Full(0.2), 0, with_source=False)
    recipe = Recipe(
        epochs=2,
        batch_size=8,
        optimizer=partial(torch.optim.SGD, lr=0.01),
        schedule=schedule.constant,
        augment=Crops(32, crop="auto", interpolation="auto"),
        frozen_statistics=True,
    )
    model = Pretrained(named("keep"), 2, library=Timm("test_resnet"))
    modes: list[set[bool]] = []

    def look(module: nn.Module, features: tuple[Tensor], logits: Tensor) -> None:
        if torch.is_grad_enabled() and not logits.is_meta:
            modes.append({norm.training for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)})
            assert module.training

    model.head.register_forward_hook(look)
    task = Task(
        model, chosen, Normalize(model.expects.mean, model.expects.std), Settings(accelerator="cpu"),
        seed=0, state=tmp_path / "last.ckpt", adaptation=Adaptation(SHOT()),
    )  # fmt: skip
    train(recipe, task)
    assert modes == [{False}] * 6  # two epochs of 24 images
