"""The loop time that the connections of one process share."""

from __future__ import annotations

from collections import Counter

import trio
from trio.testing import MockClock

from promptlogd.share import TURN_S, Share
from promptlogd.turns import Turns


class _Count(trio.abc.Instrument):
    def __init__(self) -> None:
        self.turns = 0

    def before_io_wait(self, timeout: float) -> None:
        self.turns += 1


async def test_many_connections_get_no_more_time_than_one(clock: MockClock) -> None:
    """However many connections of a process are ready, their work in one turn of the loop is bounded."""
    share, count = Share(Turns()), _Count()
    worked: Counter[int] = Counter()
    trio.lowlevel.add_instrument(count)

    async def connection() -> None:
        for _ in range(3):
            await share.turn()
            worked[count.turns] += 1
            share.spend(0.4 * TURN_S)

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(connection)
    assert sum(worked.values()) == 300
    assert max(worked.values()) <= 6  # three before the share is renewed during a turn, and three after that


async def test_each_turn_has_its_own_time(clock: MockClock) -> None:
    """The time that a process used in earlier turns does not count: only in the same turn it must wait."""
    turns = Turns()
    trio.lowlevel.add_instrument(turns)
    share = Share(turns)
    share.spend(TURN_S)
    assert share.used_up
    await trio.lowlevel.checkpoint()
    assert not share.used_up
    share.spend(0.6 * TURN_S)
    await trio.lowlevel.checkpoint()
    share.spend(0.6 * TURN_S)
    assert not share.used_up


async def test_cancelled_waiters_do_not_delay_others(clock: MockClock) -> None:
    """Waiters that are cancelled, before or after they are woken, take no turn from others."""
    share, served = Share(Turns()), list[int]()

    async def connection(number: int, scope: trio.CancelScope) -> None:
        with scope:
            await share.turn()
            served.append(number)
            share.spend(2 * TURN_S)

    share.spend(2 * TURN_S)
    scopes = [trio.CancelScope() for _ in range(50)]
    async with trio.open_nursery() as nursery:
        for number, scope in enumerate(scopes):
            nursery.start_soon(connection, number, scope)
        await trio.testing.wait_all_tasks_blocked()
        for scope in scopes[:40]:
            scope.cancel()
    assert set(served) >= set(range(40, 50))
