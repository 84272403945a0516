"""Connections are woken a few at a time, whatever number of clients has something to say, leaves, or is late."""

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

_MANY = 100
_AT_ONCE = 20
"""More than are woken in one turn."""


class _Sockets:
    """Pairs of sockets: ours, and the client's."""

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
    """Pairs that are closed in the end."""
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
    """Counts the turns of trio's loop, and what happens in each."""

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
        """The most of these in one turn. Tasks run in random order, so that a turn's may count for the next one."""
        return max(Counter(turn for turn, noted in self.events if noted == name).values())

    def turn_of(self, name: str) -> int:
        return next(turn for turn, noted in self.events if noted == name)


async def test_one_process_does_not_keep_another_waiting(sockets: _Sockets) -> None:
    """A hundred connections of one process have something to read: a few are woken in a turn, and another's at once."""
    turns = _Turns()

    async def read(ours: socket.socket, share: Share, name: str) -> None:
        assert await arrivals.readable(ours, share)
        turns.note(name)

    async with _serving() as (arrivals, nursery):
        crowd, other = Share(), Share()
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


async def test_late_connections_do_not_keep_others_waiting(sockets: _Sockets, clock: MockClock) -> None:
    """A hundred deadlines pass at once: a few are told in a turn, and who has something to read is woken meanwhile."""
    turns = _Turns()

    async def read(ours: socket.socket, deadline: float) -> None:
        in_time = await arrivals.readable(ours, Share(), deadline)
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


async def test_who_is_forgotten_in_the_queue_is_not_told(sockets: _Sockets) -> None:
    """Many clients leave at once, and the end of the first one closes the others' connections as well."""
    gone: list[int] = []
    async with _serving() as (arrivals, _):
        pairs = [sockets.pair() for _ in range(_MANY)]

        def end_all(number: int) -> None:
            gone.append(number)
            for ours, _ in pairs:
                arrivals.forget(ours)

        share = Share()
        for number, (ours, theirs) in enumerate(pairs):
            arrivals.watch(ours, share, partial(end_all, number))
            theirs.close()
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert len(gone) == 1


async def test_a_block_is_cancelled_at_its_deadline(clock: MockClock) -> None:
    """A wait for something else than a socket ends then too, and one that ends before is left alone."""
    async with _serving() as (arrivals, _):
        with arrivals.cancel_at(trio.current_time() + 1) as before:
            pass
        clock.autojump_threshold = 0.01
        with arrivals.cancel_at(trio.current_time() + 2) as scope:
            await trio.sleep(100)
        assert scope.cancelled_caught
        assert not before.cancelled_caught


async def test_who_left_is_noticed_once(sockets: _Sockets) -> None:
    """A client that closes its socket has left; one that only stops to write has not. A forgotten one is not told."""
    gone: list[str] = []
    async with _serving() as (arrivals, _):
        clients = {}
        for name in ("closed", "half closed", "forgotten", "cancelled"):
            ours, clients[name] = sockets.pair()
            waiter = arrivals.watch(ours, Share(), lambda name=name: gone.append(name))  # type: ignore[misc]
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


async def test_a_descriptor_that_is_used_again_is_another_socket(sockets: _Sockets) -> None:
    """What the kernel reported of a closed socket wakes nobody who waits for the next one with its number."""
    gone: list[str] = []
    async with _serving() as (arrivals, _):
        ours, theirs = sockets.pair()
        arrivals.watch(ours, Share(), lambda: gone.append("first"))
        theirs.close()
        arrivals.forget(ours)
        number = ours.fileno()
        ours.close()
        pairs = [sockets.pair() for _ in range(4)]
        (again,) = (end for pair in pairs for end in pair if end.fileno() == number)
        arrivals.watch(again, Share(), lambda: gone.append("second"))
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert gone == []


async def test_a_cancelled_wait_can_be_repeated(sockets: _Sockets) -> None:
    """After a wait was cancelled, the next one on the same socket gets its bytes."""
    async with _serving() as (arrivals, _):
        ours, theirs = sockets.pair()
        with trio.move_on_after(0.01):
            await arrivals.readable(ours, Share())
        theirs.send(b"x")
        with trio.fail_after(5):
            assert await arrivals.readable(ours, Share())


async def test_an_ended_wait_is_free_of_reference_cycles(sockets: _Sockets) -> None:
    """What a wait called back is freed with the last reference to it, without garbage collection."""

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
                await arrivals.readable(ours, Share(), read_now=reader.read_now)
            reader.reads_on = False
            with trio.fail_after(5):
                assert await arrivals.readable(ours, Share(), read_now=reader.read_now)
            arrivals.forget(ours)
            del reader
            assert freed() is None
        finally:
            gc.enable()
