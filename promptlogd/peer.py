"""The peer of a client's socket: its process and its user, as reported by the kernel."""

from __future__ import annotations

import errno
import socket
import struct
from array import array
from collections.abc import Sequence
from pathlib import Path

import msgspec

_CREDENTIALS = struct.Struct("3i")
"""pid, uid, gid (unix(7), SO_PEERCRED)."""

_SO_PEERGROUPS = 59
"""The option's number (include/uapi/asm-generic/socket.h). Python's socket module does not have it."""
_GROUPS_BYTES = 1024
"""Space for 256 groups: the most that socket.getsockopt accepts."""

_START_TIME = 19
"""Index of `starttime` in proc_pid_stat(5), counted from the field after the process's name."""


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process of this host. A pid alone does not identify a process, because the kernel reuses pids."""

    pid: int
    start_ticks: int
    """Start time of the process, in clock ticks since the host's boot."""


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """The user and the process that connected. The process is None if it has ended or is in another pid namespace."""

    uid: int
    gid: int
    """The process's effective group when it connected."""
    gids: frozenset[int]
    """All of its groups then."""
    process: Process | None


def peer_of(sock: socket.socket) -> Peer:
    """Return the peer of a socket. Raises OSError."""
    pid, uid, gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Peer(uid=uid, gid=gid, gids=frozenset((gid, *_groups(sock))), process=find_process(pid))


def _groups(sock: socket.socket) -> Sequence[int]:
    """Return the supplementary groups of the peer; none if it has more than 256, so that it gains nothing."""
    try:
        return array("I", sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES))
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        return ()


def find_process(pid: int) -> Process | None:
    """Return the process that has this pid now; None if there is none, or if it is not visible."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return Process(pid=pid, start_ticks=int(fields[_START_TIME]))
    except (OSError, ValueError, IndexError):
        return None
