"""Named domains over one class list.

A :class:`Domain` is *n* images and their labels; a :class:`DomainSet` is several domains with the
same classes. :mod:`da_wa.data.cache` decodes the images.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from da_wa.data.images import ImageFiles, Images, Selected
from da_wa.errors import ConfigError, DataError, nearest, printable

logger = logging.getLogger(__name__)

ClassRule = Literal["equal", "common"]
"""``equal``: every domain must have every class. ``common``: only the classes that all domains share are kept.

Under ``equal`` a class folder without images is an error, under ``common`` it counts as absent.
"""

SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""What archivers and operating systems leave behind; ignored, as hidden folders are."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
_SIGN_OF_LIFE = 20_000  # files between two lines of the log
_LAYOUT = "Expected ROOT/<domain>/<class>/<image>; see data/README.md."


@dataclass(frozen=True)
class Domain:
    """Images and their labels.

    Args:
        name: a short name, e.g. ``A``.
        images: the images.
        labels: (n,) int64, indices into the set's class list.

    >>> from da_wa.data.images import ImageArray
    >>> images = ImageArray(np.zeros((2, 3, 8, 8), np.uint8), ("mug/0", "pen/0"))
    >>> len(Domain("A", images, np.array([0, 1])).images)
    2
    """

    name: str
    images: Images
    labels: np.ndarray


@dataclass(frozen=True)
class DomainSet:
    """Domains over one class list, in the order of their columns in a table.

    Args:
        name: the set's name, e.g. ``Office-31``.
        classes: the class names; label *i* means ``classes[i]``.
        domains: the domains.
        class_rule: what happens to domains whose classes differ, see :data:`ClassRule`.

    >>> from da_wa.data.digits import digits
    >>> demo = digits(per_class=1)
    >>> demo.names, demo.classes[:3], demo["N"].labels[:3].tolist()
    (('H', 'N', 'P'), ('0', '1', '2'), [0, 1, 2])
    """

    name: str
    classes: tuple[str, ...]
    domains: tuple[Domain, ...]
    class_rule: ClassRule = "equal"

    @property
    def names(self) -> tuple[str, ...]:
        """The domains' names, in order."""
        return tuple(domain.name for domain in self.domains)

    def __getitem__(self, name: str) -> Domain:
        for domain in self.domains:
            if domain.name == name:
                return domain
        raise ConfigError(f"{printable(self.name)} has no domain {name!r}. {nearest(name, self.names)}")

    def with_folder(self, name: str, path: str | Path) -> DomainSet:
        """This set and one more domain, read from ``path/<class>/…``, under the set's class rule.

        Raises:
            ConfigError: the name is taken.
            DataError: the folder cannot be used, or its classes break the rule.
        """
        if name in self.names:
            raise ConfigError(f"{self.name} already has a domain {name!r}; give data.extra.{name} another name.")
        added = read_domain(Path(path).expanduser(), self.class_rule)
        order = (*self.classes, *sorted(set(added.classes) - set(self.classes)))
        return assemble(self.name, {**self._named(), name: added}, order, self.class_rule)

    def only_common_classes(self) -> DomainSet:
        """This set under the rule ``common``, so that a domain with other classes can be added."""
        return assemble(self.name, self._named(), self.classes, "common")

    def _named(self) -> dict[str, NamedImages]:
        """The domains with class names instead of labels."""
        return {d.name: NamedImages(d.images, tuple(self.classes[i] for i in d.labels)) for d in self.domains}


@dataclass(frozen=True)
class NamedImages:
    """Images with the name of each one's class: a domain before the class list is known."""

    images: Images
    classes: tuple[str, ...]


def assemble(name: str, domains: Mapping[str, NamedImages], order: Sequence[str], rule: ClassRule) -> DomainSet:
    """Decide on the class list and number the labels.

    Args:
        name: the set's name.
        domains: the images of each domain and the name of each one's class.
        order: every class that may occur, in the order of the labels.
        rule: see :data:`ClassRule`.

    Raises:
        ConfigError: ``rule`` is unknown.
        DataError: the domains' classes differ under ``equal``, or have nothing in common under ``common``.

    >>> from da_wa.data.images import ImageArray
    >>> images = ImageArray(np.zeros((2, 3, 8, 8), np.uint8), ("0", "1"))
    >>> first, second = NamedImages(images, ("mug", "pen")), NamedImages(images, ("pen", "pen"))
    >>> both = assemble("demo", {"A": first, "B": second}, ["mug", "pen"], "common")
    >>> both.classes, [len(domain.images) for domain in both.domains]
    (('pen',), [1, 2])
    """
    if rule not in get_args(ClassRule):
        raise ConfigError(f"data.classes={rule!r} is unknown. {nearest(str(rule), get_args(ClassRule))}")
    have = {domain: set(images.classes) for domain, images in domains.items()}
    classes = tuple(c for c in order if rule == "equal" or all(c in present for present in have.values()))
    lacking = {domain: [c for c in classes if c not in present] for domain, present in have.items()}
    if any(lacking.values()):
        differences = "\n".join(
            f"  {printable(domain)} lacks {some(missing)}" for domain, missing in lacking.items() if missing
        )
        raise DataError(
            f"The domains of the dataset {name} do not have the same classes:\n{differences}\n"
            "Add the missing ones, or keep only the classes that all domains share with data.classes=common."
        )
    if not classes:
        raise DataError(f"The domains {some(domains)} of {name} share no class. {_LAYOUT}")
    if dropped := [c for c in order if c not in classes and any(c in present for present in have.values())]:
        logger.warning(
            "%s: data.classes=common leaves out %d of %d classes: %s. A pair is no longer that of the whole dataset.",
            printable(name),
            len(dropped),
            len(dropped) + len(classes),
            some(dropped),
        )
    label_of = {c: i for i, c in enumerate(classes)}
    return DomainSet(name, classes, tuple(_domain(n, d, label_of) for n, d in domains.items()), rule)


def _domain(name: str, named: NamedImages, label_of: Mapping[str, int]) -> Domain:
    kept = tuple(i for i, c in enumerate(named.classes) if c in label_of)
    images = named.images if len(kept) == len(named.images) else Selected(named.images, kept)
    return Domain(name, images, np.array([label_of[named.classes[i]] for i in kept], dtype=np.int64))


def from_folders(
    root: str | Path,
    folders: Mapping[str, str] | None = None,
    name: str | None = None,
    class_rule: ClassRule = "equal",
) -> DomainSet:
    """Any tree ``root/<domain>/<class>/…`` or ``root/<domain>/images/<class>/…``.

    Every file with a known image suffix below a class folder is an image of that class. Hidden files and
    :data:`SYSTEM_FOLDERS` are ignored. A warning names other files, and links to folders within a class, which are
    not followed. Classes are in alphabetical order.

    Args:
        root: the folder.
        folders: name of each domain and its folder below ``root``; by default every subfolder under its own name.
        name: the set's name; by default that of ``root``.
        class_rule: see :data:`ClassRule`.

    Raises:
        DataError: a folder is missing or empty, or the classes break the rule.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for folder in ("amazon/mug", "amazon/pen", "webcam/mug", "webcam/pen"):
    ...         Path(root, folder).mkdir(parents=True)
    ...         Image.new("RGB", (8, 8)).save(Path(root, folder, "1.png"))
    ...     found = from_folders(root, {"A": "amazon", "W": "webcam"}, "demo")
    >>> found.names, found.classes, found["W"].images.name(1)
    (('A', 'W'), ('mug', 'pen'), 'pen/1.png')
    """
    root = Path(root).expanduser()
    if folders is None:
        folders = {folder: folder for folder in subfolders(root)}
    if not folders:
        raise DataError(f"{root} has no domain folders. {_LAYOUT}")
    domains = {domain: read_domain(root / folder, class_rule) for domain, folder in folders.items()}
    order = sorted({c for images in domains.values() for c in images.classes})
    return assemble(name or root.resolve().name, domains, order, class_rule)


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
    order = known or [str(label) for label in sorted({label for _, labels in read.values() for label in labels})]
    domains = {
        domain: NamedImages(
            ImageFiles(root, tuple(paths)), tuple(known[label] if known else str(label) for label in labels)
        )
        for domain, (paths, labels) in read.items()
    }
    return assemble(name or root.resolve().name, domains, order, class_rule)


def read_domain(folder: Path, rule: ClassRule = "equal") -> NamedImages:
    """The images of ``folder/<class>/…`` or ``folder/images/<class>/…``, by class and path.

    Args:
        folder: the domain's folder.
        rule: see :data:`ClassRule`.

    Raises:
        DataError: the folder is missing, has no classes, has no image, or under ``equal`` has classes without one.
    """
    if subfolders(folder) == ["images"]:
        folder = folder / "images"
    files: list[tuple[str, str]] = []  # class, path below the domain
    found = subfolders(folder)
    scan = _Scan(folder)
    for c in found:
        files += [(c, f"{c}/{path}") for path in _files(folder / c, scan)]
    paths = [(c, path) for c, path in files if _is_image(path)]
    if not found:
        raise DataError(f"{folder} has no class folders. {_LAYOUT}")
    if empty := sorted(set(found) - {c for c, _ in paths}):
        without = f"{printable(folder)}: no image ({' '.join(sorted(SUFFIXES))}) of the classes {some(empty)}."
        if rule != "common" or not paths:
            raise DataError(
                f"{without} Add images, remove these folders, or keep only the classes that all domains share "
                f"with data.classes=common. {_LAYOUT}"
            )
        logger.warning("%s They are left out (data.classes=common).", without)
    beside = [entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith(".")]
    others = sorted(beside + [path for _, path in files if not _is_image(path)])
    if others:
        count = "1 file is not an image" if len(others) == 1 else f"{len(others)} files are not images"
        ignored_too = "is" if len(others) == 1 else "are"
        logger.warning("%s: %s of a class and %s ignored: %s", printable(folder), count, ignored_too, some(others))
    if deeper := _shared_subfolders(paths):
        logger.warning(
            "%s: the classes are taken to be %s; each of them has its images in the same subfolders, %s. If these are "
            "the classes, give a folder one level deeper.",
            printable(folder),
            some(found),
            some(deeper),
        )
    return NamedImages(ImageFiles(folder, tuple(path for _, path in paths)), tuple(c for c, _ in paths))


def _shared_subfolders(paths: Sequence[tuple[str, str]]) -> list[str]:
    """The subfolders of the classes, if all images lie in subfolders, two or more, with the same names in every class.

    Args:
        paths: class, and path below the domain, of each image.
    """
    below: dict[str, set[str]] = {}
    for c, path in paths:
        inner = path[len(c) + 1 :].split("/")
        below.setdefault(c, set()).add(inner[0] if len(inner) > 1 else "")
    names = next(iter(below.values()), set())
    same = len(below) > 1 and len(names) > 1 and "" not in names and all(other == names for other in below.values())
    return sorted(names) if same else []


def subfolders(folder: Path) -> list[str]:
    """The names of a folder's subfolders, sorted; without the ignored ones, see :func:`ignored`.

    Raises:
        DataError: there is no such folder, or it cannot be read.
    """
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not ignored(entry.name))
    except OSError as error:
        raise DataError(f"{folder}: {(error.strerror or str(error)).lower()}. {_LAYOUT}") from error


def _files(folder: Path, scan: _Scan) -> list[str]:
    """The visible files below a folder, relative to it, sorted; also links to folders, which are not followed."""

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: {(error.strerror or str(error)).lower()}") from error

    found: list[str] = []
    for here, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not ignored(name)]
        below = Path(here).relative_to(folder).as_posix()
        prefix = "" if below == "." else f"{below}/"
        links = [f"{name}/" for name in folders if os.path.islink(os.path.join(here, name))]
        visible = [prefix + name for name in (*files, *links) if not name.startswith(".")]
        found += visible
        scan.add(len(visible))
    return sorted(found)


def ignored(folder: str) -> bool:
    """Whether a folder is hidden or one of :data:`SYSTEM_FOLDERS`.

    >>> ignored("__MACOSX"), ignored(".git"), ignored("mug")
    (True, True, False)
    """
    return folder.startswith(".") or folder in SYSTEM_FOLDERS


class _Scan:
    """Logs how many files of a large domain were found so far."""

    def __init__(self, place: Path) -> None:
        self.place, self.found, self.logged = place, 0, 0

    def add(self, files: int) -> None:
        self.found += files
        if self.found >= self.logged + _SIGN_OF_LIFE:
            self.logged = self.found
            logger.info("Scanning %s: %s files so far", printable(self.place), f"{self.found:,}")


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES


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
    bad = []
    scan = _Scan(path)
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
        elif image in labels:
            bad.append(f"line {number}: {image} is listed twice")
        elif not (root / image).is_file():
            bad.append(f"line {number}: {root / image} does not exist")
        else:
            labels[image] = int(label)
    if bad:
        raise DataError(
            f"{path} has {len(bad)} bad lines:\n  {some(bad, separator=chr(10) + '  ')}\n"
            "Correct these lines; each must be 'relative/path.jpg label'."
        )
    if not labels:
        raise DataError(f"{path} is empty. Expected lines 'relative/path.jpg label'.")
    return list(labels), list(labels.values())


def some(items: Iterable[str], separator: str = ", ", limit: int = 10) -> str:
    """The first few of ``items``, printable, and how many more there are.

    >>> some(["a", "b", "c"], limit=2)
    'a, b, … and 1 more'
    """
    items = [printable(item) for item in items]
    more = [f"… and {len(items) - limit} more"] if len(items) > limit else []
    return separator.join(items[:limit] + more)
