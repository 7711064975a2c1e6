"""Folders and lists become domains over one class list, or the error says what to mend."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from da_wa.data.domains import DomainSet
from da_wa.data.folders import from_folders, with_folder
from da_wa.data.images import ImageArray, ImageFiles, Selected
from da_wa.data.lists import from_lists
from da_wa.errors import ConfigError, DataError

DrawTree = Callable[..., Path]


def labelled_names(domains: DomainSet, name: str) -> list[tuple[str, str]]:
    """What a domain holds, as (path, class name)."""
    domain = domains[name]
    return [(domain.images.name(i), domains.classes[label]) for i, label in enumerate(domain.labels)]


# folders


def test_folders_become_domains_with_alphabetical_classes(tmp_path: Path, draw_tree: DrawTree) -> None:
    root = draw_tree(tmp_path / "shapes", domains=("b", "a"), classes=("zebra", "Ant", "mole"), per_class=2)
    domains = from_folders(root)
    assert domains.name == "shapes"
    assert domains.names == ("a", "b")
    assert domains.classes == ("Ant", "mole", "zebra")
    assert domains["b"].labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert domains["b"].labels.dtype == np.int64
    assert domains["b"].images.name(5) == "zebra/001.png"


@pytest.mark.parametrize("layout", ["{domain}/{label}", "{domain}/images/{label}", "{domain}/images/{label}/deep/er"])
def test_the_images_level_and_deeper_folders_are_understood(tmp_path: Path, draw_tree: DrawTree, layout: str) -> None:
    domains = from_folders(draw_tree(tmp_path, layout=layout))
    assert domains.classes == ("mug", "pen", "ruler")
    assert all(len(domain.images) == 12 for domain in domains.domains)


def test_folders_can_be_chosen_and_named(domains_root: Path) -> None:
    domains = from_folders(domains_root, {"S": "sunset", "B": "blueprint"}, name="two")
    assert domains.names == ("S", "B")
    assert domains["B"].images.digest() == from_folders(domains_root)["blueprint"].images.digest()


def test_hidden_files_are_ignored_and_others_named(
    tmp_path: Path, draw_tree: DrawTree, caplog: pytest.LogCaptureFixture
) -> None:
    root = draw_tree(tmp_path, domains=("a",), per_class=1)
    (root / "a" / "mug" / ".hidden.png").write_bytes(b"")
    (root / "a" / ".cache").mkdir()
    (root / ".git").mkdir()
    (root / "a" / "mug" / "Thumbs.db").write_bytes(b"")
    (root / "a" / "stray.png").write_bytes(b"")
    shutil.copy(root / "a" / "mug" / "000.png", root / "a" / "mug" / "LOUD.PNG")
    with caplog.at_level(logging.WARNING):
        domains = from_folders(root)
    assert domains["a"].images.name(1) == "mug/LOUD.PNG"
    assert len(domains["a"].images) == 4
    assert "mug/Thumbs.db, stray.png" in caplog.text
    assert ".hidden" not in caplog.text


@pytest.mark.parametrize(
    ("layout", "warned"), [("split/{domain}/{label}", True), ("{domain}/{label}", False), ("{domain}/{label}/a", False)]
)
def test_a_root_one_level_too_high_is_told(
    tmp_path: Path, draw_tree: DrawTree, caplog: pytest.LogCaptureFixture, layout: str, warned: bool
) -> None:
    from_folders(draw_tree(tmp_path, per_class=1, layout=layout))
    assert ("in the same subfolders, mug, pen, ruler. If these are the classes" in caplog.text) == warned
    assert ("same subfolders" in caplog.text) == warned


def test_links_to_folders_within_a_class_are_named(
    tmp_path: Path, draw_tree: DrawTree, caplog: pytest.LogCaptureFixture
) -> None:
    """A class folder itself may be a link; within it one could lead back to where it is."""
    root = draw_tree(tmp_path / "root", domains=("a",), per_class=1)
    (root / "a" / "pen").rename(tmp_path / "pens")
    (root / "a" / "pen").symlink_to(tmp_path / "pens")
    (root / "a" / "mug" / "more.png").symlink_to(tmp_path / "pens")
    (root / "a" / "mug" / "same").symlink_to(root / "a" / "mug")
    domains = from_folders(root)
    assert domains["a"].images.paths == ("mug/000.png", "pen/000.png", "ruler/000.png")
    assert "2 files are not images of a class and are ignored: mug/more.png/, mug/same/" in caplog.text


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("spoil", "reported"),
    [
        (lambda root: shutil.rmtree(root), "no such file"),
        (lambda root: empty(root), "has no domain folders"),
        (lambda root: empty(root / "paper"), "paper has no class folders"),
        (lambda root: empty(root / "paper" / "pen"), "paper: no image .* of the classes pen"),
    ],
)
def test_missing_and_empty_folders_are_reported(
    tmp_path: Path, draw_tree: DrawTree, spoil: Callable[[Path], None], reported: str
) -> None:
    root = draw_tree(tmp_path / "root", per_class=1)
    spoil(root)
    with pytest.raises(DataError, match=reported):
        from_folders(root)


def test_a_missing_domain_folder_is_reported(domains_root: Path) -> None:
    with pytest.raises(DataError, match="papyrus: no such file"):
        from_folders(domains_root, {"P": "papyrus", "S": "sunset"})


def test_a_domain_given_as_the_root_is_reported(domains_root: Path) -> None:
    with pytest.raises(DataError, match=r"mug has no class folders\. Expected ROOT/<domain>/<class>/<image>"):
        from_folders(domains_root / "paper")


def test_different_classes_are_told_per_domain(tmp_path: Path, draw_tree: DrawTree) -> None:
    root = draw_tree(tmp_path, per_class=1)
    (root / "paper" / "pen").rename(root / "paper" / "biro")
    with pytest.raises(DataError) as reported:
        from_folders(root)
    lines = str(reported.value).splitlines()
    assert "  blueprint lacks biro" in lines
    assert "  paper lacks pen" in lines
    assert "data.classes=common" in lines[-1]


def test_common_classes_keep_their_meaning(
    tmp_path: Path, draw_tree: DrawTree, caplog: pytest.LogCaptureFixture
) -> None:
    root = draw_tree(tmp_path, per_class=2)
    from_folders(root, class_rule="common")
    assert not caplog.records
    shutil.rmtree(root / "paper" / "mug")
    domains = from_folders(root, class_rule="common")
    assert domains.classes == ("pen", "ruler")
    assert "data.classes=common leaves out 1 of 3 classes: mug." in caplog.text
    caplog.clear()
    assert domains.only_common_classes().classes == domains.classes
    assert not caplog.records
    for domain in domains.domains:
        names = labelled_names(domains, domain.name)
        assert len(names) == 4
        assert all(path.startswith(f"{label}/") for path, label in names)


def test_an_empty_class_folder_is_an_absent_class_under_common(
    tmp_path: Path, draw_tree: DrawTree, caplog: pytest.LogCaptureFixture
) -> None:
    root = draw_tree(tmp_path, per_class=2)
    empty(root / "paper" / "mug")
    (root / "sunset" / "extra" / "deep").mkdir(parents=True)
    domains = from_folders(root, class_rule="common")
    assert domains.classes == ("pen", "ruler")
    assert [len(domain.images) for domain in domains.domains] == [4, 4, 4]
    assert "of the classes mug" in caplog.text and "of the classes extra" in caplog.text
    with pytest.raises(DataError, match=r"classes mug\..*data\.classes=common"):
        from_folders(root)
    added = with_folder(from_folders(root, {"B": "blueprint"}, class_rule="common"), "C", root / "paper")
    assert added.classes == ("pen", "ruler")
    for folder in ("pen", "ruler"):
        empty(root / "paper" / folder)
    with pytest.raises(DataError, match=r"no image .* of the classes mug, pen, ruler"):
        from_folders(root, class_rule="common")


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", ".ipynb_checkpoints"])
def test_folders_of_the_system_are_neither_domains_nor_classes(tmp_path: Path, draw_tree: DrawTree, name: str) -> None:
    root = draw_tree(tmp_path / "root", per_class=1)
    before = from_folders(root)
    for place in (root, root / "paper", root / "paper" / "pen"):
        draw_tree(place, domains=(name,), classes=("mug",), per_class=1)
    after = from_folders(root)
    assert (after.names, after.classes) == (before.names, before.classes)
    assert [d.images.digest() for d in after.domains] == [d.images.digest() for d in before.domains]


def test_a_large_scan_gives_signs_of_life(
    tmp_path: Path, draw_tree: DrawTree, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = draw_tree(tmp_path / "root", domains=("a",), per_class=5)
    monkeypatch.setattr("da_wa.data.folders._SIGN_OF_LIFE", 6)
    with caplog.at_level(logging.INFO):
        from_folders(root)
    assert [record.getMessage().rsplit(": ")[-1] for record in caplog.records] == ["10 files so far"]


def test_nothing_in_common_is_reported(tmp_path: Path, draw_tree: DrawTree) -> None:
    draw_tree(tmp_path, domains=("a",), classes=("x",))
    draw_tree(tmp_path, domains=("b",), classes=("y",))
    with pytest.raises(DataError, match="share no class"):
        from_folders(tmp_path, class_rule="common")


def test_unknown_names_come_with_the_nearest(domains_root: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'sunset'"):
        from_folders(domains_root)["sunsett"]
    with pytest.raises(ConfigError, match="Did you mean 'common'"):
        from_folders(domains_root, class_rule="comon")  # type: ignore[arg-type]


# one more domain


def test_one_more_domain(tmp_path: Path, domains_root: Path, draw_tree: DrawTree) -> None:
    extra = draw_tree(tmp_path, domains=("more",), per_class=3) / "more"
    domains = with_folder(from_folders(domains_root), "C", extra)
    assert domains.names == ("blueprint", "paper", "sunset", "C")
    assert domains["C"].labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    with pytest.raises(ConfigError, match="already has a domain 'C'"):
        with_folder(domains, "C", extra)


def test_one_more_domain_obeys_the_class_rule(tmp_path: Path, domains_root: Path, draw_tree: DrawTree) -> None:
    extra = draw_tree(tmp_path, domains=("more",), classes=("apple", "pen", "ruler"), per_class=3) / "more"
    domains = from_folders(domains_root)
    with pytest.raises(DataError, match="C lacks mug"):
        with_folder(domains, "C", extra)
    common = with_folder(domains.only_common_classes(), "C", extra)
    assert common.classes == ("pen", "ruler")
    assert [len(domain.images) for domain in common.domains] == [16, 16, 16, 6]
    assert all(path.startswith(f"{c}/") for name in common.names for path, c in labelled_names(common, name))


# lists


@pytest.fixture
def listed(tmp_path: Path, draw_tree: DrawTree) -> Path:
    """Two domains with list files, a path with spaces and labels that are not alphabetical."""
    root = draw_tree(tmp_path, domains=("a", "b"), classes=("back pack", "mug"), per_class=1)
    (root / "classes.txt").write_text("mug\nback pack\n\n")
    for domain in "ab":
        (root / f"{domain}.txt").write_text(f"{domain}/back pack/000.png 1\n\n{domain}/mug/000.png\t0\r\n")
    return root


def test_lists_keep_their_order_and_labels(listed: Path) -> None:
    domains = from_lists(listed, {"A": "a.txt", "B": listed / "b.txt"}, classes="classes.txt", name="lists")
    assert domains.classes == ("mug", "back pack")
    assert labelled_names(domains, "A") == [("a/back pack/000.png", "back pack"), ("a/mug/000.png", "mug")]
    assert domains["B"].labels.tolist() == [1, 0]


def test_one_image_under_two_names_or_in_two_lists_is_told(listed: Path) -> None:
    (listed / "b.txt").write_text("b/mug/000.png 0\na/back pack/000.png 1\n")
    with pytest.warns(UserWarning, match=r"A and B have 1 images in common, e\.g\. a/back pack/000\.png"):
        from_lists(listed, {"A": "a.txt", "B": "b.txt"}, classes="classes.txt")
    (listed / "b.txt").write_text("b/mug/000.png 0\nb/./mug/000.png 1\n")
    with pytest.raises(DataError, match=r"line 2: b/\./mug/000\.png is listed twice"):
        from_lists(listed, {"A": "a.txt", "B": "b.txt"}, classes="classes.txt")


def test_lists_without_class_names_use_numbers(listed: Path) -> None:
    for domain in "ab":  # counted from 1, and not in alphabetical order once there are ten
        (listed / f"{domain}.txt").write_text(f"{domain}/mug/000.png 10\n{domain}/back pack/000.png 9\n")
    domains = from_lists(listed, {"A": "a.txt", "B": "b.txt"})
    assert domains.classes == ("9", "10")
    assert domains["A"].labels.tolist() == [1, 0]


def test_bad_lines_are_all_named_by_number(listed: Path) -> None:
    (listed / "a.txt").write_text(
        "a/mug/000.png 0\n"
        "a/mug/000.png\n"
        "a/mug/nothing.png 0\n"
        "a/back pack/000.png 2\n"
        "a/mug/000.png 1\n"
        "a/mug/000.png -1\n"
    )
    with pytest.raises(DataError) as reported:
        from_lists(listed, {"A": "a.txt", "B": "b.txt"}, classes="classes.txt")
    text = str(reported.value)
    assert "a.txt has 5 bad lines" in text
    assert "line 2: 'a/mug/000.png' is not" in text
    assert "line 3" in text and "nothing.png does not exist" in text
    assert "line 4: label 2, but the class file has only 0 to 1" in text
    assert "line 5: a/mug/000.png is listed twice" in text
    assert "line 6: 'a/mug/000.png -1' is not" in text


@pytest.mark.parametrize(
    ("file", "content", "reported"),
    [
        ("a.txt", b"", "a.txt is empty"),
        ("a.txt", b"\xff\xfe\x00bad", "a.txt: .*UTF-8"),
        ("a.txt", None, "a.txt: no such file"),
        ("a.txt", b"a/mug/000.png 0\n", "A lacks back pack"),
        ("classes.txt", b"", "classes.txt is empty"),
        ("classes.txt", b"mug\nmug\n", "more than once: mug"),
        ("classes.txt", b"\nmug\nback pack\n", "classes.txt: line 1 is empty"),
    ],
)
def test_unusable_lists_are_reported(listed: Path, file: str, content: bytes | None, reported: str) -> None:
    (listed / file).unlink()
    if content is not None:
        (listed / file).write_bytes(content)
    with pytest.raises(DataError, match=reported):
        from_lists(listed, {"A": "a.txt", "B": "b.txt"}, classes="classes.txt")


def test_no_lists_at_all(listed: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.lists is empty"):
        from_lists(listed, {})


# digests


def test_a_digest_tells_content_order_and_names_but_not_the_place(tmp_path: Path, domains_root: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(domains_root / "paper", copy)
    paths = ("mug/000.png", "mug/001.png")
    here, there = ImageFiles(domains_root / "paper", paths), ImageFiles(copy, paths)
    assert here.digest() == there.digest()
    assert here.fingerprint() != there.fingerprint()
    assert ImageFiles(copy, paths[::-1]).digest() != there.digest()
    (copy / "mug/000.png").rename(copy / "mug/002.png")
    assert ImageFiles(copy, ("mug/002.png", "mug/001.png")).digest() != here.digest()
    (copy / "mug/000.png").write_bytes((copy / "mug/002.png").read_bytes()[:-1] + b"?")
    assert there.digest() != here.digest()


def test_a_selection_is_the_chosen_images() -> None:
    pixels = np.arange(3 * 3 * 4 * 4, dtype=np.uint8).reshape(3, 3, 4, 4)
    whole = ImageArray(pixels, ("a", "b", "c"))
    part = Selected(whole, (2, 0))
    assert (len(part), part.name(0), part.name(1)) == (2, "c", "a")
    assert np.array_equal(part.decode(0, 4), pixels[2])
    three = (whole, part, Selected(whole, (0, 2)))
    assert len({images.digest() for images in three}) == len({images.fingerprint() for images in three}) == 3
    assert ImageArray(pixels ^ 1, ("a", "b", "c")).digest() != whole.digest()
