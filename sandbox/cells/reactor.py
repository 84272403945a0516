"""The reactor: one task, one epoll and one timer for all cells. A run needs no own task, cancel scope or timer.

Each cell registers its descriptors and, if it waits for a deadline, the time at which it is due. Callbacks run on the
reactor's task and must return at once. A callback that did only a part of its work asks to be called again. Parts are
executed round robin over the cells. After TURN_S, the rest waits for the next turn of the loop, so that clients are
served in between, regardless of the number of active cells."""

from __future__ import annotations

import logging
import math
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import trio

from sandbox.cells.watch import Watchdog

_log = logging.getLogger(__name__)

READ, WRITE = select.EPOLLIN, select.EPOLLOUT

TURN_S = 0.001
"""Time limit of callbacks in one turn of the loop. The last callback may exceed it."""


class Timed(Protocol):
    """An object with a deadline: a cell."""

    def on_due(self) -> None:
        """Called at the deadline."""

    def retire(self) -> None:
        """Called when one of its callbacks has failed: take it out of service."""


class Reactor:
    """Waits for the descriptors and deadlines of all cells. `serve` calls the callbacks."""

    def __init__(self, watchdog: Watchdog) -> None:
        """`watchdog`: enforces the limits of the cells while this task does not run."""
        self.watchdog = watchdog
        self._epoll = select.epoll()
        self._callbacks: dict[int, tuple[Timed, Callable[[], None]]] = {}
        self._ready: deque[int] = deque()
        """Descriptors with events whose callbacks were not called yet."""
        self._again: dict[Timed, Callable[[], None]] = {}
        self._due: dict[Timed, float] = {}
        self._first: Timed | None = None
        """The owner of the deadline that `_scope` has."""
        self._scope: trio.CancelScope | None = None
        self._calling = False
        """Whether a callback is being called."""
        self.now: Callable[[], float] = trio.current_time
        """Returns trio's time. `serve` replaces it by the method of trio's clock, which saves two calls."""

    def watch(self, owner: Timed, descriptor: int, callback: Callable[[], None], events: int = READ) -> None:
        """Call back whenever the descriptor has one of these events, until `forget`.

        A callback may find nothing to do, if an earlier callback of the same cell has handled the event.
        """
        if self._epoll.closed:
            return  # the daemon is stopping
        self._epoll.register(descriptor, events)
        self._callbacks[descriptor] = owner, callback

    def change(self, descriptor: int, events: int) -> None:
        """Change the events of a watched descriptor."""
        if descriptor in self._callbacks and not self._epoll.closed:
            self._epoll.modify(descriptor, events)

    def forget(self, descriptor: int) -> None:
        """Stop watching. Call this before the descriptor is closed."""
        if self._callbacks.pop(descriptor, None) is not None and not self._epoll.closed:
            self._epoll.unregister(descriptor)

    def again(self, owner: Timed, callback: Callable[[], None]) -> None:
        """Call back in the next turn of the loop, so that others run in between. For a callback that did only a part of
        its work. An owner has one such callback; a later call replaces it."""
        self._again[owner] = callback
        if self._scope is not None and not self._calling:
            self._scope.deadline, self._first = trio.current_time(), None

    def set_due(self, timed: Timed, due: float) -> None:
        """Call `on_due` once at this time (trio's clock). This replaces an earlier setting."""
        self._due[timed] = due
        scope = self._scope
        if scope is None:
            return
        if due < scope.deadline:
            scope.deadline, self._first = due, timed
        elif (
            timed is self._first and not self._again
        ):  # otherwise the scope would end at the old deadline, which costs as much as a run
            scope.deadline = self._find_first()

    def _find_first(self) -> float:
        """Find the earliest deadline, and return it."""
        self._first = min(self._due, key=self._due.__getitem__, default=None)
        return math.inf if self._first is None else self._due[self._first]

    def clear_due(self, timed: Timed) -> None:
        """Remove the deadline."""
        self._due.pop(timed, None)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run callbacks until cancelled."""
        self.now = trio.lowlevel.current_clock().current_time
        task_status.started()
        descriptor = self._epoll.fileno()
        try:
            while True:
                with trio.CancelScope(deadline=self._find_first()) as self._scope:
                    while True:
                        if self._again or self._ready:
                            await trio.lowlevel.checkpoint()
                        else:
                            await trio.lowlevel.wait_readable(descriptor)
                        self._calling = True
                        self._dispatch()
                        self._calling = False
                self._calling = True
                self._call_due()
                self._calling = False
        finally:
            self._scope = None
            self._epoll.close()

    def _dispatch(self) -> None:
        """Handle new events first, because starting and ending a run is short work. Then continue with remaining
        parts."""
        ends = time.perf_counter() + TURN_S
        again = deque(self._again)
        if not self._ready:
            self._ready.extend([descriptor for descriptor, _ in self._epoll.poll(0)])
        while self._ready:
            watched = self._callbacks.get(self._ready.popleft())
            if watched is not None:  # otherwise an earlier callback has called `forget`
                self._guard(*watched)
            if time.perf_counter() > ends:
                break
        while again:
            owner = again.popleft()
            callback = self._again.pop(owner, None)
            if callback is not None:
                self._guard(owner, callback)
            if time.perf_counter() > ends:
                break

    def _call_due(self) -> None:
        now = trio.current_time()
        for timed in [timed for timed, due in self._due.items() if due <= now]:
            if self._due.pop(timed, math.inf) <= now:
                self._guard(timed, timed.on_due)

    def _guard(self, owner: Timed, callback: Callable[[], None]) -> None:
        """Call back. After an exception, retire the cell, which ends its run; other cells continue."""
        try:
            callback()
        except Exception:
            _log.exception("a cell failed")
            owner.retire()
