"""A Deno cell whose client does not read: the process must wait with its console lines, and its limits apply."""

from __future__ import annotations

import os
import signal

import trio
import trio.testing

from sandbox.cells.plan import Plan
from sandbox.cells.process import only_child
from sandbox.limits import MIB
from sandbox.outcome import Cancelled, Crashed, LogLine, Ok, WallLimit
from tests.cell.cells import Narrow, run_on
from tests.cell.deno.cells import a_cell

_LINES = "for (let n = 0; n < 300; n++) console.log('x'.repeat(1000)); return 1"


async def test_lines_wait_for_room(plan: Plan) -> None:
    """Without room, the cell reads no line; with room, all lines and the result arrive."""
    lines: list[LogLine] = []
    room = Narrow()
    async with a_cell(plan) as cell, trio.open_nursery() as nursery:

        async def open_room() -> None:
            await room.asked.wait()
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert lines == []
            room.open()

        nursery.start_soon(open_room)
        result = await run_on(cell, _LINES, on_lines=lines.extend, room=room, log_bytes=MIB, cpu_ms=3000)
        assert isinstance(result.outcome, Ok)
        assert len(lines) == 300
        assert cell.usable


async def test_output_that_is_never_read_ends_at_the_wall_limit(plan: Plan) -> None:
    """The process exits or blocks in a write; in both cases its run ends as `wall_limit`."""
    for source in (_LINES, "console.log('on'); return 'x'.repeat(4_000_000)"):
        lines: list[LogLine] = []
        async with a_cell(plan) as cell:
            result = await run_on(
                cell,
                source,
                on_lines=lines.extend,
                room=Narrow(),
                wall_ms=1500,
                cpu_ms=1400,
                log_bytes=MIB,
                result_bytes=4 * MIB,
            )
            assert isinstance(result.outcome, WallLimit), source
            assert lines == []


async def test_a_run_whose_output_waits_can_be_cancelled(plan: Plan) -> None:
    """A cancel ends a run whose output waits for room."""
    room = Narrow()
    async with a_cell(plan) as cell, trio.open_nursery() as nursery:

        async def cancel() -> None:
            await room.asked.wait()
            cell.cancel()

        nursery.start_soon(cancel)
        result = await run_on(cell, _LINES, on_lines=lambda _: None, room=room, log_bytes=MIB, cpu_ms=3000)
        assert isinstance(result.outcome, Cancelled)
        assert result.usage.wall_ms < 30_000


async def test_a_dead_process_loses_its_unread_lines(plan: Plan) -> None:
    """If the process dies, its run ends at once, even without room, and the log is reported as truncated."""
    lines: list[LogLine] = []
    room = Narrow()
    async with a_cell(plan) as cell, trio.open_nursery() as nursery:

        async def kill() -> None:
            await room.asked.wait()
            os.kill(only_child(cell.process.pid), signal.SIGKILL)

        nursery.start_soon(kill)
        source = "for (let n = 0; n < 50; n++) console.log('x'); for(;;){}"
        result = await run_on(cell, source, on_lines=lines.extend, room=room, cpu_ms=20_000)
        assert isinstance(result.outcome, Crashed)
        assert lines == []
        assert result.logs_truncated
