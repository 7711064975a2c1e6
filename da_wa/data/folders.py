"""Domains in folders: ``root/<domain>/<class>/…``."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from da_wa.data.domains import LAYOUT, ClassRule, DomainSet, NamedImages, assemble
from da_wa.data.images import SUFFIXES, ImageFiles
from da_wa.errors import ConfigError, DataError, printable, some

logger = logging.getLogger(__name__)

SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""What archivers and operating systems leave behind; ignored, as hidden folders are."""

_SIGN_OF_LIFE = 20_000  # files between two lines of the log


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
        raise DataError(f"{root} has no domain folders. {LAYOUT}")
    domains = {domain: read_domain(root / folder, class_rule) for domain, folder in folders.items()}
    order = sorted({c for images in domains.values() for c in images.classes})
    return assemble(name or root.resolve().name, domains, order, class_rule)


def with_folder(domains: DomainSet, name: str, path: str | Path) -> DomainSet:
    """A set and one more domain, read from ``path/<class>/…``, under the set's class rule.

    Raises:
        ConfigError: the name is taken.
        DataError: the folder cannot be used, or its classes break the rule.
    """
    if name in domains.names:
        raise ConfigError(f"{domains.name} already has a domain {name!r}; give data.extra.{name} another name.")
    added = read_domain(Path(path).expanduser(), domains.class_rule)
    order = (*domains.classes, *sorted(set(added.classes) - set(domains.classes)))
    return assemble(domains.name, {**domains.named(), name: added}, order, domains.class_rule)


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
    scan = Scan(folder)
    for c in found:
        files += [(c, f"{c}/{path}") for path in _files(folder / c, scan)]
    paths = [(c, path) for c, path in files if _is_image(path)]
    if not found:
        raise DataError(f"{folder} has no class folders. {LAYOUT}")
    if empty := sorted(set(found) - {c for c, _ in paths}):
        without = f"{printable(folder)}: no image ({' '.join(sorted(SUFFIXES))}) of the classes {some(empty)}."
        if rule != "common" or not paths:
            raise DataError(
                f"{without} Add images, remove these folders, or keep only the classes that all domains share "
                f"with data.classes=common. {LAYOUT}"
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
        raise DataError(f"{folder}: {(error.strerror or str(error)).lower()}. {LAYOUT}") from error


def _files(folder: Path, scan: Scan) -> list[str]:
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


class Scan:
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
