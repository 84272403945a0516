"""What this process's user namespace says of ids (user_namespaces(7))."""

from __future__ import annotations

from pathlib import Path

NOBODY = 65534
"""The uid and gid of nobody, and of those whom a user namespace does not know."""


def is_mapped(ids: range, map_name: str) -> bool:
    """Whether one line of this user namespace's `uid_map` or `gid_map` has all of these ids (user_namespaces(7))."""
    for line in Path("/proc/self", map_name).read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= ids.start and ids.stop <= first + count:
            return True
    return False
