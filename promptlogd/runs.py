"""Runs, from the request to the result: each waits for its turn and for a cell, is in the cell, and ends.

Nothing here waits: admission, the pool and the cell call back. A run that is cancelled ends at once where it is.
More than 300 lines, since the whole life of a run is in one place.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping

import trio

from promptlogd.admission import Admission, Slot, Turn
from promptlogd.principal import Principal
from promptlogd.refusal import RequestError
from promptlogd.room import ALWAYS_ROOM, Room
from sandbox.cells.cell import Cell, OnLog
from sandbox.cells.job import Job, Result
from sandbox.cells.lending import Waiter
from sandbox.cells.pool import Pool
from sandbox.engines import ENGINES
from sandbox.errors import CellLost, CellStartError
from sandbox.jail.root import EngineMissing, RootError
from sandbox.limits import MIB
from sandbox.outcome import Cancelled, Usage
from sandbox.protocol.frames import Task

_log = logging.getLogger(__name__)

_LOST_S = 45.0
"""For so long after its request a run is given to one cell after the other, if each turns out to be dead."""

_CLOSE_S = 5.0
_BYTES_PER_CHARACTER = 4
"""The most that a Python str takes: one that has an emoji in it."""

Ended = Callable[[Result | RequestError], None]


class Runs:
    """All runs of the daemon."""

    def __init__(
        self,
        pools: Mapping[str, Pool],
        admission: Admission,
        *,
        default_memory_bytes: Mapping[str, int],
        queue_bytes: int,
        wait_s: float,
    ) -> None:
        """`queue_bytes`: what runs that wait may hold of memory. `wait_s`: the longest that one waits for its turn."""
        self.pools = pools
        self.admission = admission
        self._default_memory_bytes = default_memory_bytes
        self._queue_bytes = queue_bytes
        self.wait_s = wait_s
        self._waiting_bytes = 0
        self._known: set[int] = set()
        """Numbers of the connections that have had a run."""

    def start(
        self,
        job: Job,
        principal: Principal,
        ended: Ended,
        *,
        fresh: bool = False,
        on_log: OnLog | None = None,
        room: Room = ALWAYS_ROOM,
    ) -> PendingRun:
        """Begin a run. `ended` is called once: with its result, or with why it could not be tried.

        `fresh`: in a brand-new jail.
        """
        if principal.connection not in self._known:
            self._known.add(principal.connection)
            self.admission.inherit(principal.connection, principal.process)
        run = PendingRun(self, job, principal, ended, fresh=fresh, on_log=on_log, room=room)
        run.ask_for_turn()
        return run

    async def finish(self, job: Job, principal: Principal) -> Result:
        """Run a job and wait for its result. Raises RequestError. Cancellation cancels the run."""
        answer: list[Result | RequestError] = []
        ended = trio.Event()

        def note(result: Result | RequestError) -> None:
            answer.append(result)
            ended.set()

        run = self.start(job, principal, note)
        try:
            await ended.wait()
        except trio.Cancelled:
            run.cancel()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_S):
                await ended.wait()
            raise
        result = answer.pop()
        if isinstance(result, Result):
            return result
        try:
            raise result
        finally:
            del result  # it refers to this frame: the job would wait for the collector of cycles

    def forget(self, principal: Principal) -> None:
        """Forget a connection that was closed."""
        self._known.discard(principal.connection)
        self.admission.forget(principal.connection, principal.process)

    def release(self, slot: Slot, cost_ms: float, principal: Principal) -> None:
        """Give a slot back. A connection that was closed meanwhile is not remembered for it."""
        self.admission.release(slot, cost_ms)
        if principal.connection not in self._known:
            self.admission.forget(principal.connection, principal.process)

    def hold(self, held_bytes: int) -> None:
        """Count what a run that waits holds of memory. Raises RequestError."""
        if self.admission.is_full:
            raise RequestError("busy", f"{self.admission.queued} runs are waiting already; try again in a moment")
        if self._waiting_bytes + held_bytes > self._queue_bytes:
            waiting_mb = self._waiting_bytes / MIB
            raise RequestError("busy", f"the runs that wait hold {waiting_mb:.0f} MiB already; try again in a moment")
        self._waiting_bytes += held_bytes

    def let_go(self, held_bytes: int) -> None:
        """Count it no longer."""
        self._waiting_bytes -= held_bytes

    def other_memory(self, job: Job) -> int | None:
        """Return the memory of a job; None if it is the default."""
        memory_bytes = job.limits.memory_bytes
        return None if memory_bytes == self._default_memory_bytes[job.engine] else memory_bytes

    @property
    def late(self) -> RequestError:
        """Why a run that waited for too long could not be tried."""
        return RequestError("busy", f"waited {self.wait_s:g} s for a turn; try again")


class PendingRun:
    """One run on its way. Owned by Runs."""

    def __init__(
        self,
        runs: Runs,
        job: Job,
        principal: Principal,
        ended: Ended,
        *,
        fresh: bool,
        on_log: OnLog | None,
        room: Room,
    ) -> None:
        self._runs = runs
        self._job = job
        self._principal = principal
        self._ended: Ended | None = ended
        self._fresh = fresh
        self._on_log = on_log
        self._room = room
        spec = ENGINES[job.engine]
        self._after_ms = spec.restart_cpu_ms + (spec.new_cell_cpu_ms if fresh else 0.0)
        self._new_cell_ms = spec.new_cell_cpu_ms
        self._turn: Turn | None = None
        self._slot: Slot | None = None
        self._waiter: Waiter | None = None
        self._cell: Cell | None = None
        self._wants_cell = self._asks_pool = False
        self._since = trio.current_time()
        self._give_up_at = self._since + _LOST_S
        self._held_bytes = 0
        """What is counted of the memory that the run holds while it waits."""

    def ask_for_turn(self) -> None:
        """Take a slot, or wait for one."""
        admission = self._runs.admission
        slot = admission.take(self._principal.connection, self._after_ms)
        if slot is not None:
            self._granted(slot)
        elif self._hold():
            self._turn = admission.wait(self._principal.connection, self._after_ms, self._turn_came)

    def _turn_came(self, slot: Slot | None) -> None:
        self._turn = None
        if slot is None:
            self._end(self._runs.late)
        else:
            self._granted(slot)

    def _hold(self) -> bool:
        """Count what the run holds of memory while it waits; return whether it may wait."""
        if self._held_bytes:
            return True
        held_bytes = _bytes_of(self._job)
        try:
            self._runs.hold(held_bytes)
        except RequestError as error:
            self._end(error)
            return False
        self._held_bytes = held_bytes
        return True

    def _let_go(self) -> None:
        self._runs.let_go(self._held_bytes)
        self._held_bytes = 0

    def cancel(self) -> None:
        """End the run, wherever it is. `ended` is called with the outcome `cancelled`, now or soon."""
        if self._cell is not None:
            self._cell.cancel()
            return
        if self._turn is not None:
            self._runs.admission.leave(self._turn)
            self._turn = None
        waiter, self._waiter = self._waiter, None
        if waiter is None or not waiter.cancel(lambda: self._release(self._new_cell_ms)):
            self._return_slot()  # else it goes back when the start that was begun has ended, and is paid for
        self._end(Result(outcome=Cancelled(), usage=Usage(cpu_ms=0.0, wall_ms=0.0, peak_memory_bytes=0)))

    def _granted(self, slot: Slot) -> None:
        self._slot = slot
        if not self._room.has_room():
            # A client that does not read gets no more to read, and holds no slot meanwhile.
            self._return_slot()
            if self._hold():
                self._room.when_room(self._ask_again)
            return
        self._let_go()
        self._take_cell()

    def _ask_again(self) -> None:
        if self._ended is None:
            return
        if trio.current_time() - self._since > self._runs.wait_s:
            self._end(self._runs.late)
        else:
            self.ask_for_turn()

    def _take_cell(self) -> None:
        self._wants_cell = True
        if self._asks_pool:
            return  # a cell that it lent has turned out to be dead: the loop below takes another
        pool = self._runs.pools[self._job.engine]
        memory_bytes = self._runs.other_memory(self._job)
        self._asks_pool = True
        while self._wants_cell:
            self._wants_cell = False
            self._waiter = pool.take(self._taken, fresh=self._fresh, memory_bytes=memory_bytes)
        self._asks_pool = False

    def _taken(self, cell: Cell | CellStartError | RootError) -> None:
        self._waiter = None
        match cell:
            case EngineMissing():
                self._fail(RequestError("unsupported", f"{cell.what}: {cell.why}"))
            case CellStartError() | RootError():
                self._fail(RequestError("internal", str(cell)))
            case Cell():
                self._begin(cell)

    def _begin(self, cell: Cell) -> None:
        self._cell = cell
        try:
            cell.begin(self._job, self._done, on_log=self._on_log, room=self._room)
        except CellLost:
            self._lost()
        except Exception:
            _log.exception("a cell failed at its hand-over")
            self._cell = None
            cell.retire()
            self._runs.pools[self._job.engine].give(cell, fresh=self._fresh)
            self._fail(RequestError("internal", "the daemon failed at this run; its log says how"))

    def _done(self, result: Result | CellLost) -> None:
        if isinstance(result, CellLost):
            self._lost()
            return
        cell, self._cell = self._cell, None
        if cell is None:
            return  # it had failed at its hand-over, and has now been closed
        cost_ms = result.usage.cpu_ms
        pool = self._runs.pools[self._job.engine]
        if self._fresh or not cell.usable:
            # Who spends cells gets no turns faster than cells are replaced.
            cost_ms += self._new_cell_ms
            pool.give(cell, fresh=self._fresh, replaced=lambda: self._release(cost_ms))
        else:
            pool.give(cell)
            self._release(cost_ms)
        # After that: to wake the client may cost the daemon its core, and the next run is in its cell by now.
        self._end(result)

    def _lost(self) -> None:
        """The cell was dead before it was handed the job. A host in trouble may have any number of such cells."""
        cell, self._cell = self._cell, None
        assert cell is not None
        self._runs.pools[self._job.engine].give(cell, fresh=self._fresh)
        if self._ended is None:
            self._return_slot()
        elif trio.current_time() < self._give_up_at:
            self._take_cell()
        else:
            self._fail(RequestError("internal", "several cells in a row were lost; see the daemon's log"))

    def _fail(self, error: RequestError) -> None:
        self._return_slot()
        self._end(error)

    def _return_slot(self) -> None:
        """Give back a slot in which nothing ran."""
        slot, self._slot = self._slot, None
        if slot is not None:
            self._runs.admission.return_unused(slot)

    def _release(self, cost_ms: float) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            self._runs.release(slot, cost_ms, self._principal)

    def _end(self, result: Result | RequestError) -> None:
        self._let_go()
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(result)


def _bytes_of(job: Job) -> int:
    """Return what a run that waits holds of the daemon's memory at the most: its texts, and the request it came in."""
    request = 0 if job.task is Task.RUN else _BYTES_PER_CHARACTER * len(job.source)
    return request + len(job.source) + sys.getsizeof(job.prompt) + sys.getsizeof(job.env)
