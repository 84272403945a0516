"""Checks the type, owner and permissions of the store's files and folders. Symbolic links are never followed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from promptlogd.store.errors import StoreUnsafe

_WRITABLE_BY_OTHERS = 0o022


def check_folder(folder: Path, *, closed_to: int = _WRITABLE_BY_OTHERS) -> None:
    """Raise StoreUnsafe unless this is a folder of the daemon's user without these mode bits. Raises OSError."""
    status = folder.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise StoreUnsafe(f"{folder} is a symbolic link, which is not followed; replace it by the folder itself")
    if not stat.S_ISDIR(status.st_mode):
        raise StoreUnsafe(f"{folder} is not a folder; move it away")
    if status.st_uid != os.geteuid():
        raise StoreUnsafe(
            f"{folder} belongs to uid {status.st_uid}, not to the daemon's user; chown it or give --state-dir"
        )
    if status.st_mode & closed_to:
        raise StoreUnsafe(f"{folder} is accessible to other users; fix this with: chmod 700 {folder}")


def make_folder(folder: Path) -> None:
    """Create a folder of the store, or check an existing one. Raises StoreUnsafe, OSError."""
    if not os.path.lexists(folder):
        folder.mkdir(mode=0o700)
    check_folder(folder)


def check_file(path: Path) -> None:
    """Raise StoreUnsafe if this exists and is not a regular file. Raises OSError."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise StoreUnsafe(f"{path} is a symbolic link, which is not followed; replace it by the file itself")
    if not stat.S_ISREG(mode):
        raise StoreUnsafe(f"{path} is not a file; move it away")
