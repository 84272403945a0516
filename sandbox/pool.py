"""Keep blank cells ready, hand them out, replace them. Knows nothing of who asks."""

from __future__ import annotations

import logging
from collections import deque

import msgspec
import trio

from sandbox import cell as cells
from sandbox.cell import Cell, Plan
from sandbox.errors import CellStartError

_log = logging.getLogger(__name__)
LONG_S = 0.005
"""Wall time after which a run is a long one."""

_BACKOFF_S = (0.05, 0.2, 1.0, 5.0)


class PoolCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Cells wanted, ready, handed out; started and retired since the start."""

    size: int
    blank: int
    busy: int
    started: int
    retired: int


class Pool:
    """A fixed number of cells of one engine. `serve` keeps them; `take` lends one."""

    def __init__(self, plan: Plan, *, size: int, runs_per_cell: int, max_age_s: float) -> None:
        self.plan = plan
        self._size = size
        self._runs_per_cell = runs_per_cell
        self._max_age_s = max_age_s
        self._blank: deque[Cell] = deque()
        self._waiters = trio.lowlevel.ParkingLot()
        self._lent: set[Cell] = set()
        self._lending = trio.Event()
        self._started = 0
        self._retired = 0

    def counts(self) -> PoolCounts:
        """Return how the pool stands."""
        return PoolCounts(
            size=self._size, blank=len(self._blank), busy=len(self._lent), started=self._started, retired=self._retired
        )

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the cells until cancelled; started once the first one is ready. Raises CellStartError if it isn't."""
        first = await cells.start(self.plan)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_lent)
                nursery.start_soon(self._keep, first)
                for _ in range(self._size - 1):
                    nursery.start_soon(self._keep, None)
                task_status.started()
        finally:
            self._blank.clear()

    async def _watch_lent(self) -> None:
        """Let runs that go on for long give way to the rest."""
        while True:
            while self._lent:
                await trio.sleep(LONG_S)
                for cell in self._lent:
                    cell.yield_to_others(LONG_S)
            self._lending = trio.Event()
            await self._lending.wait()

    async def _keep(self, cell: Cell | None) -> None:
        """Keep one cell there, whatever happens to each."""
        failures = 0
        while True:
            if cell is None:
                try:
                    cell = await cells.start(self.plan)
                    failures = 0
                except CellStartError as error:
                    delay = _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]
                    failures += 1
                    _log.error("%s; next try in %g s", error, delay)
                    await trio.sleep(delay)
                    continue
            self._started += 1
            self._offer(cell)
            try:
                await self._until_retired(cell)
            finally:
                self._retired += 1
                if cell in self._blank:
                    self._blank.remove(cell)
                await cell.close()
            cell = None

    async def _until_retired(self, cell: Cell) -> None:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await cell.process.wait()
                cell.retire()

            nursery.start_soon(watch)
            await cell.retired.wait()
            nursery.cancel_scope.cancel()

    def _offer(self, cell: Cell) -> None:
        self._blank.append(cell)
        self._waiters.unpark()

    def give(self, cell: Cell, *, fresh: bool = False) -> None:
        """Take back a cell that was lent, or retire it if it is worn, broken, or was lent as fresh."""
        self._lent.discard(cell)
        worn = cell.runs >= self._runs_per_cell or trio.current_time() - cell.started_at > self._max_age_s
        if fresh or worn or not cell.usable:
            cell.retire()
        else:
            self._offer(cell)

    async def take(self, *, fresh: bool = False) -> Cell:
        """Lend a cell, waiting for one if need be. `fresh`: one that never ran anything, and never will again."""
        cell = await self._find(fresh=fresh)
        self._lent.add(cell)
        self._lending.set()
        return cell

    async def _find(self, *, fresh: bool) -> Cell:
        while True:
            for _ in range(len(self._blank)):
                # The one idle longest: its next child is forked and warm, the one used last may be at it still.
                cell = self._blank.popleft()
                if not cell.usable:
                    continue
                if not fresh or cell.runs == 0:
                    return cell
                self._blank.append(cell)
            if fresh and self._blank:
                self._blank.popleft().retire()
            await self._waiters.park()
