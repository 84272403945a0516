"""How a QuickJS run ended: a table from evidence to outcome. The first matching row counts. Pure.

The daemon's own reason comes first, then the kernel's evidence, and last the message of the process.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

import msgspec

from sandbox.engines.host.outcomes import Reader, Verdict, signalled
from sandbox.limits import Limits
from sandbox.outcome import Cancelled, CpuLimit, Crashed, MemoryLimit, WallLimit
from sandbox.protocol.events import Last, Trusted

_MEMORY_EXIT = 72
"""Exit code of a child that could not continue because the kernel refused memory (cell.h)."""

NOT_LOADED_EXIT = 75
"""Exit code of a child that could not load the job's bytecode (cell.h)."""

_ABORTS = (signal.SIGABRT, signal.SIGSEGV)
"""Signals by which a child ends if it cannot continue."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The kernel's report of a child's end, which the zygote received from wait4(2)."""

    status: int
    cpu_ms: float
    peak_memory_bytes: int
    unread: bool = False
    """Whether it left input unread. If so, its zygote has ended as well."""

    @property
    def signal(self) -> int:
        """The signal that ended it, or 0."""
        return self.status & 0x7F

    @property
    def exit_code(self) -> int:
        """Its exit code, if no signal ended it."""
        return self.status >> 8


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence of how a child ended."""

    limits: Limits
    cause: Trusted | None
    """The reason why the daemon ended it, if it did."""
    malformed: str
    """The reason why its bytes were invalid; empty if they were valid."""
    wall_ms: float
    oom: bool = False
    """Whether its cgroup has counted an out-of-memory kill at its own limit."""
    report: Report | None
    """None if the jail has ended, so that the report is lost."""
    last: Last | None

    @property
    def ended_as_said(self) -> bool:
        """Whether it ended normally, after its last message. If so, only the last row matches."""
        report = self.report
        return self.cause is None and report is not None and report.status == 0 and self.last is not None

    @property
    def by_signal(self) -> int:
        """The signal that ended it, or 0."""
        return 0 if self.report is None else self.report.signal

    @property
    def exit_code(self) -> int:
        """Its exit code, or 0."""
        return 0 if self.report is None else self.report.exit_code

    @property
    def cpu_ms(self) -> float:
        """Its CPU time in ms."""
        return 0.0 if self.report is None else self.report.cpu_ms

    @property
    def peak_bytes(self) -> int:
        """Its peak resident set size in bytes."""
        return 0 if self.report is None else self.report.peak_memory_bytes

    @property
    def aborted_near_limit(self) -> bool:
        """Whether it aborted with half of its memory in use.

        SIGSYS counts if it sent no message: before it aborts, it writes an error to a descriptor that it may not use.
        """
        aborted = self.by_signal in _ABORTS or (self.by_signal == signal.SIGSYS and self.last is None)
        return aborted and self.peak_bytes >= self.limits.memory_bytes // 2


Row = tuple[Callable[[Evidence], bool], Callable[[Evidence, Reader], Verdict]]

TABLE: tuple[Row, ...] = (
    (lambda e: e.cause is Trusted.WALL, lambda e, _: WallLimit(limit=e.limits.wall_ms, used=e.wall_ms)),
    (lambda e: e.cause is Trusted.CANCEL, lambda e, _: Cancelled()),
    (lambda e: e.cause is Trusted.MALFORMED, lambda e, _: Crashed(message=f"the engine wrote {e.malformed}")),
    (lambda e: e.oom, lambda e, _: _memory_limit(e)),
    (lambda e: e.report is None, lambda e, _: Crashed(signal="SIGKILL", message="its jail was killed from outside")),
    (lambda e: e.by_signal == signal.SIGXCPU, lambda e, _: _cpu_limit(e)),
    (lambda e: e.by_signal == signal.SIGKILL and e.cpu_ms >= e.limits.cpu_ms, lambda e, _: _cpu_limit(e)),
    (lambda e: e.exit_code == _MEMORY_EXIT, lambda e, _: _memory_limit(e)),
    (lambda e: e.aborted_near_limit, lambda e, _: _memory_limit(e)),
    (lambda e: e.by_signal != 0, lambda e, _: signalled(e.by_signal)),
    (
        lambda e: e.exit_code == NOT_LOADED_EXIT,
        lambda e, _: Crashed(
            message="the program's bytecode can't be loaded; the next run of the stored program uses its source"
        ),
    ),
    (lambda e: e.exit_code != 0, lambda e, _: Crashed(message=f"the engine ended with exit code {e.exit_code}")),
    (lambda e: e.cause is not None, lambda e, _: Crashed(message="the run was abandoned")),
    (lambda e: e.last is None, lambda e, _: Crashed(message="the engine ended without a message")),
    (lambda e: True, lambda e, reader: _said(e, reader)),
)


def verdict(evidence: Evidence, reader: Reader) -> Verdict:
    """Return how the run ended."""
    if evidence.ended_as_said:  # fast path to the last row, because most runs end like this
        return _said(evidence, reader)
    return next(outcome(evidence, reader) for holds, outcome in TABLE if holds(evidence))


def _cpu_limit(evidence: Evidence) -> Verdict:
    return CpuLimit(limit=evidence.limits.cpu_ms, used=round(evidence.cpu_ms, 3))


def _memory_limit(evidence: Evidence) -> Verdict:
    return MemoryLimit(limit=evidence.limits.memory_bytes, used=evidence.peak_bytes)


def _said(evidence: Evidence, reader: Reader) -> Verdict:
    assert evidence.last is not None
    return reader.outcome(evidence.last, evidence.peak_bytes)
