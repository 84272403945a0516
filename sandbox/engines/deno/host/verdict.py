"""How a run on Deno ended: a table from evidence to outcome. The first matching row counts. Pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from typing import Literal

import msgspec

from sandbox.cells.process import Ending
from sandbox.engines.host.outcomes import Reader, Verdict, signalled
from sandbox.limits import Limits
from sandbox.outcome import Cancelled, CpuLimit, Crashed, MemoryLimit, WallLimit
from sandbox.protocol.events import Last, Refused, Trusted

_ABORTS = (signal.SIGTRAP, signal.SIGILL, signal.SIGABRT, signal.SIGSEGV)
"""Signals by which Deno ends when the kernel refuses memory."""

_HEAP_ABORTS = (signal.SIGTRAP, signal.SIGILL, signal.SIGABRT)
"""Signals by which V8 ends at its own heap limit."""

_OUT_OF_MEMORY = re.compile(
    rb"^# Fatal (?:JavaScript|process) out of memory: |^memory allocation of \d+ bytes failed", re.MULTILINE
)
_FAULT = re.compile(rb"^# Fatal error in |^thread '[^']*' .*(?:has overflowed its stack|panicked at)", re.MULTILINE)

Words = Literal["memory", "fault"]


def of_last_words(errors: bytes) -> Words | None:
    """Classify the fatal error that Deno wrote to standard error: out of memory, or a crash.

    A program that can write there can forge this. Then the process must still end by one of the signals above.
    """
    if _OUT_OF_MEMORY.search(errors):
        return "memory"
    return "fault" if _FAULT.search(errors) else None


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence of how a Deno process ended."""

    limits: Limits
    oom: bool
    """Whether its cgroup has counted an out-of-memory kill at its own limit."""
    cpu_looked_ms: float
    """CPU time when its clock was last read."""
    cpu_accounted_ms: float
    """The same, or the kernel's final accounting, which is larger and in steps of 10 ms."""
    peak_bytes: int
    wall_ms: float
    cause: Trusted | None
    """The reason why the daemon ended it, if that was before its last message."""
    malformed: str
    """The reason why its bytes were invalid; empty if they were valid."""
    last: Last | None
    """Its last message, if the process was still alive after sending it."""
    maybe: Refused | None
    """Its provisional outcome."""
    jail_gone: bool
    """Whether nsjail has ended by itself."""
    how: Ending | None
    """How it ended according to nsjail."""
    words: Words | None
    """The kind of its fatal error message. A large array can be refused while little memory is resident."""
    data_limited: bool
    """Whether RLIMIT_DATA limits its memory."""

    @property
    def ended_as_said(self) -> bool:
        """Whether it ended normally, after its last message."""
        return self.last is not None and self.cause is None and self.how is None and not self.jail_gone

    @property
    def by_signal(self) -> int:
        """The signal that ended it, or 0."""
        return 0 if self.how is None else self.how.signal

    @property
    def silent_abort_near_limit(self) -> bool:
        """Whether it aborted without a message while it used much of its memory.

        Under RLIMIT_DATA, an allocation can fail while less memory is resident, and then V8 can crash.
        """
        much_bytes = self.limits.memory_bytes // (4 if self.data_limited else 2)
        aborts = _ABORTS if self.data_limited else _HEAP_ABORTS
        return self.by_signal in aborts and self.words is None and self.peak_bytes >= much_bytes


Row = tuple[Callable[[Evidence], bool], Callable[[Evidence, Reader], Verdict]]

TABLE: tuple[Row, ...] = (
    (lambda e: e.cause is Trusted.CANCEL, lambda e, _: Cancelled()),
    (lambda e: e.oom, lambda e, _: _memory_limit(e)),
    (lambda e: e.cause is Trusted.CPU or e.cpu_looked_ms >= e.limits.cpu_ms, lambda e, _: _cpu_limit(e)),
    (lambda e: e.by_signal == signal.SIGXCPU, lambda e, _: _cpu_limit(e)),
    (lambda e: e.cause is Trusted.WALL, lambda e, _: WallLimit(limit=e.limits.wall_ms, used=e.wall_ms)),
    (lambda e: e.cause is Trusted.MALFORMED, lambda e, _: Crashed(message=f"the engine wrote {e.malformed}")),
    (lambda e: e.ended_as_said, lambda e, reader: _said(e.last, e, reader)),
    (lambda e: e.jail_gone, lambda e, _: Crashed(signal="SIGKILL", message="its jail was killed from outside")),
    (lambda e: e.how is None, lambda e, _: Crashed(message="the run was abandoned")),
    (lambda e: e.silent_abort_near_limit, lambda e, _: _memory_limit(e)),
    (lambda e: e.words == "memory" and e.by_signal in _ABORTS, lambda e, _: _memory_limit(e)),
    (
        lambda e: e.maybe is not None and (e.by_signal in _ABORTS or e.words == "fault"),
        lambda e, reader: _said(e.maybe, e, reader),
    ),
    (lambda e: e.by_signal != 0, lambda e, _: signalled(e.by_signal)),
    (lambda e: True, lambda e, _: _exited(e.how)),
)


def verdict(evidence: Evidence, reader: Reader) -> Verdict:
    """Return how the run ended."""
    return next(outcome(evidence, reader) for holds, outcome in TABLE if holds(evidence))


def _cpu_limit(evidence: Evidence) -> Verdict:
    limit = evidence.limits.cpu_ms
    return CpuLimit(limit=limit, used=round(max(evidence.cpu_accounted_ms, limit), 3))


def _memory_limit(evidence: Evidence) -> Verdict:
    return MemoryLimit(limit=evidence.limits.memory_bytes, used=evidence.peak_bytes)


def _said(last: Last | None, evidence: Evidence, reader: Reader) -> Verdict:
    assert last is not None
    return reader.outcome(last, evidence.peak_bytes)


def _exited(how: Ending | None) -> Verdict:
    assert how is not None
    return Crashed(message=f"the engine ended with exit code {how.exit_code}")
