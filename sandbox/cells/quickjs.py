"""A QuickJS cell: start it, hand it a run, supervise it, reap it.

It is one nsjail with a zygote in it and two sockets to that: *data*, whose other end belongs to the child
of the moment, and *control*, whose other end belongs to the zygote. What comes over data is hostile. How a run
ended is told by control: the wait status and rusage that the kernel gave the zygote.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, suppress

import trio

from sandbox.cells.exchange import Exchange, make_room
from sandbox.cells.frames import quickjs_frame
from sandbox.cells.job import LONG_S, Job, Plan, Trial
from sandbox.cells.process import only_child
from sandbox.cells.verdict import Report, Verdict, of_report
from sandbox.engines.quickjs import stack
from sandbox.engines.quickjs.source import AROUND
from sandbox.engines.replies import BadReply, ReplyReader, Wrapped
from sandbox.errors import CellLost, CellStartError
from sandbox.identities import Identity
from sandbox.limits import Limits
from sandbox.outcome import Crashed, LogLine, Outcome, Usage, WallLimit

START_S = 10.0
KILL_S = 0.5
_EXIT_S = 0.3
"""How long a zygote may take to exit by itself."""

_REPORT = struct.Struct("<4sIqqqqq")
"""E, the wait status, user time (s, us), system time (s, us), the largest resident size (KiB)."""

_NICE = 10
"""Of a run that goes on for long: a tenth of the CPU where others want it."""


class QuickJSCell:
    """One jailed zygote. Runs one job at a time. Made by `start`."""

    def __init__(
        self,
        plan: Plan,
        identity: Identity,
        process: trio.Process,
        data: socket.socket,
        control: socket.socket,
        poll: select.epoll,
    ) -> None:
        self.plan = plan
        self.identity = identity
        self.process = process
        self.runs = 0
        self.started_at = self.idle_since = trio.current_time()
        self.usable = True
        self.retired = trio.Event()
        self._data = data
        self._control = control
        self._children_ended = 0
        self._last_report: Report | None = None
        self._zygote: int | None = None
        self._poll = poll
        self._poll.register(data, 0)  # see Exchange
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
        zygote = self._find_zygote()
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
            self.plan.identities.give_back(self.identity)
            if self.plan.cgroup is not None:
                self.plan.cgroup.forget_jail(zygote)

    async def run(
        self, job: Job, trial: Trial, *, on_log: Callable[[LogLine], None] | None = None, alone: bool = False
    ) -> None:
        """Run the job and fill the trial in. On cancellation the child is killed first, and its usage noted.

        `alone`: nothing else is running. A core that waits is woken by the output, and is awake when the end comes.
        Raises CellLost, with the cell retired, if the cell turned out to be dead before it could be handed the job.
        """
        self._refuse_if_disturbed()
        self.runs += 1
        began = trio.current_time()
        self._last_report = None
        wrapped_bytes = 1 if job.kind == "check" else 0
        reader = ReplyReader(
            limits=job.limits,
            source_name=job.source_name,
            stacks=stack,
            source=lambda: job.source,
            wrapped_bytes=wrapped_bytes,
        )
        exchange = Exchange(self._data, self._poll, quickjs_frame(job), reader, trial, on_log)
        report: Report | None = None
        killed_for: Outcome | None = None
        try:
            await self._set_limits(job.limits)
            ends_at = trio.current_time() + job.limits.wall_ms / 1000
            self._send(exchange)
            if on_log is not None or alone:
                exchange.listen()
            # Else what a short run writes is read once, when it has ended.
            with trio.move_on_at(min(ends_at, trio.current_time() + LONG_S)):
                report = await self._until_the_end(exchange)
            if report is None:
                self._yield_to_others()
                exchange.listen()
                with trio.move_on_at(ends_at):
                    report = await self._until_the_end(exchange)
            if report is None:
                killed_for = WallLimit(limit=job.limits.wall_ms, used=_ms_since(began))
        except BadReply as error:
            killed_for = Crashed(message=f"the engine wrote {error}")
            report = self._last_report  # it may have ended already
        except CellLost:
            if not exchange.begun:
                raise
            # It may have run: to run it again elsewhere is not ours to decide.
            killed_for = Crashed(signal="SIGKILL", message="its jail was ended from outside")
            report = Report(signal.SIGKILL, 0.0, 0)
        finally:
            if report is None and self.usable:
                report = await self._kill(exchange)
            report = report or Report(signal.SIGKILL, 0.0, 0)
            trial.logs_truncated = reader.logs_truncated
            trial.usage = Usage(
                cpu_ms=round(report.cpu_ms, 3),
                wall_ms=_ms_since(began),
                peak_memory_bytes=report.peak_memory_bytes,
            )
            if report.status != 0 or reader.said is None or not self.usable or not exchange.was_read():
                self.retire()
            else:
                exchange.close()
        trial.end(killed_for or of_report(report, job.limits, _wrapped(job, reader.said)))

    def _send(self, exchange: Exchange) -> None:
        try:
            exchange.send()
        except CellLost:
            self.retire()
            raise

    async def _until_the_end(self, exchange: Exchange) -> Report:
        """Send and read until the zygote reports the child's end. Raises CellLost or BadReply."""
        control = self._control.fileno()
        while True:
            try:
                if exchange.waits:
                    await trio.lowlevel.wait_readable(self._poll.fileno())
                    # It may have been closed since this task was woken.
                    ready = self._poll.poll(0)
                else:
                    await trio.lowlevel.wait_readable(self._control)
                    ready = [(control, select.EPOLLIN)]
            except (trio.ClosedResourceError, ValueError, OSError) as error:
                self.retire()
                raise CellLost("it was closed") from error
            ended = False
            for descriptor, _ in ready:
                if descriptor == control:
                    ended = True
                elif exchange.unsent:
                    self._send(exchange)
            report = self._last_report = self._report() if ended else None
            # After the report the child is dead: all that it ever wrote is there to be read.
            exchange.receive(to_the_end=ended)
            if report is not None:
                return report

    def _find_zygote(self) -> int | None:
        """Return the zygote's pid; None if it ended before, or if this kernel has no `children` file."""
        if self._zygote is None:
            with suppress(OSError, ValueError):
                self._zygote = only_child(self.process.pid)
        return self._zygote

    def _yield_to_others(self) -> None:
        """Let the run that is on give way to others."""
        zygote = self._find_zygote()
        if zygote is not None:
            with suppress(OSError, ValueError):  # the child has just ended
                os.setpriority(os.PRIO_PROCESS, only_child(zygote), _NICE)

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

    async def _kill(self, exchange: Exchange) -> Report:
        """Have the zygote kill its child, and wait for its account of it; else end the cell."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_S):
            try:
                self._control.send(b"K" + self._child())
                return await self._until_the_end(exchange)
            except (OSError, CellLost, BadReply, ValueError):
                pass
        self.retire()
        return Report(signal.SIGKILL, 0.0, 0)

    def _child(self) -> bytes:
        """Return the number of the child of the moment, as the zygote counts them."""
        return self._children_ended.to_bytes(4, "big")

    def _report(self) -> Report:
        """Read one report. Raises CellLost when the zygote is gone."""
        try:
            message = self._control.recv(64)
        except OSError:
            message = b""
        if len(message) != _REPORT.size or message[:4] != b"E\0\0\0":
            self.retire()
            raise CellLost("its zygote ended")
        self._children_ended += 1
        _, status, user_s, user_us, system_s, system_us, maxrss_kib = _REPORT.unpack(message)
        return Report(status, (user_s + system_s) * 1000 + (user_us + system_us) / 1000, maxrss_kib * 1024)


def _wrapped(job: Job, said: Verdict | None) -> Verdict | None:
    """Build the wrapped code of a check from the client's text. Only the form comes from the process.

    A false form makes a program that does not run, or that closes its wrapper. This affects only its own runs.
    """
    if not isinstance(said, Wrapped):
        return said
    around = AROUND.get(said.code.decode("latin-1"))
    if around is None:
        return Crashed(message="the engine wrote a form that there is not")
    before, after = around
    return Wrapped(code=before.encode() + job.code + after.encode())


def _ms_since(began: float) -> float:
    return round((trio.current_time() - began) * 1000, 3)


async def start(plan: Plan) -> QuickJSCell:
    """Start a cell and wait until its first blank child is there. About 20 ms.

    Raises CellStartError with what nsjail or the zygote said.
    """
    with ExitStack() as opened:  # everything here is undone if the host refuses a part of it, descriptors above all
        try:
            data, their_data = map(opened.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
            control, their_control = map(opened.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            poll = opened.enter_context(select.epoll())
            for end in (data, their_data):
                make_room(end)
            identity = plan.take_identity()
            opened.callback(plan.identities.give_back, identity)
            process = await trio.lowlevel.open_process(
                [str(plan.executable), *plan.arguments_for(identity)],
                stdin=their_data,
                stdout=their_control,
                stderr=subprocess.PIPE,
                cwd=plan.folder,
                env={},
                # Ctrl-C at the daemon's terminal is the daemon's affair. No session of its own: to the kernel's
                # scheduler (autogroup, sched(7)) each session is a party, and niceness counts only within one.
                process_group=0,
                **plan.process_options,
            )
        except OSError as error:
            raise CellStartError(plan.engine, f"{plan.executable}: {error}") from error
        opened.pop_all()
    their_data.close()
    their_control.close()
    data.setblocking(False)
    control.setblocking(False)
    cell = QuickJSCell(plan, identity, process, data, control, poll)
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
