"""A Deno cell: executes runs and replaces its process after each. `start.py` starts it.

A cell is one nsjail with one `deno` process that has executed only promptlog's runner. The process executes one run and
is killed. nsjail then starts the next process, in new namespaces. If a process ended by itself, or left input unread,
nsjail is ended as well. Descriptors 0 and 1 in the jail are one socket, *data*. Its data is hostile, and counts only if
the token of the run precedes it. nsjail's log comes over a pipe outside the jail. More than 300 lines, because the
transition from one process to the next is in one place."""

from __future__ import annotations

import logging
import os
import socket
import struct

import trio

from sandbox.cells.cell import START_S, Cell, Done, OnLines, Room
from sandbox.cells.job import Job
from sandbox.cells.plan import Plan
from sandbox.cells.process import Supervisor, only_child
from sandbox.cells.reactor import READ, WRITE, Reactor
from sandbox.cells.watch import Watch
from sandbox.engines.deno.host import stack
from sandbox.engines.deno.host.accounts import Accounts
from sandbox.engines.deno.host.job import READY, TOKEN_BYTES, frame
from sandbox.engines.deno.host.process import DenoProcess
from sandbox.engines.deno.host.run import DenoRun
from sandbox.engines.host.run import Run
from sandbox.engines.host.sockets import is_quiet
from sandbox.errors import CellLost, CellStartError
from sandbox.jail.cell_cgroup import Group
from sandbox.jail.identities import Identity
from sandbox.protocol.events import Trusted
from sandbox.protocol.machine import Machine, State

KILL_S = 3.0

_READ_BYTES = 256 * 1024
_CREDENTIALS = struct.Struct("3i")
_log = logging.getLogger(__name__)


class DenoCell(Cell):
    """One nsjail with a `deno` process that waits for its run. Created by `start`."""

    process: Supervisor

    def __init__(
        self,
        plan: Plan,
        identity: Identity,
        jail: Supervisor,
        reactor: Reactor,
        data: socket.socket,
        group: Group | None,
        watch: Watch,
    ) -> None:
        super().__init__(plan, identity, jail, reactor)
        self.failure: CellStartError | None = None
        """The reason why the last process did not become ready."""
        self.answered = trio.Event()
        """Set when the first process is ready, or has failed."""
        self._data = data
        self._events = READ
        self._group = group
        self._watch = watch
        self._machine = Machine(State.STARTING)
        self._before = 0
        """Pid of the previous process."""
        self._engine: DenoProcess | None = None
        self._run: DenoRun | None = None
        reactor.watch(self, data.fileno(), self._on_data)
        reactor.watch(self, jail.log_fileno(), self._on_log)
        reactor.set_due(self, trio.current_time() + START_S)

    @property
    def blank(self) -> bool:
        """Whether the engine waits for a job."""
        return self._machine.state is State.BLANK

    def begin(self, job: Job, done: Done, *, on_lines: OnLines | None = None, room: Room | None = None) -> None:
        """Hand over a job: see `Cell.begin`."""
        self.runs += 1
        try:
            engine = self._undisturbed()
            engine.limit_cpu(job.limits)
            engine.keep_to_one_core()
            accounts = Accounts(self.process, engine, self._group)
            token = os.urandom(TOKEN_BYTES)
            run = Run(
                job,
                machine=self._machine,
                frame=frame(job, token),
                stacks=stack,
                done=done,
                on_lines=on_lines,
                room=room,
                token=token,
                tells_memory=False,  # the kernel reports it
            )
            self._run = DenoRun(
                run,
                accounts,
                jail=self.process,
                engine=engine,
                data=self._data,
                watch=self._watch,
                grouped=self._group is not None,
                set_due=lambda due: self._reactor.set_due(self, due),
                over=self._over,
            )
            self._machine.happen(Trusted.JOB)
            self._run.begin()
        except CellLost:
            self._run = None
            self._lose()
            raise
        if run.unsent:
            self._wait_for(READ | WRITE)

    def cancel(self) -> None:
        """End the current job."""
        if self._run is not None:
            self._run.cancel()

    def on_due(self) -> None:
        """Handle a deadline: of a process that starts, or of the run."""
        run = self._run
        if run is not None:
            run.on_due()
            if self._run is run:
                self._wait_for(run.events)
                if run.backlog:
                    self._reactor.again(self, self._on_data)
        elif self._machine.state is State.STARTING:
            self._fail()

    async def close(self) -> None:
        """End the jail and everything in it, and reap it."""
        self.retire()
        if self._data.fileno() < 0:
            return
        self._reactor.clear_due(self)
        self._reactor.forget(self._data.fileno())
        self._reactor.forget(self.process.log_fileno())
        reaped = False
        with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_S):
            self.process.kill()
            if self._engine is not None:
                self._reactor.forget(self._engine.fileno())
                # It was killed, too, but with its low priority on a busy core, it may take long to end.
                self._engine.kill()
                await trio.lowlevel.wait_readable(self._engine)
            await self.process.wait()
            reaped = True
        if self._run is not None:
            self._run.jail_ended()
            self._run = None
        self._watch.close()
        self._data.close()
        self._forget_engine()
        self.process.close()
        if reaped:
            self.plan.identities.give_back(self.identity)
        else:
            _log.error("nsjail %d was killed and did not end within %g s", self.process.pid, KILL_S)
        if self._group is not None:
            if refused := self._group.counters().refused_tasks:
                _log.warning("the cgroup of nsjail %d refused it %d processes or threads", self.process.pid, refused)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_S):
                await self._group.remove()

    # --- from one process to the next ---------------------------------------------------------------------------------

    def _await_next(self) -> None:
        """Wait for the process that nsjail starts next."""
        if self._engine is not None:
            self._before = self._engine.pid
            self._reactor.forget(self._engine.fileno())
        self.process.read_errors()  # of the last program
        self._machine = Machine(State.STARTING)
        self._wait_for(READ)
        self._reactor.set_due(self, trio.current_time() + START_S)
        self._on_log()

    def _hear(self) -> None:
        """Read messages of a starting process."""
        while True:
            try:
                # Data of an earlier process comes first, with its own pid (unix(7), SO_PASSCRED).
                said, control, _, _ = self._data.recvmsg(_READ_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size))
            except BlockingIOError:
                return
            except OSError:
                said, control = b"", []
            pid = _CREDENTIALS.unpack(control[0][2])[0] if control else 0
            if said and pid == self._before:
                continue
            try:
                if said != READY or pid != only_child(self.process.pid):
                    self._fail()
                    return
                self._meet(pid)
            except (OSError, ValueError, CellStartError) as error:
                self._fail(str(error))
            return

    def _meet(self, pid: int) -> None:
        """Take over a new process, which has read no user byte yet."""
        self._forget_engine()  # the previous one has ended, because nsjail starts one process after the other
        self._engine = DenoProcess(pid, data_bytes=self.plan.data_bytes)
        if self._group is not None:
            if not self._group.holds(pid):
                raise CellStartError(self.plan.engine, "it did not start in its cgroup")
            self._group.forget_peak()
        else:
            self._engine.peak_bytes()  # records the resident size of files, which does not count as its own memory
        self.process.forget()
        self._watch.follow(pid, os.dup(self._engine.fileno()), forks=False)
        self._reactor.watch(self, self._engine.fileno(), self._on_end)
        self._reactor.clear_due(self)
        self._machine.happen(Trusted.READY)
        if self.answered.is_set():
            self.on_blank()
        self.answered.set()

    def _fail(self, why: str = "") -> None:
        """Record that no process became ready, and retire."""
        self.failure = CellStartError(self.plan.engine, why or self.process.last_words())
        if self.answered.is_set():
            _log.warning("%s", self.failure)
        self._lose()
        self.answered.set()

    def _lose(self) -> None:
        """Retire a cell that has no job and can take none."""
        self._reactor.clear_due(self)
        self._reactor.forget(self._data.fileno())
        self._reactor.forget(self.process.log_fileno())
        if self._engine is not None:
            self._reactor.forget(self._engine.fileno())
        self._watch.disarm()
        self._machine = Machine(State.GONE)
        self.retire()

    def _forget_engine(self) -> None:
        if self._engine is not None:
            self._reactor.forget(self._engine.fileno())
            self._engine.close()
            self._engine = None

    def _undisturbed(self) -> DenoProcess:
        """Return the blank process. Raises CellLost if it has died, or has sent anything."""
        if self.usable and self.blank and self._engine is not None and self._engine.is_alive():
            try:
                self._data.recv(1)
            except BlockingIOError:
                return self._engine
            except OSError:
                pass
        raise CellLost("its blank engine died")

    # --- what the reactor reports -------------------------------------------------------------------------------------

    def _on_data(self) -> None:
        run = self._run
        if self._machine.state is State.STARTING:
            self._hear()
        elif run is None:
            if not is_quiet(self._data):
                self._lose()  # a blank process sends nothing
        elif run.awaits_log:
            self._reactor.forget(self._data.fileno())  # epoll would report a hang-up repeatedly
        else:
            run.on_data()
            if self._run is run:
                self._wait_for(run.events)
                if run.backlog:
                    self._reactor.again(self, self._on_data)

    def _on_end(self) -> None:
        """Handle the end of the process by itself."""
        if self._engine is None or self._engine.is_alive():
            return
        self._reactor.forget(self._engine.fileno())
        if self._run is None:
            self._lose()
        else:
            self._run.on_end()
            if self._run is not None and self._run.backlog:
                self._reactor.again(self, self._on_end)

    def _on_log(self) -> None:
        more = self.process.read_log()
        if not more:
            self._reactor.forget(self.process.log_fileno())  # nsjail has ended
        if self._run is not None:
            self._run.on_log(more=more)
        elif self._machine.state is State.STARTING and (not more or self.process.another_ended(self._before)):
            self._fail()
        elif not more:
            self._lose()

    def _wait_for(self, events: int) -> None:
        if events != self._events:
            self._events = events
            self._reactor.change(self._data.fileno(), events)

    def _over(self, goes_on: bool) -> None:
        """Handle the end of a run. `goes_on`: whether nsjail continues."""
        self._reactor.clear_due(self)
        if goes_on:
            self._run = None
            self._await_next()
        else:
            self._lose()
