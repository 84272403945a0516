"""The scheduler: bounded, fair, and no slot is ever lost."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from promptlogd.scheduler import Busy, Scheduler


async def test_a_full_queue_is_busy_at_once() -> None:
    """Past its bound the queue refuses, and takes again once there is room."""
    scheduler = Scheduler(concurrent=1, queue=1)
    await scheduler.acquire("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scheduler.acquire, "a")
        await wait_all_tasks_blocked()
        with pytest.raises(Busy):
            await scheduler.acquire("b")
        scheduler.release()
    scheduler.release()
    await scheduler.acquire("b")
    assert (scheduler.running, scheduler.queued) == (1, 0)


async def test_clients_take_turns() -> None:
    """A client with one run does not wait behind another's fifty."""
    scheduler = Scheduler(concurrent=1, queue=100)
    order: list[str] = []

    async def run(client: str) -> None:
        await scheduler.acquire(client)
        order.append(client)
        await trio.lowlevel.checkpoint()
        scheduler.release()

    await scheduler.acquire("first")
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(run, "crowd")
        await wait_all_tasks_blocked()
        nursery.start_soon(run, "one")
        await wait_all_tasks_blocked()
        scheduler.release()
    assert order.index("one") <= 1


async def test_a_cancelled_wait_loses_no_slot() -> None:
    """Whether it is cancelled before or after its turn came, a waiter's slot goes on to the next."""
    scheduler = Scheduler(concurrent=1, queue=10)

    async def hold(client: str) -> None:
        await scheduler.acquire(client)
        try:
            await trio.sleep_forever()
        finally:
            scheduler.release()

    await scheduler.acquire("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, "b")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, "c")
        await wait_all_tasks_blocked()
        scheduler.release()
        nursery.cancel_scope.cancel()
    with trio.fail_after(1):
        await scheduler.acquire("d")
    assert scheduler.queued == 0
