"""Mapped ids of this process's user namespace (user_namespaces(7))."""

from __future__ import annotations

from pathlib import Path

NOBODY = 65534
"""The uid and gid of nobody, which also stand for ids that a user namespace does not map."""


def is_mapped(ids: range, map_name: str) -> bool:
    """Whether one line of this user namespace's `uid_map` or `gid_map` maps all of these ids (user_namespaces(7))."""
    for line in Path("/proc/self", map_name).read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= ids.start and ids.stop <= first + count:
            return True
    return False
