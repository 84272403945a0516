"""The pool of QuickJS cells: who gives a spent one back is told once there is another in its place."""

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
from sandbox.jail.root import EngineMissing
from sandbox.outcome import CpuLimit
from tests.cell.cells import a_reactor, run_on, take


@asynccontextmanager
async def _a_pool(plans: list[Plan]) -> AsyncIterator[Pool]:
    """A pool of one cell for the length of a block, at the most 20 s. Cells are started by the first of the plans."""
    with trio.fail_after(20):
        async with a_reactor() as reactor, trio.open_nursery() as nursery:

            async def start(memory_bytes: int | None) -> Cell:
                return await cells.start(plans[0], reactor)

            pool = Pool("quickjs", start, Steady(1), runs_per_cell=100, max_age_s=60.0, forks=True)
            await nursery.start(pool.serve)
            yield pool
            nursery.cancel_scope.cancel()


async def test_a_cell_that_goes_on_needs_no_other(plan: Plan) -> None:
    """Its return is told at once."""
    told: list[int] = []
    async with _a_pool([plan]) as pool:
        pool.give(await take(pool), replaced=lambda: told.append(pool.counts().started))
        assert told == [1]


@pytest.mark.parametrize("how", ["fresh", "spent", "dead"])
async def test_a_spent_cell_is_told_when_it_is_replaced(plan: Plan, how: str) -> None:
    """Not before another is ready; for one that died before it was given back as well, and once only."""
    told = trio.Event()
    counts: list[tuple[int, int]] = []

    def tell() -> None:
        counts.append((pool.counts().started, pool.counts().blank))
        told.set()

    async with _a_pool([plan]) as pool:
        cell = await take(pool, fresh=how == "fresh")
        if how == "spent":
            assert isinstance((await run_on(cell, "for (;;) {}")).outcome, CpuLimit)
        elif how == "dead":
            cell.process.kill()
            await cell.process.wait()
            while pool.counts().started < 2:
                await trio.lowlevel.checkpoint()
        pool.give(cell, fresh=how == "fresh", replaced=tell)
        assert bool(counts) == (how == "dead")
        await told.wait()
        assert counts == [(2, 1)]


async def test_a_replacement_that_does_not_start_is_told_as_well(plan: Plan) -> None:
    """Nobody waits for a cell that can't be had."""
    told = trio.Event()
    plans = [plan]
    async with _a_pool(plans) as pool:
        cell = await take(pool)
        plans[0] = msgspec.structs.replace(plan, executable=plan.folder / "no-such-nsjail")
        cell.retire()
        pool.give(cell, replaced=told.set)
        await told.wait()
        assert pool.counts().started == 1


async def test_a_missing_engine_is_told_at_once_until_it_is_there(plan: Plan) -> None:
    """The first run learns it from a start, the next ones at once; once a start succeeds, runs get cells."""
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


async def test_a_cell_that_can_not_be_closed_ends_no_other(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without threads or descriptors fails at a close, too: it is logged, and the pool goes on."""
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
