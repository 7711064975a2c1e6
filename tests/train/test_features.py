"""Features of frozen networks in the cache: what they are, when they are computed, and by whom."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from filelock import FileLock

from da_wa.data.augment import Normalize, Stored
from da_wa.data.crops import Central
from da_wa.errors import DataError
from da_wa.models.resnet import BasicBlock, ResNet
from da_wa.train import features
from da_wa.train.features import Extractor

from .conftest import BN_WA, SETTINGS

NORMALIZE = Normalize([0.5] * 3, [0.25] * 3)


def network(seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(BN_WA, 3, block=BasicBlock, depths=[1, 1], widths=[4, 8])


@pytest.fixture
def extractor(tmp_path):
    def make(folder="cache", **changes):
        options = {
            "model": network(),
            "view": Stored(),
            "normalize": NORMALIZE,
            "settings": SETTINGS,
            "facts": {"norm": "bn_wa"},
        }
        return Extractor(folder=tmp_path / folder, **{**options, **changes})

    return make


def files(tmp_path):
    return sorted((tmp_path / "cache").glob("*.npy"))


def test_they_are_the_networks_in_evaluation_mode(extractor, domains):
    found, computed = extractor()(domains)
    assert computed == 120
    model = network().eval()
    for domain in domains:
        with torch.no_grad():
            expected = model.features(NORMALIZE(torch.from_numpy(domain.pixels))).numpy()
        np.testing.assert_allclose(found[domain.name], expected, rtol=1e-4, atol=1e-5)
        assert isinstance(found[domain.name], np.memmap) and not found[domain.name].flags.writeable


def test_of_the_central_crop(extractor, domains):
    side = domains[0].pixels.shape[-1]
    found, computed = extractor(view=Central(side - 2, crop=(side - 2) / side))(domains[:1])
    assert computed == len(domains[0])
    with torch.no_grad():
        expected = network().eval().features(NORMALIZE(torch.from_numpy(domains[0].pixels[:, :, 1:-1, 1:-1]))).numpy()
    np.testing.assert_allclose(found[domains[0].name], expected, rtol=1e-4, atol=1e-5)
    assert extractor()(domains[:1])[1] == len(domains[0])  # another view has features of its own


def test_they_are_computed_once(extractor, domains, tmp_path):
    before, _ = extractor()(domains)
    after, computed = extractor()(domains)
    assert computed == 0
    assert all((before[name] == after[name]).all() for name in "AWD")
    assert not list((tmp_path / "cache").glob(".*.part"))


def test_another_process_may_delete_them_at_once(extractor, domains, monkeypatch):
    expected, _ = extractor("other")(domains)
    monkeypatch.setattr(features, "_write", lambda path, values: None)
    found, computed = extractor()(domains)
    assert computed == sum(map(len, domains))
    assert all((found[name] == expected[name]).all() for name in "AWD")


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_file_is_computed_again(extractor, domains, tmp_path, damage, caplog):
    before = {name: np.array(array) for name, array in extractor()(domains)[0].items()}
    path = files(tmp_path)[0]
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    broken = {"cut": bytes(content[:-9]), "flipped": bytes(content), "empty": b"",
              "foreign": files(tmp_path)[1].read_bytes()[:-4] + b"none"}  # fmt: skip
    path.unlink()
    path.write_bytes(broken[damage])
    after, computed = extractor()(domains)
    assert computed == 40
    assert "damaged" in caplog.text
    assert all((before[name] == after[name]).all() for name in "AWD")


def test_the_key_is_the_content(extractor, domains):
    extractor()(domains)
    changed = network()
    with torch.no_grad():
        changed.stem[0].weight[0, 0, 0, 0] += 1e-3
    statistics = network()
    next(m for m in statistics.modules() if isinstance(m, torch.nn.BatchNorm2d)).running_mean[0] += 1
    for other in (
        {"model": changed}, {"model": statistics}, {"normalize": Normalize([0.4] * 3, [0.25] * 3)},
        {"facts": {"norm": "gn_wa"}}, {"settings": replace(SETTINGS, precision="bf16-mixed")},
    ):  # fmt: skip
        assert extractor(**other)(domains)[1] == 120, other
    brighter = [replace(d, pixels=np.where(np.arange(40)[:, None, None, None] == 7, 99, d.pixels)) for d in domains[:1]]
    assert extractor()(brighter)[1] == 40


def test_neither_labels_nor_names_nor_the_head_are_in_the_key(extractor, domains):
    extractor()(domains)
    head = network()
    head.head = head.make_head(7)
    others = [replace(d, labels=d.labels[::-1].copy(), digest="other", classes=("x", "y", "z")) for d in domains]
    assert extractor(model=head)(others)[1] == 0


def test_processes_share_the_work(extractor, domains, tmp_path):
    """One that finds A taken computes W and D, then waits for A instead of computing it."""
    extractor("elsewhere")(domains[:1])
    (done,) = (tmp_path / "elsewhere").glob("*.npy")
    (tmp_path / "cache").mkdir()
    result = {}

    def work():
        result["found"], result["computed"] = extractor()(domains)

    with FileLock(tmp_path / "cache" / f"{done.stem}.lock"):
        thread = threading.Thread(target=work)
        thread.start()
        while len(files(tmp_path)) < 2 and thread.is_alive():
            time.sleep(0.01)
        assert thread.is_alive()
        shutil.copy(done, tmp_path / "cache")
    thread.join()
    assert result["computed"] == 80
    assert set(result["found"]) == set("AWD")


def test_a_feature_that_is_no_number_is_refused(extractor, domains):
    broken = network()
    with torch.no_grad():
        broken.stem[0].weight.fill_(float("nan"))
    with pytest.raises(DataError, match="A: the network gives features that are not finite"):
        extractor(model=broken)(domains)


def test_a_cache_that_cannot_be_written_says_which_option_to_change(extractor, domains, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(DataError, match="cache_dir=PATH"):
        extractor()(domains)
