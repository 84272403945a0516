"""The asynchronous client's connection: tasks share it, and it opens again after the daemon was restarted.

It needs no task of its own. On asyncio the event loop calls back when there is something to receive. Trio has no such
callbacks. There the first task that waits for a reply receives for all tasks, and sends what the socket did not take at
once. When that task has its own reply, it wakes another waiting task to go on.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import anyio

from promptlogctl.client.endpoint import Endpoint
from promptlogctl.client.errors import ConnectionLost
from promptlogctl.client.request import OnLog, encoded
from promptlogctl.client.result import expect
from promptlogd.wire import ClientSession, ProtocolError
from promptlogd.wire.messages import Cancel, Id, Log, Reply, Request
from sandbox.outcome import LogLine

_R = TypeVar("_R")
_READ_BYTES = _WRITE_BYTES = 256 * 1024

MOST_IN_FLIGHT = 100
"""Requests of one connection that the daemon has at once; further ones wait here. The daemon begins 128."""

_OPEN_S = 5.0
"""How long to wait for a place in the daemon's queue of new connections."""

_TRIES_S = 0.01
"""How often to try, while that queue is full."""


class AsyncConnection:
    """Requests go out and replies come in, for any number of tasks of one event loop. The first request opens it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._link: _Link | None = None
        self._next_id = 0
        self.in_flight = 0
        """Requests that the daemon has. Further ones wait for a place."""
        self._queue: deque[anyio.Event] = deque()
        """Requests that wait for a place, the oldest first."""

    @property
    def has_place(self) -> bool:
        """Whether a request would begin at once."""
        return self.in_flight < MOST_IN_FLIGHT

    def close(self) -> None:
        """Close the socket. Whoever waits for a reply gets ConnectionLost. The next request opens it again."""
        if self._link is not None:
            self._link.lose()
            self._link = None

    async def ask(
        self, make: Callable[[Id], Request], kind: type[_R], on_log: OnLog | None = None, *, again: bool = True
    ) -> _R:
        """Send a request and wait for its answer. `again`: it may be done twice, should the connection be lost.

        If the task is cancelled, a run is cancelled too.
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

    async def send(self, make: Callable[[Id], Request], on_log: OnLog | None = None) -> PendingReply:
        """Begin a request. The caller must close what this returns."""
        await self._take_place()
        try:
            link = self._link
            if link is None or link.is_gone():
                link = await self._open()
            self._next_id += 1
            id = self._next_id
            data = encoded(link.session, make(id))
            link.send(data)
        except BaseException:
            self._leave_place()
            raise
        pending = link.waiting[id] = PendingReply(self, link, id, on_log)
        return pending

    def cancel(self, link: _Link, target: Id) -> None:
        """Tell the daemon to cancel a run."""
        self._next_id += 1
        with suppress(ConnectionLost):
            link.send(link.session.send(Cancel(id=self._next_id, target=target)))

    async def _open(self) -> _Link:
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
                self._link = _Link(sock, f"the daemon at {self.endpoint.path} went away")
                return self._link
            await anyio.sleep(_TRIES_S)
            if self._link is not None and not self._link.is_lost:  # another task has opened it
                return self._link

    async def _take_place(self) -> None:
        if self.in_flight < MOST_IN_FLIGHT:
            self.in_flight += 1
            return
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
        """Pass a place on to the request that has waited longest."""
        if self._queue:
            self._queue.popleft().set()
        else:
            self.in_flight -= 1


class PendingReply:
    """A request in flight. `AsyncConnection.send` makes it."""

    __slots__ = ("_connection", "_link", "answer", "failure", "id", "on_log", "wake")

    def __init__(self, connection: AsyncConnection, link: _Link, id: Id, on_log: OnLog | None) -> None:
        self._connection = connection
        self._link = link
        self.id = id
        self.on_log = on_log
        self.answer: Reply | None = None
        """The last reply, once it has come."""
        self.failure: BaseException | None = None
        """What `on_log` raised."""
        self.wake: Callable[[], None] | None = None
        """Wakes the task that waits for the reply, while another one receives."""

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return self.answer is not None or self.failure is not None or self._link.is_lost

    async def reply(self, kind: type[_R]) -> _R:
        """Wait for the last reply, which is of this kind. One task at a time; a cancelled wait can be repeated.

        Raises RequestRefused, ConnectionLost, and what `on_log` raised.
        """
        await self._link.wait(self)
        return self._result(kind)

    async def reply_unless(self, gone: Callable[[], Awaitable[None]], kind: type[_R]) -> _R | None:
        """Wait for the last reply, as `reply` does, but return None if `gone` returns first."""
        return self._result(kind) if await self._link.wait_unless(gone, self) else None

    def _result(self, kind: type[_R]) -> _R:
        if self.failure is not None:
            raise self.failure
        if self.answer is None:
            raise ConnectionLost(f"{self._link.lost} before it answered")
        return expect(self.answer, kind)

    def take(self, reply: Reply) -> None:
        """Take a reply to this request."""
        if not isinstance(reply, Log):
            self.answer = reply
        elif self.on_log is not None and self.failure is None:
            try:
                self.on_log(LogLine(level=reply.level, text=reply.text))
            except Exception as error:  # it belongs to the task that waits for this request
                self.failure = error
        if self.wake is not None and self.is_settled:
            self.wake()

    def close(self) -> None:
        """Wait for it no more. A run that has not ended is cancelled."""
        self._link.waiting.pop(self.id, None)
        if self.answer is None and not self._link.is_lost:
            self._connection.cancel(self._link, self.id)
        self._connection._leave_place()


class _Link:
    """One connected socket."""

    def __init__(self, sock: socket.socket, lost: str) -> None:
        """`lost`: what to say once it is lost."""
        self.lost = lost
        self.session = ClientSession()
        self.waiting: dict[Id, PendingReply] = {}
        self.is_lost = False
        self._sock = sock
        self._epoll = select.epoll()
        """Readable when there is something to receive, or room for what is unsent: one wait for both."""
        self._epoll.register(sock, select.EPOLLIN)
        self._unsent = bytearray()
        """What the socket has not taken yet. It may begin in the middle of a message."""
        self._is_driven = False
        """Whether a task, or the event loop, receives and sends for all."""
        self._loop: asyncio.AbstractEventLoop | None = None
        with suppress(RuntimeError):  # it is not asyncio
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._epoll.fileno(), self._work)
            self._is_driven = True

    def is_gone(self) -> bool:
        """Whether it is lost, also if no task receives and so none has noticed."""
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            self.lose()  # its loop has ended
        if not self.waiting:
            while self._receive():
                pass
        return self.is_lost

    def lose(self) -> None:
        """Close the socket. Wake everybody who waits for a reply."""
        if self.is_lost:
            return
        self.is_lost = True
        if self._loop is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._close()
        elif self._is_driven:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # the task that drives wakes up, and closes it
        else:
            self._close()
        for pending in self.waiting.values():
            if pending.wake is not None:
                pending.wake()

    def send(self, data: bytes) -> None:
        """Send a message, or the part that the socket takes now; `wait` sends the rest. Raises ConnectionLost."""
        if not self.is_lost and not self._unsent:
            data = data[self._write(data) :]
        if self.is_lost:
            raise ConnectionLost(self.lost)
        if data:
            self._unsent += data
            self._send_rest()
            if self._unsent:
                self._epoll.modify(self._sock, select.EPOLLIN | select.EPOLLOUT)

    async def wait(self, pending: PendingReply) -> None:
        """Wait until a request is settled. If no task receives and sends for all, do it meanwhile."""
        while not pending.is_settled:
            if not self._is_driven:
                await self._drive(pending)
                continue
            woken = anyio.Event()
            with self._woken_by(pending, woken.set, woken.is_set):
                await woken.wait()

    async def wait_unless(self, gone: Callable[[], Awaitable[None]], pending: PendingReply) -> bool:
        """Wait until a request is settled, as `wait` does. Return False if `gone` returns first."""
        while not pending.is_settled:
            if not self._is_driven:
                if not await self._drive_unless(gone, pending):
                    return False
                continue
            with anyio.CancelScope() as scope, self._woken_by(pending, scope.cancel, lambda: scope.cancel_called):
                await gone()
                return False
        return True

    @contextmanager
    def _woken_by(
        self, pending: PendingReply, wake: Callable[[], None], is_woken: Callable[[], bool]
    ) -> Iterator[None]:
        """Let this wake the task. If the task is cancelled just then, wake another one in its place."""
        pending.wake = wake
        try:
            yield
        except BaseException:
            if is_woken() and not self._is_driven:
                self._pass_on()
            raise
        finally:
            pending.wake = None

    async def _drive_unless(self, gone: Callable[[], Awaitable[None]], pending: PendingReply) -> bool:
        """Receive and send for all until this request is settled. Return False if `gone` returns first."""
        is_gone = False
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                nonlocal is_gone
                await gone()
                is_gone = True
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await self._drive(pending)
            tasks.cancel_scope.cancel()
        return not is_gone

    async def _drive(self, pending: PendingReply) -> None:
        """Receive and send for all until this request is settled."""
        self._is_driven = True
        try:
            while not pending.is_settled:
                await anyio.wait_readable(self._epoll.fileno())
                self._work()
        finally:
            self._is_driven = False
            if self.is_lost:
                self._close()
            else:
                self._pass_on()

    def _work(self) -> None:
        self._receive()
        if self._unsent:
            self._send_rest()

    def _receive(self) -> bool:
        """Receive once, and give the replies to those who wait for them. Return whether there was anything."""
        try:
            data = b"" if self.is_lost else self._sock.recv(_READ_BYTES)
            replies = self.session.receive(data)
        except BlockingIOError:
            return False
        except (OSError, ProtocolError):
            data = b""
        if not data:
            self.lose()
            return False
        for reply in replies:
            if reply.id is None:  # the daemon says why it closes the connection
                self.lose()
                return False
            pending = self.waiting.get(reply.id)
            if pending is not None:  # else it was cancelled
                pending.take(reply)
        return True

    def _send_rest(self) -> None:
        while self._unsent and not self.is_lost:
            with memoryview(self._unsent) as unsent, unsent[:_WRITE_BYTES] as part:
                sent = self._write(part)
            if not sent:
                return
            del self._unsent[:sent]
        if not self.is_lost:
            self._epoll.modify(self._sock, select.EPOLLIN)

    def _write(self, data: bytes | memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self.lose()
            return 0

    def _pass_on(self) -> None:
        """Wake a task that waits for its reply, to receive and send for all."""
        for pending in self.waiting.values():
            if pending.wake is not None and not pending.is_settled:
                wake, pending.wake = pending.wake, None
                wake()
                return

    def _close(self) -> None:
        self._epoll.close()
        self._sock.close()
