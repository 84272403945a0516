"""Damaged files, kept for a person to look at, up to a bound. The oldest are removed first."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from promptlogd.store.disk import erase, sync
from promptlogd.store.ownership import make_folder

_log = logging.getLogger(__name__)

_MOST_ENTRIES = 64
_MOST_BYTES = 64 << 20
"""Of all entries together. The newest stays even if it is larger by itself."""


class DamagedFolder:
    """Owner of `damaged/` below the state folder."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "damaged"

    def prepare(self) -> None:
        """Make the folder, and hold it to its bound. Raises StoreUnsafe, OSError."""
        make_folder(self._folder)
        self._shrink()

    def take(self, name: str, *, folder: int, label: str) -> None:
        """Move an entry of this open folder here, as LABEL-TIME-RANDOM. Raises OSError."""
        os.rename(name, self._place(label), src_dir_fd=folder)
        os.fsync(folder)
        sync(self._folder)
        self._shrink()

    def copy(self, path: Path) -> None:
        """Keep a file that is about to be replaced. Raises OSError."""
        os.link(path, self._place(path.name), follow_symlinks=False)
        sync(self._folder)
        self._shrink()

    def _place(self, label: str) -> Path:
        # A name of its own, whatever the clock does.
        return self._folder / f"{label}-{time.time_ns()}-{os.urandom(4).hex()}"

    def _shrink(self) -> None:
        try:
            # A rename sets the change time, by the kernel's own clock.
            entries = [(entry.lstat().st_ctime_ns, entry) for entry in self._folder.iterdir()]
        except OSError as error:
            _log.error("can't hold %s to its bound: %s", self._folder, error)
            return
        total = 0
        for number, (_, entry) in enumerate(sorted(entries, reverse=True)):
            try:
                total += _size(entry)
                if number and (number >= _MOST_ENTRIES or total > _MOST_BYTES):
                    erase(entry)
                    _log.warning("%s was over its bound: the oldest entry is removed: %s", self._folder, entry.name)
            except OSError as error:
                _log.error("can't hold %s to its bound: %s", self._folder, error)


def _size(path: Path) -> int:
    size = path.lstat().st_size
    for folder, _, files in os.walk(path):
        size += sum((Path(folder) / name).lstat().st_size for name in files)
    return size
