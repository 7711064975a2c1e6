"""An experiment's images can stay behind: index and cache stand for them, to the same digest."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from da_wa.data.cache import load_decoded
from da_wa.data.cifar import cifar100
from da_wa.data.decoded import from_index, save_index
from da_wa.data.folders import from_folders
from da_wa.data.office31 import office31
from da_wa.errors import DataError


def test_pixels_names_and_digests_are_those_of_the_files(tmp_path, draw_tree):
    root = draw_tree(tmp_path / "images")
    domains = from_folders(root)
    save_index(domains, tmp_path / "moved" / "set.json")
    before = [load_decoded(d, domains.classes, 16, tmp_path / "cache") for d in domains.domains]
    shutil.rmtree(root)
    shutil.rmtree(tmp_path / "cache" / "digests")
    moved = from_index(tmp_path / "moved" / "set.json")
    assert (moved.name, moved.classes, moved.names) == (domains.name, domains.classes, domains.names)
    for domain, known in zip(moved.domains, before, strict=True):
        found = load_decoded(domain, moved.classes, 16, tmp_path / "cache")
        np.testing.assert_array_equal(found.pixels, known.pixels)
        np.testing.assert_array_equal(found.labels, known.labels)
        assert (found.digest, found.names) == (known.digest, known.names)
    with pytest.raises(DataError, match="does not have it at 24 pixels"):
        load_decoded(moved.domains[0], moved.classes, 24, tmp_path / "cache")


def test_it_stands_for_a_dataset_wherever_a_root_is_asked_for(tmp_path, domains_root, cifar_root):
    save_index(cifar100(cifar_root, verify=False), tmp_path / "cifar.json")
    assert cifar100(tmp_path / "cifar.json", verify=False).names == ("train", "test")
    save_index(from_folders(domains_root, {"A": "paper", "W": "sunset", "D": "blueprint"}), tmp_path / "office.json")
    assert office31(tmp_path / "office.json", verify=False).names == ("A", "W", "D")
    with pytest.raises(DataError, match="back_pack"):
        office31(tmp_path / "office.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        ("{", "not a valid index"),
        ("{}", "not a valid index"),
        (
            '{"name": "x", "classes": ["a"], "class_rule": "equal", "domains": [{"name": "A", "digest": "0"}]}',
            "not a valid index",
        ),
        (
            '{"name": "x", "classes": ["a"], "class_rule": "equal", "domains": [{"name": "A", "names": ["1"], '
            '"labels": [1], "digest": "00000000000000000000000000000000"}]}',
            "not below 1",
        ),
    ],
)
def test_what_is_no_index_is_reported(tmp_path, content, said):
    path = tmp_path / "set.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=said):
        from_index(path)


def test_digests_exchanged_between_domains_are_noticed(tmp_path, draw_tree):
    """Also with equal file names, where nothing else differs."""
    path = tmp_path / "set.json"
    save_index(from_folders(draw_tree(tmp_path / "images", domains=("a", "b"))), path)
    content = json.loads(path.read_text())
    first, second = content["domains"]
    first["digest"], second["digest"] = second["digest"], first["digest"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="checksum does not match"):
        from_index(path)
    del content["checksum"]  # written by an earlier version
    path.write_text(json.dumps(content))
    assert from_index(path).names == ("a", "b")
