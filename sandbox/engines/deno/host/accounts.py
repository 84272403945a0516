"""The kernel's accounting of one run on Deno: CPU clock, memory, and counters before and after the run."""

from __future__ import annotations

from contextlib import suppress

from sandbox.cells.process import Ending, Supervisor
from sandbox.engines.deno.host.process import DenoProcess
from sandbox.engines.deno.host.verdict import Evidence, of_last_words
from sandbox.engines.host.run import Run
from sandbox.errors import CellLost
from sandbox.jail.cell_cgroup import NO_COUNTERS, Group
from sandbox.protocol.events import Trusted


class Accounts:
    """The kernel's accounting of one run. Created before the run starts. Raises CellLost if the process has ended."""

    def __init__(self, jail: Supervisor, engine: DenoProcess, group: Group | None) -> None:
        self._jail = jail
        self._engine = engine
        self._group = group
        self._counted = group.counters() if group is not None else NO_COUNTERS
        self._reaped_before_s = jail.reaped_cpu_s()
        self.cpu_before_ns = self._cpu_ns = engine.cpu_ns()
        """The process's CPU clock at the start of the run."""
        self._looked_s = 0.0
        self._peak_bytes = engine.peak_bytes() if group is None else 0
        self._oom = False
        self._accounted_s = 0.0

    def look(self) -> None:
        """Read data that is lost once the process has ended by itself: without a cgroup, its peak memory."""
        with suppress(CellLost):
            self._cpu_ns = self._engine.cpu_ns()
        if self._group is None:
            self._peak_bytes = max(self._peak_bytes, self._engine.peak_bytes())

    def close(self, *, ended: bool, cpu_ns: int | None = None) -> None:
        """Read data that must be read before the process is killed.

        `ended`: whether it has ended. `cpu_ns`: its CPU clock when the watchdog killed it.
        """
        with suppress(CellLost):
            self._cpu_ns = self._engine.cpu_ns()
        self._cpu_ns = max(self._cpu_ns, cpu_ns or 0)
        self._looked_s = self._accounted_s = (self._cpu_ns - self.cpu_before_ns) / 1e9
        own = (self._group.peak_bytes() if self._group is not None else 0) or self._engine.peak_bytes()
        self._peak_bytes = max(own, self._peak_bytes if ended and self._group is None else 0)

    def account_for_end(self, *, ended: bool, limit_bytes: int) -> None:
        """Read the counters of a process that has ended, or that will end with its jail.

        `limit_bytes`: its memory limit.
        """
        self._oom = self._group is not None and self._group.counters().is_out_of_memory_since(self._counted)
        if self._oom and not self._peak_bytes:
            self._peak_bytes = limit_bytes  # version 2 has no peak of a run, and a dead process has no VmHWM
        if ended:
            # In steps of 10 ms, which is too coarse for a comparison with the limit. It is only reported.
            reaped_s = self._jail.reaped_cpu_s() - self._reaped_before_s
            self._accounted_s = max(self._looked_s, reaped_s - self.cpu_before_ns / 1e9)

    def account_for_jail(self) -> None:
        """Read the peak of the largest process of a reaped jail. Without a cgroup, there is no other source."""
        # A jail is ended after a run that used a quarter of the limit, so the peak is from this run.
        self._peak_bytes = max(self._peak_bytes, self._jail.peak_bytes - self._engine.file_bytes)

    @property
    def cpu_ms(self) -> float:
        """CPU time to report."""
        return self._accounted_s * 1000

    @property
    def peak_bytes(self) -> int:
        """Peak memory to report."""
        return self._peak_bytes

    def evidence(
        self, run: Run, *, cause: Trusted | None, alive: bool, how: Ending | None, jail_gone: bool
    ) -> Evidence:
        """Return the evidence. `cause`: why the process was killed, if that was before its last message.

        `alive`: whether the daemon or the watchdog ended the process, so that it did not end by itself.
        """
        machine = run.machine
        return Evidence(
            limits=run.job.limits,
            oom=self._oom,
            cpu_looked_ms=self._looked_s * 1000,
            cpu_accounted_ms=self._accounted_s * 1000,
            peak_bytes=self._peak_bytes,
            wall_ms=run.wall_ms(),
            cause=cause,
            malformed=run.malformed,
            last=machine.last if alive else None,
            maybe=machine.maybe,
            jail_gone=jail_gone,
            how=how,
            words=of_last_words(self._jail.read_errors()) if how is not None else None,
            data_limited=self._engine.data_bytes is not None,
        )
