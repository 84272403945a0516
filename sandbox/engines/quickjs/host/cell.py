"""A QuickJS cell: starts runs, supervises them, ends them. `start.py` starts the cell.

A cell is one nsjail with a zygote, connected by two sockets. The other end of *data* belongs to the current child; its
data is hostile. The other end of *control* belongs to the zygote, which reports each child's wait status and rusage
(control.py). More than 300 lines, because a child's whole life is in one place."""

from __future__ import annotations

import logging
import select
import signal
import socket
from contextlib import suppress

import msgspec
import trio

from sandbox.cells import priority
from sandbox.cells.cell import LOW_PRIORITY_AFTER_S, Cell, Done, OnLines, Room
from sandbox.cells.job import Job
from sandbox.cells.plan import Plan
from sandbox.cells.process import only_child
from sandbox.cells.reactor import READ, WRITE, Reactor
from sandbox.cells.watch import Watch
from sandbox.engines.host.run import Reading, Run
from sandbox.engines.host.sockets import is_quiet
from sandbox.engines.quickjs.host import stack
from sandbox.engines.quickjs.host.control import REPORT_BYTES, kill_message, limits_message, read_report
from sandbox.engines.quickjs.host.job import frame
from sandbox.engines.quickjs.host.verdict import NOT_LOADED_EXIT, Evidence, Report, verdict
from sandbox.errors import CellLost
from sandbox.jail.cell_cgroup import NO_COUNTERS, JailGroup
from sandbox.jail.identities import Identity
from sandbox.limits import Limits
from sandbox.outcome import Cancelled, Crashed
from sandbox.protocol.events import Trusted
from sandbox.protocol.machine import Machine, State

_log = logging.getLogger(__name__)
KILL_S = 0.5
"""Time limit for the zygote's report after it was told to kill its child."""

_READ_GRACE_S = 0.005
"""Time that a cancelled child gets to read its job."""

_READS_S = 0.0005
"""Interval of checks whether a child has read its job."""

_EXIT_S = 0.3
"""Time limit for a zygote to exit by itself."""


class QuickJSCell(Cell):
    """One jailed zygote. Created by `start`."""

    process: trio.Process

    def __init__(
        self,
        plan: Plan,
        identity: Identity,
        process: trio.Process,
        reactor: Reactor,
        data: socket.socket,
        control: socket.socket,
        watch: Watch,
        group: JailGroup | None,
        zygote: int | None,
        room_bytes: int,
    ) -> None:
        """`group`: its cgroup. `zygote`: its pid; None if this kernel does not report it.

        `room_bytes`: capacity of the data socket's buffer. A child that writes more blocks until the data is read.
        """
        super().__init__(plan, identity, process, reactor)
        self._data = data
        self._control = control
        self._control_poll = select.poll()
        self._control_poll.register(control, select.POLLIN)
        self._room_bytes = room_bytes
        self._events = 0
        """Events for which the reactor waits on the data socket."""
        self._reads_early = False
        """Whether output is read while the child runs. Normally not in the first LOW_PRIORITY_AFTER_S, so that most
        runs need one read. The output of a run that streams, or may exceed the socket buffer, is read from the
        start."""
        self._run: Run | None = None
        self._report: Report | None = None
        """The report of the child's end, while its output is still being processed."""
        self._killed = False
        """Whether the watchdog may have killed this child or the next one."""
        self._ends_awaited = 0
        """After a cancelled job: number of children that must end until the blank child has the default limits
        again."""
        self._kill_at = 0.0
        """Latest time to kill a child that was cancelled before it had read its job; 0: now."""
        self._children_ended = 0
        self._watch = watch
        self._group = group
        self._counted = NO_COUNTERS
        """The counters of the cgroup at the last reading."""
        self._zygote = zygote
        reactor.watch(self, control.fileno(), self._on_control)
        reactor.watch(self, data.fileno(), self._on_data, 0)

    @property
    def blank(self) -> bool:
        """Whether a child waits for a job. The next child is forked while the last run's result is being delivered."""
        return self._run is None and not self._ends_awaited

    def begin(self, job: Job, done: Done, *, on_lines: OnLines | None = None, room: Room | None = None) -> None:
        """Hand over a job: see `Cell.begin`."""
        self._refuse_if_disturbed()
        self.runs += 1
        run = Run(
            job,
            machine=Machine(),
            frame=frame(job),
            stacks=stack,
            done=done,
            on_lines=on_lines,
            room=room,
            now=self._reactor.now,
        )
        self._run = run
        default, limits = self.plan.default, job.limits
        try:
            if (limits.cpu_ms, limits.memory_bytes) == (default.cpu_ms, default.memory_bytes):
                self._hand_over(run, run.began)
            else:
                self._set_limits(run, limits)
        except CellLost:
            self._run = None
            self.retire()
            raise

    def cancel(self) -> None:
        """End the current job."""
        run = self._run
        if run is None:
            return
        if run.machine.state is State.STARTING:
            self._let_go()
            # The blank child is being replaced by one with other limits, which must then be replaced as well.
            self._ends_awaited = 2
            self._reactor.set_due(self, trio.current_time() + KILL_S)
            run.done(run.result(Cancelled(), cpu_ms=0.0, wall_ms=run.wall_ms(), peak_bytes=0))
        elif run.machine.state not in (State.ENDING, State.GONE):
            self._stop(run, Trusted.CANCEL)

    def on_due(self) -> None:
        """Handle a deadline: lower the priority, end the run at its wall limit, or end the jail if the zygote hangs."""
        run = self._run
        if run is None:
            if self._ends_awaited:
                self.retire()  # the zygote hangs
            return
        state = run.machine.state
        if state is State.STARTING:
            self.retire()
            self._lose(run, "its limits were not changed in time")
        elif state is State.ENDING and self._kill_at:
            self._kill(run)
        elif state is State.ENDING:
            self.retire()
            run.machine.happen(Trusted.LOST)
            self._finish(run, None)
        elif trio.current_time() >= run.wall_at:
            self._stop(run, Trusted.WALL)
        else:
            self._yield_to_others()
            if not self._reads_early:
                self._reads_early = True
                self._wait_for_child(run)
            self._reactor.set_due(self, run.wall_at)

    def restore_priority(self) -> None:
        """Give the zygote and its first child the daemon's priority. The start of the cell had a lower one."""
        if self._zygote is not None:
            priority.restore(self._zygote)
            with suppress(OSError, ValueError):
                priority.restore(only_child(self._zygote))

    async def close(self) -> None:
        """End the jail and everything in it, and reap it."""
        self.retire()
        if self._control.fileno() < 0:
            return
        self._forget_jail()
        self._watch.close()
        if self._group is not None and (refused := self._group.counters().refused_tasks):
            _log.warning("the cgroup of nsjail %d refused it %d processes or threads", self.process.pid, refused)
        reaped = False
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2 * KILL_S):
            self._reactor.forget(self._control.fileno())
            self._reactor.forget(self._data.fileno())
            self._control.close()
            self._data.close()
            if self.process.stderr is not None:
                await self.process.stderr.aclose()
            # When control is closed, the zygote exits. It is the init of its pid namespace, so all its processes end.
            # nsjail reaps it and cleans up. If that takes too long, nsjail is killed, and the rest by the parent-death
            # signal.
            with trio.move_on_after(_EXIT_S):
                await self.process.wait()
            self.process.kill()
            await self.process.wait()
            reaped = True
        if not reaped:  # its uid is not reused while the process may be alive
            if self._group is not None:
                self._group.discard()
            _log.error("nsjail %d was killed and did not end within %g s", self.process.pid, 2 * KILL_S)
            return
        self.plan.identities.give_back(self.identity)
        if self._group is not None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_S):
                await self._group.remove(self._zygote)

    def _forget_jail(self) -> None:
        """End the current job, if there is one, because its jail has ended."""
        run = self._run
        if run is None:
            return
        if run.machine.state is State.GONE:  # an error of the daemon while it ended the run; the cell is being closed
            self._let_go()
            crashed = Crashed(message="the daemon failed at the end of this run; its log has the details")
            run.done(run.result(crashed, cpu_ms=0.0, wall_ms=run.wall_ms(), peak_bytes=0))
        elif self._report is not None:  # the child had already ended
            run.machine.happen(Trusted.ENDED)
            self._finish(run, self._report)
        elif run.begun:
            run.machine.happen(Trusted.LOST)
            self._finish(run, None)
        else:
            self._lose(run, "it was closed")

    def _hand_over(self, run: Run, now: float) -> None:
        """Send the job. Raises CellLost."""
        run.machine.happen(Trusted.JOB)
        limits = run.job.limits
        run.wall_at = now + limits.wall_ms / 1000
        self._watch.arm(limits.wall_ms)
        run.send(self._data)
        self._reads_early = run.streams or limits.result_bytes + limits.log_bytes > self._room_bytes
        self._wait_for_child(run)
        self._reactor.set_due(self, min(run.wall_at, now + LOW_PRIORITY_AFTER_S))

    def _set_limits(self, run: Run, limits: Limits) -> None:
        """Replace the blank child by one with these limits. Raises CellLost."""
        try:
            self._control.send(limits_message(self._children_ended, limits))
        except OSError as error:
            raise CellLost(f"its limits could not be changed: {error}") from error
        run.machine.happen(Trusted.LIMITS)
        self._reactor.set_due(self, trio.current_time() + KILL_S)

    def _on_control(self) -> None:
        """Read the report of a child's end."""
        try:
            message = self._control.recv(REPORT_BYTES)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        report = read_report(message)
        run = self._run
        if self._ends_awaited and report is not None:
            self._await_default()
            return
        if report is None or run is None:  # the zygote or a blank child has ended
            self._reactor.forget(self._control.fileno())
            self.retire()
            if self._report is None:
                self._forget_jail()
            return
        self._children_ended += 1
        if self._report is not None:  # the next child ended while it was blank
            self.retire()
            return
        if run.machine.state is State.STARTING:
            run.machine.happen(Trusted.READY)
            try:
                self._hand_over(run, trio.current_time())
            except CellLost as error:
                self.retire()
                self._lose(run, str(error))
            return
        self._report = report
        self._killed = self._watch.disarm() is not None
        reading = run.receive_all(self._data)
        if reading is not Reading.ALL:  # otherwise `_finish` does this
            self._wait_for(0)
            self._reactor.clear_due(self)
        self._go_on(reading)

    def _await_default(self) -> None:
        """Count the end of a child while returning to the default limits: see `_ends_awaited`."""
        self._children_ended += 1
        self._ends_awaited -= 1
        if self._ends_awaited:
            try:
                self._control.send(kill_message(self._children_ended))
            except OSError:
                self.retire()
            else:
                self._reactor.set_due(self, trio.current_time() + KILL_S)
        else:
            self._reactor.clear_due(self)
            self.on_blank()

    def _go_on(self, reading: Reading) -> None:
        """Process the output of a dead child, a part in each turn of the loop. All of it was already read from the
        socket."""
        run = self._run
        assert run is not None
        match reading:
            case Reading.PART:
                self._read_on(run)
            case Reading.NO_ROOM:
                run.when_room(lambda: self._read_on(run))
                self._reactor.set_due(self, run.wall_at)
            case _:
                run.machine.happen(Trusted.ENDED)
                self._finish(run, self._report)

    def _read_on(self, run: Run) -> None:
        """Process the next part of a child's output in the next turn of the loop."""
        if self._run is run:
            self._reactor.again(self, lambda: self._process_part(run))

    def _process_part(self, run: Run) -> None:
        if self._run is not run or run.machine.state is State.ENDING:
            return
        if self._report is None:
            self._receive(run)
        else:
            self._go_on(run.look())

    def _on_data(self) -> None:
        run = self._run
        if self._report is not None or (run is not None and run.machine.state is State.STARTING):
            return  # a late event of the previous run: this job is not for the current child
        if run is None:
            if not is_quiet(self._data):  # epoll reports a hang-up even with an empty event mask
                self._reactor.forget(self._data.fileno())
                self.retire()
            return
        if not run.begun:
            return  # a hang-up; the blank child will be replaced, and must not receive the job
        if run.unsent:
            run.send(self._data)
        elif not self._events & READ:
            self._wait_for(0)
            return
        if self._reads_early:
            self._receive(run)
        else:
            self._wait_for_child(run)

    def _receive(self, run: Run) -> None:
        """Read and process a part of the child's output. While there is a backlog, the socket is not read."""
        reading = run.receive(self._data)
        if reading is Reading.NO_ROOM:
            run.when_room(lambda: self._read_on(run))
        elif run.backlog:
            self._read_on(run)
        if reading is Reading.END or run.machine.state is State.ENDING:
            self._wait_for(0)  # control reports the end
        else:
            read = 0 if run.backlog or reading is Reading.NO_ROOM else READ
            self._wait_for(read | (WRITE if run.unsent else 0))
        if run.flood and run.machine.state is State.SAID:
            run.malformed = "more after its last message"
            run.machine.happen(Trusted.MALFORMED)
        if run.malformed and run.machine.state is State.ENDING:
            self._kill(run)

    def _wait_for_child(self, run: Run) -> None:
        """Wait until the child has read more of its job, or has written output."""
        self._wait_for((READ if self._reads_early else 0) | (WRITE if run.unsent else 0))

    def _wait_for(self, events: int) -> None:
        if events != self._events and self._data.fileno() >= 0:
            self._events = events
            self._reactor.change(self._data.fileno(), events)

    def _stop(self, run: Run, cause: Trusted) -> None:
        if self._report is None and not self._reads_early and not run.unsent:
            run.receive(self._data)  # console lines that were written before the kill
        run.machine.happen(cause)
        if self._report is not None:  # the child has ended, but its output was not processed in time
            run.machine.happen(Trusted.ENDED)
            self._finish(run, self._report)
        else:
            if cause is Trusted.CANCEL:
                self._kill_at = trio.current_time() + _READ_GRACE_S
            self._kill(run)

    def _kill(self, run: Run) -> None:
        """Have the zygote kill its child. The zygote's report of the end follows.

        After a cancel, the child first gets a moment to read its job. Otherwise the cell would have to be replaced.
        """
        self._wait_for(0)
        now = trio.current_time()
        if now < self._kill_at and not run.unsent and not run.was_read(self._data):
            self._reactor.set_due(self, now + _READS_S)
            return
        self._kill_at = 0.0
        try:
            self._control.send(kill_message(self._children_ended))
        except OSError:
            self.retire()
            run.machine.happen(Trusted.LOST)
            self._finish(run, None)
        else:
            self._reactor.set_due(self, trio.current_time() + KILL_S)

    def _finish(self, run: Run, report: Report | None) -> None:
        """Report how the run ended.

        A child that was killed at a limit leaves nothing behind, if it had read its whole job. Otherwise the next child
        reads the rest as its own job. The zygote checks for unread data before it forks the next child. It cannot
        detect data that was sent after its check. In that case the child has sent nothing, because a child sends
        nothing before it has read its job.
        """
        machine = run.machine
        cpu_ms, peak_bytes = (0.0, 0) if report is None else (report.cpu_ms, report.peak_memory_bytes)
        # If there is a report, the watch was already disarmed when it came.
        killed = self._killed or (report is None and self._watch.disarm() is not None)
        evidence = Evidence(
            limits=run.job.limits,
            cause=machine.cause or (Trusted.WALL if killed and _was_killed(report) else None),
            malformed=run.malformed,
            wall_ms=run.wall_ms(),
            oom=_was_killed(report) and self._is_out_of_memory(),
            report=report,
            last=machine.last,
        )
        outcome = verdict(evidence, run.reader)
        read = report is not None and not report.unread and not (run.in_parts and machine.last is None)
        # A child sends its last message only after it has read the whole job, so this saves a system call.
        said_last = evidence.ended_as_said and not run.surplus and not run.unsent
        if killed or not read or isinstance(outcome, Crashed) or not (said_last or run.was_read(self._data)):
            self.retire()
        self._let_go()
        result = run.result(outcome, cpu_ms=cpu_ms, wall_ms=evidence.wall_ms, peak_bytes=peak_bytes)
        if isinstance(outcome, Crashed) and evidence.exit_code == NOT_LOADED_EXIT:
            artifact = run.job.artifact
            if artifact is not None and artifact.code is not None:
                result = msgspec.structs.replace(result, artifact_failed=True)
        run.done(result)

    def _is_out_of_memory(self) -> bool:
        """Whether the kernel has killed a process of the jail at the cgroup's memory limit since the last reading.

        Such a kill ends a run, or the blank child and with it the cell. So a reading is due only after a kill: there is
        none at the start of a run.
        """
        if self._group is None:
            return False
        before, self._counted = self._counted, self._group.counters()
        return self._counted.is_out_of_memory_since(before)

    def _lose(self, run: Run, why: str) -> None:
        """Report that the job was never handed over."""
        self._let_go()
        run.done(CellLost(why))

    def _let_go(self) -> None:
        self._run = self._report = None
        self._killed = False
        self._kill_at = 0.0
        self._reactor.clear_due(self)
        self._wait_for(0)

    def _yield_to_others(self) -> None:
        """Lower the priority of the child, unless it has just ended."""
        if self._zygote is not None:
            with suppress(OSError, ValueError):
                child = only_child(self._zygote)
                # The zygote reports the end of a child before it forks the next one, which must not get a low priority.
                if not self._control_poll.poll(0):
                    priority.lower(child)

    def _refuse_if_disturbed(self) -> None:
        """Raise CellLost and retire if control has any message since the last run, because then the blank child has
        died."""
        if self.usable and not self._control_poll.poll(0):
            return
        self.retire()
        raise CellLost("its blank child or its zygote died")


def _was_killed(report: Report | None) -> bool:
    """Whether the watchdog's kill may have ended the child, or its whole jail."""
    return report is None or report.signal == signal.SIGKILL
