"""The inbox of one connection: other tasks get their turn while a client's requests are taken."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from itertools import groupby

import trio
from trio.testing import MockClock

from promptlogd.budget import Budgets
from promptlogd.inbox import Inbox
from promptlogd.principal import Principal
from promptlogd.wire import BadMessage, ProtocolError, ServerSession, Unread
from promptlogd.wire.messages import Request


async def _wait(wait: Callable[[], Awaitable[None]]) -> None:
    await wait()


async def _decode(frame: Unread) -> Request | BadMessage | ProtocolError:
    raise AssertionError("no frame is large")


async def test_other_tasks_get_their_turn_between_requests(clock: MockClock) -> None:
    """After a millisecond of one client's requests, another task runs before the next request is taken."""
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
        budget = Budgets(connections=1).open(Principal(connection=1, uid=0, process=None))
        inbox = Inbox(ours, ServerSession(), budget, stall_s=10.0, unless_gone=_wait, decode=_decode)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await inbox.read(take)
            nursery.cancel_scope.cancel()
    assert order.count("request") == 100
    # Two in a turn; trio takes the tasks of a turn in random order, so that the next turn's two may follow at once.
    assert max(len(list(group)) for what, group in groupby(order) if what == "request") <= 4
