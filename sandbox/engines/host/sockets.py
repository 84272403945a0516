"""The data socket of a jailed process."""

from __future__ import annotations

import socket

_ROOM_BYTES = 1280 * 1024
"""Socket buffer size: room for a result, a prompt or a source of the default limit."""

_SO_SNDBUFFORCE = 32  # socket(7), asm-generic/socket.h; not in Python's socket module


def is_quiet(data: socket.socket) -> bool:
    """Whether there is no data and the other end is open. A late event of the previous run can arrive without data."""
    try:
        data.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def make_room(end: socket.socket) -> int:
    """Enlarge the socket buffer so that a whole message fits, which saves waits. Return the size of the buffer in
    bytes.

    The host may allow less.
    """
    try:
        end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _ROOM_BYTES)
    except OSError:  # more than net.core.wmem_max requires CAP_NET_ADMIN
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM_BYTES)
    return end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2  # the kernel doubles the given size (socket(7))
