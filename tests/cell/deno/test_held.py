"""A Deno cell whose reactor is blocked: the watchdog enforces the limits, and the outcome is still right."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from sandbox.cells.plan import Plan
from sandbox.cells.process import only_child
from sandbox.outcome import Cancelled, CpuLimit, WallLimit
from tests.cell.cells import Held, until_blank
from tests.cell.deno.cells import a_cell
from tests.daemon.processes import children, cpu_s, is_alive, until

_STARTS_S = 0.01
"""A CPU time below that of a Deno's start."""

_WAITS = "await new Promise((done) => setTimeout(done, 600000))"


async def _hold(
    plan: Plan, source: str, *, next_starts: bool, reads: bool = True, says: bool = False, **limits: Any
) -> tuple[Held, bool]:
    """Run this and block the reactor until the process is dead. Return the run, and whether the cell is usable.

    `next_starts`: block until the next process waits for a run. `reads`: if false, the process does not read its job,
    and
    the run is cancelled at the end. `says`: block only after the program has written a line.
    """
    async with a_cell(plan) as cell:
        process = only_child(cell.process.pid)
        if not reads:
            os.kill(process, signal.SIGSTOP)
        held = Held(cell, source, **limits)
        if says:
            await held.said()
        until(lambda: not is_alive(process), 30)
        if next_starts:
            until(lambda: any(map(_waits, set(children(cell.process.pid)) - {process})), 20)
        if not reads:
            cell.cancel()  # before the reactor runs
        await held.ended()
        if cell.usable:
            await until_blank(cell)
        return held, cell.usable


def _waits(process: int) -> bool:
    """Return whether this process has started and uses no CPU time, which means that it waits for a run."""
    before = cpu_s(process)
    time.sleep(0.2)
    return before > _STARTS_S and cpu_s(process) == before


@pytest.mark.parametrize("next_starts", [False, True], ids=["next process not started", "next process waits"])
@pytest.mark.parametrize(("source", "cpu_ms", "wall_ms", "outcome"), [
    ("for(;;){}", 300, 600_000, CpuLimit),
    ("console.log('a line'); for(;;){}", 300, 600_000, CpuLimit),
    (_WAITS, 60_000, 2000, WallLimit),
])  # fmt: skip
async def test_limits_while_the_reactor_is_blocked(  # one case for each limit
    plan: Plan, source: str, cpu_ms: int, wall_ms: int, outcome: type, *, next_starts: bool
) -> None:
    """The process is killed while the reactor is blocked, and output of the next process does not count for its run."""
    held, _ = await _hold(plan, source, next_starts=next_starts, cpu_ms=cpu_ms, wall_ms=wall_ms)
    assert isinstance(held.result.outcome, outcome)
    assert held.result.usage.peak_memory_bytes > 0
    if isinstance(held.result.outcome, CpuLimit):
        assert cpu_ms <= held.result.usage.cpu_ms < 2 * cpu_ms


@pytest.mark.parametrize("next_starts", [False, True], ids=["next process not started", "next process waits"])
async def test_a_run_that_ended_before_the_limit_keeps_its_outcome(plan: Plan, *, next_starts: bool) -> None:
    """A last message sent before the wall limit counts, even if the watchdog then kills the process."""
    held, _ = await _hold(plan, "return 'in time'", next_starts=next_starts, cpu_ms=5000, wall_ms=4000)
    assert held.value == "in time"


@pytest.mark.parametrize("next_starts", [False, True], ids=["next process not started", "next process waits"])
async def test_an_unread_job_retires_the_cell(plan: Plan, *, next_starts: bool) -> None:
    """If a process is killed before it reads its job, the next process may have read it, so the cell is retired."""
    held, goes_on = await _hold(plan, "return 1", next_starts=next_starts, reads=False, cpu_ms=5000, wall_ms=1000)
    assert isinstance(held.result.outcome, Cancelled)
    assert not goes_on


@pytest.mark.timed
@pytest.mark.parametrize("next_starts", [False, True], ids=["next process not started", "next process waits"])
async def test_the_cell_stays_usable_after_a_kill(plan: Plan, *, next_starts: bool) -> None:
    """With a cgroup, the cell stays usable, unless the next process's first message was read as the killed one's."""
    source = "await new Promise((done) => setTimeout(done, 300)); console.log(1); for(;;){}"
    held, goes_on = await _hold(plan, source, next_starts=next_starts, says=True, cpu_ms=500, wall_ms=600_000)
    assert isinstance(held.result.outcome, CpuLimit)
    assert goes_on == (plan.cgroup is not None and not next_starts)
