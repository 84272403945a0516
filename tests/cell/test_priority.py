"""CPU priorities: a cell starts at a low one, and runs at the daemon's."""

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
    """The zygote, its first child and the next one run like the daemon, whatever nsjail has."""
    own = _niceness(os.getpid())
    async with a_cell(plan) as cell:
        (zygote,) = children(cell.process.pid)
        assert [_niceness(zygote), *map(_niceness, children(zygote))] == [own, own]
        await run_on(cell, "return 1")
        await until_blank(cell)
        until(lambda: children(zygote) != [])  # the cell is blank a moment before its next child is there
        assert [_niceness(zygote), *map(_niceness, children(zygote))] == [own, own]


async def test_a_cell_starts_at_a_low_priority(plan: Plan) -> None:
    """nsjail has a low priority, and keeps it, if the daemon may raise those of the zygote and its child again."""
    async with a_reactor() as reactor:
        cell = await cells.start(plan, reactor)
        try:
            expected = priority.NICE if priority.can_restore() else _niceness(os.getpid())
            assert _niceness(cell.process.pid) == expected
        finally:
            with trio.CancelScope(shield=True):
                await cell.close()
