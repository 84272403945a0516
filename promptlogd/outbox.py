"""Replies of one connection that the socket does not take at once. Bytes only: no messages here."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import trio

from promptlogd.budget import Account
from promptlogd.clients import Clients

_log = logging.getLogger(__name__)

_WRITE_BYTES = 256 * 1024
"""Copied for one send. The socket's default buffer takes less."""


class Outbox:
    """Sends replies, and keeps the bytes that the socket does not take. `serve` sends those."""

    def __init__(
        self,
        sock: socket.socket,
        number: int,
        *,
        clients: Clients,
        account: Account,
        stall_s: float,
        end: Callable[[], None],
    ) -> None:
        """`account`: counts the unsent bytes. `end`: called if the client is gone or does not read its replies."""
        self._sock = sock
        self._number = number
        self._clients = clients
        self._account = account
        self._stall_s = stall_s
        self._end = end
        self._unsent = bytearray()
        self._filled = trio.Event()
        self._emptied = trio.Event()

    def send(self, data: bytes | bytearray) -> None:
        """Send, and keep the bytes that the socket does not take now."""
        rest: bytes | bytearray | memoryview = data
        if not self._unsent:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._end()
                return
            if sent == len(data):
                return
            rest = memoryview(data)[sent:]
            self._clients.unsent.add(self._number)
            self._filled.set()
        self._account.charge(len(rest))
        self._unsent += rest

    async def serve(self) -> None:
        """Send the kept bytes, until cancelled, or until the client is gone or does not read."""
        while True:
            await self._filled.wait()
            self._filled = trio.Event()
            if not await self._write():
                self._end()
                return
            self._clients.unsent.discard(self._number)
            self._clients.wake_if_idle()
            self._emptied.set()

    async def _write(self) -> bool:
        """Send all that is kept; return whether the client took it.

        The socket can be written once three quarters of its buffer are free (unix_writable in Linux). So a client that
        reads a byte now and then is closed too: in each `stall_s` it must read some 150 KiB, or all there is.
        """
        while self._unsent:
            with trio.move_on_after(self._stall_s) as patience:
                await trio.lowlevel.wait_writable(self._sock)
            if patience.cancelled_caught:
                _log.info("client %d does not read its replies; closed", self._number)
                return False
            try:
                sent = self._sock.send(self._unsent[:_WRITE_BYTES])
            except BlockingIOError:
                continue
            except OSError:
                return False
            del self._unsent[:sent]
            self._account.release(sent)
        return True

    async def drain(self) -> None:
        """Wait until nothing is kept."""
        while self._unsent:
            self._emptied = trio.Event()
            await self._emptied.wait()

    def clear(self) -> None:
        """Drop the unsent bytes of a closed connection."""
        self._clients.unsent.discard(self._number)
        self._unsent.clear()
