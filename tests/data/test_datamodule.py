"""Batches: every image once an epoch, the same epoch for the same seed, resident or streamed."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from da_wa.data.augment import Augment, Normalize
from da_wa.data.cache import DecodedDomain
from da_wa.data.datamodule import DomainDataModule, Subset, epoch_seed
from da_wa.data.loader import StreamedBatches, whole_map
from da_wa.data.mixed import mixed
from da_wa.errors import ConfigError, DataError

NORMALIZE = Normalize([0.5] * 3, [0.25] * 3)


def domain(name: str, n: int = 23, seed: int = 0, folder: Path | None = None) -> DecodedDomain:
    """Images whose first pixel is their number; mapped from a file, as those of the cache, if there is a folder."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 3, 8, 8), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(n)
    if folder is not None:
        np.save(folder / f"{name}.npy", pixels)
        pixels = np.load(folder / f"{name}.npy", mmap_mode="r")
    labels = np.arange(n) % 3
    return DecodedDomain(name, pixels, labels, tuple(map(str, range(n))), f"digest-{name}", ("a", "b", "c"))


def module(batch_size: int = 5, folder: Path | None = None, **kwargs) -> DomainDataModule:
    source, target = domain("S", folder=folder), domain("T", 11, seed=1, folder=folder)
    train, holdout = np.arange(0, 20), np.arange(20, 23)
    parts = [Subset(source, holdout), Subset(target, np.arange(11))]
    data = DomainDataModule(
        Subset(source, train),
        parts,
        seed=0,
        batch_size=batch_size,
        normalize=NORMALIZE,
        **{"augment": Augment(), **kwargs},
    )
    data.eval_batch_size = 4
    return data


@pytest.mark.parametrize("resident_gb", [8.0, 0.0])
def test_an_epoch_shows_every_training_image_once(resident_gb, tmp_path):
    data = module(resident_gb=resident_gb, folder=tmp_path)
    assert isinstance(data.train_dataloader(), StreamedBatches) == (resident_gb == 0.0)
    batches = list(data.train_dataloader())
    assert [len(labels) for _, labels, _ in batches] == [5, 5, 5, 5]
    numbers = torch.cat([n for _, _, n in batches])
    assert sorted(numbers.tolist()) == list(range(20))
    assert numbers.tolist() != list(range(20))
    for images, labels, n in batches:
        assert torch.equal(images[:, 0, 0, 0].long(), n)
        assert torch.equal(labels, n % 3)


def test_resident_and_streamed_batches_are_the_same(tmp_path):
    resident, streamed = module(), module(resident_gb=0.0, folder=tmp_path)
    assert len(resident.train_dataloader()) == len(streamed.train_dataloader()) == 4
    loaders = [(resident.train_dataloader(), streamed.train_dataloader())]
    loaders += list(zip(resident.val_dataloader(), streamed.val_dataloader(), strict=True))
    for one, other in loaders:
        for a, b in zip(one, other, strict=True):
            for x, y in zip(a, b, strict=True):
                assert torch.equal(x, y)


def test_a_part_of_a_file_is_not_taken_for_the_whole(tmp_path):
    """numpy keeps the offset of the file in views of a map."""
    whole = domain("S", folder=tmp_path)
    assert whole_map(whole.pixels)
    assert not whole_map(whole.pixels[3:])
    part = Subset(dataclasses.replace(whole, pixels=whole.pixels[3:], labels=whole.labels[3:]), np.arange(20))
    data = DomainDataModule(part, [], seed=0, batch_size=20, augment=Augment(), normalize=NORMALIZE, resident_gb=0.0)
    ((images, _, numbers),) = data.train_dataloader()
    assert torch.equal(images[:, 0, 0, 0].long(), numbers + 3)


def test_streaming_holds_a_few_batches_whatever_the_size_of_the_set(tmp_path):
    """Of 96 MB; mapped pages count as memory of a process, in which a scheduler may find it too large."""
    memory = Path("/proc/self/statm")
    if not memory.exists():
        pytest.skip("needs Linux")
    n = 8192
    np.lib.format.open_memmap(tmp_path / "S.npy", "w+", np.uint8, (n, 3, 64, 64)).flush()
    pixels = np.load(tmp_path / "S.npy", mmap_mode="r")
    large = DecodedDomain("S", pixels, np.zeros(n, np.int64), ("x",) * n, "digest", ("a",))
    data = DomainDataModule(
        Subset(large, np.arange(n)), [], seed=0, batch_size=64, augment=Augment(), normalize=NORMALIZE, resident_gb=0.0
    )
    before, most = int(memory.read_text().split()[1]), 0
    for _ in data.train_dataloader():
        most = max(most, int(memory.read_text().split()[1]))
    assert (most - before) * os.sysconf("SC_PAGESIZE") < 32 * 2**20


def test_a_file_that_became_shorter_is_an_error(tmp_path):
    data = module(resident_gb=0.0, folder=tmp_path)
    os.truncate(tmp_path / "S.npy", 1000)
    with pytest.raises(DataError, match=r"S\.npy has changed"):
        list(data.train_dataloader())


def test_evaluation_is_in_order_and_whole():
    data = module()
    source, target = data.val_dataloader()
    assert torch.cat([n for _, _, n in source]).tolist() == [20, 21, 22]
    assert torch.cat([n for _, _, n in target]).tolist() == list(range(11))
    assert len(target) == 3


def test_mixtures_are_evaluated_last():
    data = module()
    data.mixed = (mixed(data.evaluate[1], 2).images,)
    *_, loader = data.val_dataloader()
    assert [n.tolist() for _, _, n in loader] == [[0, 1]]


def test_a_last_smaller_batch_is_left_out_of_training():
    data = module(batch_size=6)
    assert data.steps_per_epoch == 3
    assert [len(labels) for _, labels, _ in data.train_dataloader()] == [6, 6, 6]


def test_fewer_images_than_a_batch_is_reported():
    with pytest.raises(ConfigError, match="S has 20 training images, fewer than one batch of 21"):
        module(batch_size=21)


def test_only_training_batches_are_augmented():
    data = module(augment=lambda images: images + 1)
    batch = next(iter(data.val_dataloader()[1]))
    images, _, _ = data.on_after_batch_transfer(batch, 0)
    torch.testing.assert_close(images, NORMALIZE(batch[0]))


def test_seeds_of_epochs_and_streams_differ():
    seeds = {epoch_seed(s, e, k) for s in range(5) for e in range(20) for k in range(3)}
    assert len(seeds) == 5 * 20 * 3
    assert all(0 <= seed < 2**63 for seed in seeds)
