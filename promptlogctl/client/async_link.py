"""One connected socket of the asynchronous client, and the requests in flight on it.

On trio, this is the Leader/Followers pattern. The first task that waits for a reply is the leader: it receives replies
for all tasks, and sends data that the socket did not accept at once. When the leader has its own reply, it wakes
another waiting task as the new leader. On asyncio, the event loop is the leader, with a callback.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import anyio

from promptlogctl.client.errors import ConnectionLost
from promptlogctl.client.wait_timer import WaitTimer, finish
from promptlogd.wire import ClientSession, ProtocolError
from promptlogd.wire.messages import Id

if TYPE_CHECKING:
    from promptlogctl.client.pending_reply import PendingReply

_READ_BYTES, _WRITE_BYTES = 64 * 1024, 256 * 1024


class Link:
    """One connected socket."""

    def __init__(self, sock: socket.socket, loss_message: str) -> None:
        """`loss_message`: error message after the connection is lost."""
        self.loss_message = loss_message
        self.session = ClientSession()
        self.waiting: dict[Id, PendingReply] = {}
        self.is_lost = False
        self._sock = sock
        self._epoll = select.epoll()
        """Readable when there is data to receive, or room for unsent data. So one wait covers both."""
        self._epoll.register(sock, select.EPOLLIN)
        self._received = memoryview(bytearray(_READ_BYTES))
        """Buffer of `_receive`. A new one for each call takes 5 us: the allocator first merges its free blocks."""
        self._unsent = bytearray()
        """Unsent data. It may start in the middle of a message."""
        self._has_leader = False
        """Whether a task, or the event loop, receives and sends for all."""
        self._loop = _asyncio_loop()
        if self._loop is not None:
            self._loop.add_reader(self._epoll.fileno(), self._work)
            self._has_leader = True
        self._timers: dict[float, WaitTimer] = {}
        """For asyncio, by the seconds of `wait_within`: the HTTP server uses two values."""

    def is_gone(self) -> bool:
        """Return whether the connection is lost. If no task receives, read the socket first to find out."""
        if self._loop is not _asyncio_loop():
            self.lose()  # it belongs to another event loop, which has probably ended
        if not self.is_lost and not self.waiting and self._epoll.poll(0, 1):
            while self._receive():
                pass
        return self.is_lost

    def lose(self) -> None:
        """Close the socket, and wake all waiting tasks."""
        if self.is_lost:
            return
        self.is_lost = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.remove_reader(self._epoll.fileno())
            for timer in self._timers.values():
                timer.close()
            self._close()
        elif self._has_leader:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # the leader wakes up, and closes it
        else:
            self._close()
        for pending in self.waiting.values():
            if pending.wake is not None:
                pending.wake()

    def send(self, data: bytes) -> None:
        """Send a message, or the part that the socket accepts now. `wait` sends the rest. Raises ConnectionLost."""
        if not self.is_lost and not self._unsent:
            data = data[self._write(data) :]
        if self.is_lost:
            raise ConnectionLost(self.loss_message)
        if data:
            self._unsent += data
            self._send_rest()
            if self.is_lost:
                raise ConnectionLost(self.loss_message)
            if self._unsent:
                self._epoll.modify(self._sock, select.EPOLLIN | select.EPOLLOUT)

    async def wait(self, pending: PendingReply) -> None:
        """Wait until a request is settled. If there is no leader, become the leader."""
        while not pending.is_settled:
            if self._loop is not None:
                woken = _woken(pending, self._loop)
                try:
                    await woken
                finally:
                    pending.wake = None
                continue
            if not self._has_leader:
                await self._lead(pending)
                continue
            event = anyio.Event()
            with self._woken_by(pending, event.set, event.is_set):
                await event.wait()

    async def wait_within(self, seconds: float, pending: PendingReply) -> bool:
        """Wait until a request is settled, as `wait` does. Return False after this time, or if it is abandoned."""
        if self._loop is None:
            with anyio.move_on_after(seconds):
                await self.wait(pending)
        elif not pending.is_settled and not pending.is_abandoned:
            woken = _woken(pending, self._loop)
            timer = self._timers.get(seconds)
            if timer is None:
                timer = self._timers[seconds] = WaitTimer(self._loop, seconds)
            timer.start(woken)
            try:
                await woken
            finally:
                pending.wake = None
                timer.stop(woken)
        return pending.is_settled

    async def wait_unless(self, gone: Callable[[], Awaitable[None]], pending: PendingReply) -> bool:
        """Wait until a request is settled, as `wait` does. Return False if `gone` returns first."""
        while not pending.is_settled:
            if not self._has_leader:
                if not await self._lead_unless(gone, pending):
                    return False
                continue
            with anyio.CancelScope() as scope, self._woken_by(pending, scope.cancel, lambda: scope.cancel_called):
                await gone()
                if scope.cancel_called and not self._has_leader:
                    self._wake_new_leader()  # this task was woken to lead
                return False
        return True

    @contextmanager
    def _woken_by(
        self, pending: PendingReply, wake: Callable[[], None], is_woken: Callable[[], bool]
    ) -> Iterator[None]:
        """Set how to wake this task. If it is woken as leader and cancelled at the same time, wake another leader."""
        pending.wake = wake
        try:
            yield
        except BaseException:
            if is_woken() and not self._has_leader:
                self._wake_new_leader()
            raise
        finally:
            pending.wake = None

    async def _lead_unless(self, gone: Callable[[], Awaitable[None]], pending: PendingReply) -> bool:
        """Receive and send for all until this request is settled. Return False if `gone` returns first."""
        is_gone = False
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                nonlocal is_gone
                await gone()
                is_gone = True
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await self._lead(pending)
            tasks.cancel_scope.cancel()
        return not is_gone

    async def _lead(self, pending: PendingReply) -> None:
        """Receive and send for all until this request is settled."""
        self._has_leader = True
        try:
            while not pending.is_settled:
                await anyio.wait_readable(self._epoll.fileno())
                self._work()
        finally:
            self._has_leader = False
            if self.is_lost:
                self._close()
            else:
                self._wake_new_leader()

    def _work(self) -> None:
        self._receive()
        if self._unsent:
            self._send_rest()

    def _receive(self) -> bool:
        """Receive once, and pass the replies to the waiting tasks. Return whether there was data."""
        try:
            received_bytes = 0 if self.is_lost else self._sock.recv_into(self._received)
            replies = self.session.receive(bytes(self._received[:received_bytes]))
        except BlockingIOError:
            return False
        except (OSError, ProtocolError):
            received_bytes = 0
        if not received_bytes:
            self.lose()
            return False
        for reply in replies:
            if reply.id is None:  # the daemon reports why it closes the connection
                self.lose()
                return False
            pending = self.waiting.get(reply.id)
            if pending is not None:  # otherwise it was cancelled
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

    def _wake_new_leader(self) -> None:
        """Wake a task that waits for its reply, so that it receives and sends for all."""
        for pending in self.waiting.values():
            if pending.wake is not None and not pending.is_settled:
                wake, pending.wake = pending.wake, None
                wake()
                return

    def _close(self) -> None:
        self._epoll.close()
        self._sock.close()


def _woken(pending: PendingReply, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
    """Return a future that is done when a request is settled or abandoned. For asyncio, where the event loop leads."""
    woken = loop.create_future()
    pending.wake = partial(finish, woken)
    return woken


def _asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """Return the running event loop of asyncio; None on trio."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
