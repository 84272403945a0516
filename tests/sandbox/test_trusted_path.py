"""Paths that another user can redirect are refused; the usual ones pass."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.trusted_path import UntrustedPath, check_trusted, make_folders

STRANGER = 4711


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of root's in /tmp, which is sticky."""
    assert os.geteuid() == 0, "these tests make files of another user: run them as root"
    with tempfile.TemporaryDirectory(prefix="promptlog-test-") as name:
        yield Path(name)


def test_usual_paths_pass(folder: Path) -> None:
    """Folders of root, sticky ones that all may write to, and root's links to them are trusted."""
    (folder / "link").symlink_to("/tmp")
    (folder / "relative").symlink_to("link/../run")
    for path in (Path("/"), Path("/run"), Path("/tmp"), folder, folder / "link", folder / "relative"):
        check_trusted(path)


def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
    """A path is refused if any folder on the way belongs to a user who is neither root nor us."""
    (folder / "own/deep").mkdir(parents=True)
    check_trusted(folder / "own/deep")
    os.chown(folder / "own", STRANGER, STRANGER)
    for path in (folder / "own", folder / "own/deep"):
        with pytest.raises(UntrustedPath, match=f"{folder}/own belongs to uid {STRANGER}"):
            check_trusted(path)


@pytest.mark.parametrize(("mode", "why"), [(0o777, "every user"), (0o775, "group"), (0o757, "every user")])
def test_a_folder_that_others_may_write_to_is_refused(folder: Path, mode: int, why: str) -> None:
    """Write permission for the group or for all is refused, with the command that takes it away; sticky, it passes."""
    own = folder / "own"
    own.mkdir()
    os.chown(own, 0, STRANGER)
    own.chmod(mode)
    with pytest.raises(UntrustedPath, match=f"{why}.*chmod"):
        check_trusted(own)
    own.chmod(mode | 0o1000)
    check_trusted(own)


def test_a_link_of_another_user_in_a_sticky_folder_is_refused(folder: Path) -> None:
    """In a folder like /tmp a stranger can make links: they are not followed to where they lead."""
    folder.chmod(0o1777)
    (folder / "link").symlink_to("/run")
    check_trusted(folder / "link")
    os.chown(folder / "link", STRANGER, STRANGER, follow_symlinks=False)
    with pytest.raises(UntrustedPath, match=f"link belongs to uid {STRANGER}"):
        check_trusted(folder / "link")


def test_the_way_behind_a_link_is_checked(folder: Path) -> None:
    """A link of ours that leads through a stranger's folder is refused."""
    (folder / "strange/target").mkdir(parents=True)
    (folder / "link").symlink_to(folder / "strange/target")
    check_trusted(folder / "link")
    os.chown(folder / "strange", STRANGER, STRANGER)
    with pytest.raises(UntrustedPath, match="strange"):
        check_trusted(folder / "link")


def test_links_without_end_are_an_error(folder: Path) -> None:
    """A circle of links ends with the kernel's error for it, and not never."""
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        check_trusted(folder / "a")


def test_missing_folders_are_made_with_their_mode(folder: Path) -> None:
    """Each missing folder gets the mode, whatever the umask allows; nothing is made in a stranger's folder."""
    previous = os.umask(0)
    try:
        make_folders(folder / "a/b", 0o750)
    finally:
        os.umask(previous)
    assert [(folder / name).stat().st_mode & 0o7777 for name in ("a", "a/b")] == [0o750, 0o750]
    os.chown(folder / "a", STRANGER, STRANGER)
    with pytest.raises(UntrustedPath):
        make_folders(folder / "a/c", 0o750)
    assert not (folder / "a/c").exists()
