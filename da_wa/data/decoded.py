"""Index files: datasets without image files, for machines that have only the pixel cache.

An index holds names, labels, classes and digests of the images. An experiment runs elsewhere with the index and the
entries of ``cache_dir``, with the same run ids, because the digests are the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from da_wa.data.domains import Domain, DomainSet
from da_wa.data.files import replace_text
from da_wa.data.images import Progress, Resize
from da_wa.errors import DataError, printable

SUFFIX = ".json"
"""Distinguishes an index from a folder of images."""


@dataclass(frozen=True)
class DecodedImages:
    """Images of which only the names and the digest are at hand; their pixels are in the cache.

    >>> DecodedImages(("mug/1.png",), "0" * 32).name(0)
    'mug/1.png'
    """

    names: tuple[str, ...]
    known_digest: str

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The name that the image had."""
        return self.names[index]

    def fingerprint(self) -> str:
        """The digest itself."""
        return self.known_digest

    def digest(self, progress: Progress | None = None) -> str:
        """The digest of the images that were decoded."""
        return self.known_digest

    def decode(self, index: int, size: int, resize: Resize | None = None) -> np.ndarray:
        """Never possible.

        Raises:
            DataError: always.
        """
        raise DataError(
            f"{printable(self.names[index])}: the pixel cache does not have it at {size} pixels, and an index has no "
            "image files. Decode that size where the images are, or set cache_dir to the cache that belongs to it."
        )


def save_index(domains: DomainSet, path: Path) -> None:
    """Write the index of ``domains``; reads every image once for the digest.

    >>> import tempfile
    >>> from da_wa.data.digits import digits
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_index(digits(per_class=1), Path(folder, "digits.json"))
    ...     from_index(Path(folder, "digits.json")).names
    ('H', 'N', 'P')
    """
    content = {
        "name": domains.name,
        "classes": list(domains.classes),
        "class_rule": domains.class_rule,
        "domains": [
            {
                "name": domain.name,
                "digest": domain.images.digest(),
                "names": [domain.images.name(i) for i in range(len(domain.images))],
                "labels": domain.labels.tolist(),
            }
            for domain in domains.domains
        ],
    }
    replace_text(path, json.dumps({**content, "checksum": _checksum(content)}))


def from_index(path: str | Path) -> DomainSet:
    """The domains of an index that :func:`save_index` wrote.

    Raises:
        DataError: there is no such file, or it is not a valid index.
    """
    path = Path(path).expanduser()
    try:
        content = json.loads(path.read_text())
        checksum = content.pop("checksum", None)  # indices written before it existed have none
        if checksum not in (None, _checksum(content)):
            raise ValueError("its checksum does not match")
        classes = tuple(map(str, content["classes"]))
        domains = tuple(_domain(node, len(classes)) for node in content["domains"])
        return DomainSet(str(content["name"]), classes, domains, content["class_rule"])
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{path}: {reason}. Check the path of the index.") from error
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise DataError(f"{path} is not a valid index of decoded images ({error!r}). Write it again.") from error


def _domain(node: dict[str, object], classes: int) -> Domain:
    names, labels, digest = node["names"], np.array(node["labels"], np.int64), str(node["digest"])
    if not isinstance(names, list) or labels.shape != (len(names),) or re.fullmatch("[0-9a-f]{32}", digest) is None:
        raise ValueError(f"domain {node['name']} is incomplete")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels of {node['name']} are not below {classes}")
    return Domain(str(node["name"]), DecodedImages(tuple(map(str, names)), digest), labels)


def _checksum(content: Mapping[str, object]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
