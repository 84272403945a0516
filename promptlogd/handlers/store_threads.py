"""The store's methods that wait for the disk, in worker threads. No messages here.

Readers and writers have separate threads. So a disk that does not take a write stops no reader, and neither stops the
threads that start cells.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from promptlogd.handlers.references import StoreErrors
from promptlogd.principal import Principal

_R = TypeVar("_R")

_READERS = 4
"""Threads that read. More would contend for the interpreter's lock with the loop."""
_WRITERS = 16
"""Threads that write. Submits that sync at the same time share a commit of the file system's journal."""


class StoreThreads:
    """Calls the store in threads. Turns what it raises into a RequestError."""

    def __init__(self) -> None:
        self._readers = trio.CapacityLimiter(_READERS)
        self._writers = trio.CapacityLimiter(_WRITERS)
        self._turns: dict[int, trio.Lock] = {}

    async def read(self, principal: Principal, work: Callable[[], _R]) -> _R:
        """Return what reading gives. Each connection has one read at a time, whatever it pipelines.

        If this is cancelled, the thread ends by itself.
        """
        async with self._turn(principal.connection):
            with StoreErrors():
                return await trio.to_thread.run_sync(work, limiter=self._readers, abandon_on_cancel=True)

    async def write(self, work: Callable[[], _R]) -> _R:
        """Return what writing gives. Can't be cancelled."""
        with StoreErrors():
            return await trio.to_thread.run_sync(work, limiter=self._writers)

    @asynccontextmanager
    async def _turn(self, connection: int) -> AsyncIterator[None]:
        turn = self._turns.setdefault(connection, trio.Lock())
        try:
            async with turn:
                yield
        finally:
            if not turn.locked():  # nobody waits for it
                self._turns.pop(connection, None)
