"""Paths that another user could redirect are refused; usual paths are accepted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.trusted_path import UntrustedPath, check_trusted, check_trusted_tree, make_folders

STRANGER = 4711


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of root in /tmp, which is sticky."""
    assert os.geteuid() == 0, "these tests make files of another user: run them as root"
    with tempfile.TemporaryDirectory(prefix="promptlog-test-") as name:
        yield Path(name)


def test_usual_paths_are_accepted(folder: Path) -> None:
    """Folders of root, sticky world-writable folders, and root's links to them are trusted."""
    (folder / "link").symlink_to("/tmp")
    (folder / "relative").symlink_to("link/../run")
    for path in (Path("/"), Path("/run"), Path("/tmp"), folder, folder / "link", folder / "relative"):
        check_trusted(path)


def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
    """A path is refused if a folder on the way belongs to a user other than root and the daemon's own."""
    (folder / "own/deep").mkdir(parents=True)
    check_trusted(folder / "own/deep")
    os.chown(folder / "own", STRANGER, STRANGER)
    for path in (folder / "own", folder / "own/deep"):
        with pytest.raises(UntrustedPath, match=f"{folder}/own belongs to uid {STRANGER}"):
            check_trusted(path)


@pytest.mark.parametrize(("mode", "why"), [(0o777, "every user"), (0o775, "group"), (0o757, "every user")])
def test_a_folder_writable_by_others_is_refused(folder: Path, mode: int, why: str) -> None:
    """Write permission for group or others is refused, with the command that removes it, but not if sticky."""
    own = folder / "own"
    own.mkdir()
    os.chown(own, 0, STRANGER)
    own.chmod(mode)
    with pytest.raises(UntrustedPath, match=f"{why}.*chmod"):
        check_trusted(own)
    own.chmod(mode | 0o1000)
    check_trusted(own)


def test_a_link_of_another_user_in_a_sticky_folder_is_refused(folder: Path) -> None:
    """A link that another user made in a folder like /tmp is refused and not followed."""
    folder.chmod(0o1777)
    (folder / "link").symlink_to("/run")
    check_trusted(folder / "link")
    os.chown(folder / "link", STRANGER, STRANGER, follow_symlinks=False)
    with pytest.raises(UntrustedPath, match=f"link belongs to uid {STRANGER}"):
        check_trusted(folder / "link")


def test_the_target_of_a_link_is_checked(folder: Path) -> None:
    """The daemon refuses its own link if the target is in another user's folder."""
    (folder / "strange/target").mkdir(parents=True)
    (folder / "link").symlink_to(folder / "strange/target")
    check_trusted(folder / "link")
    os.chown(folder / "strange", STRANGER, STRANGER)
    with pytest.raises(UntrustedPath, match="strange"):
        check_trusted(folder / "link")


def test_a_cycle_of_links_is_an_error(folder: Path) -> None:
    """A cycle of links ends with the kernel's error and does not loop for ever."""
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        check_trusted(folder / "a")


def test_missing_folders_are_created_with_their_mode(folder: Path) -> None:
    """Each missing folder gets its mode under any umask; nothing is created in another user's folder."""
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


def test_everything_below_a_folder_is_checked(folder: Path) -> None:
    """A file deep in a tree, and the target of a link in it, are refused if they belong to another user."""
    (folder / "tree/deep").mkdir(parents=True)
    (folder / "tree/deep/file").write_text("")
    (folder / "target").write_text("")
    (folder / "tree/link").symlink_to(folder / "target")
    (folder / "tree/dangling").symlink_to("nowhere")
    check_trusted_tree(folder / "tree")
    for changed in ("tree/deep/file", "target", "tree/deep"):
        os.chown(folder / changed, STRANGER, STRANGER)
        with pytest.raises(UntrustedPath, match=f"{folder / changed} belongs to uid {STRANGER}"):
            check_trusted_tree(folder / "tree")
        os.chown(folder / changed, 0, 0)
    check_trusted_tree(folder / "tree/deep/file")
