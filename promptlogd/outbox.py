"""Sends the replies of one connection, and keeps what the socket does not accept at once. Bytes only, no messages."""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

import trio

from promptlogd.budget import Account
from promptlogd.clients import Clients
from promptlogd.wire import Part

_log = logging.getLogger(__name__)

_WRITE_BYTES = 256 * 1024
"""One send gets no further chunks once it has this many bytes. The default socket buffer is smaller."""

_PARTS = 64
"""Parts given to one send. The kernel takes up to 1,024 (sendmsg(2))."""

_OWN_BYTES = 16 * 1024
"""A part of at least this size is kept without a copy, because copying 4 MiB to new memory takes 2 ms. Shorter parts
are joined to chunks of up to `_WRITE_BYTES`, because a separate object takes more memory than their bytes."""


class Outbox:
    """Sends replies, and keeps the bytes that the socket does not accept. A task sends those; most clients need
    none."""

    def __init__(
        self,
        sock: socket.socket,
        number: int,
        *,
        clients: Clients,
        account: Account,
        stall_s: float,
        end: Callable[[], None],
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        """`account`: counts the unsent bytes. `end`: called if the client has disconnected or does not read its
        replies.

        `spawn`: runs a task until the connection ends.
        """
        self._sock = sock
        self._number = number
        self._clients = clients
        self._account = account
        self._stall_s = stall_s
        self._end = end
        self._chunks: list[Part | bytearray] = []
        """Unsent parts. Each counts in the account until its last byte is sent. A list, because even an empty deque
        takes 760 bytes."""
        self._sent = 0
        """Number of sent bytes of the first chunk."""
        self._spawn = spawn
        self._serves = False
        """Whether a task is sending the kept bytes."""

    def send(self, parts: Sequence[Part]) -> None:
        """Send the parts of a reply, and keep what the socket does not accept now."""
        sent = 0
        if not self._chunks:
            try:
                sent = self._sock.send(parts[0]) if len(parts) == 1 else self._sock.sendmsg(parts[:_PARTS])
            except BlockingIOError:
                pass
            except OSError:
                self._end()
                return
            if sent == (len(parts[0]) if len(parts) == 1 else sum(map(len, parts))):
                return
            self._clients.unsent.add(self._number)
            if not self._serves:
                self._serves = True
                self._spawn(self._serve)
        for part in parts:
            if sent < len(part):
                self._keep(part, sent)
            sent = max(0, sent - len(part))

    def _keep(self, part: Part, sent: int) -> None:
        """Keep a part of which `sent` bytes were sent. Only the first kept part can be partly sent."""
        if len(part) >= _OWN_BYTES:
            if not self._chunks:
                self._sent = sent
            self._account.charge(len(part))
            self._chunks.append(part)
            return
        self._account.charge(len(part) - sent)
        last = self._chunks[-1] if self._chunks else None
        with memoryview(part)[sent:] as rest:
            if isinstance(last, bytearray) and len(last) + len(rest) <= _WRITE_BYTES:
                last += rest
            else:
                self._chunks.append(bytearray(rest))

    async def _serve(self) -> None:
        """Send all kept bytes. End the connection if the client has disconnected or does not read."""
        if not await self._write():
            self._end()
            return
        self._serves = False
        self._clients.unsent.discard(self._number)
        self._clients.wake_if_idle()

    async def _write(self) -> bool:
        """Send all kept bytes. Return whether the client read them.

        The socket becomes writable once three quarters of its buffer are free (unix_writable in Linux). So a client
        that reads only single bytes is closed too: in each `stall_s` it must read about 150 KiB, or all that is there.
        """
        while self._chunks:
            with trio.move_on_after(self._stall_s) as patience:
                await trio.lowlevel.wait_writable(self._sock)
            if patience.cancelled_caught:
                _log.info("client %d does not read its replies; closed", self._number)
                return False
            try:
                sent = self._sock.sendmsg(self._next())
            except BlockingIOError:
                continue
            except OSError:
                return False
            self._drop(sent)
        return True

    def _next(self) -> list[memoryview]:
        """Return views of the unsent bytes of the first chunks."""
        views, size = [memoryview(self._chunks[0])[self._sent :]], 0
        for chunk in islice(self._chunks, 1, _PARTS):
            size += len(views[-1])
            if size >= _WRITE_BYTES:
                break
            views.append(memoryview(chunk))
        return views

    def _drop(self, sent: int) -> None:
        """Drop fully sent chunks. A chunk counts until then, because a part of it cannot be freed."""
        sent, dropped, whole = sent + self._sent, 0, 0
        while whole < len(self._chunks) and sent >= len(self._chunks[whole]):
            size = len(self._chunks[whole])
            sent, dropped, whole = sent - size, dropped + size, whole + 1
        del self._chunks[:whole]
        self._sent = sent
        self._account.release(dropped)  # last, because a callback may call `send`

    def clear(self) -> None:
        """Drop the unsent bytes of a closed connection."""
        self._clients.unsent.discard(self._number)
        self._chunks.clear()
        self._sent = 0
