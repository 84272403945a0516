"""Admission: bounded, fair, and no slot is ever lost."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from promptlogd.admission import Slot
from tests.clock import within_a_minute
from tests.waiting import Busy, Late, Waiting

_NO_MORE_SHORT_RUNS_S = 0.11
"""For so long after a short run admission expects more of them."""


@within_a_minute
async def test_a_full_queue_is_busy_at_once() -> None:
    """Past its bound the queue refuses, and takes again once there is room."""
    admission = Waiting(concurrent=1, queue=1)
    slots = [await admission.acquire("a")]

    async def wait() -> None:
        slots.append(await admission.acquire("a"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        with pytest.raises(Busy):
            await admission.acquire("b")
        admission.release(slots[0], 1)
    admission.release(slots[1], 1)
    await admission.acquire("b")
    assert (admission.running, admission.queued) == (1, 0)


@within_a_minute
async def test_who_waits_too_long_is_sent_away(clock: MockClock) -> None:
    """After the time, to within a twentieth; who came later goes on waiting, and gets the slot."""
    admission = Waiting(concurrent=1, queue=10)
    held = await admission.acquire("a")
    ended: list[tuple[str, float]] = []

    async def wait(name: str, client: str) -> None:
        try:
            await admission.acquire(client)
        except Late:
            ended.append((name, trio.current_time()))
        else:
            ended.append((f"{name} runs", trio.current_time()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(admission.give_up, 10.0)
        began = trio.current_time()
        nursery.start_soon(wait, "first", "b")
        nursery.start_soon(wait, "second", "b")
        await trio.sleep(5)
        nursery.start_soon(wait, "third", "b")
        await trio.sleep(6)
        assert {name for name, _ in ended} == {"first", "second"}
        assert all(10 <= at - began <= 10.6 for _, at in ended)
        assert admission.queued == 1
        admission.release(held, 1)
        await trio.sleep(1)
        assert ended[-1][0] == "third runs"
        assert (admission.running, admission.queued) == (1, 0)
        nursery.cancel_scope.cancel()


@within_a_minute
async def test_clients_take_turns() -> None:
    """A client with one run does not wait behind another's fifty."""
    admission = Waiting(concurrent=1, queue=100)
    order: list[str] = []

    async def run(client: str) -> None:
        slot = await admission.acquire(client)
        order.append(client)
        await trio.lowlevel.checkpoint()
        admission.release(slot, 1)

    first = await admission.acquire("first")
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(run, "crowd")
        await wait_all_tasks_blocked()
        nursery.start_soon(run, "one")
        await wait_all_tasks_blocked()
        admission.release(first, 1)
    assert order.index("one") <= 1


@within_a_minute
async def test_a_cancelled_wait_loses_no_slot() -> None:
    """Whether it is cancelled before its turn came, after that, or at that moment, a waiter's slot goes to the next."""
    admission = Waiting(concurrent=1, queue=10)

    async def hold(client: str) -> None:
        slot = await admission.acquire(client)
        try:
            await trio.sleep_forever()
        finally:
            admission.release(slot, 1)

    first = await admission.acquire("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, "b")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, "c")
        await wait_all_tasks_blocked()
        admission.release(first, 1)
        nursery.cancel_scope.cancel()
    second = await admission.acquire("d")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, "e")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        admission.release(second, 1)  # the waiter is cancelled, and has not been told yet
    with trio.fail_after(1):
        await admission.acquire("f")
    assert admission.queued == 0


@within_a_minute
async def test_long_runs_leave_slots_for_short_ones(clock: MockClock) -> None:
    """Clients whose runs took long have half of the slots; another finds one at once; and none is lost by it."""
    admission = Waiting(concurrent=4, queue=100)
    bombers = ["a", "b", "c", "d"]
    for slot in [await admission.acquire(client) for client in bombers]:
        admission.release(slot, 50)
    held: list[Slot] = []

    async def run(client: str) -> None:
        held.append(await admission.acquire(client))

    async with trio.open_nursery() as nursery:
        for client in bombers:
            nursery.start_soon(run, client)
        await wait_all_tasks_blocked()
        assert (admission.running, admission.queued) == (2, 2)
        with trio.fail_after(1):
            short = [await admission.acquire("e"), await admission.acquire("e")]
        for slot in short:
            admission.release(slot, 1)
        await wait_all_tasks_blocked()
        assert (admission.running, admission.queued) == (2, 2)
        # While there are short runs, one slot less.
        admission.release(held[0], 50)
        admission.release(held[1], 50)
        await wait_all_tasks_blocked()
        assert (admission.running, admission.queued) == (1, 1)
        await trio.sleep(_NO_MORE_SHORT_RUNS_S)
        admission.release(held[2], 50)
    assert (admission.running, admission.queued) == (1, 0)


@within_a_minute
async def test_long_runs_have_their_half_when_nobody_else_comes(clock: MockClock) -> None:
    """A while after the last short run, all that wait and may go on do so at the next chance."""
    admission = Waiting(concurrent=4, queue=100)
    admission.release(await admission.acquire("e"), 1)
    for slot in [await admission.acquire(client) for client in "abc"]:
        admission.release(slot, 50)
    held: list[Slot] = []

    async def run(client: str) -> None:
        held.append(await admission.acquire(client))

    async with trio.open_nursery() as nursery:
        for client in "abc":
            nursery.start_soon(run, client)
        await wait_all_tasks_blocked()
        assert (admission.running, admission.queued) == (1, 2)
        await trio.sleep(_NO_MORE_SHORT_RUNS_S)
        admission.release(held[0], 50)
    assert (admission.running, admission.queued) == (2, 0)


@within_a_minute
async def test_costly_runs_are_neither_crowded_out_nor_crowd_others_out(clock: MockClock) -> None:
    """Short runs on a costly engine find a slot beside long ones, and leave one for short runs on the other."""
    admission = Waiting(concurrent=4, queue=100)
    for client in "abc":
        admission.release(await admission.acquire(client, 20), 50)
    await trio.sleep(_NO_MORE_SHORT_RUNS_S)
    held = [admission.take(client, 20) for client in "abc"]
    assert [slot is not None for slot in held] == [True, True, False]
    with trio.fail_after(1):
        costly = await admission.acquire("d", 20)
        assert admission.take("e", 20) is None
        short = await admission.acquire("f")
    admission.release(short, 1)
    admission.release(costly, 3)
    # While there are short runs, one of all the others at once.
    assert admission.take("d", 20) is None
    for slot in held[:2]:
        assert slot is not None
        admission.release(slot, 50)
    costly = await admission.acquire("d", 20)
    assert admission.take("e", 20) is None
    admission.release(costly, 3)
    await trio.sleep(_NO_MORE_SHORT_RUNS_S)
    # To be long is another thing where each run costs 20 ms more.
    admission.release(await admission.acquire("g", 20), 15)
    assert [admission.take(client, 20) is not None for client in "ghi"] == [True, True, False]


@pytest.mark.parametrize("concurrent", [1, 2, 3])
@within_a_minute
async def test_every_kind_has_its_turn_on_few_slots(clock: MockClock, concurrent: int) -> None:
    """However few slots there are, and whoever was there before, each kind of run comes to its end."""
    admission = Waiting(concurrent=concurrent, queue=100)
    done: list[str] = []

    async def client(name: str, after_ms: float, cpu_ms: float) -> None:
        for _ in range(20):
            slot = await admission.acquire(name, after_ms)
            await trio.sleep(0.001)
            admission.release(slot, cpu_ms)
        done.append(name)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(client, f"short {number}", 0, 1)
                nursery.start_soon(client, f"costly {number}", 20, 3)
                nursery.start_soon(client, f"long {number}", 0, 50)
                nursery.start_soon(client, f"long and costly {number}", 20, 50)
    assert len(done) == 12
    assert (admission.running, admission.queued) == (0, 0)


@within_a_minute
async def test_short_runs_are_believed_again() -> None:
    """After enough short runs a client has all slots again; one that left is forgotten."""
    admission = Waiting(concurrent=2, queue=0)
    admission.release(await admission.acquire("a"), 50)
    admission.release(await admission.acquire("b"), 50)
    slot = await admission.acquire("a")
    with pytest.raises(Busy):
        await admission.acquire("a")
    admission.release(slot, 1)
    for _ in range(22):
        admission.release(await admission.acquire("a"), 1)
    admission.forget("b")
    with trio.fail_after(1):
        await admission.acquire("a")
        await admission.acquire("b")


@within_a_minute
async def test_slots_that_are_given_back_at_once() -> None:
    """Thousands of runs that give their slot back as soon as they have it each get it once, however deep that nests."""
    admission = Waiting(concurrent=1, queue=3000)
    granted: list[int] = []

    def give_back(number: int, slot: Slot | None) -> None:
        assert slot is not None
        granted.append(number)
        admission.release(slot, 0.0)

    first = await admission.acquire("a")
    for number in range(3000):
        admission.wait("b", 0.0, partial(give_back, number))
    admission.release(first, 1)
    assert granted == list(range(3000))
    assert (admission.running, admission.queued) == (0, 0)
