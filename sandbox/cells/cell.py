"""A cell: one jailed engine that executes one job at a time. The interface of every engine's cells.

A cell is blank while its engine waits for a job. `begin` starts a job and returns at once. The reactor notifies the
cell of events, and the cell reports the result once. The pool closes the cell after it is retired.
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
"""Time limit for an engine to become ready."""

LOW_PRIORITY_AFTER_S = 0.005
"""Wall time after which the processes of a run get a low CPU priority."""

Done = Callable[[Result | CellLost], None]
"""Receives the result of a job. `CellLost`: the job was never handed over, and another cell can execute it."""

OnLines = Callable[[Sequence[LogLine]], None]
"""Receives console lines as soon as they are available, the lines of one part of the output together."""


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
        """The pid of nsjail."""

    async def wait(self) -> object:
        """Wait until nsjail has ended, and reap it."""

    def kill(self) -> None:
        """Kill nsjail, and with it the jail."""


class Cell(ABC):
    """One jailed engine. Created by its engine's `start`."""

    def __init__(self, plan: Plan, identity: Identity, process: JailProcess, reactor: Reactor) -> None:
        self.plan = plan
        self.identity = identity
        self.process = process
        self.runs = 0
        self.started_at = trio.current_time()
        self.usable = True
        self.retired = trio.Event()
        self.on_blank: Callable[[], None] = lambda: None
        """Called when the cell becomes blank again after a run, if it is not blank at once."""
        self._reactor = reactor

    @property
    @abstractmethod
    def blank(self) -> bool:
        """Whether the engine waits for a job."""

    @abstractmethod
    def begin(self, job: Job, done: Done, *, on_lines: OnLines | None = None, room: Room | None = None) -> None:
        """Hand over a job. `done` is called once, later. If the cell is dead, it is retired, and CellLost is raised.

        `room`: room for the lines passed to `on_lines`. Without room, the process's output is not read, so its writes
        block. Its limits still hold: at the wall limit the run ends, with the output that was read.
        """

    @abstractmethod
    def cancel(self) -> None:
        """End the current job. `done` is called with its usage."""

    @abstractmethod
    def on_due(self) -> None:
        """Called by the reactor at the time that the cell has set."""

    def retire(self) -> None:
        """Take the cell out of service. The pool then closes it."""
        self.usable = False
        self.retired.set()

    @abstractmethod
    async def close(self) -> None:
        """End the jail with all its processes, and reap it. Bounded in time. A process that has already ended is no
        error."""
