"""Every file of conf/data and conf/protocol describes something that can be made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from da_wa.config.tree import conf_dir
from da_wa.data.domains import DomainSet
from da_wa.data.splits import Full, Paper

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


def test_lists(domains_root: Path, tmp_path: Path) -> None:
    (tmp_path / "paper.txt").write_text("paper/mug/000.png 0\n")
    domains = make("lists", root=str(domains_root), lists={"P": str(tmp_path / "paper.txt")})
    assert domains["P"].labels.tolist() == [0]


def test_office31(tmp_path: Path, domains_root: Path) -> None:
    for code, folder in (("amazon", "paper"), ("webcam", "sunset"), ("dslr", "blueprint")):
        (tmp_path / code).symlink_to(domains_root / folder)
    assert make("office31", root=str(tmp_path), verify=False, download=False).names == ("A", "W", "D")


def test_digits_and_the_class_rule() -> None:
    assert make("digits", per_class=2, classes="common").class_rule == "common"


def test_protocols() -> None:
    full, paper = (instantiate(OmegaConf.load(conf_dir() / "protocol" / f"{name}.yaml")) for name in ("full", "paper"))
    assert (full, full.name) == (Full(0.1), "full")
    assert (paper, paper.name) == (Paper(0.15), "paper")
    sized = OmegaConf.merge(OmegaConf.load(conf_dir() / "protocol" / "paper.yaml"), {"sizes": {"A": 4}})
    assert len(instantiate(sized).target("A", np.zeros(9, np.int64), 0)) == 4
