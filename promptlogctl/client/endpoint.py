"""Which socket a client connects to, and whether to trust the process that answers there."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import msgspec

from promptlogctl.client.errors import UntrustedDaemon
from promptlogd.wire.paths import default_paths

_CREDENTIALS = struct.Struct("3i")
"""pid, uid, gid (unix(7), SO_PEERCRED)."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The path of a daemon's socket. `explicit`: somebody chose this path, and means any daemon that answers there."""

    path: Path
    explicit: bool

    def check_peer(self, sock: socket.socket) -> None:
        """Check who answers on a connected socket. Raises UntrustedDaemon.

        Behind a path that nobody chose, the daemon must belong to root or to this user.
        """
        if self.explicit:
            return
        uid: int = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]
        if uid not in (0, os.geteuid()):
            raise UntrustedDaemon(str(self.path), uid)


def find_endpoint(path: str | os.PathLike[str] | None = None) -> Endpoint:
    """Return the endpoint at this path, else at $PROMPTLOG_SOCKET, else where this user's daemon listens by default."""
    chosen = path if path is not None else os.environ.get("PROMPTLOG_SOCKET") or None
    if chosen is not None:
        return Endpoint(path=Path(chosen), explicit=True)
    return Endpoint(path=default_paths(os.geteuid(), os.environ).socket, explicit=False)
