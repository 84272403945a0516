"""How much disk the programs and `damaged/` take, and the quota of the store (`store.max_mb`).

Each file and each folder counts in whole blocks of 4 KiB, which is close to what `du` prints.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from promptlogd.store.errors import StoreOverQuota
from promptlogd.store.hashes import is_shelf
from promptlogd.store.meta import Meta

_BLOCK_BYTES = 4096


def blocks(size: int) -> int:
    """Return the disk space of a file of this size."""
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


def program_bytes(meta: Meta) -> int:
    """Return the disk space of a program without its artifacts: its folder, its metadata, its files."""
    return 2 * _BLOCK_BYTES + sum(blocks(file.size) for file in meta.files.values())


def tree_bytes(path: str | Path) -> int:
    """Return the disk space of a file, or of a folder with its contents; 0 if it is gone or can't be read."""
    try:
        if not os.path.isdir(path) or os.path.islink(path):
            return blocks(os.lstat(path).st_size)
        return _BLOCK_BYTES + sum(_entries(path))
    except OSError:
        return 0


def _entries(folder: str | Path) -> Iterator[int]:
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    yield tree_bytes(entry.path)
                else:
                    yield blocks(entry.stat(follow_symlinks=False).st_size)


class Usage:
    """The disk space of the store's programs and of `damaged/`. Any thread may use it.

    It is counted by `count`. In between, the store reports what it adds and removes.
    """

    def __init__(self, state_dir: Path, max_bytes: int | None) -> None:
        """`max_bytes`: the quota; None: there is none."""
        self.max_bytes = max_bytes
        self._folder = state_dir
        self._mutex = threading.Lock()
        self._kept = 0
        self._claims: dict[int, int] = {}
        """Space of programs that are being stored, by the number of the claim."""
        self._numbers = itertools.count()

    @property
    def bytes(self) -> int:
        """The space that is used or claimed now."""
        with self._mutex:
            return self._used()

    def _used(self) -> int:
        return self._kept + sum(self._claims.values())

    def lacking(self, size: int) -> int:
        """Return how much must be removed before so many bytes fit into the quota."""
        return 0 if self.max_bytes is None else max(0, self.bytes + size - self.max_bytes)

    def claim(self, size: int, number: int | None = None) -> int:
        """Claim space, or more space for a claim. Return the number of the claim. Raises StoreOverQuota."""
        with self._mutex:
            used = self._used()
            if self.max_bytes is not None and used + size > self.max_bytes:
                raise StoreOverQuota(used, size, self.max_bytes)
            number = next(self._numbers) if number is None else number
            self._claims[number] = self._claims.get(number, 0) + size
            return number

    def release(self, number: int) -> None:
        """Give up a claim. A claim that was settled or released stays so."""
        with self._mutex:
            self._claims.pop(number, None)

    def settle(self, number: int) -> None:
        """Turn a claim into used space, because the program was published."""
        with self._mutex:
            self._kept += self._claims.pop(number, 0)

    def add(self, size: int) -> None:
        """Note that the store has grown by so many bytes, or shrunk if it is negative."""
        with self._mutex:
            self._kept = max(0, self._kept + size)

    def count(self) -> int:
        """Count everything on disk, and return it. Looks at each file; blocks."""
        programs = self._folder / "programs"
        total = tree_bytes(self._folder / "damaged")
        with suppress(OSError):
            for shelf in filter(is_shelf, os.listdir(programs)):  # the shelves themselves do not count
                with suppress(OSError):
                    total += sum(_entries(programs / shelf))
        with self._mutex:
            self._kept = total
            return self._used()
