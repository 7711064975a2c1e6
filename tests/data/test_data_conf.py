"""Every file of conf/data and conf/protocol describes something that can be made."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from da_wa.config.make import make as config_make
from da_wa.data.domains import DomainSet
from da_wa.data.splits import Full, Paper
from da_wa.errors import DataError
from da_wa.runs.inputs import Inputs
from da_wa.shipped import conf_dir

DrawTree = Callable[..., Path]
KEYS = {"name", "size", "on_bad", "classes", "extra", "domains"}


def data_config(file: str, **options: object) -> DictConfig:
    config = OmegaConf.create({"data": OmegaConf.load(conf_dir() / "data" / f"{file}.yaml")})
    return OmegaConf.merge(config, {"data": options})  # type: ignore[return-value]


def make(file: str, **options: object) -> DomainSet:
    return instantiate(data_config(file, **options).data.domains)  # type: ignore[no-any-return]


@pytest.mark.parametrize("path", sorted((conf_dir() / "data").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_dataset_has_the_common_keys(path: Path) -> None:
    assert set(OmegaConf.load(path)) >= KEYS


def test_folders(domains_root: Path) -> None:
    domains = make("folders", root=str(domains_root), name="shapes", folders={"B": "blueprint", "P": "paper"})
    assert (domains.name, domains.names) == ("shapes", ("B", "P"))


def imagenet(root: Path, **options: object) -> DomainSet:
    node = OmegaConf.to_container(data_config("imagenet", root=str(root), **options), resolve=True)
    return config_make(node["data"]["domains"])  # type: ignore[no-any-return,index,call-overload]


def test_imagenet(tmp_path: Path, draw_tree: DrawTree) -> None:
    root = draw_tree(tmp_path, domains=("train", "val"), classes=("n01", "n02"), per_class=2, side=8, suffix=".JPEG")
    domains = imagenet(root)
    assert (domains.name, domains.names, domains.classes) == ("ImageNet", ("train", "val"), ("n01", "n02"))
    (root / "train" / "n03").mkdir()
    with pytest.raises(DataError, match=r"train: no image .* of the classes n03"):
        imagenet(root)
    (root / "train" / "n01" / "000.JPEG").rename(root / "train" / "n03" / "000.JPEG")
    with pytest.raises(DataError, match="val lacks n03"):
        imagenet(root)
    (root / "val").rename(root / "validation")
    with pytest.raises(DataError, match="val: no such file or directory"):
        imagenet(root)
    assert imagenet(root, folders={"train": "train", "val": "validation"}, classes="common").names


def test_lists(domains_root: Path, tmp_path: Path) -> None:
    (tmp_path / "paper.txt").write_text("paper/mug/000.png 0\n")
    domains = make("lists", root=str(domains_root), lists={"P": str(tmp_path / "paper.txt")})
    assert domains["P"].labels.tolist() == [0]


def test_office31(tmp_path: Path, domains_root: Path) -> None:
    for code, folder in (("amazon", "paper"), ("webcam", "sunset"), ("dslr", "blueprint")):
        (tmp_path / code).symlink_to(domains_root / folder)
    assert make("office31", root=str(tmp_path), verify=False, download=False).names == ("A", "W", "D")


def inputs(file: str, cache_dir: Path, **options: object) -> Inputs:
    data = OmegaConf.to_container(data_config(file, size=8, **options).data, resolve=True)
    assert isinstance(data, dict)
    return Inputs(data, cache_dir)


def test_one_set_of_images_is_not_two_domains(tmp_path: Path, domains_root: Path) -> None:
    root, cache = tmp_path / "root", tmp_path / "cache"
    shutil.copytree(domains_root / "paper", root / "first")
    shutil.copytree(domains_root / "sunset", root / "other")
    assert len(inputs("folders", cache, root=str(root)).manifests) == 2

    same = "first and {} have the same images and labels.*Leave one of them out or correct its path"
    with pytest.raises(DataError, match=same.format("C")):
        _ = inputs("folders", cache, root=str(root), extra={"C": str(root / "first")}).manifests
    shutil.copytree(root / "first", root / "second")
    with pytest.raises(DataError, match=same.format("second")):
        _ = inputs("folders", cache, root=str(root)).manifests
    shutil.rmtree(root / "second")
    (root / "second").symlink_to(root / "first")
    with pytest.raises(DataError, match=same.format("second")):
        _ = inputs("folders", cache, root=str(root)).manifests
    (root / "list.txt").write_text("first/mug/000.png 0\nfirst/pen/000.png 1\n")
    lists = {name: str(root / "list.txt") for name in ("first", "twice")}
    with pytest.raises(DataError, match=same.format("twice")), pytest.warns(UserWarning, match="2 images in common"):
        _ = inputs("lists", cache, root=str(root), lists=lists).manifests
    assert len(inputs("digits", cache, per_class=2).manifests) == 3


@pytest.mark.parametrize("rule", ["equal", "common"])
def test_digits_and_the_class_rule(tmp_path: Path, rule: str) -> None:
    options = OmegaConf.to_container(data_config("digits", per_class=2, classes=rule).data, resolve=True)
    assert isinstance(options, dict)
    domains = Inputs(options, tmp_path).domains
    assert (domains.class_rule, len(domains.classes)) == (rule, 10)


def test_protocols() -> None:
    full, paper = (instantiate(OmegaConf.load(conf_dir() / "protocol" / f"{name}.yaml")) for name in ("full", "paper"))
    assert (full, full.name) == (Full(0.1), "full")
    assert (paper, paper.name) == (Paper(0.15), "paper")
    sized = OmegaConf.merge(OmegaConf.load(conf_dir() / "protocol" / "paper.yaml"), {"sizes": {"A": 4}})
    assert len(instantiate(sized).target("A", np.zeros(9, np.int64), 0)) == 4
