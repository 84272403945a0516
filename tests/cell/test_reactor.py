"""The reactor: descriptors and deadlines of all cells in one task."""

from __future__ import annotations

import functools
import os
import socket
import time

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from promptlogd.turns import Turns
from sandbox.cells.reactor import TURN_S, WRITE, Reactor
from sandbox.cells.watch import Watchdog
from tests.cell.cells import a_reactor


class _Timed:
    """An object with a deadline that records when it was due."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.retired = False

    def on_due(self) -> None:
        self.times.append(trio.current_time())

    def retire(self) -> None:
        self.retired = True


async def test_a_callback_runs_when_its_descriptor_is_ready() -> None:
    """The callback runs for readable, for writable after a change, and not after the descriptor was removed."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        async with a_reactor(watched=False) as reactor:
            came: list[str] = []
            event = trio.Event()

            def ready() -> None:
                came.append("ready")
                reactor.forget(ours.fileno())
                event.set()

            reactor.watch(_Timed(), ours.fileno(), ready)
            await wait_all_tasks_blocked()
            assert came == []
            theirs.send(b"x")
            await event.wait()
            theirs.send(b"x")
            await wait_all_tasks_blocked()
            assert came == ["ready"]
            event = trio.Event()
            reactor.watch(_Timed(), ours.fileno(), ready, 0)
            await wait_all_tasks_blocked()
            reactor.change(ours.fileno(), WRITE)
            await event.wait()
            assert came == ["ready", "ready"]


async def test_an_error_in_one_callback_does_not_affect_others() -> None:
    """A callback that raises is logged, its owner is retired, and the other callbacks run."""
    faulty, other = _Timed(), _Timed()
    first, second = os.pipe(), os.pipe()
    async with a_reactor(watched=False) as reactor:
        event = trio.Event()

        def broken() -> None:
            reactor.forget(first[0])
            raise ZeroDivisionError

        def sound() -> None:
            reactor.forget(second[0])
            event.set()

        reactor.watch(faulty, first[0], broken)
        reactor.watch(other, second[0], sound)
        os.write(first[1], b"x")
        await wait_all_tasks_blocked()
        os.write(second[1], b"x")
        await event.wait()
    assert (faulty.retired, other.retired) == (True, False)
    for descriptor in (*first, *second):
        os.close(descriptor)


async def test_each_deadline_fires_once_and_in_order(clock: MockClock) -> None:
    """Deadlines fire in order of time, not of registration; a later setting replaces an earlier one."""
    async with a_reactor(watched=False) as reactor:
        began = trio.current_time()
        late, early, never, moved = _Timed(), _Timed(), _Timed(), _Timed()
        reactor.set_due(late, began + 5)
        reactor.set_due(never, began + 1)
        reactor.set_due(moved, began + 1)
        await wait_all_tasks_blocked()
        reactor.set_due(early, began + 2)
        reactor.set_due(moved, began + 3)
        reactor.clear_due(never)
        await trio.sleep(60)
    assert [timed.times for timed in (early, moved, late, never)] == [[began + 2], [began + 3], [began + 5], []]


async def test_a_deadline_that_moves_wakes_nobody(clock: MockClock) -> None:
    """A cell that sets a later deadline at each run does not wake the reactor at the earlier ones."""
    turns = Turns()
    async with a_reactor(watched=False) as reactor:
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(turns)
        began, cell, other = trio.current_time(), _Timed(), _Timed()
        reactor.set_due(other, began + 90)
        for number in range(100):
            reactor.set_due(cell, began + number + 5.25)
            await trio.sleep(0.5)
            reactor.clear_due(cell)
            await trio.sleep(0.5)
        assert turns.number <= 400  # 200 sleeps
        await trio.sleep(50)
    assert (cell.times, other.times) == ([], [began + 90])


async def test_deferred_work_is_not_lost_when_a_deadline_moves() -> None:
    """Work for the next turn is done then, although the cell whose deadline is the earliest sets a later one."""
    async with a_reactor() as reactor:
        done, cell = trio.Event(), _Timed()
        reactor.set_due(cell, trio.current_time() + 30)
        await wait_all_tasks_blocked()
        reactor.again(cell, done.set)
        reactor.set_due(cell, trio.current_time() + 60)
        with trio.fail_after(10):
            await done.wait()


async def test_cells_can_be_closed_after_the_reactor() -> None:
    """Cells that are closed after the reactor has ended, as when everything is cancelled at once, raise no error."""
    reading, writing = os.pipe()
    reactor = Reactor(Watchdog(0))
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.serve)
        reactor.watch(_Timed(), reading, lambda: None)
        nursery.cancel_scope.cancel()
    reactor.change(reading, WRITE)
    reactor.forget(reading)
    os.close(reading)
    os.close(writing)


async def test_deferred_work_continues_in_the_next_turn() -> None:
    """A callback that asks to be called again runs once for each request, and other tasks run in between."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        async with a_reactor() as reactor:
            came: list[str] = []
            done = trio.Event()
            owner = _Timed()

            def part() -> None:
                came.append("part")
                if came.count("part") < 4:
                    reactor.again(owner, part)
                    trio.lowlevel.spawn_system_task(other)
                else:
                    done.set()

            async def other() -> None:
                came.append("other")

            def begin() -> None:
                reactor.forget(ours.fileno())
                part()

            reactor.watch(_Timed(), ours.fileno(), begin)
            theirs.close()
            await done.wait()
            assert came.count("part") == 4
            assert came.count("other") >= 2


async def test_a_cell_has_one_pending_callback() -> None:
    """However often a callback asks to be called again, it runs once in the next turn."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        async with a_reactor() as reactor:
            came: list[str] = []
            owner = _Timed()

            def begin() -> None:
                reactor.forget(ours.fileno())
                for number in range(5):
                    reactor.again(owner, functools.partial(came.append, f"part {number}"))

            reactor.watch(owner, ours.fileno(), begin)
            theirs.close()
            await wait_all_tasks_blocked()
            assert came == ["part 4"]


async def test_a_turn_ends_when_its_time_is_used_up() -> None:
    """If the work of many cells takes long, other tasks run in between, and each cell gets its turn."""
    async with a_reactor() as reactor:
        came: list[str] = []
        done = trio.Event()

        def part(owner: _Timed) -> None:
            came.append("part")
            ends = time.perf_counter() + TURN_S
            while time.perf_counter() < ends:
                pass
            if came.count("part") == 8:
                done.set()

        async def other() -> None:
            while not done.is_set():
                came.append("other")
                await trio.lowlevel.checkpoint()

        for owner in [_Timed() for _ in range(8)]:
            reactor.again(owner, functools.partial(part, owner))
        await other()
        assert came.count("part") == 8
        # Each turn runs both tasks once, in any order.
        assert "part part part" not in " ".join(came)
