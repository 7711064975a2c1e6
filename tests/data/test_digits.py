"""The built-in digits: the same everywhere, really digits, and three different looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from sklearn.linear_model import LogisticRegression

from da_wa.data.cache import load_decoded
from da_wa.data.digits import digits
from da_wa.data.domains import DomainSet
from da_wa.errors import ConfigError


@pytest.fixture(scope="module")
def domains() -> DomainSet:
    return digits(seed=0)


def pixels_of(domains: DomainSet, name: str) -> np.ndarray:
    images = domains[name].images
    return np.stack([images.decode(i, 32) for i in range(len(images))])


def test_three_domains_of_ten_classes(domains: DomainSet, tmp_path: Path) -> None:
    assert domains.names == ("H", "N", "P")
    assert domains.classes == tuple("0123456789")
    for domain in domains.domains:
        assert np.bincount(domain.labels).tolist() == [87] * 10
    decoded = load_decoded(domains["N"], domains.classes, 32, tmp_path)
    assert np.array_equal(decoded.pixels, pixels_of(domains, "N"))
    assert len(set(decoded.names)) == 870


def test_the_seed_alone_decides(domains: DomainSet) -> None:
    first, again, other = ([d.images.digest() for d in s.domains] for s in (domains, digits(seed=0), digits(seed=1)))
    assert first == again
    assert not set(first) & set(other)


@pytest.fixture(scope="module")
def uci() -> dict[bytes, int]:
    """Every UCI digit, enlarged, and its label."""
    data = load_digits()
    small = [Image.fromarray(image) for image in np.round(data.images * 255 / 16).astype(np.uint8)]
    return {s.resize((32, 32), Image.Resampling.BICUBIC).tobytes(): y for s, y in zip(small, data.target, strict=True)}


def test_handwritten_digits_are_ucis_each_used_once(domains: DomainSet, uci: dict[bytes, int]) -> None:
    handwritten = pixels_of(domains, "H")
    assert np.array_equal(handwritten[:, 0], handwritten[:, 2])
    assert [uci[image[0].tobytes()] for image in handwritten] == domains["H"].labels.tolist()
    assert len({image.tobytes() for image in handwritten}) == 870


def test_a_natural_digit_is_the_difference_of_another_uci_digit_and_a_photo(
    domains: DomainSet, uci: dict[bytes, int]
) -> None:
    image = pixels_of(domains, "N")[300].transpose(1, 2, 0).astype(int)
    used = {handwritten[0].tobytes() for handwritten in pixels_of(domains, "H")}
    photos = [np.asarray(Image.fromarray(photo).reduce(2)).astype(int) for photo in load_sample_images().images]
    origins = [
        label
        for content, label in uci.items()
        if content not in used
        and any(_is_blend(image, np.frombuffer(content, np.uint8).reshape(32, 32), photo) for photo in photos)
    ]
    assert origins == [domains["N"].labels[300]]


def _is_blend(image: np.ndarray, digit: np.ndarray, photo: np.ndarray) -> bool:
    """Whether ``image`` is ``|patch - digit|`` for some patch of ``photo``; where the digit is 0 it is the photo."""
    y, x = np.argwhere(digit == 0)[0]
    height, width = photo.shape[0] - 31, photo.shape[1] - 31
    corners = np.argwhere((photo[y : y + height, x : x + width] == image[y, x]).all(axis=-1))
    patches = (photo[top : top + 32, left : left + 32] for top, left in corners)
    return any(np.array_equal(np.abs(patch - digit[..., None].astype(int)), image) for patch in patches)


@pytest.mark.parametrize(("domain", "least"), [("H", 0.9), ("P", 0.35)])
def test_labels_can_be_learned(domains: DomainSet, domain: str, least: float) -> None:
    """By a linear model of the pixels, for which jitter is hard; chance is 0.1."""
    x = pixels_of(domains, domain)[:, 0, ::2, ::2].reshape(870, -1) / 255.0
    x = x - x.mean(axis=1, keepdims=True)
    y, train = domains[domain].labels, np.arange(870) % 3 != 0
    assert LogisticRegression(max_iter=200).fit(x[train], y[train]).score(x[~train], y[~train]) > least


def test_printed_digits_differ_from_each_other(domains: DomainSet) -> None:
    assert len({image.tobytes() for image in pixels_of(domains, "P")}) == 870


@pytest.mark.parametrize("per_class", [0, 88])
def test_too_many_digits_are_reported(per_class: int) -> None:
    with pytest.raises(ConfigError, match="1 to 87"):
        digits(per_class=per_class)


def test_fewer_digits() -> None:
    assert [len(domain.images) for domain in digits(per_class=3).domains] == [30, 30, 30]
