"""Damaged files, kept for examination by the operator up to a size limit. The oldest are removed first."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from promptlogd.store.disk import erase, sync
from promptlogd.store.ownership import make_folder
from promptlogd.store.usage import tree_bytes

_log = logging.getLogger(__name__)

_MOST_ENTRIES = 64
_MOST_BYTES = 64 << 20
"""Maximum size of all entries. The newest entry stays even if it is larger."""


class DamagedFolder:
    """Owns `damaged/` in the state folder."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "damaged"

    def prepare(self) -> None:
        """Create the folder, and enforce its size limit. Raises StoreUnsafe, OSError."""
        make_folder(self._folder)
        self._evict_oldest()

    def move_in(self, name: str, *, folder: int, label: str) -> None:
        """Move an entry of this open folder here, as LABEL-TIME-RANDOM. Raises OSError."""
        os.rename(name, self._place(label), src_dir_fd=folder)
        sync(self._folder)  # first, so that after a power cut the entry is in at least one of the folders
        os.fsync(folder)
        self._evict_oldest()

    def link_in(self, path: Path) -> None:
        """Hard-link a file here before it is replaced. Raises OSError."""
        os.link(path, self._place(path.name), follow_symlinks=False)
        sync(self._folder)
        self._evict_oldest()

    def drop_oldest(self, size: int) -> bool:
        """Remove entries, the oldest first, until this frees `size` bytes. Return whether any entry was removed."""
        freed = 0
        dropped = False
        for _, entry in self._entries():
            if freed >= size:
                break
            with self._log_errors():
                entry_bytes = tree_bytes(entry)
                erase(entry)
                freed, dropped = freed + entry_bytes, True
                _log.warning("removed %s from %s to keep the store within its quota", entry.name, self._folder)
        return dropped

    def _place(self, label: str) -> Path:
        # The random part keeps names unique if the clock stands still or goes back.
        return self._folder / f"{label}-{time.time_ns()}-{os.urandom(4).hex()}"

    def _evict_oldest(self) -> None:
        total = 0
        for number, (_, entry) in enumerate(reversed(self._entries())):
            with self._log_errors():  # an entry that can't be removed must not prevent removing the others
                total += _size(entry)
                if number and (number >= _MOST_ENTRIES or total > _MOST_BYTES):
                    erase(entry)
                    _log.warning("%s exceeded its size limit; removed its oldest entry: %s", self._folder, entry.name)

    def _entries(self) -> list[tuple[int, Path]]:
        """Return the entries with their times, the oldest first."""
        with self._log_errors():
            # A rename sets the change time, by the kernel's own clock.
            return sorted((entry.lstat().st_ctime_ns, entry) for entry in self._folder.iterdir())
        return []

    @contextmanager
    def _log_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _log.error("can't enforce the size limit of %s: %s", self._folder, error)


def _size(path: Path) -> int:
    size = path.lstat().st_size
    for folder, _, files in os.walk(path):
        size += sum((Path(folder) / name).lstat().st_size for name in files)
    return size
