"""A Deno cell: start it, hand it its one run, supervise that, tell from the kernel's evidence how it ended.

It is one nsjail with one `deno` in it that has run promptlog's runner and nothing else. Its descriptors 0 and 1 are one
socket, *data*; what comes over it is hostile, and counts only with the token of the run before it. nsjail's log comes
over a pipe that the jail does not have.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import trio

from sandbox.cells.job import Job, Plan, Trial
from sandbox.cells.process import Jailed, ending, only_child, spawn
from sandbox.cgroup import Group
from sandbox.engines.deno.stack import shown
from sandbox.engines.replies import BadReply, Refused, ReplyReader, Wrapped
from sandbox.errors import CellLost, CellStartError
from sandbox.limits import Limits
from sandbox.outcome import CpuLimit, Crashed, LogLine, MemoryLimit, Outcome, Usage, WallLimit

START_S = 10.0
KILL_S = 1.0
_HEADER = struct.Struct(">16sccIIIII")
_TOKEN_BYTES = 16
_READ_BYTES = 256 * 1024
_WRAPPED_MORE_BYTES = 1024
_WORDS_BYTES = 16 * 1024
_NICE = 10
_LOOK_S = 0.001
"""The least time between two looks at the process's CPU clock."""

_CORES = len(os.sched_getaffinity(0))
_ABORTS = (signal.SIGTRAP, signal.SIGILL, signal.SIGABRT, signal.SIGSEGV)
"""How V8 ends when memory is refused to it."""


class DenoCell:
    """One jailed `deno`. Runs one job, once. Made by `start`."""

    def __init__(self, plan: Plan, process: Jailed, data: socket.socket, log: int, group: Group | None) -> None:
        self.plan = plan
        self.process = process
        self.runs = 0
        self.started_at = self.idle_since = trio.current_time()
        self.usable = True
        self.retired = trio.Event()
        self._data = data
        self._log = log
        self._group = group
        self._pid = 0
        self._pidfd = -1
        self._began: float | None = None

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
            trio.lowlevel.notify_closing(self._data)
            self._data.close()
            self._kill()
            # nsjail reaps it and ends. If that takes too long nsjail is killed as well.
            with trio.move_on_after(KILL_S / 2):
                await self.process.wait()
            self.process.kill()
            await self.process.wait()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        os.close(self._log)
        if self._group is not None:
            self._group.remove()

    async def ready(self) -> None:
        """Wait for the runner's word that it waits for its job. Raises CellStartError, or OSError."""
        with trio.move_on_after(START_S):
            await trio.lowlevel.wait_readable(self._data)
            if self._data.recv(1) == b"R":
                self._pid = only_child(self.process.pid)
                self._pidfd = os.pidfd_open(self._pid)
                if self._group is not None and not self._group.holds(self._pid):
                    raise CellStartError(self.plan.engine, "it did not start in its cgroup")
                if self.plan.data_bytes is not None:
                    resource.prlimit(self._pid, resource.RLIMIT_DATA, (self.plan.data_bytes, self.plan.data_bytes))
                return
        raise CellStartError(self.plan.engine, self._last_words())

    async def run(self, job: Job, trial: Trial, *, on_log: Callable[[LogLine], None] | None = None) -> None:
        """Run the job and fill the trial in. On cancellation the process is killed first, and its usage noted.

        Raises CellLost, with the cell retired, if the cell turned out to be dead before it could be handed the job.
        """
        handover = _Handover(self, job, trial, on_log)
        self.runs += 1
        try:
            self._refuse_if_disturbed()
            self._set_cpu_limit(job.limits)
            self._began = handover.began
            await handover.go()
        finally:
            self._began = None
            self.retire()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_S):
                await handover.settle()

    def yield_to_others(self, after_s: float) -> None:
        """Let a run that has gone on for so long give way to others, once. To be called now and then."""
        if self._began is None or trio.current_time() - self._began < after_s:
            return
        self._began = None
        with suppress(OSError, ValueError):
            for thread in os.listdir(f"/proc/{self._pid}/task"):
                os.setpriority(os.PRIO_PROCESS, int(thread), _NICE)

    def _refuse_if_disturbed(self) -> None:
        """Raise CellLost if a blank cell has said or done anything: it has died, or it is not what we started."""
        try:
            self._data.recv(1)
        except BlockingIOError:
            return
        except OSError:
            pass
        raise CellLost("its blank engine died")

    def _set_cpu_limit(self, limits: Limits) -> None:
        """Put RLIMIT_CPU, in whole seconds, behind the daemon's looks at the clock."""
        seconds = math.ceil(self._cpu_s() + limits.cpu_ms / 1000) + 1
        try:
            resource.prlimit(self._pid, resource.RLIMIT_CPU, (seconds, seconds + 1))
        except OSError as error:
            raise CellLost(f"it took no limit: {error}") from error

    def _cpu_s(self) -> float:
        """Read the process's CPU clock, all of its threads (clock_getcpuclockid(3)). Raises CellLost."""
        try:
            return time.clock_gettime((~self._pid << 3) | 2)
        except OSError as error:
            raise CellLost("it is gone") from error

    def _nsjails_cpu_s(self) -> float:
        try:
            return time.clock_gettime((~self.process.pid << 3) | 2)
        except OSError:
            return 0.0

    def _peak_bytes(self) -> int:
        """Return the most memory that the cell has had: its cgroup's, or what was resident."""
        if self._group is not None and (peak := self._group.peak_bytes()):
            return peak
        with suppress(OSError, ValueError, IndexError):
            status = Path(f"/proc/{self._pid}/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]) * 1024
        return 0

    def _kill(self) -> None:
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        else:
            self.process.kill()

    def _nsjails_words(self) -> str:
        text = b""
        with suppress(OSError):
            while len(text) < _WORDS_BYTES and (part := os.read(self._log, _WORDS_BYTES)):
                text += part
        return text.decode("utf-8", "replace")

    def _last_words(self) -> str:
        words = [line for line in self._nsjails_words().splitlines() if line.startswith(("[E]", "[W]", "[F]"))][-3:]
        return " / ".join(words) or "it ended, or did nothing, without a word; try: promptlogctl doctor"


class _Handover:
    """The one job on its way through a cell."""

    def __init__(self, cell: DenoCell, job: Job, trial: Trial, on_log: Callable[[LogLine], None] | None) -> None:
        self.began = trio.current_time()
        self._cell = cell
        self._job = job
        self._trial = trial
        self._on_log = on_log
        self._begun = False
        self._ended = False
        self._killed_for: Outcome | None = None
        self._cpu_before_s = self._nsjail_before_s = 0.0
        self._cpu_s: float | None = None
        self._peak_bytes = 0
        self._unsent = memoryview(b"")
        self._reader: ReplyReader

    async def go(self) -> None:
        """Hand the job over, read what comes, watch the clocks. Raises CellLost if nothing was handed over."""
        cell, job = self._cell, self._job
        token = os.urandom(_TOKEN_BYTES)
        self._reader = ReplyReader(
            limits=job.limits,
            source_name=job.source_name,
            shown=shown,
            token=token,
            wrapped_bytes=len(job.code) + _WRAPPED_MORE_BYTES if job.kind == "check" else 0,
            source_lines=None if job.kind == "run" else job.code.count(b"\n") + 1,
        )
        self._unsent = memoryview(_frame(job, token))
        self._nsjail_before_s = cell._nsjails_cpu_s()
        self._cpu_before_s = cell._cpu_s()
        try:
            with trio.move_on_after(job.limits.wall_ms / 1000) as deadline:
                await self._until_the_end()
            if deadline.cancelled_caught:
                self._killed_for = WallLimit(limit=job.limits.wall_ms, used=self._wall_ms())
        except BadReply as error:
            self._killed_for = Crashed(message=f"the engine wrote {error}")
        except CellLost:
            if not self._begun:
                raise
            self._ended = True

    async def _until_the_end(self) -> None:
        """Return at the last word, at the process's end, or at the end of its CPU time."""
        limit_s = self._job.limits.cpu_ms / 1000
        while True:
            self._send()
            left_s = limit_s - (self._cell._cpu_s() - self._cpu_before_s)
            if left_s <= 0:
                return
            # With all threads at work it can't be over sooner.
            with trio.move_on_after(max(left_s / _CORES, _LOOK_S)):
                if self._unsent:
                    await self._wait_for_room()
                else:
                    await trio.lowlevel.wait_readable(self._cell._data)
            if not self._receive() or self._reader.said is not None:
                return

    async def _wait_for_room(self) -> None:
        async with trio.open_nursery() as nursery:

            async def readable() -> None:
                await trio.lowlevel.wait_readable(self._cell._data)
                nursery.cancel_scope.cancel()

            nursery.start_soon(readable)
            await trio.lowlevel.wait_writable(self._cell._data)
            nursery.cancel_scope.cancel()

    def _send(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[self._cell._data.send(self._unsent) :]
                self._begun = True
        except BlockingIOError:
            pass
        except OSError as error:
            raise CellLost(f"its data socket broke: {error}") from error

    def _receive(self) -> bool:
        """Read what is there, up to a bound. Returns whether there may be more later."""
        try:
            data = self._cell._data.recv(_READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self._ended = True
            return False
        for line in self._reader.feed(data):
            if self._on_log is None:
                self._trial.logs.append(line)
            else:
                self._on_log(line)
        return True

    async def settle(self) -> None:
        """Read the kernel's accounts, and tell how it ended."""
        cell, trial, limits = self._cell, self._trial, self._job.limits
        if not self._begun:
            return
        used_ms: float | None = None
        if not self._ended:
            with suppress(CellLost):
                used_ms = (cell._cpu_s() - self._cpu_before_s) * 1000
        # That it has ended is told by the accounts of who waited for it.
        alive = used_ms is not None and self._reader.said is not None
        self._peak_bytes = cell._peak_bytes()
        signal_, exit_code, oom = 0, 0, False
        cell._kill()
        if not alive:
            with trio.move_on_after(KILL_S / 2):
                account = await cell.process.wait()
                if used_ms is None:
                    used_ms = account.cpu_ms - (self._cpu_before_s + self._nsjail_before_s) * 1000
                self._peak_bytes = max(self._peak_bytes, 0 if cell._group else account.peak_memory_bytes)
                how = ending(cell._nsjails_words())
                if how is not None:
                    signal_, exit_code = how.signal, how.exit_code
            oom = cell._group is not None and cell._group.oom_kills() > 0
        used_ms = max(used_ms or 0.0, 0.0)
        trial.logs_truncated = self._reader.logs_truncated
        trial.usage = Usage(cpu_ms=round(used_ms, 3), wall_ms=self._wall_ms(), peak_memory_bytes=self._peak_bytes)
        said: Outcome | Wrapped | Refused
        if self._reader.at_least is not None and not alive:
            said = self._reader.at_least
        elif oom:
            said = MemoryLimit(limit=limits.memory_bytes, used=self._peak_bytes)
        elif used_ms > limits.cpu_ms or signal_ == signal.SIGXCPU:
            said = CpuLimit(limit=limits.cpu_ms, used=round(used_ms, 3))
        elif self._killed_for is not None:
            said = self._killed_for
        elif alive:
            assert self._reader.said is not None
            said = self._reader.said
        elif signal_ in _ABORTS and self._peak_bytes >= limits.memory_bytes // 2:
            said = MemoryLimit(limit=limits.memory_bytes, used=self._peak_bytes)
        elif signal_:
            said = Crashed(signal=signal.Signals(signal_).name, message="the engine was ended by a signal")
        elif self._ended:
            said = Crashed(message=f"the engine ended with exit code {exit_code}")
        else:
            said = Crashed(message="the run was given up")
        if isinstance(said, Wrapped | Refused):
            trial.checked = said
            if isinstance(said, Refused):
                trial.outcome = said.error
        else:
            trial.outcome = said

    def _wall_ms(self) -> float:
        return round((trio.current_time() - self.began) * 1000, 3)


def _frame(job: Job, token: bytes) -> bytes:
    """Return the one frame that the runner reads (runner.js)."""
    kind = {"run": b"R", "source": b"S", "check": b"C"}[job.kind]
    language = b"t" if job.language == "typescript" else b"j"
    prompt, env = job.prompt.encode(), job.env.encode()
    sizes = (len(job.code), len(prompt), len(env), job.limits.result_bytes, job.limits.log_bytes)
    return b"".join((_HEADER.pack(token, kind, language, *sizes), job.code, prompt, env))


async def start(plan: Plan) -> DenoCell:
    """Start a cell and wait until its runner waits for a job. About 25 ms.

    Raises CellStartError with what nsjail said.
    """
    data, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    log, their_log = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    group: Group | None = None
    try:
        with theirs:
            try:
                if plan.cgroup is not None:
                    group = plan.cgroup.group(plan.default.memory_bytes)
                process = await spawn(
                    [str(plan.executable), "--log_fd", str(their_log), *plan.arguments],
                    # nsjail starts the jailed process some milliseconds later; `ready` looks whether this was in time.
                    group.add if group is not None else None,
                    stdin=theirs,
                    stdout=theirs,
                    stderr=subprocess.DEVNULL,
                    cwd=plan.folder,
                    pass_fds=(their_log,),
                )
            finally:
                os.close(their_log)
    except BaseException as error:
        data.close()
        os.close(log)
        if group is not None:
            group.remove()
        if isinstance(error, OSError):
            raise CellStartError(plan.engine, f"{plan.executable}: {error}") from error
        raise
    data.setblocking(False)
    cell = DenoCell(plan, process, data, log, group)
    try:
        await cell.ready()
    except BaseException as error:
        await cell.close()
        if isinstance(error, OSError | ValueError):
            raise CellStartError(plan.engine, str(error)) from error
        raise
    return cell
