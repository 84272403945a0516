"""What a QuickJS cell makes of its control socket, with the zygote's end of it played by the test."""

from __future__ import annotations

import select
import signal
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from sandbox.cells.job import Job, Result
from sandbox.cells.plan import Plan
from sandbox.engines.quickjs.host.cell import QuickJSCell as Cell
from sandbox.engines.quickjs.host.control import kill_message, limits_message
from sandbox.errors import CellLost
from sandbox.limits import MIB, Limits
from sandbox.outcome import Cancelled, CpuLimit, Crashed, Ok
from sandbox.protocol.frames import MESSAGES_AT_ONCE, Task
from tests.cell.cells import a_reactor, finish

_OTHER_CPU_MS = Limits().cpu_ms + 1
_REPORT = struct.pack("<4sIqqqqq", b"E\0\0\0", 0, 0, 7000, 0, 0, 4096)
"""As a zygote tells it: a child that exited with 0, after 7 ms of CPU time, with a peak of 4 MiB."""

_AT_THE_CPU_LIMIT = struct.pack("<4sIqqqqq", b"E\0\0\0", signal.SIGXCPU, 0, 50000, 0, 0, 4096)


@asynccontextmanager
async def _without_a_jail(plan: Plan) -> AsyncIterator[tuple[Cell, socket.socket, socket.socket]]:
    """A cell whose zygote and child are played by the test: their ends of data and control."""
    data, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    control, their_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    data.setblocking(False)
    control.setblocking(False)
    async with a_reactor() as reactor:
        process = await trio.lowlevel.open_process(["true"])
        await process.wait()
        cell = Cell(plan, plan.take_identity(), process, reactor, data, control, reactor.watchdog.watch(), None, 0)
        try:
            with theirs, their_control:
                yield cell, theirs, their_control
        finally:
            await cell.close()


@pytest.mark.parametrize("begun", [False, True], ids=["before the run", "in mid-run"])
async def test_a_broken_control_socket_is_a_lost_cell(plan: Plan, *, begun: bool) -> None:
    """When control gives an error in place of a report, a run that was not begun is CellLost, one that was a crash."""
    async with _without_a_jail(plan) as (cell, theirs, their_control):
        job = Job(task=Task.CHECK_AND_RUN, source=b"return 1", limits=Limits(cpu_ms=_OTHER_CPU_MS))

        def reset() -> None:
            select.select([their_control], [], [], 5)  # the run's own limits are sent by control, first
            if begun:
                their_control.send(_REPORT)
                theirs.recv(65536)
            their_control.close()  # with what was sent unread: the other end gets ECONNRESET (unix(7))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, reset)
            if begun:
                result = await finish(cell, job)
                assert isinstance(result.outcome, Crashed)
                assert result.outcome.signal == "SIGKILL"
            else:
                with pytest.raises(CellLost):
                    await finish(cell, job)
        assert not cell.usable


async def test_a_bad_last_word_keeps_the_account_of_its_own_child(plan: Plan) -> None:
    """Junk, and the report of its writer's end at once: the run has its usage, and the kill names that writer alone."""
    async with _without_a_jail(plan) as (cell, theirs, their_control):

        def end() -> None:
            theirs.recv(65536)
            theirs.send(b"?junk")
            their_control.send(_REPORT)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, end)
            result = await finish(cell, Job(task=Task.CHECK_AND_RUN, source=b"return 1", limits=Limits()))
        assert isinstance(result.outcome, Crashed)
        assert (result.usage.cpu_ms, result.usage.peak_memory_bytes) == (7.0, 4 * MIB)
        their_control.setblocking(False)
        with suppress(BlockingIOError):
            assert their_control.recv(64) == kill_message(0)
        assert not cell.usable


async def test_a_job_sent_in_parts_to_a_child_that_ended_early_spends_the_cell(plan: Plan) -> None:
    """A part that was sent after the child's end was read by the next one: nothing of it is left to be seen."""
    job = Job(task=Task.CHECK_AND_RUN, source=b"return 1", prompt="x" * (8 * MIB), limits=Limits())
    async with _without_a_jail(plan) as (cell, theirs, their_control):

        def end() -> None:
            left = int.from_bytes(theirs.recv(5)[1:], "big")
            while left:
                left -= len(theirs.recv(65536))
            their_control.send(_AT_THE_CPU_LIMIT)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, end)
            result = await finish(cell, job)
        assert isinstance(result.outcome, CpuLimit)
        assert not cell.usable


async def test_what_was_put_off_for_a_run_is_not_done_for_the_next_one(plan: Plan) -> None:
    """A run with many lines ends, and the next one has other limits: its job is not sent to the child without them."""
    first = Job(task=Task.CHECK_AND_RUN, source=b"return 1", limits=Limits())
    second = Job(task=Task.CHECK_AND_RUN, source=b"return 2", limits=Limits(cpu_ms=_OTHER_CPU_MS))
    async with _without_a_jail(plan) as (cell, theirs, their_control):
        begun = trio.Event()
        results: list[Result | CellLost] = []

        def go_on(result: Result | CellLost) -> None:
            results.append(result)
            cell.begin(second, results.append)
            begun.set()

        cell.begin(first, go_on)
        theirs.recv(65536)
        theirs.send(b"l\0\0\0\0011" * (MESSAGES_AT_ONCE + 1) + b"v\0\0\0\0011")
        their_control.send(_REPORT)
        with trio.fail_after(10):
            await begun.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(results[0], Result)
        assert isinstance(results[0].outcome, Ok)
        assert their_control.recv(64) == limits_message(1, second.limits)
        with pytest.raises(BlockingIOError):
            theirs.recv(65536, socket.MSG_DONTWAIT)
        cell.cancel()


async def test_a_fault_at_the_end_of_a_run_ends_the_run_and_the_cell(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the daemon fails at there: the run is reported once the cell is closed, and a cancel before is none."""

    def fail(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr("sandbox.engines.quickjs.host.cell.verdict", fail)
    async with _without_a_jail(plan) as (cell, theirs, their_control):
        results: list[Result | CellLost] = []
        cell.begin(Job(task=Task.CHECK_AND_RUN, source=b"return 1", limits=Limits()), results.append)
        theirs.recv(65536)
        their_control.send(_REPORT)
        with trio.fail_after(10):
            await cell.retired.wait()
        cell.cancel()
        assert results == []
        await cell.close()
        assert isinstance(results[0], Result)
        assert isinstance(results[0].outcome, Crashed)


async def test_a_child_that_is_cancelled_has_a_moment_to_read_its_job(plan: Plan) -> None:
    """Its kill is put off, since what it leaves unread spends the cell; it is killed in any case."""
    for reads in (True, False):
        async with _without_a_jail(plan) as (cell, theirs, their_control):
            results: list[Result | CellLost] = []
            cell.begin(Job(task=Task.CHECK_AND_RUN, source=b"return 1", limits=Limits()), results.append)
            cell.cancel()
            with pytest.raises(BlockingIOError):
                their_control.recv(64, socket.MSG_DONTWAIT)
            if reads:
                theirs.recv(65536)
            with trio.fail_after(10):
                await trio.lowlevel.wait_readable(their_control)
                assert their_control.recv(64) == kill_message(0)
                their_control.send(_REPORT)
                while not results:
                    await trio.lowlevel.checkpoint()
            assert isinstance(results[0], Result)
            assert isinstance(results[0].outcome, Cancelled)
            assert cell.usable is reads
