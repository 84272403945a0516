"""Disk space that is reserved for removals, so that programs can be removed from a full disk.

`reserve` is a file with allocated blocks and no content. A removal that meets a full disk deletes this file, and
creates the file again at its end. A removal writes, with blocks of 4 KiB:

- one line of the journal for each name: 200 bytes;
- pages of SQLite's write-ahead log, 4,120 bytes each: about 20 for the program, and two for each name;
- one block of the folder `programs/`, for the program's temporary name.

So 1 MiB is enough for a program with the maximum number of names (`names.py`). An older folder may have programs with
more names, for which SQLite may find no room. The program is still removed, and the next start removes it from SQLite,
because it is no longer in the folders and the journal.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from promptlogd.store.disk import sync
from promptlogd.store.errors import StoreFull

_log = logging.getLogger(__name__)

RESERVE_FILE = "reserve"
"""Name of the file in the state folder."""

_BYTES = 1 << 20
_STEP_BYTES = 4 << 10
"""If the disk is nearly full, the file is allocated in steps of this size, as far as possible."""
_WAIT_S = 10.0
"""Time limit for waiting for guarded writes, so that a hanging disk cannot block a removal for ever."""


class Reserve:
    """Owns `reserve` in the state folder. Any thread may call `guard_writes`; one thread at a time calls the others."""

    def __init__(self, state_dir: Path, *, wait_s: float = _WAIT_S) -> None:
        """`wait_s`: time limit for waiting in `release`."""
        self._path = state_dir / RESERVE_FILE
        self._wait_s = wait_s
        self._changed = threading.Condition()
        self._guarded_writes = 0
        self._released = False
        self._logged_bytes = _BYTES

    @property
    def released(self) -> bool:
        """Whether the file is deleted for a removal that is in progress."""
        return self._released

    @contextmanager
    def guard_writes(self) -> Iterator[None]:
        """Context manager for writes that may not use the reserve. Raises StoreFull while it is released."""
        with self._changed:
            if self._released:
                raise StoreFull("the disk is full and a program is being removed; try again")
            self._guarded_writes += 1
        try:
            yield
        finally:
            with self._changed:
                self._guarded_writes -= 1
                self._changed.notify_all()

    def release(self) -> None:
        """Delete the file once guarded writes have ended, or after 10 s."""
        with self._changed:
            self._released = True
            if not self._changed.wait_for(lambda: not self._guarded_writes, self._wait_s):
                _log.warning(
                    "%s is deleted after %g s, before %d other writes have ended; they may use its space",
                    self._path,
                    self._wait_s,
                    self._guarded_writes,
                )
        with suppress(OSError):  # if there is no file, the removal fails again with the reason
            self._path.unlink()
            sync(self._path.parent)  # ext4 reuses freed blocks only after this commit

    def restore(self) -> None:
        """Create the file, or extend it to its size as far as there is room. Never raises."""
        size = 0
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            if self._released:
                sync(self._path.parent)  # commits what the removal freed
            descriptor = os.open(self._path, flags, 0o600)
            try:
                status = os.fstat(descriptor)
                if status.st_size >= _BYTES and status.st_blocks * 512 >= _BYTES:
                    size = _BYTES
                while size < _BYTES:
                    os.posix_fallocate(descriptor, size, _STEP_BYTES)
                    size += _STEP_BYTES
            finally:
                os.close(descriptor)
        except OSError as error:
            if size != self._logged_bytes:
                level = logging.WARNING if error.errno in (errno.ENOSPC, errno.EDQUOT) else logging.ERROR
                _log.log(level, "%s has %d KiB of %d for removals: %s", self._path, size >> 10, _BYTES >> 10, error)
        self._logged_bytes = size
        with self._changed:
            self._released = False
