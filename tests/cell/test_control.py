"""How a QuickJS cell handles its control socket. The test acts as the zygote."""

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
"""The zygote's report of a child that exited with 0, after 7 ms of CPU time, with a peak of 4 MiB."""

_AT_THE_CPU_LIMIT = struct.pack("<4sIqqqqq", b"E\0\0\0", signal.SIGXCPU, 0, 50000, 0, 0, 4096)


@asynccontextmanager
async def _without_a_jail(plan: Plan) -> AsyncIterator[tuple[Cell, socket.socket, socket.socket]]:
    """A cell for which the test acts as zygote and child, with the test's ends of data and control."""
    data, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    control, their_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    data.setblocking(False)
    control.setblocking(False)
    async with a_reactor() as reactor:
        process = await trio.lowlevel.open_process(["true"])
        await process.wait()
        cell = Cell(
            plan, plan.take_identity(), process, reactor, data, control, reactor.watchdog.watch(), None, None, 0
        )
        try:
            with theirs, their_control:
                yield cell, theirs, their_control
        finally:
            await cell.close()


@pytest.mark.parametrize("begun", [False, True], ids=["before the run", "during the run"])
async def test_a_broken_control_socket_loses_the_cell(plan: Plan, *, begun: bool) -> None:
    """After an error of the control socket, a run that had not started is CellLost, and one in progress is a crash."""
    async with _without_a_jail(plan) as (cell, theirs, their_control):
        job = Job(task=Task.CHECK_AND_RUN, source=b"return 1", limits=Limits(cpu_ms=_OTHER_CPU_MS))

        def reset() -> None:
            select.select([their_control], [], [], 5)  # the cell first sends the run's own limits by control
            if begun:
                their_control.send(_REPORT)
                theirs.recv(65536)
            their_control.close()  # closing with unread data gives the other end ECONNRESET (unix(7))

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


async def test_an_invalid_last_message_keeps_the_usage_of_its_child(plan: Plan) -> None:
    """If junk and the report of the child arrive together, the run has its usage, and only that child is killed."""
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


async def test_a_job_sent_in_parts_to_a_child_that_ended_early_retires_the_cell(plan: Plan) -> None:
    """A part that was sent after the child's end may have been read by the next child without a trace."""
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


async def test_deferred_work_of_a_run_is_not_done_for_the_next_one(plan: Plan) -> None:
    """After a run with many lines, a job with other limits is sent only to a child that has these limits."""
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


async def test_an_error_at_the_end_of_a_run_ends_the_run_and_the_cell(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is reported after the cell is closed, whatever error occurs; a cancel before that has no effect."""

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


async def test_a_cancelled_child_gets_time_to_read_its_job(plan: Plan) -> None:
    """The kill is delayed, because an unread job retires the cell; the child is killed in any case."""
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
