"""A QuickJS cell whose reactor is blocked: the watchdog enforces the limits, and the outcome is still right."""

from __future__ import annotations

from sandbox.cells.plan import Plan
from sandbox.cells.process import only_child
from sandbox.outcome import WallLimit
from tests.cell.cells import Held, a_cell
from tests.daemon.processes import children, is_alive, until


async def test_an_endless_loop_ends_at_its_wall_limit(plan: Plan) -> None:
    """The watchdog kills the child, and the zygote reports its usage."""
    async with a_cell(plan) as cell:
        zygote = only_child(cell.process.pid)
        held = Held(cell, "console.log(1); for(;;){}", cpu_ms=60_000, wall_ms=1500)
        await held.said()
        child = only_child(zygote)
        until(lambda: not is_alive(child), 20)
        assert is_alive(zygote)
        await held.ended()
        assert isinstance(held.result.outcome, WallLimit)
        assert held.result.usage.cpu_ms > 0
        assert held.result.usage.peak_memory_bytes > 0
        assert not cell.usable


async def test_a_run_that_ended_before_the_limit_keeps_its_outcome(plan: Plan) -> None:
    """A report that was sent before the kill counts. The cell, whose next child is killed, takes no further run."""
    async with a_cell(plan) as cell:
        zygote = only_child(cell.process.pid)
        child = only_child(zygote)
        held = Held(cell, "return 'in time'", cpu_ms=plan.default.cpu_ms, wall_ms=2000)
        until(lambda: not is_alive(child), 20)
        until(lambda: children(zygote) not in ([], [child]), 20)
        following = children(zygote)[-1]
        until(lambda: not is_alive(following), 20)
        await held.ended()
        assert held.value == "in time"
        assert not cell.usable


async def test_a_cell_stays_usable_if_its_run_ends_before_the_limit(plan: Plan) -> None:
    """If the watchdog kills nothing, the same cell takes the next run."""
    async with a_cell(plan) as cell:
        for _ in range(2):
            held = Held(cell, "return 1", wall_ms=60_000)
            await held.ended()
            assert held.value == 1
            assert cell.usable
