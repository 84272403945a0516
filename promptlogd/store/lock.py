"""Creates the state folder if it is missing, checks that only the daemon's user can enter it, and locks it."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from promptlogd.peer import find_process
from promptlogd.store.errors import StoreLocked
from promptlogd.store.ownership import check_file, check_folder


def take_lock(state_dir: Path) -> int:
    """Lock this folder, and return the descriptor. Nobody else can lock it while the descriptor is open.

    Raises StoreLocked, StoreUnsafe, OSError.
    """
    if not os.path.lexists(state_dir):
        state_dir.mkdir(mode=0o700)
    check_folder(state_dir, closed_to=0o077)
    path = state_dir / "lock"
    check_file(path)
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = _holder(os.pread(lock, 64, 0))
        os.close(lock)
        if isinstance(error, BlockingIOError):
            raise StoreLocked(str(state_dir), holder) from None
        raise
    with suppress(OSError):  # only for a message; a full disk must not prevent the start
        me = find_process(os.getpid())
        os.ftruncate(lock, os.pwrite(lock, f"{os.getpid()} {me.start_ticks if me else ''}\n".encode(), 0))
    return lock


def _holder(text: bytes) -> str:
    """Describe the holder of the lock, from the text of the lock file."""
    pid, _, started = text.decode("ascii", "replace").strip().partition(" ")
    if not pid.isdecimal():
        return "of unknown pid"
    found = find_process(int(pid))
    if found is not None and started in ("", str(found.start_ticks)):
        return f"pid {pid}"
    return f"started as pid {pid}, which is no longer visible; one of its children may hold the lock"
