"""The peer of a client's socket: its process and its user, as reported by the kernel."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import msgspec

_CREDENTIALS = struct.Struct("3i")
"""pid, uid, gid (unix(7), SO_PEERCRED)."""

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
    process: Process | None


def peer_of(sock: socket.socket) -> Peer:
    """Return the peer of a socket. Raises OSError."""
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Peer(uid=uid, process=find_process(pid))


def find_process(pid: int) -> Process | None:
    """Return the process that has this pid now; None if there is none, or if it is not visible."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return Process(pid=pid, start_ticks=int(fields[_START_TIME]))
    except (OSError, ValueError, IndexError):
        return None
