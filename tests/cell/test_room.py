"""A QuickJS cell whose client does not read: the process must wait with its console lines, and its limits apply."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from sandbox.cells.plan import Plan
from sandbox.limits import MIB
from sandbox.outcome import Cancelled, LogLine, Ok, WallLimit
from tests.cell.cells import Narrow, a_cell, run_on
from tests.daemon.processes import children, is_alive

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


@pytest.mark.timed  # on a busy machine the watchdog may end the run first, and the cell with it
async def test_output_that_is_never_read_ends_at_the_wall_limit(plan: Plan) -> None:
    """The process exits or blocks in a write; its run ends as `wall_limit`, and no output reaches the next run."""
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
            assert isinstance((await run_on(cell, "return 1")).outcome, Ok)


async def test_a_run_whose_output_waits_can_be_cancelled(plan: Plan) -> None:
    """A cancel ends the run, even if its process has already exited."""
    room = Narrow()
    async with a_cell(plan) as cell, trio.open_nursery() as nursery:
        (zygote,) = children(cell.process.pid)
        (child,) = children(zygote)

        async def cancel() -> None:
            await room.asked.wait()
            while is_alive(child):
                await trio.sleep(0.01)
            cell.cancel()

        nursery.start_soon(cancel)
        result = await run_on(cell, _LINES, on_lines=lambda _: None, room=room, log_bytes=MIB, cpu_ms=3000)
        assert isinstance(result.outcome, Cancelled)
        assert result.usage.wall_ms < 30_000


async def test_lines_before_a_kill_are_kept(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed before its output was first read keeps the lines that it had written."""
    monkeypatch.setattr("sandbox.engines.quickjs.host.cell.LOW_PRIORITY_AFTER_S", 60.0)
    async with a_cell(plan) as cell:
        result = await run_on(cell, "console.log('a'); for (;;) {}", wall_ms=500, cpu_ms=9000)
        assert isinstance(result.outcome, WallLimit)
        assert [line.text for line in result.logs] == ["a"]
