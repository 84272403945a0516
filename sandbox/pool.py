"""Keep blank cells ready, hand them out, replace them. Knows nothing of who asks."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

import msgspec
import trio

from sandbox.cells import quickjs as cells
from sandbox.cells.job import Plan
from sandbox.cells.quickjs import QuickJSCell as Cell
from sandbox.errors import CellStartError
from sandbox.upkeep import backoff_s, until_retired

_log = logging.getLogger(__name__)
_REFORK_S = 0.0005
"""A cell that was given back so long ago has its next child forked and warm."""


class PoolCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Cells wanted, ready, handed out; started and retired since the start."""

    size: int
    blank: int
    busy: int
    started: int
    retired: int


class Pool:
    """A fixed number of cells of one engine. `serve` keeps them; `take` lends one."""

    def __init__(
        self, plan: Plan, *, size: int, runs_per_cell: int, max_age_s: float, in_use: int | None = None
    ) -> None:
        """`in_use`: with so many cells that have run something, no more are put to use."""
        self.plan = plan
        self._in_use = in_use or size
        self._size = size
        self._runs_per_cell = runs_per_cell
        self._max_age_s = max_age_s
        self._unused: deque[Cell] = deque()
        self._worked: deque[Cell] = deque()
        self._waiters = trio.lowlevel.ParkingLot()
        self._lent: set[Cell] = set()
        self._kept: set[Cell] = set()
        self._to_tell: dict[Cell, Callable[[], None]] = {}
        self._started = 0
        self._retired = 0

    def counts(self) -> PoolCounts:
        """Return how the pool stands."""
        return PoolCounts(
            size=self._size,
            blank=len(self._unused) + len(self._worked),
            busy=len(self._lent),
            started=self._started,
            retired=self._retired,
        )

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the cells until cancelled; started once the first one is ready. Raises CellStartError if it isn't."""
        first = await cells.start(self.plan)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep, first)
                for _ in range(self._size - 1):
                    nursery.start_soon(self._keep, None)
                task_status.started()
        finally:
            self._unused.clear()
            self._worked.clear()

    async def _keep(self, cell: Cell | None) -> None:
        """Keep one cell there, whatever happens to each."""
        failures = 0
        tell: Callable[[], None] | None = None
        while True:
            if cell is None:
                try:
                    cell = await cells.start(self.plan)
                    failures = 0
                except CellStartError as error:
                    if tell is not None:
                        tell()
                        tell = None
                    delay = backoff_s(failures)
                    failures += 1
                    _log.error("%s; next try in %g s", error, delay)
                    await trio.sleep(delay)
                    continue
            self._started += 1
            self._kept.add(cell)
            self._offer(cell)
            if tell is not None:
                tell()
            try:
                await until_retired(cell)
            finally:
                self._retired += 1
                self._kept.discard(cell)
                tell = self._to_tell.pop(cell, None)
                for blank in (self._unused, self._worked):
                    if cell in blank:
                        blank.remove(cell)
                await cell.close()
            cell = None

    def _offer(self, cell: Cell) -> None:
        cell.idle_since = trio.current_time()
        (self._worked if cell.runs else self._unused).append(cell)
        self._waiters.unpark()

    def give(self, cell: Cell, *, fresh: bool = False, replaced: Callable[[], None] | None = None) -> None:
        """Take back a cell that was lent, or retire it if it is worn, broken, or was lent as fresh.

        `replaced` is called once: when there is another in its place, or the start of that has failed.
        """
        self._lent.discard(cell)
        worn = cell.runs >= self._runs_per_cell or trio.current_time() - cell.started_at > self._max_age_s
        if fresh or worn or not cell.usable:
            if replaced is not None and cell in self._kept:
                self._to_tell[cell] = replaced
                replaced = None
            cell.retire()
        else:
            self._offer(cell)
        if replaced is not None:
            replaced()

    def take_nowait(self, *, fresh: bool = False, memory_bytes: int | None = None) -> Cell | None:
        """Lend a cell if one is ready. `fresh`: one that never ran anything, and never will again.

        `memory_bytes` is the child's affair, not the cell's.
        """
        while True:
            cell = self._choose_fresh() if fresh else self._choose()
            if cell is None:
                return None
            if cell.usable:
                self._lent.add(cell)
                return cell

    async def take(self, *, fresh: bool = False, memory_bytes: int | None = None) -> Cell:
        """Lend a cell, waiting for one if need be."""
        while (cell := self.take_nowait(fresh=fresh)) is None:
            await self._waiters.park()
        return cell

    def _choose(self) -> Cell | None:
        """Return the cell with the warmest caches whose next child is ready; an unused one only if too few are in use.

        A run in a cell that another core, or nobody for long, has run costs a tenth more.
        """
        worked = self._worked
        ready_since = trio.current_time() - _REFORK_S
        for at in range(len(worked) - 1, -1, -1):
            if worked[at].idle_since <= ready_since:
                cell = worked[at]
                del worked[at]
                return cell
        if self._unused and (not worked or len(worked) + len(self._lent) < self._in_use):
            return self._unused.popleft()
        return worked.popleft() if worked else None

    def _choose_fresh(self) -> Cell | None:
        if self._unused:
            return self._unused.popleft()
        if self._worked:
            self._worked.popleft().retire()  # and a new one takes its place
        return None
