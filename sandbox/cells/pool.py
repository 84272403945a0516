"""Keeps blank cells of one engine ready, lends them, and replaces them. Independent of clients.

More than 300 lines, because keeping and lending work on the same sets of cells.
"""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from sandbox.cells.cell import Cell
from sandbox.cells.lending import PoolCounts, StartError, Taken, Waiter
from sandbox.cells.policy import Policy
from sandbox.errors import CellStartError
from sandbox.jail.root import EngineMissing, RootError
from sandbox.program import Engine

_log = logging.getLogger(__name__)

_STARTS = len(os.sched_getaffinity(0))
"""Maximum number of cells that start at the same time for the pool, and the same for single runs. It is the number of
cores, because a start only computes. Worn cells are replaced one after the other. The server's `StartCell` limits the
starts of all pools together."""

_WORN_TIMES = 2
"""A worn cell continues until its replacement is ready, or until it has executed this many times `runs_per_cell`."""

_WAIT_S = 15.0
"""Time limit for a run with a slot to wait for a cell. It waits longer only if cells do not start."""

_BACKOFF_S = (0.05, 0.2, 1.0, 5.0)
"""Back-off: delay after one, two, three or more failed starts in a row."""

_CLOSE_S = 4.0
_LOOK_S = 1.0
"""Interval of checks for overdue waiters, and for cells that are too old or too many."""

StartCell = Callable[[int | None], Awaitable[Cell]]
"""Starts a cell with this memory in bytes, or with the default. Raises CellStartError or RootError."""


async def _ignore(error: StartError) -> None:
    """Placeholder for `on_failure`."""


class Pool:
    """Cells of one engine. `serve` maintains them; `take` lends one."""

    def __init__(
        self, engine: Engine, start: StartCell, policy: Policy, *, runs_per_cell: int, max_age_s: float, forks: bool
    ) -> None:
        """`forks`: see `EngineSpec`. If false, each cell is started with the memory limit of its runs."""
        self._engine = engine
        self._start = start
        self._policy = policy
        self._runs_per_cell = runs_per_cell
        self._max_age_s = max_age_s
        self._forks = forks
        self._blank: deque[Cell] = deque()
        """Blank cells, in the order in which they became blank."""
        self._lent: set[Cell] = set()
        self._resting: set[Cell] = set()
        """Returned cells that are not blank yet."""
        self._kept: set[Cell] = set()
        """Cells that are replaced when they are retired."""
        self._worn: set[Cell] = set()
        """Cells of `_kept` that are retired after they are replaced, so that enough cells are left after many failed
        runs."""
        self._special: set[Cell] = set()
        """Cells that were started for one run each: fresh, or with another memory limit."""
        self._waiters: deque[Waiter] = deque()
        self._orders: deque[tuple[Waiter, int | None]] = deque()
        """Waiters for a cell that is started for one run, with its memory limit in bytes (None: the default)."""
        self._starting = 0
        self._starting_special = 0
        self._broken: RootError | None = None
        """The reason why no cell can start, if known. The pool keeps trying."""
        self.waiting: Callable[[], int] = lambda: 0
        """Returns the number of runs that could start if cells were ready, without runs that called `take`."""
        self.on_ready: Callable[[], None] = lambda: None
        """Called when `can_lend` or `is_last` may have changed."""
        self.on_failure: Callable[[StartError], Awaitable[None]] = _ignore
        """Called with the reason when cells do not start, so that waiting runs can be refused."""
        self._filled = False
        """Whether a pool of fixed size was filled once."""
        self._started = 0
        self._retired = 0
        self._failures = 0
        self._changed = trio.Event()
        self._now: Callable[[], float] = trio.current_time
        """Returns trio's time. `serve` replaces it by the method of trio's clock, which saves two calls."""

    def counts(self) -> PoolCounts:
        """Return the numbers of cells."""
        return PoolCounts(
            size=self._policy.target(trio.current_time()),
            blank=len(self._blank),
            busy=len(self._lent),
            started=self._started,
            retired=self._retired,
        )

    def can_lend(self) -> bool:
        """Whether `take` would call back at once, with a cell or the reason why there is none."""
        return bool(self._blank) or self._broken is not None

    def is_last(self) -> bool:
        """Whether only one cell is ready while others are in use.

        False until a pool is filled for the first time. False for a pool whose size follows demand: its cells restart
        slowly, so none of its clients is light.
        """
        return self._filled and len(self._blank) == 1 and bool(self._lent)

    def renew(self) -> None:
        """Replace all cells, each once its successor is ready, since new cells start in another way from now on."""
        self._worn.update(self._kept)
        self._changed.set()

    def want(self) -> None:
        """Note that a run waits for a cell: see `waiting`."""
        if self._policy.fixed:
            return
        self._policy.note(trio.current_time(), len(self._lent) + len(self._waiters) + self.waiting())
        self._changed.set()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Maintain the cells until cancelled. Reports started when the first cell is ready, if any are wanted.

        Raises CellStartError or RootError if the first cell does not start.
        """
        self._now = trio.lowlevel.current_clock().current_time
        try:
            async with trio.open_nursery() as nursery:
                if self._policy.target(trio.current_time()) > 0:
                    self._add(await self._start(None), nursery)
                task_status.started()
                while True:
                    self._changed = trio.Event()
                    self._keep(nursery)
                    by_demand = not self._policy.fixed and (self._blank or self._resting)
                    ages = self._waiters or self._orders or by_demand
                    with trio.move_on_after(_LOOK_S if ages else math.inf):
                        await self._changed.wait()
        finally:
            self._blank.clear()
            for waiter in [*self._waiters, *(waiter for waiter, _ in self._orders)]:
                self._serve_waiter(waiter, self._stopping)

    # --- lending ------------------------------------------------------------------------------------------------------

    def take(self, taken: Taken, *, fresh: bool = False, memory_bytes: int | None = None) -> Waiter | None:
        """Lend a cell. If one is ready, call `taken` and return None; otherwise return a Waiter and call `taken` later.

        `fresh`: a cell that executes only this run. `memory_bytes`: memory limit if not the default.
        """
        if not self._policy.fixed:
            self._policy.note(trio.current_time(), len(self._lent) + len(self._waiters) + 1)
        special_bytes = None if self._forks else memory_bytes
        if special_bytes is None and not self._waiters:
            cell = self._choose(fresh=fresh)
            if cell is not None:
                self._lend(cell)
                taken(cell)
                return None
        if self._broken is not None:
            self._changed.set()  # the pool tries again, even if it wanted no cell before
            taken(self._broken)
            return None
        waiter = Waiter(taken, trio.current_time() + _WAIT_S)
        if special_bytes is not None or fresh:
            self._orders.append((waiter, special_bytes))
        else:
            self._waiters.append(waiter)
        self._changed.set()
        return waiter

    def give(self, cell: Cell, *, fresh: bool = False) -> None:
        """Take back a lent cell. It is retired if it is worn and replaced, is broken, or was lent as fresh."""
        self._lent.discard(cell)
        if fresh or not cell.usable or cell in self._special or self._is_spent(cell):
            cell.retire()
            self._changed.set()
        else:
            if cell.blank:
                self._offer(cell)
            else:
                self._resting.add(cell)
            if not self._policy.fixed:
                self._changed.set()

    def _is_spent(self, cell: Cell) -> bool:
        """Whether to retire a cell that could execute more runs. If it is worn, have it replaced."""
        known = self._policy.fixed and cell in self._worn  # for example after `renew`
        worn = known or cell.runs >= self._runs_per_cell or self._now() - cell.started_at > self._max_age_s
        if worn and self._policy.fixed and cell not in self._worn:
            self._worn.add(cell)
            self._changed.set()
        most = _WORN_TIMES * self._runs_per_cell if self._runs_per_cell > 1 else 1
        return worn and (not self._policy.fixed or cell.runs >= most or self._surplus() > 0)

    def _surplus(self) -> int:
        """Return the number of surplus cells."""
        return sum(cell.usable for cell in self._kept) - self._policy.target(trio.current_time())

    def _choose(self, *, fresh: bool) -> Cell | None:
        """Return the most recently used cell, so that few are used and their memory stays in the CPU caches."""
        chosen: Cell | None = None
        for cell in reversed(self._blank):
            if cell.usable and cell.runs and not fresh:
                chosen = cell
                break
            if cell.usable and not cell.runs:
                chosen = cell  # if no cell was used: the unused one that has been blank for longest
        if chosen is not None:
            self._blank.remove(chosen)
        return chosen

    def _lend(self, cell: Cell) -> None:
        self._lent.add(cell)
        if not self._policy.fixed:
            self._changed.set()

    def _offer(self, cell: Cell) -> None:
        """Give a blank cell to the oldest waiter, or keep it."""
        self._resting.discard(cell)
        if not cell.usable:
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if waiter.taken is not None:
                self._lend(cell)
                waiter.taken(cell)
                return
        self._blank.append(cell)
        if len(self._blank) <= 2:
            self.on_ready()

    def _serve_waiter(self, waiter: Waiter, error: StartError) -> None:
        taken, waiter.taken = waiter.taken, None
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        if taken is not None:
            taken(error)

    @property
    def _stopping(self) -> CellStartError:
        return CellStartError(self._engine, "the daemon is stopping")

    # --- keeping ------------------------------------------------------------------------------------------------------

    def _keep(self, nursery: trio.Nursery) -> None:
        """Start missing cells, and retire surplus and old ones."""
        now = trio.current_time()
        for waiter in [*self._waiters, *(waiter for waiter, _ in self._orders)]:
            if waiter.until <= now:
                self._serve_waiter(waiter, CellStartError(self._engine, f"no cell became ready within {_WAIT_S:g} s"))
        self._waiters = deque(waiter for waiter in self._waiters if waiter.taken is not None)
        self._orders = deque(order for order in self._orders if order[0].taken is not None)
        while self._orders and self._starting_special < _STARTS:
            waiter, memory_bytes = self._orders.popleft()
            self._starting_special += 1
            waiter.start_begins()
            nursery.start_soon(self._start_for, waiter, memory_bytes, nursery)
        if not self._policy.fixed:  # otherwise a cell is retired when it is returned
            for cell in [cell for cell in self._blank if now - cell.started_at > self._max_age_s]:
                cell.retire()
        target = self._policy.target(now)
        for cell in [cell for cell in self._blank if cell in self._worn][: max(0, self._surplus())]:
            self._blank.remove(cell)
            cell.retire()
        usable = [cell for cell in self._blank if cell.usable]
        for cell in usable[: max(0, len(usable) - target)]:
            cell.retire()
        lent = sum(cell.usable for cell in self._lent - self._special)
        present = len(usable) + len(self._resting) + lent
        lasting = present + self._starting - sum(cell.usable for cell in self._worn)
        # Waiters have slots, so their number is bounded.
        wanted = target if self._policy.fixed else max(target, lent + len(self._waiters) + self.waiting())
        # Cells that are used together wear out together. They continue until they are replaced. So they are replaced
        # one after the other, because a start takes CPU time from the runs. Only missing cells start together.
        most_starts = min(_STARTS, max(1, wanted - present))
        while self._starting < most_starts and lasting < wanted:
            self._starting += 1
            lasting += 1
            nursery.start_soon(self._start_one, nursery)

    async def _start_one(self, nursery: trio.Nursery) -> None:
        try:
            cell = await self._start(None)
        except (CellStartError, RootError) as error:
            await self._failed(error)
        else:
            self._failures = 0
            self._broken = None
            self._add(cell, nursery)
        finally:
            self._starting -= 1
            self._changed.set()

    async def _failed(self, error: StartError) -> None:
        """Back off. Waiters get the error after two failures in a row, because one failure may concern only one
        cell."""
        delay = _BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)]
        self._failures += 1
        if not isinstance(error, EngineMissing):
            _log.error("%s; next try in %g s", error, delay)
        if isinstance(error, RootError):
            self._broken = error.with_traceback(None)
        if self._failures > 1 or self._broken is not None:
            for waiter in list(self._waiters):
                self._serve_waiter(waiter, error)
            await self.on_failure(error)
        await trio.sleep(delay)

    def _add(self, cell: Cell, nursery: trio.Nursery) -> None:
        """Add a started cell to the pool."""
        self._started += 1
        self._filled = self._policy.fixed and self._started >= self._policy.target(cell.started_at)
        self._kept.add(cell)
        cell.on_blank = lambda: self._blank_again(cell)
        nursery.start_soon(self._until_retired, cell)
        self._offer(cell)

    def _blank_again(self, cell: Cell) -> None:
        if cell in self._resting:  # otherwise it is still lent, and `give` takes it back
            self._offer(cell)

    async def _start_for(self, waiter: Waiter, memory_bytes: int | None, nursery: trio.Nursery) -> None:
        """Start a cell for one run."""
        try:
            try:
                cell = await self._start(memory_bytes)
            except CellStartError as error:
                _log.warning("%s; trying once more", error)
                cell = await self._start(memory_bytes)
        except (CellStartError, RootError) as error:
            self._serve_waiter(waiter, error)
            return
        except trio.Cancelled:
            self._serve_waiter(waiter, self._stopping)
            raise
        finally:
            self._starting_special -= 1
            self._changed.set()
            waiter.start_ended()
        self._started += 1
        self._special.add(cell)
        nursery.start_soon(self._until_retired, cell)
        taken, waiter.taken = waiter.taken, None
        if taken is None:
            cell.retire()
        else:
            self._lent.add(cell)
            taken(cell)

    async def _until_retired(self, cell: Cell) -> None:
        """Wait until a cell is retired, or its jail has ended; then close it."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch_jail, cell)
                await cell.retired.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._retired += 1
            if cell in self._blank:
                self._blank.remove(cell)
            self._resting.discard(cell)
            self._kept.discard(cell)
            self._worn.discard(cell)
            self._changed.set()
            try:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_S):
                    await cell.close()
            except Exception:
                _log.exception("closing a cell failed")  # it must not affect the other cells
            self._special.discard(cell)


async def _watch_jail(cell: Cell) -> None:
    await cell.process.wait()
    cell.retire()
