"""Domains in list files, one line an image: ``relative/path.jpg label``."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from da_wa.data.domains import ClassRule, DomainSet, NamedImages, assemble
from da_wa.data.folders import Scan
from da_wa.data.images import ImageFiles
from da_wa.errors import ConfigError, DataError, printable, some


def from_lists(
    root: str | Path,
    lists: Mapping[str, str | Path],
    classes: str | Path | None = None,
    name: str | None = None,
    class_rule: ClassRule = "equal",
) -> DomainSet:
    r"""List files with lines ``relative/path.jpg label``, as TLL and CDAN publish them.

    The last word of a line is the label, a number; the path may hold spaces.

    Args:
        root: the folder that the paths, also those of the list files, are relative to.
        lists: name of each domain and its list file.
        classes: a file with one class name per line, label 0 first; without it a class is named by its number.
        name: the set's name; by default that of ``root``.
        class_rule: see :data:`ClassRule`.

    Warns of images that two lists have in common.

    Raises:
        DataError: a list is missing or empty, has bad lines (named by number), or the classes break the rule.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as root:
    ...     Image.new("RGB", (8, 8)).save(Path(root, "1.png"))
    ...     _ = Path(root, "a.txt").write_text("1.png 0\n")
    ...     found = from_lists(root, {"A": "a.txt"})
    >>> found.names, found.classes
    (('A',), ('0',))
    """
    root = Path(root).expanduser()
    if not lists:
        raise ConfigError("data.lists is empty: name a list file for each domain, e.g. +data.lists.A=amazon.txt")
    known = None if classes is None else _read_class_names(root / classes)
    read = {domain: _read_list(root, root / path, known) for domain, path in lists.items()}
    _warn_of_common(read)
    order = known or [str(label) for label in sorted({label for _, labels in read.values() for label in labels})]
    domains = {
        domain: NamedImages(
            ImageFiles(root, tuple(paths)), tuple(known[label] if known else str(label) for label in labels)
        )
        for domain, (paths, labels) in read.items()
    }
    return assemble(name or root.resolve().name, domains, order, class_rule)


def _warn_of_common(read: Mapping[str, tuple[Sequence[str], Sequence[int]]]) -> None:
    """Warn of images that two lists have: a network is tested on images of its training."""
    paths = {domain: {os.path.normpath(path) for path in listed} for domain, (listed, _) in read.items()}
    for one, other in combinations(paths, 2):
        if common := sorted(paths[one] & paths[other]):
            warnings.warn(
                f"The domains {printable(one)} and {printable(other)} have {len(common)} images in common, e.g. "
                f"{printable(common[0])}: a network that is trained on one is tested on them in the other.",
                stacklevel=3,
            )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{path}: {reason}. List files are UTF-8 text below data.root.") from error


def _read_class_names(path: Path) -> list[str]:
    """The lines of a class file, label 0 first."""
    names = [line.strip() for line in _lines(path)]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DataError(f"{path} is empty. Expected one class name per line, label 0 first.")
    if "" in names:
        raise DataError(
            f"{path}: line {names.index('') + 1} is empty, so its label has no class. Remove it, or name the class."
        )
    if repeated := sorted(name for name, times in Counter(names).items() if times > 1):
        raise DataError(f"{path} names these classes more than once: {some(repeated)}. Give each class one line.")
    return names


def _read_list(root: Path, path: Path, classes: Sequence[str] | None) -> tuple[list[str], list[int]]:
    """Paths and labels of a list file; every bad line is reported, not only the first."""
    labels: dict[str, int] = {}
    seen: set[str] = set()
    bad = []
    scan = Scan(path)
    for number, line in enumerate(_lines(path), start=1):
        scan.add(1)
        if not line.strip():
            continue
        image, *rest = line.strip().rsplit(maxsplit=1)
        label = rest[0] if rest else ""
        if not label.isdecimal():
            bad.append(f"line {number}: {line!r} is not 'relative/path.jpg label'")
        elif classes is not None and int(label) >= len(classes):
            bad.append(f"line {number}: label {label}, but the class file has only 0 to {len(classes) - 1}")
        elif os.path.normpath(image) in seen:
            bad.append(f"line {number}: {image} is listed twice")
        elif not (root / image).is_file():
            bad.append(f"line {number}: {root / image} does not exist")
        else:
            labels[image] = int(label)
            seen.add(os.path.normpath(image))
    if bad:
        raise DataError(
            f"{path} has {len(bad)} bad lines:\n  {some(bad, separator=chr(10) + '  ')}\n"
            "Correct these lines; each must be 'relative/path.jpg label'."
        )
    if not labels:
        raise DataError(f"{path} is empty. Expected lines 'relative/path.jpg label'.")
    return list(labels), list(labels.values())
