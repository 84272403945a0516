"""The number of sent bytes that a client has not read yet."""

from __future__ import annotations

import asyncio
import fcntl
import termios
from contextlib import suppress


def count_unread(transport: asyncio.Transport) -> int:
    """Return the number of unread bytes, in the buffers of the event loop and the kernel (tcp(7), unix(7))."""
    # The kernel accepts more only once a third of its buffer is free, so the event loop's buffer alone can stand still.
    unread_bytes = transport.get_write_buffer_size()
    with suppress(OSError):
        answer = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        unread_bytes += int.from_bytes(answer, "little")
    return unread_bytes
