"""Who is at the other end of a client's socket: its process and its user, as the kernel tells."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import msgspec

_CREDENTIALS = struct.Struct("3i")
"""pid, uid, gid (unix(7), SO_PEERCRED)."""

_START_TIME = 19
"""Where proc_pid_stat(5) has `starttime`, counted from behind the process's name."""


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process of this host. A pid alone does not identify a process: the kernel reuses pids."""

    pid: int
    start_ticks: int
    """Clock ticks from the host's start to the process's."""


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """The user who connected, and the process; None if it has ended, or is of another pid namespace."""

    uid: int
    process: Process | None


def peer_of(sock: socket.socket) -> Peer:
    """Return who connected. Raises OSError."""
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Peer(uid=uid, process=find_process(pid))


def find_process(pid: int) -> Process | None:
    """Return the process that has this pid now; None if there is none that this one may see."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return Process(pid=pid, start_ticks=int(fields[_START_TIME]))
    except (OSError, ValueError, IndexError):
        return None
