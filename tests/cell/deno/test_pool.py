"""The pool of Deno cells starts cells on demand, replaces dead ones, and lends unused ones again."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from sandbox.cells.plan import Plan
from sandbox.engines.deno.host.cell import DenoCell
from sandbox.errors import CellLost, CellStartError
from tests.cell.cells import run_on, take
from tests.cell.deno.cells import a_pool, kill_process, value_of
from tests.daemon.processes import children, is_alive


async def test_the_pool_starts_cells_only_on_demand(plan: Plan) -> None:
    """The pool starts no cell before the first request, then as many as are used at once, and ends idle ones."""
    asked: list[int | None] = []
    async with a_pool([plan], asked=asked, idle_s=1.0, runs_per_cell=3) as pool:
        await wait_all_tasks_blocked()
        assert asked == []  # each start first appends to this list
        for number in range(7):
            cell = await take(pool)
            assert value_of(await run_on(cell, f"return {number}")) == number
            pool.give(cell)
        fresh = await take(pool, fresh=True)
        assert fresh.runs == 0
        pool.give(fresh, fresh=True)
        while pool.counts().blank != 0 or pool.counts().size != 0:
            await trio.sleep(0.1)
        assert 3 <= pool.counts().started <= 8
        assert asked


async def test_the_last_returned_cell_is_ended_when_idle(plan: Plan) -> None:
    """A cell that becomes blank after it was returned also ends when idle, even if it is the only one."""
    async with a_pool([plan], blank=1, idle_s=0.5) as pool:
        cell = await take(pool)
        assert value_of(await run_on(cell, "return 1")) == 1
        assert not cell.blank
        pool.give(cell)
        while pool.counts().blank == 0:
            await trio.sleep(0.01)
        while pool.counts().blank != 0:
            await trio.sleep(0.1)
        assert pool.counts().size == 0


def _jails() -> list[tuple[int, int]]:
    """Return the nsjails that this process has started, each with its child."""
    return [(nsjail, pid) for nsjail in children(os.getpid()) if _is_nsjail(nsjail) for pid in children(nsjail)]


def _is_nsjail(pid: int) -> bool:
    return b"nsjail" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]


async def test_the_pool_replaces_cells_that_die_blank(plan: Plan) -> None:
    """If a blank process or its nsjail is killed, the pool replaces the cell, and runs continue."""
    async with a_pool([plan]) as pool:
        for kill_nsjail in (False, True, False):
            while True:
                cell = await take(pool)
                try:
                    assert value_of(await run_on(cell, "return 1")) == 1
                    break
                except CellLost:
                    continue
                finally:
                    pool.give(cell)
            while pool.counts().blank != pool.counts().size:
                await trio.sleep(0.01)
            started = pool.counts().started
            jails = _jails()
            assert len(jails) == pool.counts().blank
            for nsjail, pid in jails:
                await kill_process(nsjail, pid, nsjail=kill_nsjail)
        with trio.fail_after(5):
            while pool.counts().started == started:
                cell = await take(pool)
                with suppress(CellLost):  # taking a dead cell fails, and replaces it
                    await run_on(cell, "return 1")
                pool.give(cell)


@pytest.mark.parametrize("fresh", [False, True])
async def test_a_cell_killed_during_its_start_is_retried(plan: Plan, tmp_path: Path, *, fresh: bool) -> None:
    """A waiting run gets the next cell; it gets the error only if that one does not start either."""
    never, once = tmp_path / "never", tmp_path / "once"
    never.write_text("#!/bin/sh\nkill -9 $$\n")
    hit = tmp_path / "hit"
    once.write_text(f'#!/bin/sh\n[ -e {hit} ] || {{ : > {hit}; kill -9 $$; }}\nexec {plan.executable} "$@"\n')
    never.chmod(0o755)
    once.chmod(0o755)
    plans = [msgspec.structs.replace(plan, executable=once)]
    async with a_pool(plans, blank=1) as pool:
        cell = await take(pool, fresh=fresh)
        assert value_of(await run_on(cell, "return 1")) == 1
        plans[0] = msgspec.structs.replace(plan, executable=never)
        pool.give(cell, fresh=True)

        async def take_all() -> None:
            for _ in range(3):  # one or two may have been started earlier
                pool.give(await take(pool, fresh=fresh), fresh=True)

        with pytest.raises(CellStartError, match="did not start"):
            await take_all()


async def test_a_run_cancelled_before_its_start_keeps_the_cell(plan: Plan) -> None:
    """The cell is still blank, and the next run gets it at once."""
    async with a_pool([plan], blank=1) as pool:
        cell = await take(pool)
        pool.give(cell)
        with trio.fail_after(3):
            again = await take(pool)
            assert again is cell
            assert value_of(await run_on(again, "return 2")) == 2
            pool.give(again)


async def test_cells_in_use_do_not_count_as_blank(plan: Plan) -> None:
    """If few blank cells are kept, a waiting run gets a new cell, however long other runs take."""
    async with a_pool([plan], blank=1) as pool:
        with trio.fail_after(10):
            cells = [await take(pool) for _ in range(3)]
            for cell in cells:
                pool.give(cell)
            while pool.counts().blank != 1:
                await trio.sleep(0.02)


async def test_cells_are_closed_concurrently(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a pool ends, it closes lent cells at the same time, because each may take a while to end."""
    closing, most = 0, 0
    close = DenoCell.close

    async def counted(cell: DenoCell) -> None:
        nonlocal closing, most
        closing += 1
        most = max(most, closing)
        await close(cell)
        closing -= 1

    async with a_pool([plan]) as pool:
        cells = [await take(pool, fresh=True) for _ in range(3)]
        monkeypatch.setattr(DenoCell, "close", counted)
    assert (closing, most >= len(cells)) == (0, True)
    assert not any(is_alive(cell.process.pid) for cell in cells)
