"""A QuickJS cell: start it, hand it a run, supervise it, reap it.

It is one nsjail with a zygote in it and two sockets to that: *data*, whose other end belongs to the child
of the moment, and *control*, whose other end belongs to the zygote. What comes over data is hostile. How a run
ended is told by control: the wait status and rusage that the kernel gave the zygote.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import termios
from collections.abc import Callable

import msgspec
import trio
from msgspec import json

from sandbox.cells.job import Job, Plan, Trial
from sandbox.cells.process import only_child
from sandbox.engines.quickjs.stack import shown
from sandbox.engines.replies import BadReply, Refused, ReplyReader, Wrapped
from sandbox.errors import CellLost, CellStartError
from sandbox.limits import Limits
from sandbox.outcome import CpuLimit, Crashed, LogLine, MemoryLimit, Outcome, Usage, WallLimit

START_S = 10.0
KILL_S = 0.5
_EXIT_S = 0.3
"""How long a zygote may take to exit by itself."""

_MEMORY_EXIT = 72
"""Exit code of a child that could not go on for lack of memory (zygote.py)."""

_IN_THE_CALL = 4096
"""Up to so many characters, prompt and env stand in the text that the child evaluates."""

_HEADER = struct.Struct(">cIIII")
_SEEDS = struct.Struct("<iii")
_REPORT = struct.Struct("<cIqqqqq")
"""E, the wait status, user time (s, us), system time (s, us), the largest resident size (KiB)."""

_NICE = 10
"""Of a run that goes on for long: a tenth of the CPU where others want it."""

_READ_BYTES = 256 * 1024
_READS = 4
"""How often a child's output is read before others have their turn: one that writes without end may keep up."""


class _Report(msgspec.Struct, frozen=True):
    """The kernel's account of one ended child, as its zygote got it from wait4(2)."""

    status: int
    cpu_ms: float
    peak_memory_bytes: int

    @property
    def signal(self) -> int:
        return self.status & 0x7F

    @property
    def exit_code(self) -> int:
        return self.status >> 8


class QuickJSCell:
    """One jailed zygote. Runs one job at a time. Made by `start`."""

    def __init__(self, plan: Plan, process: trio.Process, data: socket.socket, control: socket.socket) -> None:
        self.plan = plan
        self.process = process
        self.runs = 0
        self.started_at = self.idle_since = trio.current_time()
        self.usable = True
        self.retired = trio.Event()
        self._data = data
        self._control = control
        self._children_ended = 0
        self._began: float | None = None
        self._zygote: int | None = None
        self._poll = select.epoll()
        self._poll.register(data, select.EPOLLIN)
        self._poll.register(control, select.EPOLLIN)

    def retire(self) -> None:
        """Take this cell out of service; who keeps it then closes it."""
        self.usable = False
        self.retired.set()

    async def close(self) -> None:
        """End the jail and everything in it, and reap it. Bounded; never raises for a process that is gone."""
        self.retire()
        if self._poll.closed:
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2 * KILL_S):
            # Whoever still waits for this cell is told, and does not wait for a descriptor that is another's by then.
            trio.lowlevel.notify_closing(self._poll.fileno())
            trio.lowlevel.notify_closing(self._control)
            self._poll.close()
            self._control.close()
            self._data.close()
            if self.process.stderr is not None:
                await self.process.stderr.aclose()
            # With control gone the zygote exits, which is its namespace's init, and with it all in there; nsjail
            # reaps it and tidies up. If that takes too long, nsjail is killed, and the rest by its parent's death.
            with trio.move_on_after(_EXIT_S):
                await self.process.wait()
            self.process.kill()
            await self.process.wait()
            if self.plan.cgroup is not None:
                self.plan.cgroup.sweep()

    async def run(self, job: Job, trial: Trial, *, on_log: Callable[[LogLine], None] | None = None) -> None:
        """Run the job and fill the trial in. On cancellation the child is killed first, and its usage noted.

        Raises CellLost, with the cell retired, if the cell turned out to be dead before it could be handed the job.
        """
        self._refuse_if_disturbed()
        self.runs += 1
        began = self._began = trio.current_time()
        wrapped_bytes = len(job.code) * 4 + 1024 if job.kind == "check" else 0
        reader = ReplyReader(
            limits=job.limits,
            source_name=job.source_name,
            shown=shown,
            wrapped_bytes=wrapped_bytes,
            source_lines=None if job.kind == "run" else job.code.count(b"\n") + 1,
        )
        handover = _Handover(self, job, reader, trial, on_log)
        report: _Report | None = None
        killed_for: Outcome | None = None
        try:
            await self._set_limits(job.limits)
            with trio.move_on_after(job.limits.wall_ms / 1000) as deadline:
                report = await handover.go()
            if deadline.cancelled_caught:
                killed_for = WallLimit(limit=job.limits.wall_ms, used=_ms_since(began))
        except BadReply as error:
            killed_for = Crashed(message=f"the engine wrote {error}")
        except CellLost:
            if not handover.begun:
                raise
            # It may have run: to run it again elsewhere is not ours to decide.
            killed_for = Crashed(signal="SIGKILL", message="its jail was ended from outside")
            report = _Report(signal.SIGKILL, 0.0, 0)
        finally:
            if report is None and self.usable:
                report = await self._kill(handover)
            self._began = None
            report = report or _Report(signal.SIGKILL, 0.0, 0)
            trial.logs_truncated = reader.logs_truncated
            trial.usage = Usage(
                cpu_ms=round(report.cpu_ms, 3),
                wall_ms=_ms_since(began),
                peak_memory_bytes=report.peak_memory_bytes,
            )
            if report.status != 0 or reader.said is None or not self.usable or self._unread_input():
                self.retire()
        said = killed_for or _judge(report, job.limits, reader.said)
        if isinstance(said, Wrapped | Refused):
            trial.checked = said
            if isinstance(said, Refused):
                trial.outcome = said.error
        else:
            trial.outcome = said

    def yield_to_others(self, after_s: float) -> None:
        """Let a run that has gone on for so long give way to others, once. To be called now and then."""
        if self._began is None or trio.current_time() - self._began < after_s:
            return
        self._began = None
        try:
            if self._zygote is None:
                self._zygote = only_child(self.process.pid)
            os.setpriority(os.PRIO_PROCESS, only_child(self._zygote), _NICE)
        except (OSError, ValueError):
            pass  # it has just ended, or this kernel does not tell

    def _refuse_if_disturbed(self) -> None:
        """Raise CellLost, and retire, if anything came by control since the last run: the blank child has died."""
        try:
            self._control.recv(64)
        except BlockingIOError:
            return
        except OSError:
            pass
        self.retire()
        raise CellLost("its blank child or its zygote died")

    async def _set_limits(self, limits: Limits) -> None:
        """Let a child with these limits take the place of the blank one, if that was born with others."""
        default = self.plan.default
        if (limits.cpu_ms, limits.memory_bytes) == (default.cpu_ms, default.memory_bytes):
            return
        message = b"L" + self._child() + limits.cpu_ms.to_bytes(4, "big") + limits.memory_bytes.to_bytes(8, "big")
        try:
            self._control.send(message)
            with trio.fail_after(KILL_S):
                await trio.lowlevel.wait_readable(self._control)
                self._report()
        except (OSError, trio.TooSlowError, trio.ClosedResourceError) as error:
            self.retire()
            raise CellLost(f"it did not take new limits: {error}") from error

    async def _kill(self, handover: _Handover) -> _Report:
        """Have the zygote kill its child, and wait for its account of it; else end the cell."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_S):
            try:
                self._control.send(b"K" + self._child())
                return await handover.finish()
            except (OSError, CellLost, BadReply, ValueError):
                pass
        self.retire()
        return _Report(signal.SIGKILL, 0.0, 0)

    def _child(self) -> bytes:
        """Return the number of the child of the moment, as the zygote counts them."""
        return self._children_ended.to_bytes(4, "big")

    def _report(self) -> _Report:
        """Read one report. Raises CellLost when the zygote is gone."""
        try:
            message = self._control.recv(64)
        except OSError:
            message = b""
        if len(message) != _REPORT.size or message[:1] != b"E":
            self.retire()
            raise CellLost("its zygote ended")
        self._children_ended += 1
        _, status, user_s, user_us, system_s, system_us, maxrss_kib = _REPORT.unpack(message)
        return _Report(status, (user_s + system_s) * 1000 + (user_us + system_us) / 1000, maxrss_kib * 1024)

    def _unread_input(self) -> bool:
        """Whether the child left input that the next one would read (SIOCOUTQ, unix(7))."""
        try:
            answer = fcntl.ioctl(self._data, termios.TIOCOUTQ, bytes(4))
        except OSError:
            return True
        return int.from_bytes(answer, "little") != 0


class _Handover:
    """One job on its way through a cell's two sockets."""

    def __init__(
        self,
        cell: QuickJSCell,
        job: Job,
        reader: ReplyReader,
        trial: Trial,
        on_log: Callable[[LogLine], None] | None,
    ) -> None:
        self._cell = cell
        self._reader = reader
        self._trial = trial
        self._on_log = on_log
        self.begun = False
        self._unsent = memoryview(_frame(job))
        self._waiting_to_send = False

    async def go(self) -> _Report:
        """Write the job, read what the child writes, until the zygote reports its end."""
        self._send()
        return await self.finish()

    async def finish(self) -> _Report:
        """Read on until the report. Raises CellLost or BadReply."""
        cell = self._cell
        while True:
            try:
                await trio.lowlevel.wait_readable(cell._poll.fileno())
                # It may have been closed since this task was woken.
                ready = cell._poll.poll(0)
            except (trio.ClosedResourceError, ValueError, OSError) as error:
                cell.retire()
                raise CellLost("it was closed") from error
            ended = False
            for descriptor, _ in ready:
                if descriptor == cell._control.fileno():
                    ended = True
                elif self._waiting_to_send:
                    self._send()
            report = cell._report() if ended else None
            # After the report the child is dead: all that it ever wrote is there to be read.
            self._receive(to_the_end=ended)
            if report is not None:
                if self._waiting_to_send:
                    cell.retire()
                return report

    def _send(self) -> None:
        cell = self._cell
        try:
            while self._unsent:
                self._unsent = self._unsent[cell._data.send(self._unsent) :]
                self.begun = True
        except BlockingIOError:
            pass
        except OSError as error:
            cell.retire()
            raise CellLost(f"its data socket broke: {error}") from error
        if bool(self._unsent) != self._waiting_to_send:
            self._waiting_to_send = bool(self._unsent)
            events = select.EPOLLIN | (select.EPOLLOUT if self._waiting_to_send else 0)
            cell._poll.modify(cell._data, events)

    def _receive(self, *, to_the_end: bool) -> None:
        reads = 0
        while to_the_end or reads < _READS:
            reads += 1
            try:
                data = self._cell._data.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                raise CellLost(f"its data socket broke: {error}") from error
            if not data:
                return
            for line in self._reader.feed(data):
                if self._on_log is None:
                    self._trial.logs.append(line)
                else:
                    self._on_log(line)


def _frame(job: Job) -> bytes:
    """Return the one frame that the child reads (zygote.py, `_read_job`)."""
    prompt, env = b"", b""
    in_the_call = len(job.prompt) + len(job.env) <= _IN_THE_CALL
    if in_the_call:
        # A JSON string is a JavaScript string; to the engine, arguments cost less than a call of the host's.
        given = json.encode(job.prompt) + b", " + json.encode(job.env)
    else:
        given = b"void 0, void 0"
        prompt, env = job.prompt.encode(), job.env.encode()
    numbers = (job.limits.result_bytes, job.limits.log_bytes, *_SEEDS.unpack(os.urandom(_SEEDS.size)))
    arguments = b", %b, %d, %d, %d, %d, %d)" % (given, *numbers)
    code = job.code
    if job.kind == "run":
        # The wrapped code's first letter tells a body from a module.
        if code[:1] == b"B" and in_the_call:
            return b"%08d%b%b" % (8 + len(code) + len(arguments), code, arguments)
        kind, code = (b"L" if code[:1] == b"B" else b"M"), code[1:]
    else:
        kind = b"S" if job.kind == "source" else b"C"
    header = _HEADER.pack(kind, len(code), len(arguments), len(prompt), len(env))
    parts = (header, code, arguments, prompt, env)
    return b"".join((b"%08d" % (8 + sum(map(len, parts))), *parts))


def _ms_since(began: float) -> float:
    return round((trio.current_time() - began) * 1000, 3)


def _judge(report: _Report, limits: Limits, said: Outcome | Wrapped | Refused | None) -> Outcome | Wrapped | Refused:
    """Tell how a run ended: by the kernel's evidence first, by the child's own word where that leaves it open."""
    if report.signal == signal.SIGXCPU or (report.signal == signal.SIGKILL and report.cpu_ms >= limits.cpu_ms):
        return CpuLimit(limit=limits.cpu_ms, used=round(report.cpu_ms, 3))
    near_limit = report.peak_memory_bytes >= limits.memory_bytes // 2
    if report.exit_code == _MEMORY_EXIT or (report.signal in (signal.SIGABRT, signal.SIGSEGV) and near_limit):
        return MemoryLimit(limit=limits.memory_bytes, used=report.peak_memory_bytes)
    if report.signal:
        return Crashed(signal=signal.Signals(report.signal).name, message="the engine was ended by a signal")
    if report.exit_code:
        return Crashed(message=f"the engine ended with exit code {report.exit_code}")
    if said is None:
        return Crashed(message="the engine ended without a word")
    if isinstance(said, MemoryLimit):
        return MemoryLimit(limit=limits.memory_bytes, used=report.peak_memory_bytes)
    return said


async def start(plan: Plan) -> QuickJSCell:
    """Start a cell and wait until its first blank child is there. About 20 ms.

    Raises CellStartError with what nsjail or the zygote said.
    """
    data, their_data = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    control, their_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with their_data, their_control:
        try:
            process = await trio.lowlevel.open_process(
                [str(plan.executable), *plan.arguments],
                stdin=their_data,
                stdout=their_control,
                stderr=subprocess.PIPE,
                cwd=plan.folder,
                env={},
                # Ctrl-C at the daemon's terminal is the daemon's affair. No session of its own: to the kernel's
                # scheduler (autogroup, sched(7)) each session is a party, and niceness counts only within one.
                process_group=0,
            )
        except BaseException as error:
            data.close()
            control.close()
            if isinstance(error, OSError):
                raise CellStartError(plan.engine, f"{plan.executable}: {error}") from error
            raise
    data.setblocking(False)
    control.setblocking(False)
    cell = QuickJSCell(plan, process, data, control)
    try:
        with trio.move_on_after(START_S):
            await trio.lowlevel.wait_readable(control)
            if control.recv(64) == b"R":
                return cell
        raise CellStartError(plan.engine, await _last_words(process))
    except BaseException as error:
        await cell.close()
        if isinstance(error, OSError):
            raise CellStartError(plan.engine, error.strerror or str(error)) from error
        raise


async def _last_words(process: trio.Process) -> str:
    text = b""
    assert process.stderr is not None
    with trio.move_on_after(KILL_S):
        async for part in process.stderr:
            text += part
            if len(text) > 4096:
                break
    last = text.decode("utf-8", "replace").strip().splitlines()[-3:]
    return " / ".join(last) or "it ended, or did nothing, without a word; try: promptlogctl doctor"
