"""Bytes and names onto the disk, durably and without following links. Nothing of what they mean."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def open_folder(path: Path | str, parent: int | None = None) -> Iterator[int]:
    """Give the descriptor of a folder, which is opened without following a link. Raises OSError.

    `parent`: the descriptor of the folder that a relative path starts from.
    """
    descriptor = os.open(path, _FOLDER, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_files(folder: int, files: dict[str, bytes], *, wait: bool = True) -> None:
    """Write files that are new or empty, and return once all are on the disk, or on their way there.

    All are on their way there before the first is waited for: a journaling file system then commits them together.
    `folder`: its descriptor.
    """
    with ExitStack() as opened:
        descriptors = []
        for name, data in files.items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(name, flags, 0o600, dir_fd=folder)
            opened.callback(os.close, descriptor)
            write_all(descriptor, data)
            descriptors.append(descriptor)
        for descriptor in descriptors:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # begins to write what is dirty
        for descriptor in descriptors if wait else ():
            os.fsync(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it. A disk that fills up writes a part first, and refuses the rest. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync(folder: Path) -> None:
    """Return once the names in this folder are on the disk."""
    with open_folder(folder) as descriptor:
        os.fsync(descriptor)


def erase(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it. Raises OSError."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)
