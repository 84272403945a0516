"""Bytes and names onto the disk, durably and without following links. Nothing of what they mean."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class open_folder:  # noqa: N801  # used as a function; a class, since each submit opens a dozen folders
    """Give the descriptor of a folder, which is opened without following a link, until the end of a `with` block.

    `parent`: the descriptor of the folder that a relative path starts from. Raises OSError.
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
    """Write files that are new or empty, and return once all are on the disk.

    All are on their way there before the first is waited for: a journaling file system then commits them together.
    `folder`: its descriptor. `wait`: without it the kernel writes them when it likes.
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
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # begins to write what is dirty
        for descriptor in descriptors:
            os.fsync(descriptor)


@contextmanager
def open_parent(folder: int, path: str) -> Iterator[tuple[int, str]]:
    """Give (the descriptor of the folder that this path below an open folder is in, the path's last part).

    Raises OSError; no link on the way is followed.
    """
    *folders, name = path.split("/")
    with ExitStack() as opened:
        for part in folders:
            folder = opened.enter_context(open_folder(part, folder))
        yield folder, name


def write_tree(folder: int, files: dict[str, bytes]) -> None:
    """Write files by their paths below an empty folder, and return once all are on the disk. Raises OSError.

    `folder`: its descriptor. One file is open at a time, however many there are.
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
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # begins to write what is dirty
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
    """Write all of it. A disk that fills up writes a part first, and refuses the rest. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def read_file(path: Path | str, most_bytes: int, *, parent: int | None = None) -> bytes:
    """Return the bytes of a file, without following a link. Raises OSError; ValueError for no file, or too large a one.

    `parent`: the descriptor of the folder that a relative path starts from.
    """
    descriptor = os.open(path, _READ, dir_fd=parent)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > most_bytes:
            raise ValueError(f"{path} is no file, or of more than {most_bytes} bytes")
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            return file.readall()
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file in place of the one that is there, if any, durably and all or nothing. Raises OSError."""
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
    """Return once the names in this folder are on the disk."""
    with open_folder(folder) as descriptor:
        os.fsync(descriptor)


def erase(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it. Raises OSError."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)
