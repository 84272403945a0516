"""Who sends a request: the peer of its connection, as the kernel reports it, and the tenant that a front names."""

from __future__ import annotations

import msgspec

from promptlogd.peer import Process


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who a request is done for."""

    connection: int
    """Number of the connection."""
    uid: int
    process: Process | None
    """None if it has ended, or is of another pid namespace."""
    tenant: str | None = None
    """For whom a front asks."""
