"""Deno cells and their pool for the length of a block, and runs on them."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from sandbox.cells import deno
from sandbox.cells.deno import DenoCell
from sandbox.cells.job import Job, Plan, Trial
from sandbox.cells.process import only_child
from sandbox.demand import DemandPool
from sandbox.limits import Limits
from sandbox.outcome import LogLine, Ok


@asynccontextmanager
async def a_cell(plan: Plan) -> AsyncIterator[DenoCell]:
    """A cell for the length of a block."""
    cell = await deno.start(plan)
    try:
        yield cell
    finally:
        await cell.close()


async def run_on(
    cell: DenoCell,
    source: str,
    *,
    kind: Any = "source",
    language: Any = "javascript",
    on_log: Callable[[LogLine], None] | None = None,
    **limits: int,
) -> Trial:
    """Run this source there; a machine that others keep busy has time for it, if no wall limit is given."""
    trial = Trial()
    limits.setdefault("wall_ms", 60_000)
    with trio.fail_after(90):
        job = Job(kind=kind, code=source.encode(), language=language, limits=Limits(**limits))
        await cell.run(job, trial, on_log=on_log)
    return trial


def value_of(trial: Trial) -> Any:
    """Return what the program returned."""
    assert isinstance(trial.outcome, Ok), trial.outcome
    return msgspec.json.decode(trial.outcome.value)


async def kill_blank(cell: DenoCell, *, nsjail: bool = False) -> None:
    """Kill the process that waits in a blank cell, or its nsjail, and wait until that process has ended."""
    await kill_process(cell.process.pid, only_child(cell.process.pid), nsjail=nsjail)


async def kill_process(nsjail_pid: int, pid: int, *, nsjail: bool = False) -> None:
    """Kill a process in a jail, or its nsjail, and wait until that process has ended."""
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
    plans: list[Plan], *, asked: list[int | None] | None = None, **settings: Any
) -> AsyncIterator[DemandPool]:
    """A pool for the length of a block, at the most 30 s; its cells are started by the first of the plans.

    `asked`: gets an entry, the memory that was asked for, whenever the pool asks how to start a cell.
    """

    async def make(memory_bytes: int | None) -> Plan:
        if asked is not None:
            asked.append(memory_bytes)
        return plans[0]

    pool = DemandPool(make, **{"blank": 2, "idle_s": 60.0, "max_age_s": 60.0, "runs_per_cell": 100, **settings})
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.serve)
            yield pool
            nursery.cancel_scope.cancel()
