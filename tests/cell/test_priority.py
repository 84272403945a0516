"""CPU priorities: a cell starts at a low priority, and runs at that of the daemon."""

from __future__ import annotations

import os

import trio

from sandbox.cells import priority
from sandbox.cells.plan import Plan
from sandbox.engines.quickjs.host import start as cells
from tests.cell.cells import a_cell, a_reactor, run_on, until_blank
from tests.daemon.processes import children, until


def _niceness(pid: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, pid)


async def test_a_started_cell_has_the_daemons_priority(plan: Plan) -> None:
    """The zygote, its first child and the next one have the daemon's priority, whatever nsjail has."""
    own = _niceness(os.getpid())
    async with a_cell(plan) as cell:
        (zygote,) = children(cell.process.pid)
        assert [_niceness(zygote), *map(_niceness, children(zygote))] == [own, own]
        await run_on(cell, "return 1")
        await until_blank(cell)
        until(lambda: children(zygote) != [])  # the cell is blank shortly before its next child exists
        assert [_niceness(zygote), *map(_niceness, children(zygote))] == [own, own]


async def test_a_cell_starts_at_a_low_priority(plan: Plan) -> None:
    """nsjail gets and keeps a low priority, if the daemon has the right to raise those of zygote and child again."""
    async with a_reactor() as reactor:
        cell = await cells.start(plan, reactor)
        try:
            expected = priority.NICE if priority.can_restore() else _niceness(os.getpid())
            assert _niceness(cell.process.pid) == expected
        finally:
            with trio.CancelScope(shield=True):
                await cell.close()
