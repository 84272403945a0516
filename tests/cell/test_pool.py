"""The pool of cells: what it reports to admission, and how it replaces cells."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from sandbox.cells.cell import Cell
from sandbox.cells.plan import Plan
from sandbox.cells.policy import ByDemand, Steady
from sandbox.cells.pool import Pool
from sandbox.engines.quickjs.host import start as cells
from sandbox.errors import CellStartError
from sandbox.jail.root import EngineMissing
from sandbox.outcome import CpuLimit, MemoryLimit, Ok
from tests.cell.cells import a_reactor, run_on, take


@asynccontextmanager
async def _a_pool(plans: list[Plan], *, runs_per_cell: int = 100) -> AsyncIterator[Pool]:
    """Provide a pool of one cell within a block, for at most 20 s. It starts cells with the first of the plans."""
    with trio.fail_after(20):
        async with a_reactor() as reactor, trio.open_nursery() as nursery:

            async def start(memory_bytes: int | None) -> Cell:
                return await cells.start(plans[0], reactor)

            pool = Pool("quickjs", start, Steady(1), runs_per_cell=runs_per_cell, max_age_s=60.0, forks=True)
            await nursery.start(pool.serve)
            yield pool
            nursery.cancel_scope.cancel()


async def test_the_pool_reports_when_it_can_lend(plan: Plan) -> None:
    """While its only cell is lent, the pool cannot lend; it calls back when the cell has been returned."""
    async with _a_pool([plan]) as pool:
        told: list[bool] = []
        pool.on_ready = lambda: told.append(pool.can_lend())
        assert pool.can_lend()
        cell = await take(pool)
        assert (pool.can_lend(), told) == (False, [])
        pool.give(cell)
        assert told == [True]


@pytest.mark.parametrize("how", ["fresh", "crashed", "dead"])
async def test_the_pool_reports_when_a_retired_cell_is_replaced(plan: Plan, how: str) -> None:
    """The pool cannot lend until another cell is ready. It also replaces a cell that dies while it is lent."""
    replaced = trio.Event()
    async with _a_pool([plan]) as pool:
        cell = await take(pool, fresh=how == "fresh")
        pool.on_ready = replaced.set
        if how == "dead":
            cell.process.kill()
            await cell.retired.wait()
        elif how == "crashed":
            cell.retire()
        pool.give(cell, fresh=how == "fresh")
        assert how == "dead" or not pool.can_lend()
        while not pool.can_lend():
            await replaced.wait()
        assert (pool.can_lend(), pool.counts().started, pool.counts().blank) == (True, 2, 1)


async def test_failed_starts_are_reported(plan: Plan) -> None:
    """After two failed starts in a row, and each later one, the pool reports why it cannot lend; a start ends this."""
    plans, missing = [plan], plan.folder / "no-such-nsjail"
    async with _a_pool(plans) as pool:
        cell = await take(pool)
        failed, ready = trio.Event(), trio.Event()
        errors: list[object] = []

        async def note(error: object) -> None:
            errors.append(error)
            failed.set()

        pool.on_failure, pool.on_ready = note, ready.set
        plans[0] = msgspec.structs.replace(plan, executable=missing)
        cell.retire()
        pool.give(cell)
        await failed.wait()
        assert [type(error) for error in errors] == [CellStartError]
        assert not pool.can_lend()
        plans[0] = plan
        await ready.wait()
        assert pool.can_lend()


async def test_a_cell_continues_after_a_child_is_killed_at_a_limit(plan: Plan) -> None:
    """The zygote forks the next child; the next run has a clean state and its own result."""
    async with _a_pool([plan]) as pool:
        cell = await take(pool)
        for source, kind in (
            ("globalThis.left = 1; for (;;) {}", CpuLimit),
            ("globalThis.left = 1; const all = []; for (;;) all.push(new Uint8Array(1 << 24))", MemoryLimit),
        ):
            assert isinstance((await run_on(cell, source)).outcome, kind)
            found = (await run_on(cell, "return typeof left")).outcome
            assert isinstance(found, Ok)
            assert bytes(found.value) == b'"undefined"'
        assert cell.usable
        pool.give(cell)
        assert pool.counts().started == 1


async def test_a_worn_cell_is_lent_until_its_replacement_is_ready(plan: Plan) -> None:
    """After its last regular run, a cell can be lent again. It is retired when its replacement has started."""
    async with _a_pool([plan], runs_per_cell=2) as pool:
        for _ in range(2):
            cell = await take(pool)
            await run_on(cell, "return 1")
            pool.give(cell)
        assert pool.can_lend()
        await cell.retired.wait()
        assert (pool.counts().started, pool.counts().blank) == (2, 1)
        assert await take(pool) is not cell


async def test_a_worn_cell_without_replacement_is_retired_in_the_end(plan: Plan) -> None:
    """If no cell starts, a worn cell takes at most twice its regular number of runs."""
    plans = [plan]
    async with _a_pool(plans, runs_per_cell=2) as pool:
        plans[0] = msgspec.structs.replace(plan, executable=plan.folder / "no-such-nsjail")
        for run in range(4):
            assert pool.can_lend(), f"after {run} runs"
            cell = await take(pool)
            await run_on(cell, "return 1")
            pool.give(cell)
        assert not pool.can_lend()
        assert not cell.usable


async def test_worn_cells_are_replaced_one_after_the_other(plan: Plan) -> None:
    """If all cells are worn at the same time, only one replacement starts at a time, and each cell is replaced."""
    starting, number = 0, 3
    at_once: list[int] = []
    with trio.fail_after(20):
        async with a_reactor() as reactor, trio.open_nursery() as nursery:

            async def start(memory_bytes: int | None) -> Cell:
                nonlocal starting
                starting += 1
                at_once.append(starting)
                cell = await cells.start(plan, reactor)
                starting -= 1
                return cell

            pool = Pool("quickjs", start, Steady(number), runs_per_cell=100, max_age_s=60.0, forks=True)
            await nursery.start(pool.serve)
            while pool.counts().started < number:
                await trio.sleep(0.001)
            at_once.clear()
            pool.renew()
            while pool.counts().started < 2 * number or pool.counts().retired < number:
                await trio.sleep(0.001)
            assert at_once == [1] * number
            assert pool.counts().blank == number
            nursery.cancel_scope.cancel()


async def test_a_cell_in_constant_use_is_renewed(plan: Plan) -> None:
    """Once its successor is ready, a cell that must be renewed is lent no more, even if the next run waits already."""
    async with _a_pool([plan]) as pool:
        old = await take(pool)
        await run_on(old, "return 1")
        pool.renew()
        while not pool.can_lend():
            await trio.sleep(0.001)
        pool.give(old)
        assert await take(pool) is not old
        assert not old.usable


async def test_a_steady_pool_reports_its_last_ready_cell(plan: Plan) -> None:
    """After the pool was filled, it reports that one cell is ready while the others are lent."""
    with trio.fail_after(20):
        async with a_reactor() as reactor, trio.open_nursery() as nursery:

            async def start(memory_bytes: int | None) -> Cell:
                return await cells.start(plan, reactor)

            pool = Pool("quickjs", start, Steady(2), runs_per_cell=100, max_age_s=60.0, forks=True)
            ready = trio.Event()
            pool.on_ready = lambda: ready.set() if pool.counts().blank == 2 else None
            await nursery.start(pool.serve)
            await ready.wait()
            assert not pool.is_last()
            lent = await take(pool)
            assert pool.is_last()
            pool.give(lent)
            assert not pool.is_last()
            nursery.cancel_scope.cancel()


async def test_waiting_runs_count_as_demand(plan: Plan) -> None:
    """A pool on demand starts as many cells as runs wait, in addition to lent cells."""
    with trio.fail_after(20):
        async with a_reactor() as reactor, trio.open_nursery() as nursery:

            async def start(memory_bytes: int | None) -> Cell:
                return await cells.start(plan, reactor)

            pool = Pool("quickjs", start, ByDemand(1, 300.0), runs_per_cell=100, max_age_s=60.0, forks=True)
            await nursery.start(pool.serve)
            lent = await take(pool)
            assert not pool.can_lend()
            ready = trio.Event()
            pool.waiting = lambda: 1
            pool.on_ready = ready.set
            pool.want()
            await ready.wait()
            assert pool.can_lend()
            assert not pool.is_last()
            pool.give(lent)
            nursery.cancel_scope.cancel()


async def test_a_missing_engine_is_reported_until_it_is_installed(plan: Plan) -> None:
    """The first run gets the error from a start, the next ones at once; after a successful start, runs get cells."""
    missing = [True]
    with trio.fail_after(20):
        async with a_reactor() as reactor, trio.open_nursery() as nursery:

            async def start(memory_bytes: int | None) -> Cell:
                if missing[0]:
                    raise EngineMissing("the engine", "it is not installed")
                return await cells.start(plan, reactor)

            pool = Pool("quickjs", start, ByDemand(4, 300.0), runs_per_cell=100, max_age_s=60.0, forks=False)
            await nursery.start(pool.serve)
            with pytest.raises(EngineMissing):
                await take(pool)
            for memory_bytes in (None, 1 << 27):
                taken: list[object] = []
                assert pool.take(taken.append, memory_bytes=memory_bytes) is None
                assert [type(error) for error in taken] == [EngineMissing]
            missing[0] = False
            while not pool.counts().blank:
                await trio.sleep(0.01)
            pool.give(await take(pool))
            nursery.cancel_scope.cancel()


async def test_an_error_while_closing_a_cell_does_not_affect_others(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A close that fails, as on a host without threads or descriptors, is logged, and the pool continues."""
    async with _a_pool([plan]) as pool:
        first = await take(pool)
        close = first.close

        async def fail() -> None:
            await close()
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(first, "close", fail)
        first.retire()
        pool.give(first)
        second = await take(pool)
        assert second is not first
        pool.give(second)
