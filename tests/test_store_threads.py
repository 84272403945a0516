"""Threads that wait for the disk instead of the loop, and which calls wait for which others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import cast

import pytest
import trio
import trio.testing

from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.principal import Principal
from promptlogd.refusal import RequestError
from promptlogd.room import ALWAYS_ROOM
from promptlogd.store import NotFound

_WAIT_S = 20.0
_MANY = 40


def _principal(connection: int, uid: int = 0) -> Principal:
    return Principal(connection=connection, uid=uid, process=None)


@pytest.fixture
def disk() -> Iterator[threading.Event]:
    """A disk that hangs until the test sets this event."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_connection_has_one_read_at_a_time(disk: threading.Event) -> None:
    """However many reads a client pipelines on a hanging disk, the read of another client starts at once."""
    threads = StoreThreads()
    reading = 0
    begun = threading.Event()

    def hang() -> None:
        nonlocal reading
        reading += 1
        begun.set()
        assert disk.wait(_WAIT_S)

    with trio.fail_after(_WAIT_S):
        async with trio.open_nursery() as nursery:
            for _ in range(_MANY):
                nursery.start_soon(threads.read, _principal(1), hang)
            await trio.testing.wait_all_tasks_blocked()
            assert begun.wait(_WAIT_S)
            assert await threads.read(_principal(2), lambda: reading) == 1
            disk.set()
    assert reading == _MANY


async def test_reads_continue_while_all_writers_wait(disk: threading.Event) -> None:
    """More waiting writers than threads do not delay reads or starts of cells."""
    threads = StoreThreads()
    with trio.fail_after(_WAIT_S):
        async with trio.open_nursery() as nursery:
            for number in range(2 * _MANY):
                nursery.start_soon(threads.write, _principal(number, number), lambda: disk.wait(_WAIT_S))
            await trio.testing.wait_all_tasks_blocked()
            assert await threads.read(_principal(1), lambda: "read") == "read"
            assert await trio.to_thread.run_sync(lambda: "planned") == "planned"
            disk.set()


@pytest.mark.parametrize("how", ["read", "write"])
async def test_one_uid_can_not_use_all_threads(how: str, disk: threading.Event) -> None:
    """However many connections of one uid wait for the disk, a client of another uid gets a thread."""
    threads = StoreThreads()
    call = threads.read if how == "read" else threads.write
    with trio.fail_after(_WAIT_S):
        async with trio.open_nursery() as nursery:
            for number in range(2 * _MANY):
                nursery.start_soon(call, _principal(number, uid=1), lambda: disk.wait(_WAIT_S))
            await trio.testing.wait_all_tasks_blocked()
            assert await call(_principal(1000, uid=2), lambda: "done") == "done"
            disk.set()


async def test_a_cancelled_read_ends_at_once(disk: threading.Event) -> None:
    """On a hanging disk, a cancelled read ends at once, and the connection's next read starts."""
    threads = StoreThreads()
    with trio.fail_after(_WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(threads.read, _principal(1), lambda: disk.wait(_WAIT_S))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert await threads.read(_principal(1), lambda: "next") == "next"


@pytest.mark.parametrize("how", ["read", "write"])
async def test_store_errors_become_request_errors(how: str) -> None:
    """The client gets the error code of the wire protocol, also for an error in a thread."""
    threads = StoreThreads()

    def fail() -> None:
        raise NotFound("@nobody")

    calls: dict[str, Callable[[], object]] = {
        "read": lambda: threads.read(_principal(1), fail),
        "write": lambda: threads.write(_principal(1), fail),
    }
    with pytest.raises(RequestError) as refused:
        await calls[how]()  # type: ignore[misc]  # both are coroutines
    assert refused.value.code == "not_found"


async def test_writes_that_start_at_once_count_as_well(disk: threading.Event) -> None:
    """A write that starts at once is refused a thread beyond the limits, and gives its thread back when it ends."""
    threads = StoreThreads()
    with trio.fail_after(_WAIT_S):
        for uid, most in ((1, 12), (2, 4)):  # of the 16 threads
            started = [
                threads.start_write(_principal(100 * uid + number, uid), lambda: cast(None, disk.wait(_WAIT_S)))
                for number in range(_MANY)
            ]
            assert sum(one is not None for one in started) == most
        one_connection = StoreThreads()
        started = [
            one_connection.start_write(_principal(1), lambda: cast(None, disk.wait(_WAIT_S))) for _ in range(_MANY)
        ]
        assert sum(one is not None for one in started) == 4
        disk.set()
        for one in filter(None, started):
            await one.wait()
        for _ in range(_MANY):
            again = one_connection.start_write(_principal(1), lambda: None)
            assert again is not None
            await again.wait()


async def test_errors_of_a_write_that_started_at_once() -> None:
    """The client gets the error code of the wire protocol. The error does not keep the call in memory."""
    threads = StoreThreads()

    def fail() -> None:
        raise NotFound("@nobody")

    started = threads.start_write(_principal(1), fail)
    assert started is not None
    with pytest.raises(RequestError) as refused:
        await started.wait()
    assert refused.value.code == "not_found"


async def test_journal_queries_use_no_thread_of_the_store(disk: threading.Event) -> None:
    """However many journal queries hang, for any number of uids, a read of the store starts at once."""
    threads = StoreThreads()
    with trio.fail_after(_WAIT_S):
        async with trio.open_nursery() as nursery:
            for number in range(_MANY):
                principal = _principal(number, uid=number)
                nursery.start_soon(threads.read_journal, principal, lambda: disk.wait(_WAIT_S), ALWAYS_ROOM)
            await trio.testing.wait_all_tasks_blocked()
            assert await threads.read(_principal(99, uid=99), lambda: 7) == 7
            disk.set()
