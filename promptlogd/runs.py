"""Carries each run from its request to its result: waits for a slot, takes a cell, executes the job.

Nothing here blocks: admission, the pool and the cell call back. A cancelled run ends at once, in any state.
More than 300 lines, because the whole life of a run is in one place.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Mapping
from functools import partial

import trio

from promptlogd.admission import SPECIAL, Admission
from promptlogd.principal import Principal
from promptlogd.principals import Ticket
from promptlogd.quotas import Quotas
from promptlogd.refusal import RequestError
from promptlogd.room import ALWAYS_ROOM, Room
from sandbox.cells.cell import Cell, OnLines
from sandbox.cells.job import Job, Result
from sandbox.cells.lending import StartError, Waiter
from sandbox.cells.pool import Pool
from sandbox.engines import ENGINES
from sandbox.errors import CellLost
from sandbox.jail.root import EngineMissing
from sandbox.limits import Limits
from sandbox.outcome import Cancelled, Usage
from sandbox.program import Engine
from sandbox.protocol.frames import Task

_log = logging.getLogger(__name__)

_LOST_S = 45.0
"""For this time after its first cell turned out to be dead, a run is moved to another cell."""

_CLOSE_S = 5.0
_BYTES_PER_CHARACTER = 4
"""Maximum memory of a character in a Python str, for example of an emoji."""

Ended = Callable[[Result | RequestError], None]


class Runs:
    """All runs of the daemon."""

    def __init__(
        self,
        pools: Mapping[str, Pool],
        admission: Admission,
        *,
        default_limits: Mapping[Engine, Limits],
        quotas: Quotas | None = None,
    ) -> None:
        """`default_limits`: limits of a run that asks for none. `quotas`: default: nobody has one."""
        self.pools = pools
        self.admission = admission
        self.default_limits = default_limits
        self.quotas = quotas or Quotas()
        for engine, pool in pools.items():
            pool.waiting = partial(self._waiting_for, engine)
            pool.on_ready = admission.select
            pool.on_failure = partial(self._cells_fail, engine)

    def start(
        self,
        job: Job,
        principal: Principal,
        ended: Ended,
        *,
        fresh: bool = False,
        on_lines: OnLines | None = None,
        room: Room = ALWAYS_ROOM,
    ) -> PendingRun:
        """Start a run. `ended` is called once, with its result or with the reason for its refusal.

        `fresh`: use a new jail.
        """
        run = PendingRun(self, job, principal, ended, fresh=fresh, on_lines=on_lines, room=room)
        run.ask()
        return run

    async def finish(self, job: Job, principal: Principal) -> Result:
        """Run a job and wait for its result. Raises RequestError. Cancellation cancels the run."""
        return await AwaitedRun(self, job, principal).result()

    async def _cells_fail(self, engine: Engine, error: StartError) -> None:
        await self.admission.send_away(engine, _refusal(error))

    def _waiting_for(self, engine: Engine) -> int:
        """Return the number of runs that could start if cells were ready."""
        return min(self.admission.pending(engine), self.admission.free)

    def other_memory(self, job: Job) -> int | None:
        """Return the memory limit of a job; None if it is the default."""
        memory_bytes = job.limits.memory_bytes
        return None if memory_bytes == self.default_limits[job.engine].memory_bytes else memory_bytes

    def has_default_child(self, job: Job) -> bool:
        """Whether a child that was forked in advance has the limits of a job."""
        default, limits = self.default_limits[job.engine], job.limits
        return (limits.cpu_ms, limits.memory_bytes) == (default.cpu_ms, default.memory_bytes)

    def is_ordinary(self, job: Job) -> bool:
        """Whether the limits of a job do not exceed the defaults."""
        default = self.default_limits[job.engine]
        if job.limits == default:
            return True
        return all(getattr(job.limits, field) <= getattr(default, field) for field in Limits.__struct_fields__)


class PendingRun:
    """One run in progress. Owned by Runs."""

    def __init__(
        self,
        runs: Runs,
        job: Job,
        principal: Principal,
        ended: Ended,
        *,
        fresh: bool,
        on_lines: OnLines | None,
        room: Room,
    ) -> None:
        self._runs = runs
        self._job = job
        self._principal = principal
        self._ended: Ended | None = ended
        self._fresh = fresh
        self._on_lines = on_lines
        self._room = room
        spec = ENGINES[job.engine]
        self._restart_ms = spec.restart_cpu_ms
        if spec.forks and not runs.has_default_child(job):
            self._restart_ms += spec.limits_cpu_ms
        self._new_cell_ms = spec.new_cell_cpu_ms
        special = fresh or (not spec.forks and runs.other_memory(job) is not None)
        self._needs: Engine = SPECIAL if special else job.engine
        self._ticket: Ticket | None = None
        """The run's place in the queue, and later its slot."""
        self._waiter: Waiter | None = None
        self._cell: Cell | None = None
        self._wants_cell = self._asks_pool = False
        self._retry_until = math.inf

    def ask(self) -> None:
        """Request a slot."""
        runs, job = self._runs, self._job
        ticket = runs.admission.ask(
            self._principal,
            self._needs,
            self._granted,
            held_bytes=_bytes_of(job),
            ordinary=runs.is_ordinary(job),
            room=self._room,
            caps=runs.quotas.caps(self._principal),
        )
        if ticket.waits:
            self._ticket = ticket
            runs.pools[job.engine].want()

    def cancel(self) -> None:
        """End the run in any state. `ended` is called with the outcome `cancelled`, now or soon."""
        if self._cell is not None:
            self._cell.cancel()
            return
        if self._ticket is not None and self._ticket.waits:
            self._runs.admission.leave(self._ticket)
            self._ticket = None
        waiter, self._waiter = self._waiter, None
        if waiter is None or not waiter.cancel(lambda: self._release(self._new_cell_ms)):
            self._return_slot()  # otherwise the slot is returned, and the start charged, when the start has ended
        self._end(Result(outcome=Cancelled(), usage=Usage(cpu_ms=0.0, wall_ms=0.0, peak_memory_bytes=0)))

    def _granted(self, ticket: Ticket | RequestError) -> None:
        if isinstance(ticket, RequestError):
            self._ticket = None
            self._refuse(ticket)
            return
        has_waited, self._ticket = self._ticket is not None, ticket
        if has_waited and (error := self._runs.quotas.cpu_debt(self._principal)) is not None:
            self._refuse(error)
        else:
            self._take_cell()

    def _refuse(self, error: RequestError) -> None:
        if error.code == "quota":
            error = self._runs.quotas.refused((self._principal.uid, self._principal.tenant), error)
        self._fail(error)

    def _take_cell(self) -> None:
        self._wants_cell = True
        if self._asks_pool:
            return  # the lent cell turned out to be dead: the loop below takes another
        pool = self._runs.pools[self._job.engine]
        memory_bytes = self._runs.other_memory(self._job)
        self._asks_pool = True
        while self._wants_cell:
            self._wants_cell = False
            self._waiter = pool.take(self._taken, fresh=self._fresh, memory_bytes=memory_bytes)
        self._asks_pool = False

    def _taken(self, cell: Cell | StartError) -> None:
        self._waiter = None
        if isinstance(cell, Exception):  # not `isinstance(cell, Cell)`, which is slow for an abstract class
            self._fail(_refusal(cell))
        else:
            self._begin(cell)

    def _begin(self, cell: Cell) -> None:
        self._cell = cell
        try:
            cell.begin(self._job, self._done, on_lines=self._on_lines, room=self._room)
        except CellLost:
            self._lost()
        except Exception:
            _log.exception("a cell failed at its hand-over")
            self._cell = None
            cell.retire()
            self._runs.pools[self._job.engine].give(cell, fresh=self._fresh)
            self._fail(RequestError("internal", "the daemon failed to execute this run; its log has the details"))

    def _done(self, result: Result | CellLost) -> None:
        if self._cell is None:
            return  # the cell failed at its hand-over, and is now closed
        if isinstance(result, CellLost):
            self._lost()
            return
        cell, self._cell = self._cell, None
        charge_ms = result.usage.cpu_ms + self._restart_ms
        if self._needs == SPECIAL or not cell.usable:
            charge_ms += self._new_cell_ms
        self._runs.pools[self._job.engine].give(cell, fresh=self._fresh)
        if self._runs.admission.queued:
            self._release(charge_ms)  # first, because waking the client may take the core from the daemon
            self._end(result)
            return
        # Nobody waits for the slot, so the reply goes first. Until it is sent, a cancellation must not return the slot.
        ticket, self._ticket = self._ticket, None
        try:
            self._end(result)
        finally:
            self._ticket = ticket
            self._release(charge_ms)

    def _lost(self) -> None:
        """Take another cell, because this one was dead before the hand-over. An overloaded host may have many dead
        cells."""
        cell, self._cell = self._cell, None
        assert cell is not None
        self._runs.pools[self._job.engine].give(cell, fresh=self._fresh)
        now = trio.current_time()
        self._retry_until = min(self._retry_until, now + _LOST_S)
        if self._ended is None:
            self._return_slot()
        elif now < self._retry_until:
            self._take_cell()
        else:
            self._fail(RequestError("internal", "several cells in a row died; see the daemon's log"))

    def _fail(self, error: RequestError) -> None:
        self._return_slot()
        self._end(error)

    def _return_slot(self) -> None:
        """Return the slot of a run that was not executed."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._runs.admission.return_unused(ticket)

    def _release(self, charge_ms: float) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._runs.quotas.charge(self._principal, charge_ms)  # first, because `end` may start the next run
            self._runs.admission.end(ticket, charge_ms)

    def _end(self, result: Result | RequestError) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(result)


class AwaitedRun:
    """A run that has started. One task awaits its result."""

    def __init__(
        self, runs: Runs, job: Job, principal: Principal, on_end: Callable[[Result], None] | None = None
    ) -> None:
        """Start the run. `on_end` is called when it has ended, before the task continues."""
        self._on_end = on_end
        self._answer: Result | RequestError | None = None
        self._end = trio.Event()
        self._run = runs.start(job, principal, self._note)

    @property
    def has_ended(self) -> bool:
        """Whether the run has ended, or was refused."""
        return self._end.is_set()

    def _note(self, answer: Result | RequestError) -> None:
        on_end, self._on_end = self._on_end, None
        self._answer = answer
        self._end.set()
        if on_end is not None and isinstance(answer, Result):
            on_end(answer)

    async def result(self) -> Result:
        """Return the result of the run. Raises RequestError. Cancellation cancels the run."""
        try:
            await self._end.wait()
        except trio.Cancelled:
            self._run.cancel()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_S):
                await self._end.wait()
            raise
        answer, self._answer = self._answer, None
        if isinstance(answer, Result):
            return answer
        assert answer is not None
        try:
            raise answer
        finally:
            del answer  # a reference cycle would keep the job until the next garbage collection


def _refusal(error: StartError) -> RequestError:
    if isinstance(error, EngineMissing):
        return RequestError("unsupported", f"{error.what}: {error.why}")
    return RequestError("internal", str(error))


def _bytes_of(job: Job) -> int:
    """Return the maximum memory that a waiting run holds: its texts and its request."""
    request = 0 if job.task is Task.RUN else _BYTES_PER_CHARACTER * len(job.source)
    code = len(job.artifact.code or b"") if job.artifact is not None else 0
    return request + len(job.source) + code + sys.getsizeof(job.prompt) + sys.getsizeof(job.env)
