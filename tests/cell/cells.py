"""Context managers that provide cells and a reactor, and functions that run jobs on cells."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
import trio

from sandbox.cells.cell import Cell
from sandbox.cells.job import Job, Result
from sandbox.cells.plan import Plan
from sandbox.cells.pool import Pool
from sandbox.cells.reactor import Reactor
from sandbox.cells.watch import Watchdog
from sandbox.engines.quickjs.host import start as quickjs
from sandbox.engines.quickjs.host.cell import QuickJSCell
from sandbox.errors import CellLost
from sandbox.limits import Limits
from sandbox.outcome import LogLine, Ok
from sandbox.program import Language
from sandbox.protocol.frames import Task

_C = TypeVar("_C", bound=Cell)


@asynccontextmanager
async def a_reactor(*, watched: bool = True) -> AsyncIterator[Reactor]:
    """A reactor that serves. `watched` starts the watchdog process, which tests with a mock clock cannot use."""
    watchdog = Watchdog(64)
    reactor = Reactor(watchdog)
    async with trio.open_nursery() as nursery:
        if watched:
            await nursery.start(watchdog.serve)
        await nursery.start(reactor.serve)
        yield reactor
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def kept(start: Callable[[Reactor], Awaitable[_C]]) -> AsyncIterator[_C]:
    """A cell that is closed when its jail ends, as a pool would close it."""
    async with a_reactor() as reactor:
        cell = await start(reactor)

        async def keep() -> None:
            await cell.process.wait()
            await cell.close()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep)
                yield cell
                nursery.cancel_scope.cancel()
        finally:
            await cell.close()


@asynccontextmanager
async def a_cell(plan: Plan) -> AsyncIterator[QuickJSCell]:
    """A QuickJS cell."""
    async with kept(lambda reactor: quickjs.start(plan, reactor)) as cell:
        yield cell


class Narrow:
    """A client that does not accept output until the test opens it."""

    def __init__(self) -> None:
        self.asked = trio.Event()
        """Set when a cell has waited for room."""
        self._open = False
        self._waiting: list[Callable[[], None]] = []

    def has_room(self) -> bool:
        """Return whether the test has opened the client."""
        return self._open

    def when_room(self, callback: Callable[[], None]) -> None:
        """Store the callback of a cell that waits for room."""
        self._waiting.append(callback)
        self.asked.set()

    def open(self) -> None:
        """Accept output from now on."""
        self._open = True
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()


async def finish(
    cell: Cell, job: Job, *, on_lines: Callable[[Sequence[LogLine]], None] | None = None, room: Narrow | None = None
) -> Result:
    """Run a job and wait for its result. Raises CellLost. Cancellation first cancels the job."""
    done = trio.Event()
    answer: list[Result | CellLost] = []

    def note(result: Result | CellLost) -> None:
        answer.append(result)
        done.set()

    cell.begin(job, note, on_lines=on_lines, room=room)
    try:
        await done.wait()
    except trio.Cancelled:
        cell.cancel()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
            await done.wait()
        raise
    if isinstance(answer[0], CellLost):
        raise answer[0]
    return answer[0]


async def run_on(
    cell: Cell,
    source: str,
    *,
    task: Task = Task.CHECK_AND_RUN,
    language: Language = "javascript",
    prompt: str = "",
    on_lines: Callable[[Sequence[LogLine]], None] | None = None,
    room: Narrow | None = None,
    **limits: int,
) -> Result:
    """Run this source in the cell. Without a wall limit, the run has enough time even on a busy machine."""
    limits.setdefault("wall_ms", 60_000)
    with trio.fail_after(90):
        source_bytes = source.encode()
        job = Job(
            task=task,
            source=source_bytes,
            artifact_bytes=len(source_bytes) if cell.plan.engine == "deno" else 0,
            language=language,
            prompt=prompt,
            limits=Limits(**limits),
        )
        return await finish(cell, job, on_lines=on_lines, room=room)


async def take(pool: Pool, *, fresh: bool = False, memory_bytes: int | None = None) -> Cell:
    """Take a cell from the pool, waiting if necessary. Raises the error that the pool reports instead of a cell."""
    came = trio.Event()
    answer: list[Cell | Exception] = []

    def taken(cell: Cell | Exception) -> None:
        answer.append(cell)
        came.set()

    waiter = pool.take(taken, fresh=fresh, memory_bytes=memory_bytes)
    try:
        await came.wait()
    except trio.Cancelled:
        if waiter is not None:
            waiter.cancel(lambda: None)
        raise
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


async def until_blank(cell: Cell) -> None:
    """Wait until a cell is blank again after a run. Fails if the pool retires it instead."""
    with trio.fail_after(20):
        while not cell.blank:
            assert cell.usable, "the cell was retired"
            blank = trio.Event()
            cell.on_blank = blank.set
            with trio.move_on_after(0.5):
                await blank.wait()


class Held:
    """A run that is in progress while the test blocks the loop: the reactor does not run until the test awaits."""

    result: Result

    def __init__(self, cell: Cell, source: str, **limits: int) -> None:
        """Start the run."""
        self._done = trio.Event()
        self._said = trio.Event()
        job = Job(task=Task.CHECK_AND_RUN, source=source.encode(), limits=Limits(**limits))
        cell.begin(job, self._note, on_lines=lambda _: self._said.set())

    def _note(self, result: Result | CellLost) -> None:
        assert isinstance(result, Result)
        self.result = result
        self._done.set()

    async def said(self) -> None:
        """Wait until the run has written a console line."""
        with trio.fail_after(30):
            await self._said.wait()

    async def ended(self) -> None:
        """Let the reactor continue, and wait for the result."""
        with trio.fail_after(30):
            await self._done.wait()

    @property
    def value(self) -> object:
        """The value that the program returned."""
        assert isinstance(self.result.outcome, Ok), self.result.outcome
        return msgspec.json.decode(self.result.outcome.value)
