"""What every handler works with: the store, the pool, the scheduler, the settings, the counters. No I/O of its own."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable

import trio

from promptlogd.client import Client
from promptlogd.config import Config
from promptlogd.scheduler import Busy, Late, Scheduler, Slot
from promptlogd.store import Store
from promptlogd.wire.messages import ErrorCode
from sandbox.cells import Job, Trial
from sandbox.cells.job import Engine
from sandbox.demand import DemandPool
from sandbox.errors import CellLost, CellStartError
from sandbox.limits import MIB
from sandbox.outcome import LogLine
from sandbox.pool import Pool
from sandbox.root import DenoMissing, RootError

CELL_WAIT_S = 15.0
_AFTER_MS: dict[Engine, float] = {"quickjs": 0.0, "deno": 20.0}
"""What it costs to make a cell ready again after a run, for the scheduler."""

_NEW_CELL_MS = 20.0
"""What it costs to replace one: by whoever wanted it fresh, or left it of no more use."""

_MOST_BYTES_PER_CHARACTER = 4
"""Of a Python str that has an emoji in it."""


class RequestError(Exception):
    """The request can't be done: becomes an `error` reply with this code."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        detail: dict[str, str | int | float | list[str] | None] | None = None,
    ) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message
        self.detail = detail


class _Hold:
    """A run's slot, until it may be given back."""

    def __init__(self, scheduler: Scheduler, slot: Slot, client: Client) -> None:
        self._scheduler = scheduler
        self._slot = slot
        self._client = client
        self.cost_ms = 0.0
        """CPU time of the run, and of what it leaves to be done."""
        self.passed_on = False
        """Whether the pool gives it back."""

    def release(self) -> None:
        """Give the slot back. Once only."""
        self._scheduler.release(self._slot, self.cost_ms)
        if self._client.gone:
            self._scheduler.forget(self._client.number, self._client.process)


class Services:
    """One daemon's working parts, made by `server`."""

    def __init__(
        self,
        *,
        config: Config,
        store: Store,
        pool: Pool,
        deno: DemandPool,
        held_by: dict[str, str],
        jail_uids: str,
    ) -> None:
        self.config = config
        self.store = store
        self.pools: dict[Engine, Pool | DemandPool] = {"quickjs": pool, "deno": deno}
        self.scheduler = Scheduler(concurrent=config.concurrent, queue=config.scheduler.queue)
        self.held_by = held_by
        self.jail_uids = jail_uids
        self._default_memory_bytes = {engine: config.default_limits(engine).memory_bytes for engine in self.pools}
        self.started_at = trio.current_time()
        self.clients = 0
        self.draining = False
        self.unanswered = 0
        """Requests that were begun and have no reply yet."""
        self.unsent: set[int] = set()
        """Numbers of the clients that replies wait for."""
        self._idle = trio.Event()
        self.kept = trio.Event()
        """Set when a program was kept, and the store may make ready for the next."""
        self._waiting_bytes = 0
        self.runs: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    def wake_if_idle(self) -> None:
        """Wake `wait_idle` if nothing is in progress. Called where a request ends, or replies have gone out."""
        if not self.unanswered and not self.unsent:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until all requests are answered, and all replies have gone out."""
        while self.unanswered or self.unsent:
            self._idle = trio.Event()
            await self._idle.wait()

    async def execute(
        self,
        job: Job,
        trial: Trial,
        *,
        client: Client,
        fresh: bool = False,
        on_log: Callable[[LogLine], None] | None = None,
    ) -> None:
        """Give the job its turn and a cell; a cell that is found dead before it began is replaced by another.

        Raises RequestError: busy, or internal where no cell can be had.
        """
        after_ms = _AFTER_MS[job.engine] + (_NEW_CELL_MS if fresh else 0.0)
        if not client.known:
            client.known = True
            self.scheduler.inherit(client.number, client.process)
        slot = await self._turn(client, job, after_ms)
        while not client.has_room():
            # A client that does not read gets no more to read, and holds no slot meanwhile.
            self.scheduler.release(slot, 0.0)
            await client.wait_for_room()
            slot = await self._turn(client, job, after_ms)
        hold = _Hold(self.scheduler, slot, client)
        try:
            await self._in_a_cell(job, trial, hold, fresh=fresh, on_log=on_log)
        finally:
            if not hold.passed_on:
                hold.release()

    async def _turn(self, client: Client, job: Job, after_ms: float) -> Slot:
        slot = self.scheduler.acquire_nowait(client.number, after_ms)
        if slot is not None:
            return slot
        held = _held_bytes(job)
        if self._waiting_bytes + held > self.config.scheduler.queue_mb * MIB:
            waiting_mb = self._waiting_bytes / MIB
            raise RequestError("busy", f"the runs that wait hold {waiting_mb:.0f} MiB already; try again in a moment")
        self._waiting_bytes += held
        try:
            return await self.scheduler.acquire(client.number, after_ms)
        except Busy as error:
            raise RequestError("busy", str(error)) from None
        except Late:
            message = f"waited {self.config.scheduler.wait_s:g} s for a turn; try again"
            raise RequestError("busy", message) from None
        finally:
            self._waiting_bytes -= held

    async def _in_a_cell(
        self, job: Job, trial: Trial, hold: _Hold, *, fresh: bool, on_log: Callable[[LogLine], None] | None
    ) -> None:
        pool = self.pools[job.engine]
        memory_bytes = job.limits.memory_bytes
        odd = None if memory_bytes == self._default_memory_bytes[job.engine] else memory_bytes
        give_up_at = trio.current_time() + CELL_WAIT_S
        # A cell that is lost was never handed the run. A host in trouble may have any number of such.
        while trio.current_time() < give_up_at:
            cell = pool.take_nowait(fresh=fresh, memory_bytes=odd)
            if cell is None:
                try:
                    with trio.fail_after(CELL_WAIT_S):
                        cell = await pool.take(fresh=fresh, memory_bytes=odd)
                except trio.TooSlowError:
                    raise RequestError("internal", "no cell became ready; see the daemon's log") from None
                except DenoMissing as error:
                    raise RequestError("unsupported", f"{error.what}: {error.why}") from None
                except (CellStartError, RootError) as error:
                    raise RequestError("internal", str(error)) from None
            lost = False
            try:
                await cell.run(job, trial, on_log=on_log, alone=self.scheduler.running == 1)
            except CellLost:
                lost = True
            finally:
                spent = not lost and (fresh or not cell.usable)
                if not lost:
                    hold.cost_ms = trial.usage.cpu_ms + (_NEW_CELL_MS if spent else 0.0)
                if isinstance(pool, Pool) and spent:
                    # Who spends cells gets no turns faster than cells are replaced.
                    hold.passed_on = True
                    pool.give(cell, fresh=fresh, replaced=hold.release)  # type: ignore[arg-type]  # it is this pool's own
                else:
                    pool.give(cell, fresh=fresh)  # type: ignore[arg-type]
            if not lost:
                return
        raise RequestError("internal", "several cells in a row were lost; see the daemon's log")


def _held_bytes(job: Job) -> int:
    """Return what a run that waits holds of the daemon's memory at the most: its texts, and the request it came in."""
    request = 0 if job.kind == "run" else _MOST_BYTES_PER_CHARACTER * len(job.code)
    return request + len(job.code) + sys.getsizeof(job.prompt) + sys.getsizeof(job.env)
