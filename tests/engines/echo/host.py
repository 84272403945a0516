"""The daemon's side of the engine `echo`: one process for each run, without a jail. For tests only."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import msgspec
import trio

from sandbox.cells.cell import Cell, Done, OnLines, Room
from sandbox.cells.job import Job
from sandbox.cells.plan import Plan
from sandbox.cells.reactor import Reactor
from sandbox.engines.host.columns import Text
from sandbox.engines.host.engine_host import Setting
from sandbox.engines.host.run import Run
from sandbox.limits import Limits
from sandbox.program import Artifact, Form, Language
from sandbox.protocol.events import Checked, Trusted
from sandbox.protocol.frames import Task, job_frame
from sandbox.protocol.machine import Machine, State


class _Stacks:
    """Stack traces of this engine, which has none."""

    MAPPINGS = 1

    def position(self, stack: str, *, module: bool, source: Text) -> tuple[int | None, int | None]:
        return None, None

    def shown(self, stack: str, source_name: str, source: Text) -> tuple[str, int | None, int | None]:
        return stack, None, None

    def logged(self, text: str, source_name: str, source: Text, *, mapped: int) -> str:
        return text


class EchoCell(Cell):
    """A process that takes one run."""

    def __init__(self, plan: Plan, process: trio.Process, reactor: Reactor, data: socket.socket) -> None:
        super().__init__(plan, plan.take_identity(), process, reactor)
        self._data = data
        self._machine = Machine()
        self._run: Run | None = None
        reactor.watch(self, data.fileno(), self._on_data)

    @property
    def blank(self) -> bool:
        """Return whether the cell has had no run."""
        return self._machine.state is State.BLANK

    def begin(self, job: Job, done: Done, *, on_lines: OnLines | None = None, room: Room | None = None) -> None:
        """Send a job to the process."""
        self.runs += 1
        frame = job_frame(b"C" if job.task is Task.CHECK else b"R", job.prompt_bytes())
        self._run = Run(job, machine=self._machine, frame=frame, stacks=_Stacks(), done=done, on_lines=on_lines)
        self._machine.happen(Trusted.JOB)
        self._run.send(self._data)

    def cancel(self) -> None:
        """Do nothing: a run ends before it could be cancelled."""

    def on_due(self) -> None:
        """Do nothing: the cell has no deadlines."""

    def _on_data(self) -> None:
        self._reactor.forget(self._data.fileno())
        run, self._run = self._run, None
        self.retire()
        if run is not None:
            run.receive(self._data)
            self._machine.happen(Trusted.ENDED)
            assert self._machine.last is not None
            run.done(
                run.result(run.reader.outcome(self._machine.last, 0), cpu_ms=0.1, wall_ms=run.wall_ms(), peak_bytes=0)
            )

    async def close(self) -> None:
        """End the process."""
        self.retire()
        self._reactor.forget(self._data.fileno())
        self._data.close()
        self.process.kill()
        await self.process.wait()


class Host:
    """The engine in a daemon."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.artifact_build = "1"
        self.version = self.installed()

    @staticmethod
    def installed() -> str:
        """Return its version."""
        return "echo 1"

    def missing(self) -> str | None:
        """Return None: the engine is installed."""
        return None

    def set_default(self, default: Limits) -> bool:
        """Do nothing: no cell is prepared for default limits."""
        self._setting = msgspec.structs.replace(self._setting, default=default)
        return False

    def is_demanded(self) -> bool:
        """Return whether the settings require the engine."""
        return False

    async def plan(self, memory_bytes: int | None) -> Plan:
        """Return a plan that starts its process."""
        return Plan(
            engine="echo",
            executable=Path(sys.executable),
            arguments=[str(Path(__file__).with_name("process.py"))],
            identities=self._setting.identities,
            folder=self._setting.folder.parent,
            default=self._setting.default,
        )

    async def start(self, plan: Plan, reactor: Reactor) -> EchoCell:
        """Start its process."""
        data, theirs = socket.socketpair()
        with theirs:
            process = await trio.lowlevel.open_process(
                [str(plan.executable), *plan.arguments], stdin=theirs, stdout=theirs
            )
        data.setblocking(False)
        return EchoCell(plan, process, reactor, data)

    def artifact_bytes(self, source: bytes) -> int:
        """Return 0: a check keeps only the form."""
        return 0

    async def artifact(self, source: bytes, language: Language, checked: Checked) -> Artifact | None:
        """Return the artifact for a check's outcome."""
        return self.artifact_at_once(language, checked)

    def artifact_at_once(self, language: Language, checked: Checked) -> Artifact | None:
        """Return the artifact for a check's outcome."""
        return Artifact(form=Form.MODULE if checked.module else Form.BODY, language=language)

    def held_by(self) -> dict[str, str]:
        """Return what enforces its limits."""
        return {"memory": "nothing: it is for tests"}
