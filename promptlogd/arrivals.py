"""Which clients have sent something, have left, or are late: one epoll and one task for all connections.

trio wakes all tasks that can go on in one turn of the loop. If thousands of clients leave at once, that turn takes
a tenth of a second. Here a few connections of each process are woken in a turn, and the rest in the next ones.
"""

from __future__ import annotations

import math
import select
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count

import trio

from promptlogd.ranking import Ranking
from promptlogd.share import Share

_TAKEN_IN = 512
"""Sockets that are taken from the kernel in one turn: 0.1 ms."""

_WOKEN = 16
"""Connections of one process that are woken in one turn, and late ones of all processes: 0.5 ms."""


class Waiter:
    """What is to be called, once."""

    __slots__ = ("_callback", "late", "order", "share", "until")

    def __init__(self, share: Share | None, until: float, order: int, callback: Callable[[], None]) -> None:
        self.share = share
        self.until = until
        self.order = order
        self.late = False
        """Whether it was called because its time had come."""
        self._callback: Callable[[], None] | None = callback

    def forget(self) -> None:
        """Call it no more."""
        self._callback = None

    def call(self) -> None:
        """Call it, unless it was called or forgotten."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Arrivals:
    """Wakes connections. `serve` does it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._waiters: dict[int, Waiter] = {}
        """By descriptor. The kernel reports each once (EPOLLONESHOT); the next `_arm` asks again."""
        self._ready: dict[Share, deque[Waiter]] = {}
        """Those that the kernel has reported, by the share of their process."""
        self._times: Ranking[Waiter] = Ranking()
        """Those that are called at a time at the latest."""
        self._orders = count()
        self._scope: trio.CancelScope | None = None

    async def serve(self) -> None:
        """Wake connections until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._next_time()) as self._scope:
                while True:
                    if self._ready:
                        await trio.lowlevel.checkpoint()
                    else:
                        await trio.lowlevel.wait_readable(self._epoll.fileno())
                    for descriptor, _ in self._epoll.poll(0, _TAKEN_IN):
                        waiter = self._waiters.get(descriptor)
                        if waiter is not None and waiter.share is not None:
                            self._ready.setdefault(waiter.share, deque()).append(waiter)
                    for share in list(self._ready):
                        self._wake(share)
            self._call_late()

    async def readable(self, sock: socket.socket, share: Share, until: float = math.inf) -> bool:
        """Wait until there is something to read, or the end; return whether that was before this time."""
        task = trio.lowlevel.current_task()
        waiter = self._arm(sock, select.EPOLLIN, share, until, partial(trio.lowlevel.reschedule, task))

        def abort(_: object) -> trio.lowlevel.Abort:
            waiter.forget()
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            await trio.lowlevel.wait_task_rescheduled(abort)
        finally:
            if until < math.inf:
                self._drop_time(waiter)
        return not waiter.late

    def watch(self, sock: socket.socket, share: Share, gone: Callable[[], None]) -> Waiter:
        """Call back once the client has left. One that only closed its writing side has not left.

        Without events, epoll still reports EPOLLHUP and EPOLLERR, but no half-close (epoll_ctl(2)). For a socket that
        nobody waits for with `readable` meanwhile.
        """
        return self._arm(sock, 0, share, math.inf, gone)

    @contextmanager
    def watching(self, sock: socket.socket, share: Share, gone: Callable[[], None]) -> Iterator[None]:
        """Watch for the length of a block."""
        waiter = self.watch(sock, share, gone)
        try:
            yield
        finally:
            waiter.forget()

    @contextmanager
    def until(self, time: float) -> Iterator[trio.CancelScope]:
        """Cancel the block at this time (trio's clock), or a little later if many are late."""
        with trio.CancelScope() as scope:
            waiter = Waiter(None, time, next(self._orders), scope.cancel)
            self._add_time(waiter)
            try:
                yield scope
            finally:
                waiter.forget()
                self._drop_time(waiter)

    def forget(self, sock: socket.socket) -> None:
        """To be called before a socket is closed, whether or not anybody waits for it."""
        waiter = self._waiters.pop(sock.fileno(), None)
        if waiter is not None:
            waiter.forget()
            with suppress(OSError):
                self._epoll.unregister(sock)

    def _arm(
        self, sock: socket.socket, events: int, share: Share, until: float, callback: Callable[[], None]
    ) -> Waiter:
        descriptor = sock.fileno()
        waiter = Waiter(share, until, next(self._orders), callback)
        if descriptor in self._waiters:
            self._epoll.modify(descriptor, events | select.EPOLLONESHOT)
        else:
            self._epoll.register(descriptor, events | select.EPOLLONESHOT)
        self._waiters[descriptor] = waiter
        if until < math.inf:
            self._add_time(waiter)
        return waiter

    def _wake(self, share: Share) -> None:
        """Wake a few connections of a process."""
        ready = self._ready[share]
        for _ in range(min(_WOKEN, len(ready))):
            ready.popleft().call()
        if not ready:
            del self._ready[share]

    # --- times --------------------------------------------------------------------------------------------------------

    def _next_time(self) -> float:
        return self._times.least[0] if len(self._times) else math.inf

    def _add_time(self, waiter: Waiter) -> None:
        self._times.add(waiter.until, waiter.order, waiter)
        if self._scope is not None and waiter.until < self._scope.deadline:
            self._scope.deadline = waiter.until

    def _drop_time(self, waiter: Waiter) -> None:
        if not waiter.late:
            self._times.remove(waiter.until, waiter.order)

    def _call_late(self) -> None:
        """Call a few of those whose time has come. If there are more, the next turn does it."""
        now = trio.current_time()
        for _ in range(_WOKEN):
            if self._next_time() > now:
                break
            _, _, waiter = self._times.least
            self._times.remove(waiter.until, waiter.order)
            waiter.late = True
            waiter.call()
