"""Download and unpack archives: downloads resume, checksums are checked, nothing is written outside the folder."""

from __future__ import annotations

import gzip
import hashlib
import logging
import re
import shutil
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.progress import wrap_file

from da_wa.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """A tar or zip file on a server.

    Args:
        url: where it is.
        file: its name on disk.
        md5: its checksum, where one is known.

    >>> Archive("https://example.org/office31.zip", "office31.zip").md5 is None
    True
    """

    url: str
    file: str
    md5: str | None = None


def fetch(archive: Archive, folder: Path, timeout: float = 20.0) -> Path:
    """Download an archive into ``folder``, or resume an unfinished download.

    After a broken connection the download continues, as long as each attempt receives more bytes.

    Args:
        archive: what to fetch.
        folder: where it goes; the unfinished file beside it is ``<file>.part``.
        timeout: seconds to wait for the server at any point.

    Raises:
        DataError: the server does not send the file, or the file has another checksum.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "set.zip").write_bytes(b"downloaded before")
    ...     fetch(Archive("https://example.org/set.zip", "set.zip"), Path(folder)).name
    'set.zip'
    """
    done = folder / archive.file
    if done.exists():
        return done
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{archive.file}.part"
    part.touch()
    while True:
        before = part.stat().st_size
        try:
            _continue(archive.url, part, timeout)
            break
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise DataError(f"{archive.url}: {error.code} {error.reason}") from error
            part.write_bytes(b"")  # larger than the file on the server: start over
        except (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError) as error:
            if part.stat().st_size <= before:
                raise DataError(f"{archive.url}: {getattr(error, 'reason', error)}") from error
            logger.info("%s was interrupted (%s); resuming at byte %d", archive.url, error, part.stat().st_size)
    if archive.md5 is not None:
        with open(part, "rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != archive.md5:
            part.unlink()
            raise DataError(f"{archive.url}: md5 is {found}, expected {archive.md5}")
    part.rename(done)
    return done


def _continue(url: str, part: Path, timeout: float) -> None:
    """Append the missing bytes to ``part``; a server without range requests sends the whole file again."""
    have = part.stat().st_size
    wanted = {"Range": f"bytes={have}-"} if have else {}
    request = urllib.request.Request(url, headers={"User-Agent": "da_wa", **wanted})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        if response.headers.get_content_type() == "text/html":
            raise DataError(f"{url}: the server sent a web page instead of the file")
        start, total = _span(response)
        if start not in (0, have):
            raise DataError(f"{url}: the server resumed at byte {start} instead of {have}")
        size = "unknown size" if total is None else f"{total / 1e6:.1f} MB"
        logger.info("Downloading %s (%s) to %s", url, size, part)
        console = Console(stderr=True)
        reader = wrap_file(
            response,
            total=0 if total is None else total - start,
            description=part.stem,
            console=console,
            disable=not console.is_terminal,
        )
        with open(part, "ab" if start else "wb") as file, reader as body:
            shutil.copyfileobj(body, file)
    got = part.stat().st_size
    if total is not None and got != total:
        raise ConnectionError(f"only {got} of {total} bytes arrived")


def _span(response: HTTPResponse) -> tuple[int, int | None]:
    """The first byte of a response and the size of the whole file, if the server sends it."""
    if response.status == 206:
        sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if sent is None:
            raise ConnectionError("the server sent a partial file without a Content-Range")
        return int(sent[1]), None if sent[2] == "*" else int(sent[2])
    length = response.headers.get("Content-Length")
    return 0, None if length is None else int(length)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar or zip file of plain files and folders.

    Raises:
        DataError: it is damaged, encrypted, not an archive, or has a member that is a link, a device or outside
            ``folder``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with zipfile.ZipFile(Path(folder, "set.zip"), "w") as packed:
    ...         packed.writestr("amazon/mug/1.txt", "content")
    ...     unpack(Path(folder, "set.zip"), Path(folder, "unpacked"))
    ...     Path(folder, "unpacked", "amazon", "mug", "1.txt").read_text()
    'content'
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(archive):
            _unzip(archive, folder)
        else:
            _untar(archive, folder)
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{archive.name} is damaged or not an archive: {error}") from error
    except NotImplementedError as error:
        raise DataError(f"{archive.name} cannot be unpacked: {error}; unpack it by hand") from error


_ENCRYPTED = 1
"""The bit of a zip file's flags that says so."""


def _untar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            _refuse_outside(archive, member.name)
            if not (member.isfile() or member.isdir()):
                raise DataError(f"{archive.name}: {member.name!r} is neither a file nor a folder; refused")
        while tar.fileobj is not None and tar.fileobj.read(2**20):
            pass  # to the checksum of gzip, which comes after the end of the tar file
        tar.extractall(folder, filter="data")


def _unzip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            _refuse_outside(archive, member.filename)
            if member.flag_bits & _ENCRYPTED:
                raise DataError(f"{archive.name}: {member.filename!r} is encrypted; unpack it by hand")
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"{archive.name}: {member.filename!r} is neither a file nor a folder; refused")
        packed.extractall(folder)


def _refuse_outside(archive: Path, name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{archive.name}: {name!r} lies outside the folder; refused")
