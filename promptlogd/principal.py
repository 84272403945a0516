"""The sender of a request: the peer of its connection, as reported by the kernel, and the tenant that a front names."""

from __future__ import annotations

import msgspec

from promptlogd.peer import Process


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The sender of a request."""

    connection: int
    """Number of the connection."""
    uid: int
    process: Process | None
    """None if it has ended or is in another pid namespace."""
    gid: int = -1
    """The process's effective group. -1: unknown."""
    gids: frozenset[int] = frozenset()
    """All groups of the process, when it connected."""
    tenant: str | None = None
    """The tenant that a front names."""
    manages: bool = False
    """Whether the front gives the tenant the right `manage`."""
