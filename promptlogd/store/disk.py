"""Reads, writes and syncs files durably, without following symbolic links. Independent of their contents."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class open_folder:  # noqa: N801  # used as a function; a class is faster, and each submit opens a dozen folders
    """Context manager: the descriptor of a folder that is opened without following symbolic links.

    `parent`: descriptor of the folder in which a relative path starts. Raises OSError.
    """

    def __init__(self, path: Path | str, parent: int | None = None) -> None:
        self._path = path
        self._parent = parent
        self._descriptor = -1

    def __enter__(self) -> int:
        self._descriptor = os.open(self._path, _FOLDER, dir_fd=self._parent)
        return self._descriptor

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        os.close(self._descriptor)


def write_files(folder: int, files: dict[str, bytes], *, wait: bool = True) -> None:
    """Write new or empty files, and return once all are on disk.

    The writes of all files start before the first is waited for, so that a journaling file system commits them
    together. `folder`: its descriptor. `wait`: if false, the kernel writes them at any later time.
    """
    with ExitStack() as opened:
        descriptors = []
        for name, data in files.items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(name, flags, 0o600, dir_fd=folder)
            opened.callback(os.close, descriptor)
            write_all(descriptor, data)
            descriptors.append(descriptor)
        if not wait:
            return
        for descriptor in descriptors:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # starts the write-back of dirty pages
        for descriptor in descriptors:
            os.fsync(descriptor)


@contextmanager
def open_parent(folder: int, path: str) -> Iterator[tuple[int, str]]:
    """Context manager: (descriptor of the folder that contains this path, last component of the path).

    The path starts in the open folder. Symbolic links are not followed. Raises OSError.
    """
    *folders, name = path.split("/")
    with ExitStack() as opened:
        for part in folders:
            folder = opened.enter_context(open_folder(part, folder))
        yield folder, name


def write_tree(folder: int, files: dict[str, bytes]) -> None:
    """Write files by path into an empty folder, and return once all are on disk. Raises OSError.

    `folder`: its descriptor. Only one file is open at a time.
    """
    parts = [path.split("/") for path in files]
    folders = sorted({"/".join(some[:count]) for some in parts for count in range(1, len(some))})
    for path in folders:
        with open_parent(folder, path) as (parent, name):
            os.mkdir(name, 0o700, dir_fd=parent)
    for path, data in files.items():
        with open_parent(folder, path) as (parent, name):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(name, flags, 0o600, dir_fd=parent)
            try:
                write_all(descriptor, data)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # starts the write-back of dirty pages
            finally:
                os.close(descriptor)
    for path in (*files, *folders):
        with open_parent(folder, path) as (parent, name):
            descriptor = os.open(name, _READ, dir_fd=parent)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    os.fsync(folder)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes. A disk that becomes full accepts a part first and refuses the rest. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def read_file(path: Path | str, most_bytes: int, *, parent: int | None = None) -> bytes:
    """Return the bytes of a file, without following symbolic links.

    `parent`: descriptor of the folder in which a relative path starts. Raises OSError; ValueError if it is not a
    regular file or is too large.
    """
    descriptor = os.open(path, _READ, dir_fd=parent)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > most_bytes:
            raise ValueError(f"{path} is not a file, or has more than {most_bytes} bytes")
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            return file.readall()
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Create or replace a file, durably and atomically. Raises OSError."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        with open_folder(path.parent) as folder:
            write_files(folder, {new.name: data})
            os.rename(new.name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def sync(folder: Path) -> None:
    """Return once the entries of this folder are on disk."""
    with open_folder(folder) as descriptor:
        os.fsync(descriptor)


def erase(path: Path) -> None:
    """Remove a file, a link, or a folder with its contents. Raises OSError."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)
