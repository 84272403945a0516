"""Calls the store's methods that wait for the disk in worker threads. No messages here.

Readers and writers have separate threads. So a disk that blocks writes does not block readers. Neither blocks the
threads that start cells.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import trio

from promptlogd.handlers.references import StoreErrors
from promptlogd.principal import Principal
from promptlogd.room import ALWAYS_ROOM, Room

_R = TypeVar("_R")

_READERS = 4
"""Reader threads. More would contend with the loop for the interpreter's lock."""
_WRITERS = 16
"""Writer threads. Submits that sync at the same time share a commit of the file system's journal."""
_JOURNAL_READERS = 2
"""Threads that read the journal. A query there can take seconds: it must not take the threads of the store."""
_READS_OF_CONNECTION, _READS_OF_UID = 1, 3
_WRITES_OF_CONNECTION, _WRITES_OF_UID = 4, 12
"""Maximum number of write calls, so that other connections and other uids find a free thread."""


class StoreThreads:
    """Calls the store in threads. Turns its errors into a RequestError."""

    def __init__(self) -> None:
        self._reads = _Threads(_READERS, of_connection=_READS_OF_CONNECTION, of_uid=_READS_OF_UID)
        self._journal = _Threads(_JOURNAL_READERS, of_connection=1, of_uid=1)
        self._writes = _Threads(_WRITERS, of_connection=_WRITES_OF_CONNECTION, of_uid=_WRITES_OF_UID)

    async def read(self, principal: Principal, work: Callable[[], _R], room: Room = ALWAYS_ROOM) -> _R:
        """Return the result of `work`, which only reads. If this is cancelled, the thread ends by itself.

        `room`: room for the reply, which may be long. The thread starts when there is room.
        """
        return await self._reads.run(principal, work, room, abandon_on_cancel=True)

    async def read_journal(self, principal: Principal, work: Callable[[], _R], room: Room) -> _R:
        """The same as `read`, for `work` that reads the journal."""
        return await self._journal.run(principal, work, room, abandon_on_cancel=True)

    async def write(self, principal: Principal, work: Callable[[], _R]) -> _R:
        """Return the result of `work`, which writes. It cannot be cancelled once it has a thread."""
        return await self._writes.run(principal, work, ALWAYS_ROOM, abandon_on_cancel=False)

    def start_write(
        self, principal: Principal, work: Callable[[], None], on_end: Callable[[], None] | None = None
    ) -> StartedCall | None:
        """Start `work`, which writes, in a thread. None if no thread is free: then call `write`.

        `on_end`: called on the loop when `work` has ended without an error, before the task that waits continues.
        """
        return self._writes.start(principal, work, on_end)


class StartedCall:
    """A call that a worker thread executes."""

    def __init__(
        self, work: Callable[[], None], on_end: Callable[[], None] | None, release: Callable[[], None]
    ) -> None:
        """`on_end`: called on the loop when the call has ended without an error. `release`: called after it."""
        self._work: Callable[[], None] | None = work
        self._on_end = on_end
        self._release = release
        self._has_ended = False
        self._waiter: trio.lowlevel.Task | None = None
        self._error: BaseException | None = None
        self._token = trio.lowlevel.current_trio_token()
        # Less than `trio.to_thread.run_sync` does: it copies the context, and renames the thread twice.
        trio.lowlevel.start_thread_soon(self._run, self._deliver)

    def _run(self) -> None:
        work, self._work = self._work, None  # otherwise a reference cycle would keep what it refers to
        assert work is not None
        try:
            work()
        except BaseException as error:
            self._error = error

    def _deliver(self, _: object) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._end)

    def _end(self) -> None:
        on_end, self._on_end = self._on_end, None
        if self._error is None and on_end is not None:
            try:
                on_end()
            except Exception as error:  # raised here, it would end the event loop
                self._error = error
        self._release()
        self._has_ended = True
        if self._waiter is not None:
            trio.lowlevel.reschedule(self._waiter)

    async def wait(self) -> None:
        """Return when the call has ended. Raises its error. Cancellation does not end the wait. One task at a time."""
        if not self._has_ended:
            self._waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
        error, self._error = self._error, None
        if error is not None:
            try:
                with StoreErrors():
                    raise error
            finally:
                del error  # a reference cycle would keep the call until the next garbage collection


class _Threads:
    """A bounded number of threads, with limits for each connection and each uid."""

    def __init__(self, most: int, *, of_connection: int, of_uid: int) -> None:
        self._threads = trio.CapacityLimiter(most)
        self._connections = _Parts(of_connection)
        self._uids = _Parts(of_uid)

    async def run(self, principal: Principal, work: Callable[[], _R], room: Room, *, abandon_on_cancel: bool) -> _R:
        """Return the result of `work`. First in, first out within a connection, within a uid, and over all."""
        while True:
            await room.wait()
            async with self._connections.use(principal.connection), self._uids.use(principal.uid):
                if room.has_room():  # other replies may have filled it
                    with StoreErrors():
                        return await trio.to_thread.run_sync(
                            work, limiter=self._threads, abandon_on_cancel=abandon_on_cancel
                        )

    def start(
        self, principal: Principal, work: Callable[[], None], on_end: Callable[[], None] | None
    ) -> StartedCall | None:
        """Start `work` now. None if that would exceed a limit, or if the system has no thread left."""
        borrower = object()
        if not self._connections.take(principal.connection, borrower):
            return None
        if not self._uids.take(principal.uid, borrower):
            self._connections.give_back(principal.connection, borrower)
            return None

        def release() -> None:
            self._uids.give_back(principal.uid, borrower)
            self._connections.give_back(principal.connection, borrower)

        def end() -> None:
            self._threads.release_on_behalf_of(borrower)
            release()

        try:
            self._threads.acquire_on_behalf_of_nowait(borrower)
        except trio.WouldBlock:
            release()
            return None
        try:
            return StartedCall(work, on_end, end)
        except RuntimeError:
            end()
            return None


class _Parts:
    """One limiter for each connection or uid. Unused limiters are dropped."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limiters: dict[int, trio.CapacityLimiter] = {}

    def take(self, number: int, borrower: object) -> bool:
        """Count a call of this connection or uid. Return False if that would exceed the limit."""
        limiter = self._limiters.setdefault(number, trio.CapacityLimiter(self._most))
        try:
            limiter.acquire_on_behalf_of_nowait(borrower)
        except trio.WouldBlock:
            return False
        return True

    def give_back(self, number: int, borrower: object) -> None:
        """Count a call no longer."""
        limiter = self._limiters[number]
        limiter.release_on_behalf_of(borrower)
        self._drop_unused(number, limiter)

    def _drop_unused(self, number: int, limiter: trio.CapacityLimiter) -> None:
        if not limiter.borrowed_tokens:  # then nobody waits
            self._limiters.pop(number, None)

    @asynccontextmanager
    async def use(self, number: int) -> AsyncIterator[None]:
        """Wait until fewer than `most` calls use this connection or uid."""
        limiter = self._limiters.setdefault(number, trio.CapacityLimiter(self._most))
        try:
            limiter.acquire_nowait()
        except trio.WouldBlock:
            await limiter.acquire()
        try:
            yield
        finally:
            limiter.release()
            self._drop_unused(number, limiter)
