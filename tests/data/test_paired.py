"""Paired batches: order, cycling, and no labels of the target."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from da_wa.data.augment import Normalize
from da_wa.data.cache import DecodedDomain
from da_wa.data.datamodule import Subset
from da_wa.data.paired import Paired, PairedDataModule, Unlabelled
from da_wa.errors import ConfigError


def domain(name: str, n: int) -> DecodedDomain:
    """Image number i has the value i everywhere and the label i % 3."""
    pixels = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 3, 4, 4)).copy()
    return DecodedDomain(name, pixels, np.arange(n) % 3, tuple(map(str, range(n))), name, ("a", "b", "c"))


def paired(source=20, target=9, *, batch=4, seed=0, epoch=0, name="T", index=None, **options) -> PairedDataModule:
    train = None if source is None else Subset(domain("S", source), np.arange(source))
    of = domain(name, 40)
    seen = Subset(of, np.arange(target) if index is None else np.asarray(index))
    same = Normalize([0.0] * 3, [1.0] * 3)
    data = PairedDataModule(
        train, seen, [], seed=seed, batch_size=batch, strong=lambda x: 255 - x, normalize=same,
        **{"augment": lambda x: x} | options,
    )  # fmt: skip
    data.trainer = SimpleNamespace(current_epoch=epoch, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    return data


def batches(data: PairedDataModule) -> list[Paired]:
    return list(data.train_dataloader())


def order(data: PairedDataModule) -> list[int]:
    return torch.cat([batch.target.position for batch in batches(data)]).tolist()


def test_a_target_batch_has_no_field_for_labels():
    assert Unlabelled._fields == ("images", "raw", "position")
    assert Paired._fields == ("source", "target")
    assert not any(getattr(x, "dtype", None) == torch.int64 and x is not b.target.position
                   for b in batches(paired()) for x in b.target)  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"source": None}, {"source": None, "stream": True}])
def test_target_batches_are_as_many_as_they_say(options):
    target = paired(**options).train_dataloader().target
    assert len(target) == len(list(target)) > 0


def test_the_order_of_the_target_is_a_function_of_seed_epoch_and_domain():
    first = order(paired())
    assert order(paired()) == first
    others = [order(paired(seed=1)), order(paired(epoch=1)), order(paired(name="other"))]
    others.append(order(paired(name="caf\udce9")))  # a folder's name that is not UTF-8
    assert all(other != first for other in others)
    assert len({tuple(other) for other in others}) == 4


def test_the_target_does_not_change_the_order_of_the_source():
    def sources(data):
        return torch.cat([batch.source[2] for batch in batches(data)]).tolist()

    assert sources(paired(name="T")) == sources(paired(name="other", target=20))


def test_an_epoch_is_a_pass_over_the_source_and_the_shorter_target_cycles():
    found = batches(paired(source=20, target=9))
    assert [(len(b.source[0]), len(b.target.images)) for b in found] == [(4, 4)] * 5
    assert sorted(torch.cat([b.source[2] for b in found]).tolist()) == list(range(20))
    seen = order(paired(source=20, target=9))
    assert sorted(seen[:9]) == sorted(seen[9:18]) == list(range(9))
    assert seen[:9] != seen[9:18]


def test_a_longer_target_is_drawn_anew_in_every_epoch():
    seen = {position for epoch in range(40) for position in order(paired(source=8, target=30, epoch=epoch))}
    assert seen == set(range(30))
    assert len(set(order(paired(source=8, target=30)))) == 8


def test_without_a_source_an_epoch_is_a_pass_over_the_target_in_full_batches():
    found = batches(paired(source=None, target=9))
    assert [b.source for b in found] == [None] * 3
    assert [len(b.target.images) for b in found] == [4, 4, 4]
    assert set(order(paired(source=None, target=9))) == set(range(9))


@pytest.mark.parametrize("kind", ["shuffled", "sorted"])
def test_a_stream_shows_every_image_once(kind):
    data = paired(source=None, target=10, stream=True, order=kind)
    assert [len(b.target.images) for b in batches(data)] == [4, 4, 2]
    assert data.images_per_epoch == 10
    seen = order(data)
    assert sorted(seen) == list(range(10))
    assert (seen == list(range(10))) == (kind == "sorted")


@pytest.mark.parametrize(
    ("target", "batch", "sizes"), [(9, 4, [4, 5]), (5, 4, [5]), (4, 4, [4]), (3, 1, [1, 1, 1]), (5, 2, [2, 3])]
)
@pytest.mark.parametrize("resident_gb", [8.0, 0.0])
def test_a_last_batch_of_one_image_of_a_stream_is_merged_into_the_one_before(
    tmp_path, target, batch, sizes, resident_gb
):
    np.save(tmp_path / "T.npy", domain("T", 40).pixels)
    data = paired(source=None, target=target, batch=batch, stream=True, resident_gb=resident_gb)
    of = data.target.domain
    data.target = replace(data.target, domain=replace(of, pixels=np.load(tmp_path / "T.npy", mmap_mode="r")))
    assert [len(b.target.images) for b in batches(data)] == sizes
    assert data.steps_per_epoch == len(data.train_dataloader()) == len(sizes)
    assert sorted(order(data)) == list(range(target))


def test_positions_count_in_the_subset():
    """Image number 7 of the domain is the third of the subset."""
    (batch, *_) = batches(paired(source=None, index=[1, 4, 7, 30], batch=4))
    shown = batch.target.images[:, 0, 0, 0].tolist()
    assert [[1, 4, 7, 30][k] for k in batch.target.position.tolist()] == shown


def test_views_and_order_of_all_images():
    data = paired(source=None, index=[1, 4, 7, 30], batch=4)
    (batch, *_) = batches(data)
    moved = data.on_after_batch_transfer(batch, 0)
    torch.testing.assert_close(moved.target.images, moved.target.raw.float() / 255)
    torch.testing.assert_close(data.strong_view(moved.target.raw), 1 - moved.target.images)
    everything = torch.cat(list(data.target_in_order()))
    torch.testing.assert_close(everything[:, 0, 0, 0] * 255, torch.tensor([1.0, 4, 7, 30]))


def test_all_images_in_random_order_for_methods_that_read_batches():
    """Files are sorted by class, which would make every batch one class; a small rest goes into the batch before."""

    def shown(images: int, **options) -> list[list[int]]:
        data = paired(source=None, target=images, plain=lambda x: x + 1, **options)
        data.eval_batch_size = 4
        return [(batch[:, 0, 0, 0] * 255 - 1).round().int().tolist() for batch in data.target_shuffled()]

    first = shown(21)
    assert [len(batch) for batch in first] == [4, 4, 4, 4, 5]
    assert [len(batch) for batch in shown(22)] == [4, 4, 4, 4, 4, 2]
    flat = [image for batch in first for image in batch]
    assert sorted(flat) == list(range(21)) != flat
    assert shown(21) == first != shown(21, seed=1)


@pytest.mark.parametrize("stream", [False, True])
def test_only_images_to_train_on_are_augmented(stream):
    data = paired(source=None, target=8, augment=lambda x: x + 100, plain=lambda x: x + 1, stream=stream)
    (batch, *_) = batches(data)
    target = data.on_after_batch_transfer(batch, 0).target
    torch.testing.assert_close(target.images, (target.raw + (1 if stream else 100)).float() / 255)
    everything = torch.cat(list(data.target_in_order()))
    torch.testing.assert_close(everything[:, 0, 0, 0] * 255, torch.arange(8.0) + 1)


@pytest.mark.parametrize("target", [0, 3])
def test_a_target_smaller_than_a_batch_is_refused(target):
    with pytest.raises(ConfigError, match="T"):
        paired(target=target)
