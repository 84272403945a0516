"""Connections are woken a few per turn, however many clients send data, disconnect, or miss a deadline."""

from __future__ import annotations

import gc
import socket
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from promptlogd.arrivals import Arrivals
from promptlogd.share import Share
from promptlogd.turns import Turns

_MANY = 100
_AT_ONCE = 20
"""Upper bound of the connections that are woken in one turn."""


class _Sockets:
    """Socket pairs: the daemon's end and the client's end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def pair(self) -> tuple[socket.socket, socket.socket]:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            self._stack.enter_context(end)
            end.setblocking(False)
        return ours, theirs


@pytest.fixture
def sockets() -> Iterator[_Sockets]:
    """Socket pairs that are closed after the test."""
    with ExitStack() as stack:
        yield _Sockets(stack)


@asynccontextmanager
async def _serving() -> AsyncIterator[tuple[Arrivals, trio.Nursery]]:
    arrivals = Arrivals()
    async with trio.open_nursery() as nursery:
        await nursery.start(arrivals.serve)
        yield arrivals, nursery
        nursery.cancel_scope.cancel()


class _Turns:
    """Counts the turns of trio's loop, and records the events of each."""

    def __init__(self) -> None:
        self.events: list[tuple[int, str]] = []
        self._turn = 0

    async def count(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            self._turn += 1

    def note(self, name: str) -> None:
        self.events.append((self._turn, name))

    def most(self, name: str) -> int:
        """Return the most such events in one turn.

        Trio runs tasks in random order, so an event may count for the next turn.
        """
        return max(Counter(turn for turn, noted in self.events if noted == name).values())

    def turn_of(self, name: str) -> int:
        return next(turn for turn, noted in self.events if noted == name)


async def test_one_process_does_not_delay_another(sockets: _Sockets) -> None:
    """If 100 connections of one process have data, a few are woken per turn, and that of another process at once."""
    turns = _Turns()

    async def read(ours: socket.socket, share: Share, name: str) -> None:
        assert await arrivals.readable(ours, share)
        turns.note(name)

    async with _serving() as (arrivals, nursery):
        crowd, other = Share(Turns()), Share(Turns())
        clients = []
        for number in range(_MANY + 1):
            ours, theirs = sockets.pair()
            last = number == _MANY
            nursery.start_soon(read, ours, other if last else crowd, "other" if last else "crowd")
            clients.append(theirs)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(turns.count)
        for theirs in clients:
            theirs.send(b"x")
        with trio.fail_after(5):
            while len(turns.events) <= _MANY:
                await trio.lowlevel.checkpoint()
    assert turns.most("crowd") <= 2 * _AT_ONCE
    assert turns.turn_of("other") <= turns.turn_of("crowd") + 1


async def test_missed_deadlines_do_not_delay_others(sockets: _Sockets, clock: MockClock) -> None:
    """If 100 deadlines pass at once, a few are reported per turn, and a connection with data is woken meanwhile."""
    turns = _Turns()

    async def read(ours: socket.socket, deadline: float) -> None:
        in_time = await arrivals.readable(ours, Share(Turns()), deadline)
        turns.note("other" if in_time else "late")

    async with _serving() as (arrivals, nursery):
        deadline = trio.current_time() + 5
        for _ in range(_MANY):
            nursery.start_soon(read, sockets.pair()[0], deadline)
        ours, theirs = sockets.pair()
        nursery.start_soon(read, ours, deadline + 5)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(turns.count)
        theirs.send(b"x")
        clock.jump(5.5)
        for _ in range(1000):
            await trio.lowlevel.checkpoint()
    assert len(turns.events) == _MANY + 1
    assert turns.most("late") <= 2 * _AT_ONCE
    assert turns.turn_of("other") <= turns.turn_of("late") + 2


async def test_a_forgotten_connection_is_not_notified(sockets: _Sockets) -> None:
    """If many clients disconnect at once, and the first callback forgets the others, these get no callback."""
    gone: list[int] = []
    async with _serving() as (arrivals, _):
        pairs = [sockets.pair() for _ in range(_MANY)]

        def end_all(number: int) -> None:
            gone.append(number)
            for ours, _ in pairs:
                arrivals.forget(ours)

        share = Share(Turns())
        for number, (ours, theirs) in enumerate(pairs):
            arrivals.watch(ours, share, partial(end_all, number))
            theirs.close()
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert len(gone) == 1


async def test_a_block_is_cancelled_at_its_deadline(clock: MockClock) -> None:
    """A block that waits for another event is cancelled too; a block that ends earlier is not affected."""
    async with _serving() as (arrivals, _):
        with arrivals.cancel_at(trio.current_time() + 1) as before:
            pass
        clock.autojump_threshold = 0.01
        with arrivals.cancel_at(trio.current_time() + 2) as scope:
            await trio.sleep(100)
        assert scope.cancelled_caught
        assert not before.cancelled_caught


async def test_a_disconnect_is_reported_once(sockets: _Sockets) -> None:
    """A client that closes its socket is reported; one that only stops writing, or was forgotten, is not."""
    gone: list[str] = []
    async with _serving() as (arrivals, _):
        clients = {}
        for name in ("closed", "half closed", "forgotten", "cancelled"):
            ours, clients[name] = sockets.pair()
            waiter = arrivals.watch(ours, Share(Turns()), lambda name=name: gone.append(name))  # type: ignore[misc]
            if name == "forgotten":
                arrivals.forget(ours)
            if name == "cancelled":
                waiter.cancel()
        clients.pop("half closed").shutdown(socket.SHUT_WR)
        for client in clients.values():
            client.close()
        await trio.testing.wait_all_tasks_blocked(0.01)
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert gone == ["closed"]


async def test_a_reused_descriptor_is_another_socket(sockets: _Sockets) -> None:
    """Events of a closed socket do not wake a task that waits for the next socket with the same number."""
    gone: list[str] = []
    async with _serving() as (arrivals, _):
        ours, theirs = sockets.pair()
        arrivals.watch(ours, Share(Turns()), lambda: gone.append("first"))
        theirs.close()
        arrivals.forget(ours)
        number = ours.fileno()
        ours.close()
        pairs = [sockets.pair() for _ in range(4)]
        (again,) = (end for pair in pairs for end in pair if end.fileno() == number)
        arrivals.watch(again, Share(Turns()), lambda: gone.append("second"))
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert gone == []


async def test_a_wait_can_be_repeated_after_a_cancel(sockets: _Sockets) -> None:
    """After a wait was cancelled, the next one on the same socket gets its bytes."""
    async with _serving() as (arrivals, _):
        ours, theirs = sockets.pair()
        with trio.move_on_after(0.01):
            await arrivals.readable(ours, Share(Turns()))
        theirs.send(b"x")
        with trio.fail_after(5):
            assert await arrivals.readable(ours, Share(Turns()))


async def test_an_ended_wait_leaves_no_reference_cycles(sockets: _Sockets) -> None:
    """The object of a callback is freed with its last reference, without garbage collection."""

    class Reader:
        reads_on = True

        def read_now(self) -> bool:
            return self.reads_on

    reader = Reader()
    freed = weakref.ref(reader)
    async with _serving() as (arrivals, _):
        ours, theirs = sockets.pair()
        gc.disable()
        try:
            theirs.send(b"x")
            with trio.move_on_after(0.01):
                await arrivals.readable(ours, Share(Turns()), read_now=reader.read_now)
            reader.reads_on = False
            with trio.fail_after(5):
                assert await arrivals.readable(ours, Share(Turns()), read_now=reader.read_now)
            arrivals.forget(ours)
            del reader
            assert freed() is None
        finally:
            gc.enable()
