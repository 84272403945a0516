"""The build cache contains what will run in the jail: no other user may write to it, and its files are complete."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cell_build import cache


def test_cache_is_private(cache_folder: Path) -> None:
    """The folder is created with access for its owner only, and found again."""
    assert cache_folder.stat().st_mode & 0o777 == 0o700
    assert cache.open_folder() == cache_folder


def test_default_is_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$XDG_CACHE_HOME is used if it is absolute, and ignored if it is relative, as its specification requires."""
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.open_folder() == tmp_path / "xdg" / "promptlog" / "build"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.open_folder() == tmp_path / "home" / ".cache" / "promptlog" / "build"


@pytest.mark.parametrize("fault", ["of another user", "others can write", "a symbolic link", "cannot be made"])
def test_unsafe_cache_is_not_used(
    cache_folder: Path, fault: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The build uses a temporary folder instead, and says why."""
    match fault:
        case "of another user":
            monkeypatch.setattr("cell_build.cache.os.geteuid", lambda: cache_folder.stat().st_uid + 1)
        case "others can write":
            cache_folder.chmod(0o770)
        case "a symbolic link":
            cache_folder.rename(cache_folder.with_name("real"))
            cache_folder.symlink_to(cache_folder.with_name("real"))
        case "cannot be made":
            cache_folder.rmdir()
            cache_folder.write_text("a file")
    used = cache.open_folder()
    assert used != cache_folder
    assert used.stat().st_mode & 0o777 == 0o700
    message = capfd.readouterr().err
    assert f"{cache_folder} cannot be the build cache" in message
    assert f"Set {cache.VARIABLE} to another folder that you own" in message


def test_files_are_complete_or_absent(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed write leaves the old file unchanged, and no temporary file."""
    path = cache_folder / "cells" / "a"
    cache.write(path, b"old", 0o755)
    assert path.stat().st_mode & 0o777 == 0o755

    def fail(descriptor: int) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr("cell_build.cache.os.fsync", fail)
    with pytest.raises(OSError, match="disk is full"):
        cache.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_unused_entries_are_removed(cache_folder: Path) -> None:
    """Entries that no build has used for 30 days are removed, and others stay."""
    for name in ("cells/old/executable", "cells/used/executable", "objects/old", "objects/used"):
        cache.write(cache_folder / name, b"x")
    before = time.time() - 31 * 86_400
    for name in ("cells/old", "cells/used", "objects/old", "objects/used"):
        os.utime(cache_folder / name, (before, before))
    cache.mark_used(cache_folder / "cells/used")
    cache.mark_used(cache_folder / "objects/used")
    cache.open_folder()
    left = {str(path.relative_to(cache_folder)) for path in cache_folder.glob("*/*")}
    assert left == {"cells/used", "objects/used"}
