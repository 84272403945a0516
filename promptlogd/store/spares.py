"""Folders for the next programs, created in advance with empty files, because allocating them is the slow part."""

from __future__ import annotations

import os
import shutil
from collections import deque
from contextlib import suppress
from pathlib import Path

from promptlogd.store.disk import sync

MOST, _FEW = 12, 6
"""Number of spare folders, and the number at which the missing ones are created. Folders that are created together
share a commit of the file system's journal. Most submits find enough spare folders, and do not compete with the thread
that creates them."""
SPARE = ".spare-"
"""Prefix of spare folders' names."""


class Spares:
    """Spare folders in `programs/`, and all of its shelves. One thread creates them, another may take them."""

    def __init__(self, programs: Path, names: tuple[str, ...]) -> None:
        """`names`: names of the files in each spare folder."""
        self._programs = programs
        self._names = names
        self._ready: deque[Path] = deque()
        self._shelved = False

    @property
    def are_few(self) -> bool:
        """Whether to call `make`. Never waits."""
        return len(self._ready) <= _FEW

    def make(self) -> None:
        """Create missing folders. Errors are ignored."""
        with suppress(OSError):  # for example a full disk: the next `stage` reports it
            self._make_shelves()
            self._ready.extend(self._make_some(MOST - len(self._ready)))

    def take(self) -> Path:
        """Return a folder with the empty files, which the caller then owns. Raises OSError."""
        with suppress(IndexError):
            spare = self._ready.popleft()
            try:
                if not any(os.lstat(f"{spare}/{name}").st_size for name in self._names):
                    return spare
            except OSError:
                pass
            shutil.rmtree(spare, ignore_errors=True)  # somebody has changed it
        (spare,) = self._make_some(1)
        return spare

    def make_empty(self) -> Path:
        """Create an empty folder, for a program with several files. Raises OSError."""
        folder = self._programs / f"{SPARE}{os.urandom(8).hex()}"
        folder.mkdir(mode=0o700)
        return folder

    def remove(self) -> None:
        """Remove unused spare folders."""
        with suppress(IndexError):
            while True:
                shutil.rmtree(self._ready.popleft(), ignore_errors=True)

    def _make_shelves(self) -> None:
        shelves = [] if self._shelved else [self._programs / f"{number:02x}" for number in range(256)]
        missing = [shelf for shelf in shelves if not os.path.lexists(shelf)]
        for shelf in missing:
            with suppress(FileExistsError):
                shelf.mkdir(mode=0o700)
        if missing:
            sync(self._programs)
        self._shelved = True

    def _make_some(self, count: int) -> list[Path]:
        """Create folders with the empty files, and return once they are on disk. Raises OSError."""
        folders: list[Path] = []
        try:
            for _ in range(count):
                folder = self.make_empty()
                folders.append(folder)
                for name in self._names:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                    os.close(os.open(folder / name, flags, 0o600))
            for folder in folders:
                sync(folder)
        except BaseException:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return folders
