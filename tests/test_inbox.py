"""The inbox of one connection: other tasks run between a client's requests."""

from __future__ import annotations

import gc
import socket
import weakref
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from itertools import groupby

import pytest
import trio
from trio.testing import MockClock

from promptlogd.arrivals import Arrivals
from promptlogd.budget import Budgets
from promptlogd.inbox import Inbox
from promptlogd.principal import Principal
from promptlogd.turns import Turns
from promptlogd.wire import BadMessage, ProtocolError, ServerSession, Unread
from promptlogd.wire.messages import Ping, Request


async def _wait(wait: Callable[[], Awaitable[None]]) -> None:
    await wait()


async def _decode(frame: Unread) -> Request | BadMessage | ProtocolError:
    raise AssertionError("no frame is large")


async def test_other_tasks_run_between_requests(clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a millisecond of one client's requests, another task runs before the next request is processed."""
    monkeypatch.setattr("promptlogd.inbox.perf_counter", trio.current_time)
    order: list[str] = []

    def take(request: Request | BadMessage) -> None:
        order.append("request")
        clock.jump(0.0006)

    async def other() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            order.append("other")

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendall(b'{"type":"ping","id":1}\n' * 100)
        theirs.shutdown(socket.SHUT_WR)
        budget = Budgets(connections=1, turns=Turns()).open(Principal(connection=1, uid=0, process=None))
        arrivals = Arrivals()
        inbox = Inbox(ours, ServerSession(), budget, arrivals, stall_s=10.0, unless_gone=_wait, decode=_decode)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(arrivals.serve)
            nursery.start_soon(other)
            await inbox.read(take)
            nursery.cancel_scope.cancel()
    assert order.count("request") == 100
    # Two per turn. Trio runs the tasks of a turn in random order, so the next turn's two may follow directly.
    assert max(len(list(group)) for what, group in groupby(order) if what == "request") <= 4


async def test_a_partial_frame_does_not_wait_for_ever(clock: MockClock) -> None:
    """Ten connections of a process each have a part of a long frame, and there is room for one such frame.

    Each keeps this room for at most `stall_s`. A connection that has waited three times as long is closed with `busy`.
    """
    clock.autojump_threshold = 0.01
    stall_s, ends = 1.0, []
    budgets, arrivals = Budgets(connections=100, turns=Turns()), Arrivals()

    async def read(sock: socket.socket, number: int) -> None:
        budget = budgets.open(Principal(connection=number, uid=0, process=None))
        inbox = Inbox(sock, ServerSession(), budget, arrivals, stall_s=stall_s, unless_gone=_wait, decode=_decode)
        try:
            await inbox.read(lambda _: None)
        except ProtocolError as error:
            ends.append((trio.current_time(), error.code))
            inbox.clear()

    with ExitStack() as stack:
        pairs = [[stack.enter_context(end) for end in socket.socketpair()] for _ in range(10)]
        begin = trio.current_time()
        async with trio.open_nursery() as serving:
            serving.start_soon(arrivals.serve)
            async with trio.open_nursery() as nursery:
                for number, (ours, theirs) in enumerate(pairs):
                    ours.setblocking(False)
                    theirs.sendall(b'{"id":1,"type":"ping","x":"'.ljust(60_000, b"y"))
                    nursery.start_soon(read, ours, number)
            serving.cancel_scope.cancel()
    assert max(at for at, _ in ends) - begin < 4.5 * stall_s
    assert sum(code == "busy" for _, code in ends) >= 6


def _inbox(ours: socket.socket, arrivals: Arrivals, decode: Callable[[Unread], Awaitable[Ping]]) -> Inbox:
    ours.setblocking(False)
    budget = Budgets(connections=1, turns=Turns()).open(Principal(connection=1, uid=0, process=None))
    session = ServerSession(inline_bytes=100)
    return Inbox(ours, session, budget, arrivals, stall_s=10.0, unless_gone=_wait, decode=decode)


async def test_requests_keep_their_order_behind_a_large_one() -> None:
    """Short requests are read at once and a large one by the connection's task; the requests behind it wait for it."""
    taken: list[object] = []
    decoding = trio.Event()
    done = trio.Event()

    async def decode(frame: Unread) -> Ping:
        decoding.set()
        await done.wait()
        return Ping(id=3)

    ours, theirs = socket.socketpair()
    with ours, theirs:
        arrivals = Arrivals()
        inbox = _inbox(ours, arrivals, decode)
        async with trio.open_nursery() as nursery:
            await nursery.start(arrivals.serve)
            nursery.start_soon(inbox.read, lambda request: taken.append(request.id))
            await trio.testing.wait_all_tasks_blocked()
            large = b'{"type":"ping","id":3,"x":"%b"}\n' % (b"y" * 200)
            pings = [b'{"type":"ping","id":%d}\n' % number for number in (1, 2, 4, 5)]
            theirs.sendall(pings[0])
            theirs.sendall(pings[1] + large + pings[2])
            theirs.sendall(pings[3][:10])
            await decoding.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert taken == [1, 2]
            done.set()
            theirs.sendall(pings[3][10:])
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
    assert taken == [1, 2, 3, 4, 5]


async def test_an_error_of_one_connection_does_not_affect_others() -> None:
    """An error while a short request is processed ends its connection, and not the task that wakes all connections."""
    taken: list[object] = []

    def fail(request: Request | BadMessage) -> None:
        raise ZeroDivisionError

    async def decode(frame: Unread) -> Ping:
        raise AssertionError("no frame is large")

    with ExitStack() as stack:
        (ours, theirs), (our_other, their_other) = (
            [stack.enter_context(end) for end in socket.socketpair()] for _ in range(2)
        )
        arrivals = Arrivals()
        async with trio.open_nursery() as nursery:
            await nursery.start(arrivals.serve)
            nursery.start_soon(_inbox(our_other, arrivals, decode).read, lambda request: taken.append(request.id))
            theirs.sendall(b'{"type":"ping","id":1}\n')
            with pytest.raises(ZeroDivisionError):
                await _inbox(ours, arrivals, decode).read(fail)
            their_other.sendall(b'{"type":"ping","id":2}\n')
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
    assert taken == [2]


@pytest.mark.parametrize("fails", [False, True])
async def test_the_inbox_of_a_closed_connection_is_freed(fails: bool) -> None:
    """The inbox has no reference cycles, whether the client left with an unread reply or one of its requests failed."""

    def take(request: Request | BadMessage) -> None:
        ours.send(b"reply")
        if fails:
            raise ZeroDivisionError

    async def decode(frame: Unread) -> Ping:
        raise AssertionError("no frame is large")

    ours, theirs = socket.socketpair()
    gc.disable()
    try:
        arrivals = Arrivals()
        async with trio.open_nursery() as nursery:
            await nursery.start(arrivals.serve)
            inbox = _inbox(ours, arrivals, decode)
            freed = weakref.ref(inbox)

            async def read(inbox: Inbox) -> None:
                try:
                    await inbox.read(take)
                except ZeroDivisionError:
                    assert fails

            nursery.start_soon(read, inbox)
            del inbox
            theirs.sendall(b'{"type":"ping","id":1}\n')
            await trio.testing.wait_all_tasks_blocked(0.01)
            theirs.close()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert freed() is None
            nursery.cancel_scope.cancel()
    finally:
        gc.enable()
        ours.close()
        theirs.close()
