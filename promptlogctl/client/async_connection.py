"""The connection of the asynchronous client: shared by tasks, reconnects after the daemon has restarted.

It limits the requests in flight. async_link.py receives and sends.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import anyio

from promptlogctl.client.async_link import Link
from promptlogctl.client.endpoint import Endpoint
from promptlogctl.client.errors import ConnectionLost
from promptlogctl.client.pending_reply import PendingReply
from promptlogctl.client.request import OnLog, encoded
from promptlogd.wire.messages import Cancel, Id, Request

_R = TypeVar("_R")

MOST_IN_FLIGHT = 100
"""Maximum number of requests in flight. Further ones wait here. Below the daemon's default of 128 (`max_pipelined`)."""

_OPEN_S = 5.0
"""Time limit for connecting while the daemon's queue of new connections is full."""

_RETRY_EVERY_S = 0.01
"""Time between attempts to connect while that queue is full."""


class AsyncConnection:
    """A connection for any number of tasks of one event loop. The first request opens it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._link: Link | None = None
        self._next_id = 0
        self.in_flight = 0
        """Number of requests in flight. Further ones wait."""
        self._queue: deque[anyio.Event] = deque()
        """Waiting requests, oldest first."""

    @property
    def has_place(self) -> bool:
        """Whether a request would be sent at once."""
        return self.in_flight < MOST_IN_FLIGHT

    def close(self) -> None:
        """Close the socket. Tasks that wait for a reply get ConnectionLost. The next request reconnects."""
        if self._link is not None:
            self._link.lose()
            self._link = None

    async def ask(
        self, make: Callable[[Id], Request], kind: type[_R], on_log: OnLog | None = None, *, again: bool = True
    ) -> _R:
        """Send a request and wait for its reply. `again`: send it once more if the connection is lost.

        If the task is cancelled, its run is cancelled too.
        """
        try:
            return await self._ask(make, kind, on_log)
        except ConnectionLost:
            if not again:
                raise
        return await self._ask(make, kind, on_log)

    async def _ask(self, make: Callable[[Id], Request], kind: type[_R], on_log: OnLog | None) -> _R:
        pending = await self.send(make, on_log)
        try:
            return await pending.reply(kind)
        finally:
            pending.close()

    async def send(
        self, make: Callable[[Id], Request], on_log: OnLog | None = None, *, checked: bool = False
    ) -> PendingReply:
        """Send a request. The caller must close the returned object. `checked`: see `encoded`."""
        if self.in_flight < MOST_IN_FLIGHT:
            self.in_flight += 1
        else:
            await self._wait_for_place()
        try:
            link = self._link
            if link is None or link.is_gone():
                link = await self._open()
            self._next_id += 1
            id = self._next_id
            data = encoded(link.session, make(id), checked=checked)
            link.send(data)
        except BaseException:
            self._leave_place()
            raise
        pending = link.waiting[id] = PendingReply(link, id, on_log, self._closed)
        return pending

    def _closed(self, pending: PendingReply) -> None:
        """Cancel a request that nobody waits for, and let another one be sent."""
        link = self._link
        try:
            if pending.answer is None and link is not None and not link.is_lost:
                self._next_id += 1
                with suppress(ConnectionLost):
                    link.send(link.session.send(Cancel(id=self._next_id, target=pending.id)))
        finally:
            self._leave_place()

    async def _open(self) -> Link:
        """Connect. Raises NoDaemon, and UntrustedDaemon."""
        ends = anyio.current_time() + _OPEN_S
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                sock.connect(os.fspath(self.endpoint.path))
                self.endpoint.check_peer(sock)
            except OSError as error:
                sock.close()
                # EAGAIN: the daemon's queue of new connections is full (connect(2)).
                if error.errno != errno.EAGAIN or anyio.current_time() >= ends:
                    raise self.endpoint.no_daemon(error) from None
            except BaseException:
                sock.close()
                raise
            else:
                self._link = Link(sock, f"the connection to the daemon at {self.endpoint.path} was lost")
                return self._link
            await anyio.sleep(_RETRY_EVERY_S)
            if self._link is not None and not self._link.is_lost:  # another task has opened it
                return self._link

    async def _wait_for_place(self) -> None:
        """Wait until another request leaves its place to this one."""
        event = anyio.Event()
        self._queue.append(event)
        try:
            await event.wait()
        except BaseException:
            if event.is_set():
                self._leave_place()
            else:
                self._queue.remove(event)
            raise

    def _leave_place(self) -> None:
        """Let the request that has waited longest be sent."""
        if self._queue:
            self._queue.popleft().set()
        else:
            self.in_flight -= 1
