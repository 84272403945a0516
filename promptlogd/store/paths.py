"""Which programs the store accepts: the paths, number and sizes of their files. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from promptlogd.store.errors import Unstorable

MOST_BYTES = 64 << 20
"""Maximum total size of the files of a program."""
_MOST_FILES = 256
"""Examining this many on the event loop takes less than a millisecond."""
_PATH_BYTES = 255
_MOST_PARTS = 16


def check_files(sizes: Mapping[str, int], entry: str) -> None:
    """Check the files of a program (path -> size in bytes), and that `entry` is one of them. Raises Unstorable."""
    if entry not in sizes:
        raise Unstorable(f"the entry {_shown(entry)} is not a file of the program")
    if len(sizes) > _MOST_FILES:
        raise Unstorable(f"the program has {len(sizes)} files, the maximum is {_MOST_FILES}")
    if sum(sizes.values()) > MOST_BYTES:
        raise Unstorable(f"the program has {sum(sizes.values())} bytes, the maximum is {MOST_BYTES}")
    folders: set[str] = set()
    for path in sizes:
        _check_path(path)
        parts = path.split("/")
        folders.update("/".join(parts[:count]) for count in range(1, len(parts)))
    for path in sorted(folders & sizes.keys()):
        raise Unstorable(f"{_shown(path)} is both a file and a folder of the program; rename one of them")


def _check_path(path: str) -> None:
    """Raise Unstorable unless this is a normalized relative path inside the program's folder."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise Unstorable(f"the path {_shown(path)} is not valid Unicode") from None
    if size > _PATH_BYTES:
        raise Unstorable(f"the path {_shown(path)} has {size} bytes, the maximum is {_PATH_BYTES}")
    parts = path.split("/")
    if len(parts) > _MOST_PARTS:
        raise Unstorable(f"the path {_shown(path)} has {len(parts)} components, the maximum is {_MOST_PARTS}")
    if {"", ".", ".."} & set(parts):
        raise Unstorable(f"the path {_shown(path)} must be relative, without empty components, '.' and '..'")
    if "\\" in path or not path.isprintable():
        raise Unstorable(f"the path {_shown(path)} has a backslash or a non-printable character")


def _shown(path: str) -> str:
    """Return a path for a message, shortened."""
    return ascii(path if len(path) <= 60 else path[:57] + "...")
