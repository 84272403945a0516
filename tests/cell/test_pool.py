"""The pool of QuickJS cells: who gives a spent one back is told once there is another in its place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from sandbox.cells.job import Job, Plan, Trial
from sandbox.limits import Limits
from sandbox.outcome import CpuLimit
from sandbox.pool import Pool


@asynccontextmanager
async def _a_pool(plan: Plan) -> AsyncIterator[Pool]:
    """A pool of one cell for the length of a block, at the most 20 s."""
    pool = Pool(plan, size=1, runs_per_cell=100, max_age_s=60.0)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.serve)
            yield pool
            nursery.cancel_scope.cancel()


async def test_a_cell_that_goes_on_needs_no_other(plan: Plan) -> None:
    """Its return is told at once."""
    told: list[int] = []
    async with _a_pool(plan) as pool:
        pool.give(await pool.take(), replaced=lambda: told.append(pool.counts().started))
        assert told == [1]


@pytest.mark.parametrize("how", ["fresh", "spent", "dead"])
async def test_a_spent_cell_is_told_when_it_is_replaced(plan: Plan, how: str) -> None:
    """Not before another is ready; for one that died before it was given back as well, and once only."""
    told = trio.Event()
    counts: list[tuple[int, int]] = []

    def tell() -> None:
        counts.append((pool.counts().started, pool.counts().blank))
        told.set()

    async with _a_pool(plan) as pool:
        cell = await pool.take(fresh=how == "fresh")
        if how == "spent":
            trial = Trial()
            await cell.run(Job(kind="source", code=b"for (;;) {}", limits=Limits(wall_ms=15_000)), trial)
            assert isinstance(trial.outcome, CpuLimit)
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
    async with _a_pool(plan) as pool:
        cell = await pool.take()
        pool.plan = msgspec.structs.replace(plan, executable=plan.folder / "no-such-nsjail")
        cell.retire()
        pool.give(cell, replaced=told.set)
        await told.wait()
        assert pool.counts().started == 1
