"""How a run on Deno ended: a table from evidence to outcome. The first row that holds counts. Pure."""

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
"""How Deno ends when memory is refused to it."""

_HEAP_ABORTS = (signal.SIGTRAP, signal.SIGILL, signal.SIGABRT)
"""How V8 ends at its own heap's limit."""

_OUT_OF_MEMORY = re.compile(
    rb"^# Fatal (?:JavaScript|process) out of memory: |^memory allocation of \d+ bytes failed", re.MULTILINE
)
_FAULT = re.compile(rb"^# Fatal error in |^thread '[^']*' .*(?:has overflowed its stack|panicked at)", re.MULTILINE)

Words = Literal["memory", "fault"]


def of_last_words(errors: bytes) -> Words | None:
    """Return what a Deno wrote to its standard error at its end: that it had no memory left, or a fault.

    A program that gets there can write this, too. Then it must still end by one of the signals of an abort.
    """
    if _OUT_OF_MEMORY.search(errors):
        return "memory"
    return "fault" if _FAULT.search(errors) else None


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a Deno process's end."""

    limits: Limits
    oom: bool
    """Whether its cgroup counts a kill for lack of memory."""
    cpu_looked_ms: float
    """CPU time at the last look at its clock."""
    cpu_accounted_ms: float
    """The same, or what the kernel accounted to it in the end: more, and in steps of 10 ms."""
    peak_bytes: int
    wall_ms: float
    cause: Trusted | None
    """Why the daemon ended it, if it did so before its last message."""
    malformed: str
    """What was wrong with its bytes."""
    last: Last | None
    """Its last message, if the process was alive for the daemon to end it afterwards."""
    maybe: Refused | None
    """Its provisional outcome."""
    jail_gone: bool
    """Whether nsjail has ended, and the daemon did not end it."""
    how: Ending | None
    """What nsjail reports of its end."""
    words: Words | None
    """What its last words were about. A large array is refused while little is resident."""
    data_limited: bool
    """Whether RLIMIT_DATA limits its memory."""

    @property
    def ended_as_said(self) -> bool:
        """Whether it sent its last message, and nothing but that was the end of it."""
        return self.last is not None and self.cause is None and self.how is None and not self.jail_gone

    @property
    def by_signal(self) -> int:
        """The signal that ended it, or 0."""
        return 0 if self.how is None else self.how.signal

    @property
    def silent_abort_near_limit(self) -> bool:
        """Whether it aborted without last words, with much of its memory in use.

        Under RLIMIT_DATA memory is refused while less is resident, and an allocation that fails can end as a fault.
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
    (lambda e: e.jail_gone, lambda e, _: Crashed(signal="SIGKILL", message="its jail was ended from outside")),
    (lambda e: e.how is None, lambda e, _: Crashed(message="the run was given up")),
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
