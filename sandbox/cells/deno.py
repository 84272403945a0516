"""A Deno cell: start it, hand it a run, supervise that, tell from the kernel's evidence how it ended.

It is one nsjail with one `deno` in it that has run promptlog's runner and nothing else. That one takes one run and is
killed; nsjail starts the next, in namespaces of its own. Where it ended by itself, or left input unread, nsjail is
ended as well. The descriptors 0 and 1 in the jail are one socket, *data*; what comes over it is hostile, and counts
only with the token of the run before it. nsjail's log comes over a pipe that the jail does not have.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

import trio

from sandbox.cells.deno_process import DenoProcess
from sandbox.cells.deno_run import DenoRun
from sandbox.cells.job import Job, Plan, Trial
from sandbox.cells.process import Supervisor, only_child, spawn
from sandbox.cgroup import Group
from sandbox.errors import CellLost, CellStartError
from sandbox.identities import Identity
from sandbox.outcome import LogLine

START_S = 10.0
KILL_S = 3.0

_READ_BYTES = 256 * 1024
_CREDENTIALS = struct.Struct("3i")


class DenoCell:
    """One nsjail with a `deno` that waits for its run. Made by `start`."""

    def __init__(
        self, plan: Plan, identity: Identity, jail: Supervisor, data: socket.socket, group: Group | None
    ) -> None:
        self.plan = plan
        self.identity = identity
        self.process = jail
        self.runs = 0
        self.started_at = self.idle_since = trio.current_time()
        self.usable = True
        self.retired = trio.Event()
        self.blank = False
        """Whether its engine waits for a run."""
        self._data = data
        self._group = group
        self._engine: DenoProcess | None = None
        self._poll: select.epoll | None = None
        self._running = trio.Lock()

    def retire(self) -> None:
        """Take this cell out of service; who keeps it then closes it."""
        self.usable = False
        self.retired.set()

    async def close(self) -> None:
        """End the jail and everything in it, and reap it. Bounded; never raises for a process that is gone."""
        self.retire()
        if self._data.fileno() < 0:
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_S):
            self.process.kill()
            async with self._running:  # a run that is on finds its process dead, and reads what there is to read
                pass
        with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_S):
            if self._engine is not None:
                # Killed, too; but low in priority, on a core that others want, it may take its time to end.
                self._engine.kill()
                with suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_readable(self._engine)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_S):
            self._forget()
            trio.lowlevel.notify_closing(self._data)
            self._data.close()
            await self.process.wait()
            self.process.close()
            self.plan.identities.give_back(self.identity)
            if self._group is not None:
                await self._group.remove()

    async def ready(self) -> None:
        """Wait until a new process's runner says that it waits for its run. Raises CellStartError, or OSError."""
        before = self._engine.pid if self._engine is not None else 0
        self._forget()
        self.process.read_errors()  # of the program that was
        with trio.move_on_after(START_S):
            while not self.process.another_ended(before):
                await self._wait_for_data_or_log()
                try:
                    # What an earlier process has left here comes first, and with its own pid (unix(7), SO_PASSCRED).
                    said, control, _, _ = self._data.recvmsg(_READ_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size))
                except BlockingIOError:
                    if not self.process.read_log():
                        break
                    continue
                if not said:
                    break
                pid = _CREDENTIALS.unpack(control[0][2])[0] if control else 0
                if pid != before:
                    if said != b"R" or pid != only_child(self.process.pid):
                        break
                    self._meet(pid)
                    return
        raise CellStartError(self.plan.engine, self.process.last_words())

    async def _wait_for_data_or_log(self) -> None:
        try:
            with select.epoll() as watch:
                for readable in (self._data.fileno(), self.process.log_fileno()):
                    watch.register(readable, select.EPOLLIN)
                await trio.lowlevel.wait_readable(watch.fileno())
        except (trio.ClosedResourceError, ValueError) as error:
            raise CellStartError(self.plan.engine, "it was closed") from error

    def _meet(self, pid: int) -> None:
        """Take charge of a new process, which has seen no user byte yet."""
        self._engine = DenoProcess(pid, data_bytes=self.plan.data_bytes)
        self._poll = select.epoll()
        self._poll.register(self._data, 0)  # see Exchange
        self._poll.register(self._engine, select.EPOLLIN)
        if self._group is not None:
            if not self._group.holds(pid):
                raise CellStartError(self.plan.engine, "it did not start in its cgroup")
            self._group.forget_peak()
        else:
            self._engine.peak_bytes()  # should it end by itself, what was its own is told from what this says
        self.process.forget()
        self.blank = True

    def _forget(self) -> None:
        """Let go of the process that was."""
        if self._poll is not None:
            trio.lowlevel.notify_closing(self._poll.fileno())
            self._poll.close()
            self._poll = None
        if self._engine is not None:
            trio.lowlevel.notify_closing(self._engine)
            self._engine.close()
            self._engine = None

    async def run(
        self, job: Job, trial: Trial, *, on_log: Callable[[LogLine], None] | None = None, alone: bool = False
    ) -> None:
        """Run the job and fill the trial in. On cancellation the process is killed first, and its usage noted.

        `alone` is nothing to it: a run ends with its last word, which is waited for in any case.
        After a clean end `usable` is still set, and the next process is on its way: see `ready`. Raises CellLost, with
        the cell retired, if the process turned out to be dead before it could be handed the job.
        """
        async with self._running:
            self.runs += 1
            self.blank = False
            handover: DenoRun | None = None
            goes_on = False
            try:
                engine, poll = self._undisturbed()
                engine.limit_cpu(job.limits)
                engine.keep_to_one_core()
                handover = DenoRun(self.process, self._group, engine, poll, self._data, job, trial, on_log)
                await handover.go()
            finally:
                if handover is not None and handover.begun:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_S):
                        goes_on = await handover.settle()
                if not goes_on:
                    self.retire()

    def _undisturbed(self) -> tuple[DenoProcess, select.epoll]:
        """Return the blank process. Raises CellLost if it has died, or has said or done anything."""
        if self._engine is not None and self._poll is not None and self._engine.is_alive():
            try:
                self._data.recv(1)
            except BlockingIOError:
                return self._engine, self._poll
            except OSError:
                pass
        raise CellLost("its blank engine died")


async def start(plan: Plan) -> DenoCell:
    """Start a cell and wait until its runner waits for a run. About 25 ms.

    Raises CellStartError with what nsjail said.
    """
    try:
        data, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise CellStartError(plan.engine, f"no sockets for it: {error.strerror}") from error
    data.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    data.setblocking(False)
    group: Group | None = None
    identity: Identity | None = None
    try:
        with theirs:
            identity = plan.take_identity()
            if plan.cgroup is not None:
                group = plan.cgroup.group(plan.default.memory_bytes)
            process = spawn(
                plan.executable,
                plan.arguments_for(identity),
                group.process_files() if group is not None else (),
                stdin=theirs,
                stdout=theirs,
                cwd=plan.folder,
                **plan.process_options,
            )
    except BaseException as error:
        data.close()
        if identity is not None:
            plan.identities.give_back(identity)
        if group is not None:
            await group.remove()
        if isinstance(error, OSError):
            raise CellStartError(plan.engine, f"{plan.executable}: {error}") from error
        raise
    cell = DenoCell(plan, identity, process, data, group)
    try:
        await cell.ready()
    except BaseException as error:
        await cell.close()
        if isinstance(error, OSError | ValueError):
            raise CellStartError(plan.engine, str(error)) from error
        raise
    return cell
