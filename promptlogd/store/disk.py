"""Bytes and names onto the disk, durably and without following links. Nothing of what they mean."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a folder is opened."""


def write_all(folder: Path, files: dict[str, bytes], *, wait: bool = True) -> None:
    """Write files that are new or empty, and return once all are on the disk, or on their way there.

    All are on their way there before the first is waited for: a journaling file system then commits them together.
    """
    with ExitStack() as opened:
        descriptors = []
        for name, data in files.items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            file = opened.enter_context(open(os.open(folder / name, flags, 0o600), "wb", buffering=0))
            view = memoryview(data)
            while view:
                view = view[file.write(view) or 0 :]
            descriptors.append(file.fileno())
        for descriptor in descriptors:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # begins to write what is dirty
        for descriptor in descriptors if wait else ():
            os.fsync(descriptor)


def sync(folder: Path) -> None:
    """Return once the names in this folder are on the disk."""
    descriptor = os.open(folder, FOLDER)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
