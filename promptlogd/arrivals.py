"""Wakes connections whose client has sent data, has disconnected, or is too slow. One epoll and one task serve all.

In each turn of its loop, trio runs every ready task. If thousands of clients disconnect at once, a turn takes 0.1 s.
So this module wakes only a few connections of each process in each turn.
"""

from __future__ import annotations

import math
import select
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count

import trio

from promptlogd.ranking import Ranking
from promptlogd.share import Share

_EVENTS_PER_TURN = 512
"""Events that are read from epoll in one turn: 0.1 ms."""

_WAKES_PER_TURN = 16
"""Connections of one process that are woken in one turn, and deadlines handled in one turn: 0.5 ms."""


class _Waiter:
    """A callback. It runs once, and again as long as it returns True."""

    __slots__ = ("_callback", "cancelled", "deadline", "expired", "order")

    def __init__(self, deadline: float, order: int, callback: Callable[[], bool | None]) -> None:
        self.deadline = deadline
        self.order = order
        self.expired = False
        """Whether the callback ran because of its deadline."""
        self.cancelled = False
        self._callback: Callable[[], bool | None] | None = callback

    def cancel(self) -> None:
        """Do not call the callback again."""
        self.cancelled = True
        self._callback = None

    def run(self) -> None:
        """Call the callback, unless it has finished or is cancelled."""
        callback, self._callback = self._callback, None
        if callback is not None and callback() and not self.cancelled:
            self._callback = callback


class Arrivals:
    """Wakes connections while `serve` runs."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._waiters: dict[int, tuple[Share, _Waiter]] = {}
        """By file descriptor. EPOLLONESHOT: each event is reported once, and `_arm` enables the next one."""
        self._ready: dict[Share, deque[_Waiter]] = {}
        """Waiters whose sockets are ready, by process."""
        self._deadlines: Ranking[_Waiter] = Ranking()
        """Waiters with a deadline, the earliest first."""
        self._orders = count()
        self._scope: trio.CancelScope | None = None

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wake connections until cancelled."""
        task_status.started()
        while True:
            with trio.CancelScope(deadline=self._next_deadline()) as self._scope:
                while True:
                    if self._ready:
                        await trio.lowlevel.checkpoint()
                    else:
                        await trio.lowlevel.wait_readable(self._epoll.fileno())
                    self._wake_ready()
            self._run_expired()
            self._wake_ready()  # if more deadlines have passed, the next scope is cancelled before it does this

    async def readable(
        self,
        sock: socket.socket,
        share: Share,
        deadline: float = math.inf,
        read_now: Callable[[], bool] | None = None,
    ) -> bool:
        """Wait until there is data or end of file. Return False if the deadline came first.

        `read_now`: called first when there is data. If it returns True, the wait continues.
        """
        task = trio.lowlevel.current_task()
        descriptor = sock.fileno()

        # It must not refer to itself: a reference cycle would keep the whole connection in memory.
        def ready() -> bool:
            goes_on = read_now is not None and read_now()
            if not waiter.cancelled:  # otherwise the task is running again
                if goes_on:
                    self._epoll.modify(descriptor, select.EPOLLIN | select.EPOLLONESHOT)
                else:
                    trio.lowlevel.reschedule(task)
            return goes_on

        waiter = self._arm(sock, select.EPOLLIN, share, deadline, ready)

        def abort(_: object) -> trio.lowlevel.Abort:
            waiter.cancel()
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            await trio.lowlevel.wait_task_rescheduled(abort)
        finally:
            if deadline < math.inf:
                self._remove_deadline(waiter)
        return not waiter.expired

    def watch(self, sock: socket.socket, share: Share, gone: Callable[[], None]) -> _Waiter:
        """Call back once the client has disconnected. A half-close (of its writing side only) does not count.

        With an empty event mask, epoll still reports EPOLLHUP and EPOLLERR, but no half-close (epoll_ctl(2)). Do not
        use it while a task waits for the same socket with `readable`.
        """
        return self._arm(sock, 0, share, math.inf, gone)

    @contextmanager
    def watching(self, sock: socket.socket, share: Share, gone: Callable[[], None]) -> Iterator[None]:
        """Call back if the client disconnects during the block."""
        waiter = self.watch(sock, share, gone)
        try:
            yield
        finally:
            waiter.cancel()

    @contextmanager
    def cancel_at(self, deadline: float) -> Iterator[trio.CancelScope]:
        """Cancel the block at this time (trio's clock), or slightly later if many deadlines pass at once."""
        with trio.CancelScope() as scope:
            waiter = _Waiter(deadline, next(self._orders), scope.cancel)
            self._add_deadline(waiter)
            try:
                yield scope
            finally:
                waiter.cancel()
                self._remove_deadline(waiter)

    def forget(self, sock: socket.socket) -> None:
        """Stop waiting for a socket. Call this before the socket is closed, even if nobody waits for it."""
        armed = self._waiters.pop(sock.fileno(), None)
        if armed is not None:
            armed[1].cancel()
            with suppress(OSError):
                self._epoll.unregister(sock)

    def _arm(
        self, sock: socket.socket, events: int, share: Share, deadline: float, callback: Callable[[], bool | None]
    ) -> _Waiter:
        descriptor = sock.fileno()
        if descriptor in self._waiters:
            self._epoll.modify(descriptor, events | select.EPOLLONESHOT)
        else:
            self._epoll.register(descriptor, events | select.EPOLLONESHOT)
        waiter = _Waiter(deadline, next(self._orders), callback)
        self._waiters[descriptor] = share, waiter
        if deadline < math.inf:
            self._add_deadline(waiter)
        return waiter

    def _wake_ready(self) -> None:
        """Wake a few connections of each process."""
        for descriptor, _ in self._epoll.poll(0, _EVENTS_PER_TURN):
            armed = self._waiters.get(descriptor)
            if armed is not None:
                share, waiter = armed
                self._ready.setdefault(share, deque()).append(waiter)
        for share, ready in list(self._ready.items()):
            for _ in range(min(_WAKES_PER_TURN, len(ready))):
                ready.popleft().run()
            if not ready:
                del self._ready[share]

    # --- deadlines ----------------------------------------------------------------------------------------------------

    def _next_deadline(self) -> float:
        return self._deadlines.least[0] if len(self._deadlines) else math.inf

    def _add_deadline(self, waiter: _Waiter) -> None:
        self._deadlines.add(waiter.deadline, waiter.order, waiter)
        if self._scope is not None and waiter.deadline < self._scope.deadline:
            self._scope.deadline = waiter.deadline

    def _remove_deadline(self, waiter: _Waiter) -> None:
        if not waiter.expired:
            self._deadlines.remove(waiter.deadline, waiter.order)

    def _run_expired(self) -> None:
        """Run a few waiters whose deadline has passed. The next turn runs the others."""
        now = trio.current_time()
        for _ in range(_WAKES_PER_TURN):
            if self._next_deadline() > now:
                break
            _, _, waiter = self._deadlines.least
            self._remove_deadline(waiter)
            waiter.expired = True
            waiter.run()
