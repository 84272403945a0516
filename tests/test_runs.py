"""Runs between admission, the pool and cells: each is answered once, and cancelled runs use no cell."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from promptlogd.admission import Admission
from promptlogd.principal import Principal
from promptlogd.principals import Ticket
from promptlogd.refusal import RequestError
from promptlogd.room import Room
from promptlogd.runs import PendingRun, Runs
from sandbox.cells.cell import Cell, Done, OnLines
from sandbox.cells.job import Job, Result
from sandbox.cells.lending import Taken, Waiter
from sandbox.cells.plan import Plan
from sandbox.cells.policy import Steady
from sandbox.cells.pool import Pool
from sandbox.cells.reactor import Reactor
from sandbox.cells.watch import Watchdog
from sandbox.errors import CellLost
from sandbox.limits import Limits
from sandbox.outcome import BadResult, Cancelled, Usage
from sandbox.protocol.frames import Task
from tests.simulated import Cells

_JOB = Job(task=Task.CHECK_AND_RUN, source=b"return 1", limits=Limits())
_CLIENT = Principal(connection=1, uid=0, process=None)
_ENDED = Result(outcome=BadResult(message="ended"), usage=Usage(cpu_ms=1.0, wall_ms=1.0, peak_memory_bytes=1))


class _NoProcess:
    """A jail that exists until the test ends it."""

    pid = 0

    def __init__(self) -> None:
        self._ended = trio.Event()

    async def wait(self) -> None:
        """Wait until the jail is ended."""
        await self._ended.wait()

    def kill(self) -> None:
        """End the jail."""
        self._ended.set()


class _Cell(Cell):
    """A cell without a process: the test ends its run. `dead`: the cell is lost before it takes one."""

    def __init__(self, plan: Plan, *, dead: bool) -> None:
        super().__init__(plan, plan.take_identity(), _NoProcess(), Reactor(Watchdog(0)))
        self.dead = dead
        self.faulty = False
        self.done: Done | None = None

    @property
    def blank(self) -> bool:
        """Return whether the cell has no job."""
        return self.done is None

    def begin(self, job: Job, done: Done, *, on_lines: OnLines | None = None, room: object = None) -> None:
        """Take the job, unless the cell is dead."""
        self.runs += 1
        if self.faulty:
            self.done = done
            raise ZeroDivisionError
        if self.dead:
            self.retire()
            raise CellLost("it is dead")
        self.done = done

    def end(self) -> None:
        """End the run."""
        done, self.done = self.done, None
        assert done is not None
        done(_ENDED)

    def cancel(self) -> None:
        """End the run."""
        self.end()

    def on_due(self) -> None:
        """Do nothing: the cell has no deadlines."""

    async def close(self) -> None:
        """Release the cell's identity. Reports a job at which the cell failed, as a real cell does."""
        self.retire()
        if self.faulty and self.done is not None:
            self.done(CellLost("it was closed"))
        self.plan.identities.give_back(self.identity)


class _Rig:
    """Runs with one slot, and a pool of one cell. The test decides when the next cell starts."""

    def __init__(self, plan: Plan, dead: list[bool]) -> None:
        """`dead`: for each cell in order, whether it is dead."""
        self.cells: list[_Cell] = []
        self.may_start = trio.Semaphore(1)
        self._plan = plan
        self._dead = dead
        self.pool = Pool("quickjs", self._start, Steady(1), runs_per_cell=100, max_age_s=1e9, forks=True)
        self.admission = Admission(concurrent=1, queue=8, queue_bytes=1000, cells={"quickjs": self.pool})
        self.runs = Runs(
            {"quickjs": self.pool},
            self.admission,
            default_limits={"quickjs": Limits()},
        )
        self.results: list[Result | RequestError] = []

    async def _start(self, memory_bytes: int | None) -> _Cell:
        await self.may_start.acquire()
        cell = _Cell(self._plan, dead=self._dead[len(self.cells)])
        self.cells.append(cell)
        return cell


@asynccontextmanager
async def _a_rig(plan: Plan, *dead: bool) -> AsyncIterator[_Rig]:
    rig = _Rig(plan, list(dead))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(rig.pool.serve)
            yield rig
            nursery.cancel_scope.cancel()


async def test_a_run_survives_a_dead_cell(plan: Plan) -> None:
    """A run whose cell is dead waits for the next one, and has one result."""
    async with _a_rig(plan, True, False) as rig:
        rig.runs.start(_JOB, _CLIENT, rig.results.append)
        await wait_all_tasks_blocked()
        assert rig.results == []
        rig.may_start.release()
        await wait_all_tasks_blocked()
        rig.cells[1].end()
        assert rig.results == [_ENDED]
        assert (rig.admission.running, rig.admission.queued) == (0, 0)


async def test_a_run_cancelled_while_it_waits_for_a_cell_never_runs(plan: Plan) -> None:
    """The run is answered at once and has no slot; a cell that becomes ready later stays blank."""
    async with _a_rig(plan, True, False) as rig:
        run = rig.runs.start(_JOB, _CLIENT, rig.results.append)
        await wait_all_tasks_blocked()
        run.cancel()
        assert [result.outcome for result in rig.results if isinstance(result, Result)] == [Cancelled()]
        assert rig.admission.running == 0
        rig.may_start.release()
        await wait_all_tasks_blocked()
        assert [cell.blank for cell in rig.cells[1:]] == [True]
        assert len(rig.results) == 1


class _SlowReader(Room):
    """A client that reads nothing until the test permits it."""

    def __init__(self) -> None:
        self.reads = False
        self._waiting: list[object] = []

    def has_room(self) -> bool:
        """Return whether the client reads."""
        return self.reads

    def when_room(self, callback: object) -> None:
        """Store the callback."""
        self._waiting.append(callback)

    def read(self) -> None:
        """Let all waiters continue."""
        self.reads = True
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()  # type: ignore[operator]


async def test_runs_without_room_for_their_results_hold_no_slot(plan: Plan) -> None:
    """Their memory counts as that of waiting runs: above the bound they are refused. With room, they run."""
    room = _SlowReader()
    job = Job(task=Task.CHECK_AND_RUN, source=b"x" * 70, limits=Limits())
    async with _a_rig(plan, False) as rig:
        for _ in range(4):
            rig.runs.start(job, _CLIENT, rig.results.append, room=room)
        assert rig.admission.running == 0
        codes = [result.code for result in rig.results if isinstance(result, RequestError)]
        assert codes == ["busy"] * len(rig.results)
        assert 1 <= len(codes) <= 3
        room.read()
        while rig.admission.running:
            rig.cells[0].end()
        assert len(rig.results) == 4


async def test_unused_slots_cost_nothing() -> None:
    """A client that cancels any number of waiting runs keeps its share."""
    admission = Admission(concurrent=1, queue=8, queue_bytes=1000, cells={"quickjs": Cells()})
    one, other = (Principal(connection=number, uid=number, process=None) for number in (1, 2))
    granted: list[Ticket | RequestError] = []
    for _ in range(100):
        admission.ask(one, "quickjs", granted.append)
        ticket = granted.pop()
        assert isinstance(ticket, Ticket)
        admission.return_unused(ticket)
    admission.ask(other, "quickjs", granted.append)
    order: list[int] = []
    admission.ask(other, "quickjs", lambda ticket: order.append(2))
    admission.ask(one, "quickjs", lambda ticket: order.append(1))
    assert isinstance(granted[0], Ticket)
    admission.end(granted[0], 50.0)
    assert order == [1]


class _DeadCells(Pool):
    """A pool that lends this number of dead cells, and then a live one."""

    def __init__(self, plan: Plan, number: int) -> None:
        self.dead, self.sound = _Cell(plan, dead=True), _Cell(plan, dead=False)
        self.left = number

    def take(self, taken: Taken, *, fresh: bool = False, memory_bytes: int | None = None) -> Waiter | None:
        """Lend the next cell."""
        self.left -= 1
        taken(self.dead if self.left >= 0 else self.sound)
        return None

    def give(self, cell: Cell, *, fresh: bool = False) -> None:
        """Remove the cell."""

    def can_lend(self) -> bool:
        """Return True: the pool always has a cell."""
        return True


async def test_a_run_survives_thousands_of_dead_cells(plan: Plan) -> None:
    """A run skips 2,000 cells that died before the pool could notice, one after the other without recursion."""
    pool = _DeadCells(plan, 2000)
    default = {"quickjs": Limits()}
    admission = Admission(concurrent=1, queue=8, queue_bytes=1000, cells={"quickjs": pool})
    runs = Runs({"quickjs": pool}, admission, default_limits=default)
    results: list[Result | RequestError] = []
    runs.start(_JOB, _CLIENT, results.append)
    pool.sound.end()
    assert results == [_ENDED]
    await pool.dead.close()
    await pool.sound.close()


async def test_an_error_when_a_cell_takes_a_run_affects_only_that_run(
    plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    """The run gets an error and has no slot any more, and the cell is replaced."""
    async with _a_rig(plan, False, False) as rig:
        rig.cells[0].faulty = True
        rig.runs.start(_JOB, _CLIENT, rig.results.append)
        assert [result.code for result in rig.results if isinstance(result, RequestError)] == ["internal"]
        assert rig.admission.running == 0
        rig.may_start.release()
        rig.runs.start(_JOB, _CLIENT, rig.results.append)
        await wait_all_tasks_blocked()
        rig.cells[1].end()
        assert rig.results[1:] == [_ENDED]
        assert "closing a cell failed" not in caplog.text


async def test_a_run_is_charged_whatever_its_reply_does(plan: Plan) -> None:
    """If the reply fails, or the run is cancelled meanwhile, the slot is returned once and the run is charged."""
    async with _a_rig(plan, False) as rig:
        pending: list[PendingRun] = []

        def reply(result: Result | RequestError) -> None:
            rig.results.append(result)
            pending[0].cancel()
            raise ZeroDivisionError

        pending.append(rig.runs.start(_JOB, _CLIENT, reply))
        with pytest.raises(ZeroDivisionError):
            rig.cells[0].end()
        assert rig.results == [_ENDED]
        assert (rig.admission.running, rig.admission.free, rig.admission.finished) == (0, 1, 1)


async def test_a_cancelled_start_keeps_its_slot_until_it_ends(plan: Plan) -> None:
    """The client is answered at once; the slot is free when the start has ended, so that starts cannot pile up."""
    async with _a_rig(plan, False, False) as rig:
        rig.runs.start(_JOB, _CLIENT, rig.results.append)
        rig.cells[0].end()  # the cell has had a run, so a fresh one must be started
        run = rig.runs.start(_JOB, _CLIENT, rig.results.append, fresh=True)
        await wait_all_tasks_blocked()
        run.cancel()
        assert len(rig.results) == 2
        assert rig.admission.running == 1
        rig.may_start.release()
        await wait_all_tasks_blocked()
        assert rig.admission.running == 0
        assert not rig.cells[1].usable


async def test_a_run_cancelled_before_its_start_starts_no_cell(plan: Plan) -> None:
    """Runs in separate cells that are cancelled before a cell is started for them cost no start."""
    async with _a_rig(plan, False) as rig:
        rig.runs.start(_JOB, _CLIENT, rig.results.append)
        rig.cells[0].end()
        for _ in range(100):
            rig.runs.start(_JOB, _CLIENT, rig.results.append, fresh=True).cancel()
        rig.may_start = trio.Semaphore(100)
        await wait_all_tasks_blocked()
        assert rig.pool.counts().started == 1
        assert rig.admission.running == 0


@contextmanager
def _without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def test_a_refused_job_is_freed_without_garbage_collection(plan: Plan) -> None:
    """A check's job is freed as soon as its caller has got the error."""
    source = b"a source that is looked for"
    with _without_collector():
        async with _a_rig(plan, False) as rig:
            rig.runs.start(_JOB, _CLIENT, rig.results.append)
            with pytest.raises(RequestError, match="hold"):
                await rig.runs.finish(Job(task=Task.CHECK, source=source * 50, limits=Limits()), _CLIENT)
        left = [held for held in gc.get_objects() if isinstance(held, Job) and held.source.startswith(source)]
        assert left == []
