"""The state folder is ours alone: made so, checked to be so, and locked against a second daemon."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from promptlogd.store.errors import StoreLocked, StoreUnsafe


def take_lock(state_dir: Path) -> int:
    """Return the lock on this folder, as long as which is open nobody else has it.

    Raises StoreLocked, StoreUnsafe, OSError.
    """
    if not os.path.lexists(state_dir):
        state_dir.mkdir(mode=0o700)
    _check(state_dir)
    lock = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise StoreLocked(str(state_dir), holder) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _check(folder: Path) -> None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise StoreUnsafe(f"{folder} is not a folder (a link is not followed)")
    if status.st_uid != os.geteuid():
        raise StoreUnsafe(f"{folder} belongs to uid {status.st_uid}, not to us; chown it or give --state-dir")
    if status.st_mode & 0o077:
        raise StoreUnsafe(f"{folder} is open to others; close it with: chmod 700 {folder}")
