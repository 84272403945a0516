"""Which programs the store takes: the paths of their files, and how many and how large these may be. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from promptlogd.store.errors import Unstorable

MOST_BYTES = 64 << 20
"""Of all files of a program together."""
_MOST_FILES = 256
"""Few enough that to look at each on the event loop takes less than a millisecond."""
_PATH_BYTES = 255
_MOST_PARTS = 16


def check_files(sizes: Mapping[str, int], entry: str) -> None:
    """Check the files of a program (path -> size in bytes), and that `entry` is one of them. Raises Unstorable."""
    if entry not in sizes:
        raise Unstorable(f"the entry {_shown(entry)} is not a file of the program")
    if len(sizes) > _MOST_FILES:
        raise Unstorable(f"the program has {len(sizes)} files, and {_MOST_FILES} are the most")
    if sum(sizes.values()) > MOST_BYTES:
        raise Unstorable(f"the program has {sum(sizes.values())} bytes, and {MOST_BYTES} are the most")
    folders: set[str] = set()
    for path in sizes:
        _check_path(path)
        parts = path.split("/")
        folders.update("/".join(parts[:count]) for count in range(1, len(parts)))
    for path in sorted(folders & sizes.keys()):
        raise Unstorable(f"{_shown(path)} is a file and a folder of the program: rename one of them")


def _check_path(path: str) -> None:
    """Raise Unstorable unless this is a relative path below the program's folder, in its shortest form."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise Unstorable(f"the path {_shown(path)} is not valid Unicode") from None
    if size > _PATH_BYTES:
        raise Unstorable(f"the path {_shown(path)} has {size} bytes, and {_PATH_BYTES} are the most")
    parts = path.split("/")
    if len(parts) > _MOST_PARTS:
        raise Unstorable(f"the path {_shown(path)} has {len(parts)} parts, and {_MOST_PARTS} are the most")
    if {"", ".", ".."} & set(parts):
        raise Unstorable(f"the path {_shown(path)} must be relative, without empty parts, '.' and '..'")
    if "\\" in path or not path.isprintable():
        raise Unstorable(f"the path {_shown(path)} has a backslash, or a character that can't be printed")


def _shown(path: str) -> str:
    """Return a path for a message, shortened."""
    return ascii(path if len(path) <= 60 else path[:57] + "...")
