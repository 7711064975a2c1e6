from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import instantiate
from torch import nn

import da_wa
from da_wa.errors import ConfigError
from da_wa.norm import (
    BatchRenorm2d,
    CenteredWeightNormConv2d,
    EvoNormS0,
    FilterResponseNorm2d,
    MeanOnlyConv2d,
    Norm,
    NormalizedConv2d,
    ScaledWeightStandardConv2d,
    StdOnlyConv2d,
    WeightAlignConv2d,
    WeightNormConv2d,
    WeightStandardConv2d,
    named,
)
from da_wa.norm.configs import norm_files

PLANE = {
    "none": ("Baseline", type(None)),
    "bn": ("BN", nn.BatchNorm2d),
    "gn": ("GN", nn.GroupNorm),
    "in": ("IN", nn.InstanceNorm2d),
    "ln": ("LN", nn.GroupNorm),
}
FILES = sorted(norm_files())
LAYERS = sorted(norm_files().keys() - {"keep"})  # `keep` has nothing to build layers from
HEAVY = ["hydra", "omegaconf", "lightning", "pytorch_lightning", "pandas", "matplotlib", "pydantic", "torchvision"]
WEIGHT_LEVELS: dict[type[nn.Module], str] = {
    nn.Conv2d: "plain",
    CenteredWeightNormConv2d: "center",
    WeightStandardConv2d: "standardize",
    ScaledWeightStandardConv2d: "scaled_standardize",
    WeightNormConv2d: "weight_norm",
    MeanOnlyConv2d: "align_mean",
    StdOnlyConv2d: "align_std",
}
ALIGN_LEVELS = {  # by the multiple of the paper's scale
    1.0: "align",
    0.5: "align_half",
    2.0: "align_double",
    0.1: "align_tenth",
    10.0: "align_tenfold",
}
SCALED = ["wa_half", "wa_double", "wa_tenth", "wa_tenfold"]
ACTIVATION_LEVELS: dict[type[nn.Module], str] = {
    nn.BatchNorm2d: "bn",
    BatchRenorm2d: "brn",
    EvoNormS0: "evonorm_s0",
    FilterResponseNorm2d: "frn",
}


def node(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(norm_files()[name].read_text())
    return content


def levels(norm: Norm) -> dict[str, str]:
    """The factors of ``norm`` by the classes of its layers."""
    conv, layer = norm.conv(2, 4, 3), None if norm.activation is None else norm.activation(64)
    weight = ALIGN_LEVELS[conv.multiple] if type(conv) is WeightAlignConv2d else WEIGHT_LEVELS[type(conv)]
    if layer is None:
        return {"weight": weight, "activation": "none"}
    if isinstance(layer, nn.GroupNorm):
        return {"weight": weight, "activation": "ln" if layer.num_groups == 1 else "gn"}
    return {
        "weight": weight,
        "activation": "in" if isinstance(layer, nn.InstanceNorm2d) else ACTIVATION_LEVELS[type(layer)],
    }


def parameters(node: Any, prefix: str = "") -> dict[str, Any]:
    """The numbers and names that a file sets; class paths and the label excluded."""
    if not isinstance(node, dict):
        return {prefix: node}
    inner = {key: value for key, value in node.items() if not key.startswith("_") and key != "label"}
    return {k: v for key, value in inner.items() for k, v in parameters(value, f"{prefix}.{key}").items()}


@pytest.mark.parametrize("name", PLANE)
def test_the_ten_rows_of_the_paper(name: str) -> None:
    label, kind = PLANE[name]
    plain = named(name)
    aligned = named("wa" if name == "none" else f"{name}_wa")
    assert plain.label == label and aligned.label == ("WA" if name == "none" else f"{label} + WA")
    assert type(plain.conv(4, 8, 3)) is nn.Conv2d and type(aligned.conv(4, 8, 3)) is WeightAlignConv2d
    for norm in (plain, aligned):
        assert isinstance(norm.activation and norm.activation(64), kind)
    if plain.activation is not None:
        groups = getattr(plain.activation(64), "num_groups", None)
        assert groups == {"gn": 32, "ln": 1}.get(name)


@pytest.mark.parametrize("name", LAYERS)
def test_every_file_makes_layers_that_learn(name: str) -> None:
    norm = copy.deepcopy(named(name))
    conv = norm.conv(8, 16, 3, stride=1, padding=1, bias=False)
    activation = norm.activation(16) if norm.activation is not None else nn.Identity()
    network = nn.Sequential(conv, activation, norm.nonlinearity(16))
    y = network(torch.randn(4, 8, 6, 6))
    assert y.shape == (4, 16, 6, 6) and y.isfinite().all()
    y.sin().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_keep_builds_nothing() -> None:
    assert node("keep").get("factors", {}) == named("keep").factors == {}
    with pytest.raises(ConfigError, match="leaves an existing network as it is"):
        named("keep").conv(8, 16, 3)


def test_labels_are_unique() -> None:
    labels = {name: named(name).label for name in FILES}
    assert len(set(labels.values())) == len(labels) >= 20
    assert any(isinstance(named(name).conv(2, 2, 3), NormalizedConv2d) for name in LAYERS)


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match="bn_wa"):
        named("bnwa")
    with pytest.raises(ConfigError, match="unknown norm"):
        named("../norm/bn")


def run(code: str, *path: Path) -> str:
    """The output of a new process that sees ``path`` before the package."""
    lines = ["import sys", *(f"sys.path.insert(0, {str(p)!r})" for p in path), code]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("use", ["", "; da_wa.norm.named('bn_wa').conv(3, 4, 3)"])
def test_the_import_is_light(use: str) -> None:
    loaded = run(f"import da_wa.norm{use}; print(*sorted(sys.modules))", Path(da_wa.__file__).parents[1]).split()
    assert "torch" in loaded and "da_wa.norm.spec" in loaded
    tops = {name.split(".")[0] for name in loaded}
    assert tops.isdisjoint(HEAVY)
    own = {name.split(".")[1] for name in loaded if name.startswith("da_wa.")}
    assert own == {"errors", "norm", "shipped"}


def test_an_installed_package_has_its_own_files(tmp_path: Path) -> None:
    """A wheel has ``conf`` inside ``da_wa``, see ``pyproject.toml``; a ``conf`` beside the package is not its own."""
    package = Path(da_wa.__file__).parent
    shutil.copytree(package / "norm", tmp_path / "da_wa" / "norm", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "errors.py", "shipped.py"):
        shutil.copy(package / name, tmp_path / "da_wa")
    for conf, label in ((tmp_path / "da_wa" / "conf", "installed"), (tmp_path / "conf", "beside")):
        (conf / "norm").mkdir(parents=True)
        (conf / "norm" / "mine.yaml").write_text(f"_target_: da_wa.norm.spec.Norm\nlabel: {label}\n")
    code = "import da_wa.norm; print(da_wa.norm.__file__); print(da_wa.norm.named('mine').label)"
    where, label = run(code, tmp_path).splitlines()
    assert Path(where).is_relative_to(tmp_path) and label == "installed"


@pytest.mark.parametrize("name", FILES)
def test_hydra_and_named_read_a_file_alike(name: str) -> None:
    ours, hydras = named(name), instantiate(node(name), _convert_="all")
    for norm in (ours, hydras):
        assert isinstance(norm, Norm) and type(norm.factors) is dict
    for part in ("label", "factors", "version"):
        assert getattr(ours, part) == getattr(hydras, part)
    for part in ("conv", "activation", "nonlinearity"):
        a, b = getattr(ours, part), getattr(hydras, part)
        assert getattr(a, "func", a) is getattr(b, "func", b)
        assert getattr(a, "keywords", {}) == getattr(b, "keywords", {})


@pytest.mark.parametrize("name", LAYERS)
def test_declared_factors_are_those_of_the_layers(name: str) -> None:
    assert node(name)["factors"] == named(name).factors == levels(named(name))
    assert named(name).version == node(name).get("version", 1)


def test_factors_and_parameters_identify_a_norm() -> None:
    facts = {name: repr(sorted(parameters(node(name)).items(), key=str)) for name in FILES}
    assert len(set(facts.values())) == len(FILES)
    factors = {name: tuple(sorted(named(name).factors.items())) for name in FILES}
    assert len(set(factors.values())) == len(FILES)  # a table that varies both factors has one norm a cell


@pytest.mark.parametrize("name", ["gn", "gn_wa", "gn_ws", "evonorm_s0", "brn", *SCALED])
def test_numbers_that_matter_are_in_the_file(name: str) -> None:
    """Not in the default of an argument, which a file does not show."""
    expected = {".conv.multiple"} if name in SCALED else {".activation.groups"}
    if name == "brn":
        expected = {f".activation.{key}" for key in ("r_max", "d_max", "start", "r_end", "d_end")}
        assert (
            BatchRenorm2d(4).__dict__.items()
            >= {key: value for key, value in node(name)["activation"].items() if not key.startswith("_")}.items()
        )
    assert expected <= parameters(node(name)).keys()


@pytest.mark.parametrize("factors", [{"weight": 1}, {1: "align"}, ["align"], None, "align"])
def test_wrong_factors_are_refused(factors: Any) -> None:
    with pytest.raises(ConfigError, match=r"norm\.factors=.* of Mine must map names to names"):
        Norm("Mine", factors=factors)


@pytest.mark.parametrize("version", [0, -1, 1.5, "2", True, None])
def test_wrong_versions_are_refused(version: Any) -> None:
    with pytest.raises(ConfigError, match=r"norm\.version=.* of Mine must be a whole number, 1 or more"):
        Norm("Mine", version=version)


def test_norms_compare_and_hash() -> None:
    factors = {"weight": "plain"}
    assert Norm("A", factors=factors) == Norm("A", factors=dict(factors)) != Norm("A", version=2)
    assert len({Norm("A", factors=factors), Norm("A", factors=dict(factors))}) == 1


@pytest.mark.parametrize("groups", [0, -1, 1.5, True, None, "32"])
def test_a_wrong_number_of_groups_is_refused(groups: Any) -> None:
    for make in (named("gn").activation, named("evonorm_s0").activation):
        assert make is not None
        with pytest.raises(ConfigError, match=r"groups=.*whole number"):
            make(64, groups=groups)  # type: ignore[call-arg]
