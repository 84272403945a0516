"""Disk space that is reserved for removals, so that programs can be removed from a full disk.

`reserve` is a file with allocated blocks and no content. A removal that meets a full disk deletes this file, and
creates it again at its end. A removal writes, with blocks of 4 KiB:

- one line of the journal for each name: 200 bytes;
- pages of SQLite's write-ahead log, 4,120 bytes each: some 20 for the program, and two for each name;
- one block of the folder `programs/`, for the program's temporary name.

So 1 MiB is enough for a program with a hundred names. With more names SQLite may be refused: then the program is
removed nevertheless, and the next start takes it out of SQLite, as the journal says.
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
from promptlogd.store.ownership import check_file

_log = logging.getLogger(__name__)

_BYTES = 1 << 20
_STEP_BYTES = 4 << 10
"""A disk that is nearly full gives a part, in steps of this size."""
_WAIT_S = 10.0


class Reserve:
    """Owner of `reserve` in the state folder. Any thread may call `untouched`; one at a time calls the others."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "reserve"
        self._changed = threading.Condition()
        self._spenders = 0
        self._released = False
        self._told_bytes = _BYTES

    def check(self) -> None:
        """Raise StoreUnsafe if something else is in its place. Raises OSError."""
        check_file(self._path)

    @property
    def released(self) -> bool:
        """Whether the file is deleted for a removal that goes on."""
        return self._released

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Guard writes that may not use the reserve. Raises StoreFull while it is released."""
        with self._changed:
            if self._released:
                raise StoreFull("the disk is full, and a program is being removed: try again")
            self._spenders += 1
        try:
            yield
        finally:
            with self._changed:
                self._spenders -= 1
                self._changed.notify_all()

    def release(self) -> None:
        """Delete the file, after all guarded writes have ended."""
        with self._changed:
            self._released = True
            self._changed.wait_for(lambda: not self._spenders, _WAIT_S)
        with suppress(OSError):  # if there is no file, the removal fails again and says why
            self._path.unlink()
            sync(self._path.parent)  # ext4 gives freed blocks out only after it has committed this

    def make(self) -> None:
        """Create the file, or extend it to its size, or as far as there is room. Never raises."""
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
            if size != self._told_bytes:
                level = logging.WARNING if error.errno in (errno.ENOSPC, errno.EDQUOT) else logging.ERROR
                _log.log(level, "%s has %d KiB of %d for removals: %s", self._path, size >> 10, _BYTES >> 10, error)
        self._told_bytes = size
        with self._changed:
            self._released = False
