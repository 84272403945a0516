"""Keep blank cells of an engine that can't fork: after a run a cell takes 20 ms to be blank again. None if nobody asks.

The first request makes the jail's root and starts the first cells. From then on as many blank ones are kept as were
wanted at once lately, up to a bound; after a while without a run they are ended. Knows nothing of who asks.
"""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from sandbox.cells import deno
from sandbox.cells.deno import DenoCell
from sandbox.cells.job import Plan
from sandbox.errors import CellStartError
from sandbox.pool import PoolCounts
from sandbox.root import DenoMissing, RootError
from sandbox.upkeep import backoff_s, until_retired

_log = logging.getLogger(__name__)
_WINDOW_S = 10.0
"""How long it is remembered how many cells were wanted at once."""

_STARTS = 2 * len(os.sched_getaffinity(0))
"""Cells that start at once: a start is all CPU time."""

MakePlan = Callable[[int | None], Awaitable[Plan]]
"""How to start a cell with so much memory in bytes, or the default's. Raises RootError."""


class DemandPool:
    """Cells for one run each. `serve` keeps them; `take` lends one."""

    def __init__(self, make_plan: MakePlan, *, blank: int, idle_s: float, max_age_s: float, runs_per_cell: int) -> None:
        """`blank`: as many at the most; `idle_s`: without a run for so long they are ended."""
        self._make_plan = make_plan
        self._runs_per_cell = runs_per_cell
        self._most_blank = blank
        self._idle_s = idle_s
        self._max_age_s = max_age_s
        self._blank: deque[DenoCell] = deque()
        self._odd: set[DenoCell] = set()
        self._spent: list[DenoCell] = []
        self._used: list[DenoCell] = []
        self._lent: set[DenoCell] = set()
        self._waiting = 0
        self._waiters = trio.lowlevel.ParkingLot()
        self._starting = 0
        self._failures = 0
        self._failed: CellStartError | RootError | None = None
        self._wanted: deque[tuple[float, int]] = deque()
        self._asked_at = -math.inf
        self._changed = trio.Event()
        self._started = 0
        self._retired = 0

    def counts(self) -> PoolCounts:
        """Return how the pool stands."""
        return PoolCounts(
            size=self._target(),
            blank=len(self._blank),
            busy=len(self._lent),
            started=self._started,
            retired=self._retired,
        )

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the cells until cancelled."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            try:
                while True:
                    self._changed = trio.Event()
                    self._end_what_is_too_much()
                    while self._spent:
                        nursery.start_soon(self._spent.pop().close)
                    while self._used:
                        nursery.start_soon(self._renew, self._used.pop())
                    while self._starting < _STARTS and self._missing() > 0:
                        self._starting += 1
                        nursery.start_soon(self._live)
                    with trio.move_on_after(1.0 if self._blank else math.inf):
                        await self._changed.wait()
            finally:
                self._blank.clear()
                with trio.CancelScope(shield=True, deadline=trio.current_time() + deno.KILL_S):
                    async with trio.open_nursery() as closing:
                        for cell in [*self._spent, *self._odd]:
                            closing.start_soon(cell.close)

    def take_nowait(self, *, fresh: bool = False, memory_bytes: int | None = None) -> DenoCell | None:
        """Lend a blank cell if one is ready. `fresh`: one whose nsjail has run nothing, and never will again."""
        self._note()
        for cell in list(self._blank) if memory_bytes is None else ():
            if fresh and cell.runs:
                continue
            self._blank.remove(cell)
            if cell.usable:
                self._lent.add(cell)
                self._changed.set()
                return cell
        return None

    async def take(self, *, fresh: bool = False, memory_bytes: int | None = None) -> DenoCell:
        """Lend a blank cell, waiting for one if need be; a fresh one, or with other memory, is started for this.

        Raises RootError, or CellStartError if cells did not start twice in a row.
        """
        if memory_bytes is not None or fresh:
            plan = await self._make_plan(memory_bytes)
            try:
                cell = await deno.start(plan)
            except CellStartError as error:
                _log.warning("%s; once more", error)
                cell = await deno.start(plan)
            self._started += 1
            self._odd.add(cell)
            self._lent.add(cell)
            return cell
        self._waiting += 1
        self._failed = None
        try:
            while (found := self.take_nowait()) is None:
                if self._failed is not None:
                    raise self._failed
                self._changed.set()
                await self._waiters.park()
        finally:
            self._waiting -= 1
        return found

    def give(self, cell: DenoCell, *, fresh: bool = False) -> None:
        """Take back a cell that was lent. It may be wanted again, once its next process is ready."""
        self._lent.discard(cell)
        if cell in self._odd:
            self._odd.discard(cell)
            cell.retire()
            self._retired += 1
            self._spent.append(cell)
        elif fresh or cell.runs >= self._runs_per_cell or not cell.usable:
            cell.retire()
        elif cell.blank:  # whoever took it was cancelled before it began
            self._blank.append(cell)
            self._waiters.unpark()
        else:
            self._starting += 1
            self._used.append(cell)
        self._changed.set()

    def _note(self) -> None:
        """Remember how many cells are wanted now."""
        now = trio.current_time()
        self._asked_at = now
        wanted = len(self._lent) + self._waiting + 1
        while self._wanted and (self._wanted[-1][1] <= wanted or self._wanted[0][0] < now - _WINDOW_S):
            self._wanted.pop() if self._wanted[-1][1] <= wanted else self._wanted.popleft()
        self._wanted.append((now, wanted))

    def _target(self) -> int:
        """Return how many blank cells there should be now."""
        now = trio.current_time()
        if now - self._asked_at > self._idle_s:
            return 0
        while len(self._wanted) > 1 and self._wanted[0][0] < now - _WINDOW_S:
            self._wanted.popleft()
        return min(self._most_blank, self._wanted[0][1] if self._wanted else 1)

    def _missing(self) -> int:
        # Those who wait have a slot each, of which there is a bounded number.
        lent = len(self._lent)
        return max(self._target(), self._waiting + lent) - len(self._blank) - self._starting - lent

    def _end_what_is_too_much(self) -> None:
        oldest = trio.current_time() - self._max_age_s
        for cell in [cell for cell in self._blank if cell.started_at < oldest]:
            self._blank.remove(cell)
            cell.retire()
        while len(self._blank) > self._target():
            self._blank.popleft().retire()

    async def _live(self) -> None:
        """Start one cell, offer it, and end it when it is retired."""
        try:
            cell = await self._start()
        finally:
            self._starting -= 1
            self._changed.set()
        if cell is None:
            return
        self._started += 1
        self._blank.append(cell)
        self._waiters.unpark()
        try:
            await until_retired(cell)
        finally:
            self._retired += 1
            if cell in self._blank:
                self._blank.remove(cell)
            self._changed.set()
            await cell.close()

    async def _renew(self, cell: DenoCell) -> None:
        """Wait for the next process of a cell that has had a run, and offer it again."""
        try:
            await cell.ready()
        except Exception as error:  # no one cell may end the others
            _log.warning("%s", error or repr(error))
            cell.retire()
        finally:
            self._starting -= 1
            self._changed.set()
        if cell.usable:
            self._blank.append(cell)
            self._waiters.unpark()

    async def _start(self) -> DenoCell | None:
        try:
            cell = await deno.start(await self._make_plan(None))
        except (CellStartError, RootError) as error:
            delay = backoff_s(self._failures)
            self._failures += 1
            if not isinstance(error, DenoMissing):
                _log.error("%s; next try in %g s", error, delay)
            if self._failures > 1 or isinstance(error, RootError):
                self._failed = error
                self._waiters.unpark_all()
            await trio.sleep(delay)
            return None
        self._failures = 0
        self._failed = None
        return cell
