"""A cell: one jailed engine that takes one job at a time. What every engine's cell is to the pool and to the daemon.

A cell is blank while its engine waits for a job. `begin` hands it one and returns at once; the reactor tells the cell
what happens, and the cell reports the result once. The pool's keeper closes the cell after it is retired.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from sandbox.cells.job import Job, Result
from sandbox.cells.plan import Plan
from sandbox.cells.reactor import Reactor
from sandbox.errors import CellLost
from sandbox.jail.identities import Identity
from sandbox.outcome import LogLine

START_S = 10.0
"""How long an engine may take to be ready."""

LOW_PRIORITY_AFTER_S = 0.005
"""Wall time after which the processes of a run get a low CPU priority."""

Done = Callable[[Result | CellLost], None]
"""Takes the result of a job. `CellLost`: the job was never handed over, and can be given to another cell."""

OnLines = Callable[[Sequence[LogLine]], None]
"""Takes console lines as soon as they are there: those of one part of the output together."""


class Room(Protocol):
    """Room at the client for the console lines of a run."""

    def has_room(self) -> bool:
        """Whether there is room now."""

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once there is room."""


class JailProcess(Protocol):
    """The nsjail of a cell."""

    @property
    def pid(self) -> int:
        """Its pid."""

    async def wait(self) -> object:
        """Wait until it has ended, and reap it."""

    def kill(self) -> None:
        """Kill it, and with it the jail."""


class Cell(ABC):
    """One jailed engine. Made by its engine's `start`."""

    def __init__(self, plan: Plan, identity: Identity, process: JailProcess, reactor: Reactor) -> None:
        self.plan = plan
        self.identity = identity
        self.process = process
        self.runs = 0
        self.started_at = trio.current_time()
        self.usable = True
        self.retired = trio.Event()
        self.on_blank: Callable[[], None] = lambda: None
        """Called when the cell is blank again after a run, if not at once."""
        self._reactor = reactor

    @property
    @abstractmethod
    def blank(self) -> bool:
        """Whether its engine waits for a job."""

    @abstractmethod
    def begin(self, job: Job, done: Done, *, on_lines: OnLines | None = None, room: Room | None = None) -> None:
        """Hand over a job. `done` is called once, later. Raises CellLost, with the cell retired, if it is dead.

        `room`: for lines that go to `on_lines`. Without it the process's output is not read, and blocks its writes. Its
        limits hold all the same: at the wall limit the run ends, with what was read.
        """

    @abstractmethod
    def cancel(self) -> None:
        """End the job in progress. `done` is called with its usage."""

    @abstractmethod
    def on_due(self) -> None:
        """The reactor reports that the time has come that the cell asked for."""

    def retire(self) -> None:
        """Take the cell out of service. Its keeper then closes it."""
        self.usable = False
        self.retired.set()

    @abstractmethod
    async def close(self) -> None:
        """End the jail and everything in it, and reap it. Bounded in time. A process that is gone is no error."""
