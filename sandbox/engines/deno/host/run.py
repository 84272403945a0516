"""One job in a Deno process: supervises it, ends it, and derives its outcome from the kernel's accounting.

The cell passes on the reactor's events. `cell.py` and `start.py` start processes.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import trio

from sandbox.cells.cell import LOW_PRIORITY_AFTER_S
from sandbox.cells.job import Result
from sandbox.cells.process import Ending, Supervisor
from sandbox.cells.reactor import READ, WRITE
from sandbox.cells.watch import Watch
from sandbox.engines.deno.host.accounts import Accounts
from sandbox.engines.deno.host.process import DenoProcess
from sandbox.engines.deno.host.verdict import verdict
from sandbox.engines.host.outcomes import Verdict
from sandbox.engines.host.run import Reading, Run
from sandbox.outcome import Crashed
from sandbox.protocol.events import Trusted
from sandbox.protocol.machine import State

_LOG_S = 1.5
"""Time limit for nsjail's report of an end. nsjail also polls once a second, in case SIGCHLD was lost."""


class DenoRun:
    """The job in a cell. The cell passes events until `over` is called, and then calls `jail_ended` if nsjail ends."""

    def __init__(
        self,
        run: Run,
        accounts: Accounts,
        *,
        jail: Supervisor,
        engine: DenoProcess,
        data: socket.socket,
        watch: Watch,
        grouped: bool,
        set_due: Callable[[float], None],
        over: Callable[[bool], None],
    ) -> None:
        """`grouped`: whether a cgroup limits memory. `set_due`: arranges a call of `on_due` at this time.

        `over`: called once, with whether nsjail continues. If not, the cell must be retired.
        """
        self._run = run
        self._accounts = accounts
        self._jail = jail
        self._engine = engine
        self._data = data
        self._watch = watch
        self._grouped = grouped
        self._set_due = set_due
        self._over = over
        self._settled = False
        self._read_to_the_end = False
        self.awaits_log = False
        """Whether the run waits for nsjail's report of the process's end."""
        self._paused = False
        """Whether reading its output is paused, because there is no room for it."""
        self._taken = False
        """Whether the process had read its whole job when the daemon last checked.

        If the watchdog kills it before that, the next process may read the rest while the daemon is busy.
        """
        self._killed: Trusted | None = None
        """The reason why the watchdog has killed the process, if it has."""
        self._report: Callable[[], None] | None = None
        """Reports the result. Called once nsjail was reaped. None if there is nothing to report."""
        self._reported = False

    @property
    def unsent(self) -> bool:
        """Whether a part of the job is not sent yet."""
        return self._run.unsent

    @property
    def backlog(self) -> bool:
        """Whether some of the bytes that were read can be processed now."""
        return not self._settled and not self._paused and self._run.backlog

    @property
    def events(self) -> int:
        """Events of the data socket to wait for. The socket is not read while there is a backlog."""
        return (0 if self._paused or self._run.backlog else READ) | (WRITE if self._run.unsent else 0)

    def begin(self) -> None:
        """Send the job and start its limits. Raises CellLost."""
        run, limits, accounts = self._run, self._run.job.limits, self._accounts
        cpu_at_ns = accounts.cpu_before_ns + limits.cpu_ms * 1_000_000
        self._watch.arm_with_cpu(limits.wall_ms, cpu_at_ns, cpu_ms=limits.cpu_ms, cores=self._engine.cores)
        run.send(self._data)
        self._set_due(min(run.began + LOW_PRIORITY_AFTER_S, run.wall_at))

    def cancel(self) -> None:
        """End the run, because its client has cancelled it or disconnected."""
        if self._run.machine.state not in (State.ENDING, State.GONE) and not self.awaits_log:
            self._stop(Trusted.CANCEL)

    def on_due(self) -> None:
        """Handle a deadline: lower the priority, end the run at its wall limit, or give up waiting for nsjail's
        report."""
        if self.awaits_log:
            self._conclude(None)
        elif trio.current_time() >= self._run.wall_at:
            self._stop(Trusted.WALL)
        elif self._read_to_the_end:
            self._set_due(self._run.wall_at)
        else:
            self._engine.lower_priority()
            self._accounts.look()
            self._taken = self._run.was_read(self._data) and self._engine.is_alive()
            self._set_due(self._run.wall_at)

    def on_data(self) -> None:
        """Handle a readable or writable data socket."""
        run = self._run
        if self._read_to_the_end:
            self.on_end()  # from now on, bytes are from the next process
            return
        if run.unsent:
            run.send(self._data)
        reading = run.receive(self._data)
        if reading is Reading.END or run.machine.state in (State.SAID, State.ENDING):
            self._settle(ended=reading is Reading.END)
        elif reading is Reading.NO_ROOM:
            self._pause()

    def on_end(self) -> None:
        """Handle the end of the process by itself. All its output is available."""
        if self._settled:
            return
        if self._read_to_the_end:
            reading = self._run.look()
        else:
            self._read_to_the_end = True  # at once: the next process writes to the same socket
            reading = self._run.receive_all(self._data)
        if reading is Reading.NO_ROOM:
            self._run.drop_rest()
        if reading is not Reading.PART:
            self._settle(ended=True)

    def _pause(self) -> None:
        """Stop reading until there is room."""
        if not self._paused:
            self._paused = True
            self._run.when_room(self._read_on)

    def _read_on(self) -> None:
        self._paused = False
        if self._run.machine.state is State.RUNNING and not self.awaits_log:
            self._set_due(trio.current_time())

    def on_log(self, *, more: bool) -> None:
        """Handle new data in nsjail's log. `more` is false if nsjail has ended."""
        if self.awaits_log:
            how = self._jail.ending_of(self._engine.pid)
            if how is not None or not more:
                self._conclude(how, jail_ended=not more)

    def jail_ended(self) -> None:
        """Handle the end of nsjail after it was reaped: report the result, if it is pending."""
        if self._report is None and not self._reported:
            self._jail.read_log()
            if not self.awaits_log:
                self._run.receive(self._data)
                self._close_accounts(ended=True)
            self._conclude(self._jail.ending_of(self._engine.pid), jail_ended=True)
        if self._report is not None:
            self._report()

    def _stop(self, cause: Trusted) -> None:
        self._run.machine.happen(cause)
        self._settle(ended=False)

    def _settle(self, *, ended: bool) -> None:
        """Read the kernel's accounting and end the process. `ended`: it has ended by itself or by the watchdog."""
        run, accounts = self._run, self._accounts
        self._settled = True
        self._close_accounts(ended=ended)
        killed = self._killed is not None
        there = self._taken and not run.partial if killed else self._engine.is_alive()
        if killed and not self._grouped:  # the peak is known after nsjail was reaped
            self._conclude(None)
        elif ended and not killed:
            self.awaits_log = True
            self._set_due(trio.current_time() + _LOG_S)
            self.on_log(more=self._jail.read_log())
        elif run.malformed or not there or not run.was_read(self._data):
            self._conclude(None, ended=False)
        else:
            # The process was alive and had read its whole job: kill it, and let nsjail continue.
            run.machine.happen(Trusted.ENDED)
            self._engine.kill()
            outcome = verdict(
                accounts.evidence(run, cause=self._cause, alive=True, how=None, jail_gone=False), run.reader
            )
            # Without a cgroup, a large peak of this run could make a later run's crash look like a memory limit.
            small = self._grouped or accounts.peak_bytes < run.job.limits.memory_bytes // 4
            self._reported = True
            self._over(small and not isinstance(outcome, Crashed))
            run.done(self._result(outcome))

    def _close_accounts(self, *, ended: bool) -> None:
        killed = self._killed = self._watch.disarm()
        self._accounts.close(
            ended=ended or killed is not None, cpu_ns=None if killed is None else self._watch.cpu_used_ns()
        )

    @property
    def _cause(self) -> Trusted | None:
        """Return why the process was killed, if that was before its last message.

        While the daemon was busy, the next process may have written data, so that this run seems malformed.
        """
        machine = self._run.machine
        if self._killed is None or machine.cause not in (None, Trusted.MALFORMED):
            return machine.cause
        in_time = self._killed is Trusted.WALL and machine.last is not None
        return None if in_time else self._killed

    def _result(self, outcome: Verdict) -> Result:
        accounts = self._accounts
        return self._run.result(
            outcome, cpu_ms=accounts.cpu_ms, wall_ms=self._run.wall_ms(), peak_bytes=accounts.peak_bytes
        )

    def _conclude(self, how: Ending | None, *, ended: bool = True, jail_ended: bool = False) -> None:
        """End a jail that cannot be reused, and report how the run ended.

        `jail_ended`: nsjail has closed its log, because it has ended. The kernel reports its end a moment later.
        """
        run, accounts = self._run, self._accounts
        self.awaits_log = False
        accounts.account_for_end(ended=ended, limit_bytes=run.job.limits.memory_bytes)
        jail_gone = ended and how is None and (jail_ended or not self._jail.is_alive())
        run.machine.happen(Trusted.ENDED)
        self._jail.kill()

        def report() -> None:
            self._report = None
            self._reported = True
            if not self._grouped and ended:
                accounts.account_for_jail()
            alive = self._killed is not None
            evidence = accounts.evidence(run, cause=self._cause, alive=alive, how=how, jail_gone=jail_gone)
            outcome = verdict(evidence, run.reader)
            run.done(self._result(outcome))

        self._report = report
        self._over(False)
        if self._grouped or not ended:  # otherwise the peak is known after nsjail was reaped
            report()
