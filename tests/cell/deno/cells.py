"""Context managers that provide Deno cells and their pool, and functions that read results and kill processes."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from sandbox.cells.cell import Cell
from sandbox.cells.job import Result
from sandbox.cells.plan import Plan
from sandbox.cells.policy import ByDemand
from sandbox.cells.pool import Pool
from sandbox.cells.process import only_child
from sandbox.engines.deno.host import start as deno
from sandbox.engines.deno.host.cell import DenoCell
from sandbox.outcome import Ok
from tests.cell.cells import a_reactor, kept


@asynccontextmanager
async def a_cell(plan: Plan) -> AsyncIterator[DenoCell]:
    """Provide a Deno cell within a block."""
    async with kept(lambda reactor: deno.start(plan, reactor)) as cell:
        yield cell


def value_of(result: Result) -> Any:
    """Return the value that the program returned."""
    assert isinstance(result.outcome, Ok), result.outcome
    return msgspec.json.decode(result.outcome.value)


async def kill_blank(cell: DenoCell, *, nsjail: bool = False) -> None:
    """Kill the process of a blank cell, or its nsjail, and wait until that process has ended."""
    await kill_process(cell.process.pid, only_child(cell.process.pid), nsjail=nsjail)


async def kill_process(nsjail_pid: int, pid: int, *, nsjail: bool = False) -> None:
    """Kill a process in a jail, or its nsjail, and wait until the killed process has ended."""
    ended = os.pidfd_open(pid)
    try:
        os.kill(nsjail_pid if nsjail else pid, signal.SIGKILL)
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(ended)
    finally:
        trio.lowlevel.notify_closing(ended)
        os.close(ended)


@asynccontextmanager
async def a_pool(
    plans: list[Plan],
    *,
    asked: list[int | None] | None = None,
    blank: int = 2,
    idle_s: float = 60.0,
    runs_per_cell: int = 100,
) -> AsyncIterator[Pool]:
    """Provide a pool within a block, for at most 30 s. It starts cells with the first of the plans.

    Each time the pool starts a cell, it appends the requested memory to `asked`.
    """
    with trio.fail_after(30):
        async with a_reactor() as reactor, trio.open_nursery() as nursery:

            async def start(memory_bytes: int | None) -> Cell:
                if asked is not None:
                    asked.append(memory_bytes)
                return await deno.start(plans[0], reactor)

            pool = Pool(
                "deno",
                start,
                ByDemand(blank, idle_s),
                runs_per_cell=runs_per_cell,
                max_age_s=60.0,
                forks=False,
            )
            await nursery.start(pool.serve)
            yield pool
            nursery.cancel_scope.cancel()
