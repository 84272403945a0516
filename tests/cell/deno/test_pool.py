"""The pool of Deno cells: kept by demand, replaced when they die, lent again when nothing ran."""

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


async def test_the_pool_keeps_none_until_one_is_wanted(plan: Plan) -> None:
    """Nothing is started before the first request; then as many as were wanted at once; after a while none."""
    asked: list[int | None] = []
    async with a_pool([plan], asked=asked, idle_s=1.0, runs_per_cell=3) as pool:
        await wait_all_tasks_blocked()
        assert asked == []  # to ask is what each start begins with
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


async def test_the_last_cell_that_is_given_back_is_ended_as_well(plan: Plan) -> None:
    """A cell that becomes blank only after it was given back, with no other beside it, does not stay for ever."""
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
    """Return the nsjails that this process has started, with the one process in each."""
    return [(nsjail, pid) for nsjail in children(os.getpid()) if _is_nsjail(nsjail) for pid in children(nsjail)]


def _is_nsjail(pid: int) -> bool:
    return b"nsjail" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]


async def test_the_pool_bears_cells_that_die_blank(plan: Plan) -> None:
    """A blank process, or its nsjail, killed while it waits: another takes its place, and runs go on."""
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
                with suppress(CellLost):  # the dead ones are found by who takes them, and replaced
                    await run_on(cell, "return 1")
                pool.give(cell)


@pytest.mark.parametrize("fresh", [False, True])
async def test_a_cell_killed_while_it_starts_is_not_the_waiters_affair(
    plan: Plan, tmp_path: Path, *, fresh: bool
) -> None:
    """Who waits gets the next one; only if that does not start either, the reason."""
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
            for _ in range(3):  # one or two may have been started before
                pool.give(await take(pool, fresh=fresh), fresh=True)

        with pytest.raises(CellStartError, match="did not start"):
            await take_all()


async def test_a_run_cancelled_before_it_began_costs_no_cell(plan: Plan) -> None:
    """The cell is blank still, and the next run has it at once."""
    async with a_pool([plan], blank=1) as pool:
        cell = await take(pool)
        pool.give(cell)
        with trio.fail_after(3):
            again = await take(pool)
            assert again is cell
            assert value_of(await run_on(again, "return 2")) == 2
            pool.give(again)


async def test_cells_in_use_do_not_count_as_blank(plan: Plan) -> None:
    """Where few blank cells are kept, who waits gets one of their own, however long the others run."""
    async with a_pool([plan], blank=1) as pool:
        with trio.fail_after(10):
            cells = [await take(pool) for _ in range(3)]
            for cell in cells:
                pool.give(cell)
            while pool.counts().blank != 1:
                await trio.sleep(0.02)


async def test_cells_are_closed_side_by_side(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a pool ends, cells that were lent are closed all at once, since each may take its time to end."""
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
