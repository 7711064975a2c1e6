"""Office-31 (Saenko, Kulis, Fritz & Darrell, ECCV 2010): 4110 photos of 31 office objects in three domains.

amazon: product photos, 300×300. dslr: a good camera, 1000×1000. webcam: a poor one, 152 to 752 pixels.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from da_wa.data.decoded import SUFFIX, from_index
from da_wa.data.domains import ClassRule, DomainSet
from da_wa.data.download import Archive, fetch, unpack
from da_wa.data.folders import from_folders, subfolders
from da_wa.errors import DataError, some
from da_wa.locks import locked

logger = logging.getLogger(__name__)

FOLDERS = {"A": "amazon", "W": "webcam", "D": "dslr"}
"""The domains' codes and folders, in the order of the paper's tables."""

_COUNTS = {  # A, D, W
    "back_pack": (92, 12, 29),
    "bike": (82, 21, 21),
    "bike_helmet": (72, 24, 28),
    "bookcase": (82, 12, 12),
    "bottle": (36, 16, 16),
    "calculator": (94, 12, 31),
    "desk_chair": (91, 13, 40),
    "desk_lamp": (97, 14, 18),
    "desktop_computer": (97, 15, 21),
    "file_cabinet": (81, 15, 19),
    "headphones": (99, 13, 27),
    "keyboard": (100, 10, 27),
    "laptop_computer": (100, 24, 30),
    "letter_tray": (98, 16, 19),
    "mobile_phone": (100, 31, 30),
    "monitor": (99, 22, 43),
    "mouse": (100, 12, 30),
    "mug": (94, 8, 27),
    "paper_notebook": (96, 10, 28),
    "pen": (95, 10, 32),
    "phone": (93, 13, 16),
    "printer": (100, 15, 20),
    "projector": (98, 23, 30),
    "punchers": (98, 18, 27),
    "ring_binder": (90, 10, 40),
    "ruler": (75, 7, 11),
    "scissors": (100, 18, 25),
    "speaker": (99, 26, 30),
    "stapler": (99, 21, 24),
    "tape_dispenser": (96, 22, 23),
    "trash_can": (64, 15, 21),
}

COUNTS: Mapping[str, Mapping[str, int]] = {
    code: {name: row[column] for name, row in _COUNTS.items()} for column, code in enumerate("ADW")
}
"""Images per domain and class: 2817 + 795 + 498."""


@dataclass(frozen=True)
class Host:
    """A server with the whole dataset, in one archive or several.

    >>> Host("mirror", (Archive("https://example.org/office31.zip", "office31.zip"),)).name
    'mirror'
    """

    name: str
    archives: tuple[Archive, ...]


HOSTS = (
    Host(
        "the authors' Google Drive",
        (
            Archive(
                "https://drive.usercontent.google.com/download?id=0B4IapRTv9pJ1WGZVd1VDMmhwdlE"
                "&resourcekey=0-gNMHVtZfRAyO_t2_WrOunA&export=download&confirm=t",
                "domain_adaptation_images.tar.gz",
                md5="1b536d114869a5a8aa4580b89e9758fb",
            ),
        ),
    ),
    Host(
        "Tsinghua (Transfer-Learning-Library)",
        (
            Archive("https://cloud.tsinghua.edu.cn/f/ec12dfcddade43ab8101/?dl=1", "amazon.tgz"),
            Archive("https://cloud.tsinghua.edu.cn/f/8a41009a166e4131adcd/?dl=1", "webcam.tgz"),
            Archive("https://cloud.tsinghua.edu.cn/f/a41d818ae2f34da7bb32/?dl=1", "dslr.tgz"),
        ),
    ),
    Host(
        "transferlearning (Jindong Wang)",
        (Archive("https://wjdcloud.blob.core.windows.net/dataset/OFFICE31.zip", "OFFICE31.zip"),),
    ),
)

_BY_HAND = (
    "By hand: get domain_adaptation_images.tar.gz (about 80 MB) from "
    "https://drive.google.com/file/d/0B4IapRTv9pJ1WGZVd1VDMmhwdlE/view?resourcekey=0-gNMHVtZfRAyO_t2_WrOunA "
    "(home: https://faculty.cc.gatech.edu/~judy/domainadapt/) and unpack it, so that "
    "{root}/amazon/images/back_pack/frame_0001.jpg exists. Without any data: experiment=demo."
)


def office31(
    root: str | Path,
    download: bool = True,
    verify: bool = True,
    class_rule: ClassRule = "equal",
    hosts: Sequence[Host] = HOSTS,
    counts: Mapping[str, Mapping[str, int]] = COUNTS,
) -> DomainSet:
    """Office-31 with the domains A, W and D.

    Args:
        root: holds ``amazon``, ``webcam`` and ``dslr``, directly or one folder down; each holds its class folders,
            directly or in ``images``; or an index of decoded images, a ``.json`` file.
        download: fetch the dataset when ``root`` is missing or empty.
        verify: check the number of images of every domain and class.
        class_rule: see :data:`~da_wa.data.domains.ClassRule`.
        hosts: tried in turn.
        counts: images expected per domain and class.

    Raises:
        DataError: the dataset is missing and cannot be downloaded, is incomplete, or has other counts.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for domain in ("amazon", "webcam", "dslr"):
    ...         Path(folder, domain, "images", "mug").mkdir(parents=True)
    ...         Image.new("RGB", (8, 8)).save(Path(folder, domain, "images", "mug", "frame_0001.jpg"))
    ...     office31(folder, verify=False).names
    ('A', 'W', 'D')
    """
    root = Path(root).expanduser().absolute()
    if root.suffix == SUFFIX:
        domains = from_index(root)
    else:
        place = _find(root)
        if place is None:
            _refuse_other_content(root)
            if not download:
                raise DataError(f"Office-31 is not in {root} and data.download=false.\n{_BY_HAND.format(root=root)}")
            place = _download(root, hosts, counts)
        domains = from_folders(place, FOLDERS, "Office-31", class_rule)
    if verify:
        check_counts(domains, counts)
    return domains


def check_counts(domains: DomainSet, counts: Mapping[str, Mapping[str, int]] = COUNTS) -> None:
    """Compare the number of images per domain and class with what they should be.

    Raises:
        DataError: lists every class that deviates.

    >>> from da_wa.data.digits import digits
    >>> check_counts(digits(per_class=2), {"N": {str(digit): 2 for digit in range(10)}})
    """
    wrong = []
    for code, expected in counts.items():
        found = Counter(domains.classes[label] for label in domains[code].labels)
        for name in sorted(expected.keys() | found.keys()):
            if found[name] != expected.get(name, 0):
                wrong.append(
                    f"{FOLDERS.get(code, code)}/{name}: {found[name]} images instead of {expected.get(name, 0)}"
                )
    if wrong:
        raise DataError(
            f"{domains.name} is not complete or not the original:\n  {some(wrong, separator=chr(10) + '  ')}\n"
            "Download it again, or use it as it is with data.verify=false."
        )


def _find(root: Path) -> Path | None:
    """``root`` or the one of its subfolders that holds the three domains."""
    if not root.is_dir():
        return None
    places = [root, *(root / folder for folder in subfolders(root))]
    return next((p for p in places if all((p / folder).is_dir() for folder in FOLDERS.values())), None)


def _refuse_other_content(root: Path) -> None:
    """Raise a DataError where a folder has other content, or only some of the dataset's folders."""
    if root.exists() and not root.is_dir():
        raise DataError(f"{root} is a file, not a folder. {_BY_HAND.format(root=root)}")
    content = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    lacking = [folder for folder in FOLDERS.values() if folder not in content]
    if content and lacking:  # else another command has just downloaded them
        raise DataError(
            f"{root} lacks the folders {some(lacking)} of Office-31; it contains {some(content)}. "
            "Set data.root to the folder that has them, or to a new one to download into.\n"
            + _BY_HAND.format(root=root)
        )


def _download(root: Path, hosts: Sequence[Host], counts: Mapping[str, Mapping[str, int]]) -> Path:
    """Fetch, unpack and check beside ``root``, then rename: ``root`` appears complete or not at all."""
    root = root.resolve()  # a link to an empty folder cannot be replaced by one
    beside = root.with_name(f"{root.name}.download")
    failures = []
    try:
        beside.mkdir(parents=True, exist_ok=True)
        with locked(beside / "lock"):
            if place := _find(root):  # another process has downloaded it meanwhile
                return place
            for number, host in enumerate(hosts):
                try:
                    logger.info("Office-31 is not in %s; downloading it from %s", root, host.name)
                    place = _fetch_from(host, beside / str(number), counts)
                    os.replace(place, root)
                    shutil.rmtree(beside)
                    return root
                except DataError as error:
                    failures.append(f"  {host.name}: {error}")
                    logger.warning("Office-31 from %s failed: %s", host.name, error)
    except OSError as error:
        with suppress(OSError):
            if place := _find(root):  # another process removed its lock, or this one could not
                return place
        raise DataError(f"Cannot download Office-31 to {root}: {error}. Set data.root to another folder.") from error
    listed = "\n".join(failures)
    raise DataError(f"Office-31 could not be downloaded:\n{listed}\n{_BY_HAND.format(root=root)}")


def _fetch_from(host: Host, folder: Path, counts: Mapping[str, Mapping[str, int]]) -> Path:
    """The folder with the three domains. Unfinished archives stay for the next attempt, unusable ones are deleted."""
    archives = [fetch(archive, folder) for archive in host.archives]
    shutil.rmtree(folder / "unpacked", ignore_errors=True)
    try:
        for archive in archives:
            unpack(archive, folder / "unpacked")
        place = _find(folder / "unpacked")
        if place is None:
            raise DataError(f"the archive lacks some of the folders {some(FOLDERS.values())}")
        check_counts(from_folders(place, FOLDERS, "Office-31"), counts)
    except DataError:
        shutil.rmtree(folder)
        raise
    return place
