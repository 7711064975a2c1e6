"""The facts of Office-31, and how it gets here: from a folder or from hosts that may fail in any way."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import logging
import re
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import Mock

import pytest

from da_wa.data.download import Archive, fetch, unpack
from da_wa.data.office31 import COUNTS, Host, office31
from da_wa.errors import DataError

FOLDERS = ("amazon", "dslr", "webcam")
CLASSES = ("mug", "pen")
FAKE_COUNTS = {code: dict.fromkeys(CLASSES, 2) for code in "ADW"}


def test_the_counts_are_those_of_the_literature() -> None:
    assert {code: sum(classes.values()) for code, classes in COUNTS.items()} == {"A": 2817, "D": 498, "W": 795}
    names = [list(classes) for classes in COUNTS.values()]
    assert names[0] == names[1] == names[2] == sorted(names[0])
    assert (len(names[0]), names[0][0], names[0][30]) == (31, "back_pack", "trash_can")
    assert (COUNTS["A"]["bottle"], COUNTS["D"]["ruler"], COUNTS["W"]["monitor"]) == (36, 7, 43)


# folders


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, draw_tree: Callable[..., Path]) -> Path:
    """A tiny tree laid out like the real one."""
    root = tmp_path_factory.mktemp("fake") / "domain_adaptation_images"
    return draw_tree(root, FOLDERS, CLASSES, per_class=2, layout="{domain}/images/{label}", suffix=".jpg")


@pytest.mark.parametrize("layout", ["{domain}/images/{label}", "{domain}/{label}", "office31/{domain}/images/{label}"])
def test_every_known_layout_is_read(tmp_path: Path, draw_tree: Callable[..., Path], layout: str) -> None:
    root = draw_tree(tmp_path, FOLDERS, CLASSES, per_class=2, layout=layout, suffix=".jpg")
    domains = office31(root, download=False, counts=FAKE_COUNTS)
    assert (domains.name, domains.names, domains.classes) == ("Office-31", ("A", "W", "D"), CLASSES)
    assert domains["W"].images.decode(0, 8).shape == (3, 8, 8)


def test_deviating_counts_are_listed(tmp_path: Path, office: Path) -> None:
    root = shutil.copytree(office, tmp_path / "office31")
    (root / "dslr" / "images" / "pen" / "000.jpg").unlink()
    shutil.copy(root / "amazon/images/mug/000.jpg", root / "amazon/images/mug/002.jpg")
    with pytest.raises(DataError) as reported:
        office31(root, counts=FAKE_COUNTS)
    assert "amazon/mug: 3 images instead of 2\n  dslr/pen: 1 images instead of 2\n" in str(reported.value)
    assert "data.verify=false" in str(reported.value)
    assert len(office31(root, verify=False).classes) == 2


def test_missing_data_is_not_downloaded_when_forbidden(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.download=false") as reported:
        office31(tmp_path / "nowhere", download=False)
    assert "experiment=demo" in str(reported.value)
    assert f"{tmp_path}/nowhere/amazon/images/back_pack/frame_0001.jpg" in str(reported.value)


def test_nothing_is_downloaded_into_a_folder_with_other_content(tmp_path: Path, office: Path) -> None:
    root = shutil.copytree(office, tmp_path / "office31")
    shutil.rmtree(root / "webcam")
    with pytest.raises(DataError, match="lacks the folders webcam of Office-31; it contains amazon, dslr"):
        office31(root, hosts=())


@pytest.mark.parametrize("name", [".DS_Store", "__MACOSX", "notes.txt"])
def test_a_folder_that_could_not_be_replaced_is_refused_before_the_download(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=f"it contains {re.escape(name)}"):
        office31(tmp_path, hosts=())


# hosts


class Server:
    """Serves byte strings by path; notes every request; can break a connection or ignore ``Range``."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.break_after: dict[str, int] = {}
        self.knows_range = True
        self.content_type = "application/octet-stream"
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers["Range"]
                server.requests.append((self.path, asked))
                content = server.files.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                start = int(asked[6:-1]) if asked and server.knows_range else 0
                if start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                self.send_header("Content-Type", server.content_type)
                self.send_header("Content-Length", str(len(content) - start))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.end_headers()
                limit = server.break_after.get(self.path)
                self.wfile.write(content[start:] if limit is None else content[start : start + limit])

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def archive(self, path: str, content: bytes, md5: str | None = None) -> Archive:
        self.files[path] = content
        return Archive(self.url(path), path.strip("/"), md5)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}{path}"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def tarred(folder: Path, arcname: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(folder, arcname)
    return buffer.getvalue()


def zipped(folder: Path, prefix: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for path in sorted(folder.rglob("*.jpg")):
            packed.write(path, f"{prefix}/{path.relative_to(folder).as_posix()}")
    return buffer.getvalue()


def leaves_nothing_else(root: Path) -> bool:
    return [path.name for path in root.parent.iterdir()] == [root.name]


def test_a_missing_dataset_is_downloaded_and_then_left_alone(
    tmp_path: Path, office: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    content = tarred(office, "domain_adaptation_images")
    archive = server.archive("/images.tar.gz", content, hashlib.md5(content).hexdigest())
    root = tmp_path / "data" / "office31"
    with caplog.at_level(logging.INFO):
        domains = office31(root, hosts=[Host("a host", (archive,))], counts=FAKE_COUNTS)
    assert domains["A"].images.digest() == office31(office, counts=FAKE_COUNTS)["A"].images.digest()
    assert (root / "amazon" / "images" / "mug" / "000.jpg").is_file()
    assert leaves_nothing_else(root)
    assert f"{archive.url} ({len(content) / 1e6:.1f} MB)" in caplog.text
    assert "a host" in caplog.text
    office31(root, hosts=[], counts=FAKE_COUNTS)
    assert len(server.requests) == 1


@pytest.mark.parametrize("locks", ["with locks", "without locks"])
def test_several_archives_and_an_empty_folder(
    tmp_path: Path, office: Path, server: Server, locks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if locks == "without locks":
        refused = Mock(side_effect=OSError(errno.ENOLCK, "No locks available"))
        monkeypatch.setattr("filelock.FileLock.acquire", refused)
    archives = tuple(server.archive(f"/{name}.tgz", tarred(office / name, name)) for name in FOLDERS)
    (tmp_path / "office31").mkdir()
    domains = office31(tmp_path / "office31", hosts=[Host("mirror", archives)], counts=FAKE_COUNTS)
    assert [len(domain.images) for domain in domains.domains] == [4, 4, 4]


def test_a_link_to_an_empty_folder_stays_one(tmp_path: Path, office: Path, server: Server) -> None:
    host = Host("h", (server.archive("/x.tgz", tarred(office, "x")),))
    (tmp_path / "large" / "disk").mkdir(parents=True)
    root = tmp_path / "office31"
    root.symlink_to(tmp_path / "large" / "disk")
    office31(root, hosts=[host], counts=FAKE_COUNTS)
    assert root.is_symlink()
    assert {path.name for path in (tmp_path / "large" / "disk").iterdir()} == set(FOLDERS)
    assert leaves_nothing_else(tmp_path / "large" / "disk")


def test_what_another_command_downloaded_meanwhile_is_used(
    tmp_path: Path, office: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has removed the folder of the lock that this one waits for."""

    def removed(path: Path) -> None:
        shutil.copytree(office, tmp_path / "office31")
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    monkeypatch.setattr("da_wa.data.office31.locked", removed)
    assert office31(tmp_path / "office31", hosts=[], counts=FAKE_COUNTS).names == ("A", "W", "D")


def test_what_is_left_beside_a_download_is_no_error(
    tmp_path: Path, office: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS keeps a lock that is open under another name, and with it its folder."""
    host = Host("h", (server.archive("/x.tgz", tarred(office, "x")),))
    rmtree = shutil.rmtree

    def kept(path: Path, **options: bool) -> None:
        if Path(path).name == "office31.download":
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
        rmtree(path, **options)

    monkeypatch.setattr("da_wa.data.office31.shutil.rmtree", kept)
    assert office31(tmp_path / "office31", hosts=[host], counts=FAKE_COUNTS).names == ("A", "W", "D")


def test_the_next_host_helps_and_every_failure_is_reported(tmp_path: Path, office: Path, server: Server) -> None:
    good = tarred(office, "x")
    evil = io.BytesIO()
    with tarfile.open(fileobj=evil, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../../escaped.txt"), io.BytesIO())
    incomplete = tarred(office / "amazon", "amazon")
    failing = [
        Host("gone", (Archive(server.url("/404.zip"), "404.zip"),)),
        Host("torn", (server.archive("/torn.tgz", good[: len(good) // 2]),)),
        Host("evil", (server.archive("/evil.tgz", evil.getvalue()),)),
        Host("other", (server.archive("/other.tgz", good, md5="0" * 32),)),
        Host("part", (server.archive("/part.tgz", incomplete),)),
        Host("dead", (Archive("http://127.0.0.1:9/x.zip", "x.zip"),)),
    ]
    root = tmp_path / "data" / "office31"
    with pytest.raises(DataError) as reported:
        office31(root, hosts=failing, counts=FAKE_COUNTS)
    text = str(reported.value)
    for line in (
        "gone: .*/404.zip: 404",
        "torn: torn.tgz is damaged",
        "evil: evil.tgz: '../../escaped.txt' lies outside",
        "other: .*md5 is [0-9a-f]{32}, expected 0{32}",
        "part: the archive lacks some of the folders amazon, webcam, dslr",
        "dead: .*127.0.0.1:9",
    ):
        assert re.search(line, text), line
    assert "By hand" in text and "experiment=demo" in text
    assert not root.exists()
    assert not list(tmp_path.rglob("escaped.txt"))
    domains = office31(
        root, hosts=[*failing, Host("good", (server.archive("/good.zip", zipped(office, "O")),))], counts=FAKE_COUNTS
    )
    assert len(domains.domains) == 3
    assert leaves_nothing_else(root)


def test_wrong_counts_are_a_failed_host(tmp_path: Path, office: Path, server: Server) -> None:
    archive = server.archive("/x.tgz", tarred(office, "x"))
    with pytest.raises(DataError, match="amazon/mug: 2 images instead of 3"):
        office31(tmp_path / "o", hosts=[Host("h", (archive,))], counts={"A": {"mug": 3, "pen": 2}})
    assert not (tmp_path / "o").exists()


def test_an_unwritable_place_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"Set data\.root"):
        office31(tmp_path / "file" / "office31", hosts=[])


# fetching

CONTENT = bytes(range(256)) * 4000  # a megabyte


def test_a_broken_connection_is_resumed(tmp_path: Path, server: Server) -> None:
    archive = server.archive("/f", CONTENT, hashlib.md5(CONTENT).hexdigest())
    server.break_after["/f"] = 400_000
    assert fetch(archive, tmp_path).read_bytes() == CONTENT
    assert server.requests == [("/f", None), ("/f", "bytes=400000-"), ("/f", "bytes=800000-")]


def test_an_interrupted_download_is_finished_by_the_next_call(tmp_path: Path, server: Server) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT[:1000])
    assert fetch(server.archive("/f", CONTENT), tmp_path).read_bytes() == CONTENT
    assert server.requests == [("/f", "bytes=1000-")]
    fetch(server.archive("/f", CONTENT), tmp_path)
    assert len(server.requests) == 1


def test_a_server_that_cannot_resume_sends_everything(tmp_path: Path, server: Server) -> None:
    server.knows_range = False
    (tmp_path / "f.part").write_bytes(b"old" * 1000)
    assert fetch(server.archive("/f", CONTENT), tmp_path).read_bytes() == CONTENT


def test_a_server_that_never_gets_further_is_given_up(tmp_path: Path, server: Server) -> None:
    server.knows_range = False
    server.break_after["/f"] = 400_000
    with pytest.raises(DataError, match="only 400000 of 1024000 bytes arrived"):
        fetch(server.archive("/f", CONTENT), tmp_path)
    assert not (tmp_path / "f").exists()


def test_more_than_the_server_has_is_thrown_away(tmp_path: Path, server: Server) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT * 2)
    assert fetch(server.archive("/f", CONTENT), tmp_path).read_bytes() == CONTENT


def test_a_web_page_is_not_a_file(tmp_path: Path, server: Server) -> None:
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(DataError, match="a web page instead of the file"):
        fetch(server.archive("/f", b"<html>quota exceeded"), tmp_path)


def test_a_silent_server_is_given_up(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/f"
        with pytest.raises(DataError, match="timed out"):
            fetch(Archive(url, "f"), tmp_path, timeout=0.2)


# unpacking


def tar_with(member: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(member, io.BytesIO(b"x" * member.size))
    return buffer.getvalue()


def zip_with(name: str, mode: int = 0o100644) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        packed.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def link(kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo("link")
    member.type, member.linkname = kind, "../../target"
    return member


@pytest.mark.parametrize(
    "content",
    [
        tar_with(tarfile.TarInfo("../up.txt")),
        tar_with(tarfile.TarInfo("a/../../up.txt")),
        tar_with(tarfile.TarInfo("/tmp/absolute.txt")),
        tar_with(link(tarfile.SYMTYPE)),
        tar_with(link(tarfile.LNKTYPE)),
        tar_with(link(tarfile.FIFOTYPE)),
        zip_with("../up.txt"),
        zip_with("a\\..\\..\\up.txt"),
        zip_with("/tmp/absolute.txt"),
        zip_with("link", 0o120777),
    ],
)
def test_members_outside_and_links_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(DataError, match="refused"):
        unpack(tmp_path / "archive", tmp_path / "into")
    assert [path.name for path in tmp_path.rglob("*")] in (["archive", "into"], ["into", "archive"])


def damaged_tar_gz() -> bytes:
    """One bit of a file's content is wrong, which only the checksum of gzip can tell."""
    member = tarfile.TarInfo("good.txt")
    member.size = 1000
    content = bytearray(gzip.compress(tar_with(member), compresslevel=0))
    content[content.index(b"xxx") + 500] ^= 1
    return bytes(content)


def changed_zip(local: int, central: int, value: int) -> bytes:
    """A zip file with another byte in both headers of its member, at these offsets (APPNOTE 4.3.7 and 4.3.12)."""
    content = bytearray(zip_with("good.txt"))
    content[local] = content[content.index(b"PK\x01\x02") + central] = value
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [(changed_zip(6, 8, 1), "'good.txt' is encrypted"), (changed_zip(8, 10, 97), "compression method")],
    ids=["encrypted", "WavPack"],
)
def test_a_zip_file_that_cannot_be_read_is_to_be_unpacked_by_hand(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(DataError, match=f"{said}.*; unpack it by hand"):
        unpack(tmp_path / "archive", tmp_path / "into")


@pytest.mark.parametrize("content", [b"", b"<html>no archive</html>", zip_with("good.txt")[:40], damaged_tar_gz()])
def test_what_is_no_archive_is_reported(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(DataError, match="archive is damaged or not an archive"):
        unpack(tmp_path / "archive", tmp_path / "into")
