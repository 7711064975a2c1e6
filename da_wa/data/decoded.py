"""Domains whose images are decoded already: an index file and the pixel cache take the place of the image files.

So an experiment can move to a machine without its images: the index (names, labels, classes) and the
entries of ``cache_dir`` are all it needs, and its runs keep their names, since the images keep their digest.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from da_wa.data.domains import Domain, DomainSet
from da_wa.errors import DataError

SUFFIX = ".json"
"""What tells an index from a folder of images."""


@dataclass(frozen=True)
class DecodedImages:
    """Images of which only the names and the digest are here; their pixels are in the cache."""

    names: tuple[str, ...]
    known_digest: str

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The name that the image had."""
        return self.names[index]

    def stamp(self) -> str:
        """The digest itself."""
        return self.known_digest

    def digest(self) -> str:
        """The digest of the images that were decoded."""
        return self.known_digest

    def decode(self, index: int, size: int) -> np.ndarray:
        """Never possible.

        Raises:
            DataError: always.
        """
        raise DataError(
            f"{self.names[index]}: the pixel cache does not have it at {size} pixels, and its file is not here; "
            "decode that size where the images are, or set cache_dir to the cache that came with the index"
        )


def save_index(domains: DomainSet, path: Path) -> None:
    """Write the index of ``domains``; reads every image once for the digest."""
    content = {
        "name": domains.name,
        "classes": domains.classes,
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
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with draft.open("w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def from_index(path: str | Path) -> DomainSet:
    """The domains of an index that :func:`save_index` wrote.

    Raises:
        DataError: there is no such file, or it is no index.
    """
    path = Path(path).expanduser()
    try:
        content = json.loads(path.read_text())
        classes = tuple(map(str, content["classes"]))
        domains = tuple(_domain(node, len(classes)) for node in content["domains"])
        return DomainSet(str(content["name"]), classes, domains, content["class_rule"])
    except OSError as error:
        raise DataError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, TypeError, LookupError) as error:
        raise DataError(f"{path} is no index of decoded images ({error!r}); write it again") from error


def _domain(node: dict[str, object], classes: int) -> Domain:
    names, labels, digest = node["names"], np.array(node["labels"], np.int64), str(node["digest"])
    if not isinstance(names, list) or labels.shape != (len(names),) or re.fullmatch("[0-9a-f]{32}", digest) is None:
        raise ValueError(f"domain {node['name']} is torn")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels of {node['name']} are not below {classes}")
    return Domain(str(node["name"]), DecodedImages(tuple(map(str, names)), digest), labels)
