"""Tell how a run ended: by the kernel's evidence first, by the process's own word where that leaves it open. Pure."""

from __future__ import annotations

import re
import signal
from typing import Literal

import msgspec

from sandbox.cells.process import Ending
from sandbox.engines.replies import Refused, Wrapped
from sandbox.limits import Limits
from sandbox.outcome import CpuLimit, Crashed, MemoryLimit, Outcome

_MEMORY_EXIT = 72
"""Exit code of a QuickJS child that could not go on for lack of memory (zygote.py)."""

_OWN_WAYS_OUT = (signal.SIGABRT, signal.SIGSEGV)
"""How a QuickJS child ends that can't go on; or by SIGSYS, since it would say so first on a descriptor that it lost."""

_ABORTS = (signal.SIGTRAP, signal.SIGILL, signal.SIGABRT, signal.SIGSEGV)
"""How Deno ends when memory is refused to it."""

_OWN_ABORTS = (signal.SIGTRAP, signal.SIGILL, signal.SIGABRT)
"""How V8 ends at its own heap's limit."""

_OUT_OF_MEMORY = re.compile(
    rb"^# Fatal (?:JavaScript|process) out of memory: |^memory allocation of \d+ bytes failed", re.MULTILINE
)
_FAULT = re.compile(rb"^# Fatal error in |^thread '[^']*' .*(?:has overflowed its stack|panicked at)", re.MULTILINE)

Verdict = Outcome | Wrapped | Refused


class Report(msgspec.Struct, frozen=True):
    """The kernel's account of one ended QuickJS child, as its zygote got it from wait4(2)."""

    status: int
    cpu_ms: float
    peak_memory_bytes: int

    @property
    def signal(self) -> int:
        """The signal that ended it, or 0."""
        return self.status & 0x7F

    @property
    def exit_code(self) -> int:
        """Its exit code, where no signal ended it."""
        return self.status >> 8


def of_report(report: Report, limits: Limits, said: Verdict | None) -> Verdict:
    """Tell how a QuickJS child's run ended."""
    if report.signal == signal.SIGXCPU or (report.signal == signal.SIGKILL and report.cpu_ms >= limits.cpu_ms):
        return CpuLimit(limit=limits.cpu_ms, used=round(report.cpu_ms, 3))
    near_limit = report.peak_memory_bytes >= limits.memory_bytes // 2
    aborted = report.signal in _OWN_WAYS_OUT or (report.signal == signal.SIGSYS and said is None)
    if report.exit_code == _MEMORY_EXIT or (aborted and near_limit):
        return MemoryLimit(limit=limits.memory_bytes, used=report.peak_memory_bytes)
    if report.signal:
        return _by_signal(report.signal)
    if report.exit_code:
        return _by_exit_code(report.exit_code)
    if said is None:
        return Crashed(message="the engine ended without a word")
    if isinstance(said, MemoryLimit):
        return MemoryLimit(limit=limits.memory_bytes, used=report.peak_memory_bytes)
    return said


Words = Literal["memory", "fault"]


def of_last_words(errors: bytes) -> Words | None:
    """Tell from what a Deno wrote to its standard error whether it had no memory left, or has a fault.

    A program that gets there can have this said, too; then it ends by one of the signals of an abort in any case.
    """
    if _OUT_OF_MEMORY.search(errors):
        return "memory"
    return "fault" if _FAULT.search(errors) else None


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a Deno process's end."""

    oom: bool
    """Whether its cgroup counts a kill for lack of memory."""
    cpu_looked_ms: float
    """CPU time at the last look at its clock."""
    cpu_told_ms: float
    """The same, or what the kernel accounted to it in the end: more, and in steps of 10 ms."""
    peak_bytes: int
    ended_by_us: Outcome | None
    """Why the daemon killed it, if it did so before the end of the run."""
    said: Verdict | None
    """Its last word, if it was there to be ended by us after it."""
    at_least: Verdict | None
    """What it had said before a last word that did not come."""
    jail_gone: bool
    """Whether nsjail ended with it, and not by us."""
    how: Ending | None
    """What nsjail says of its end."""
    words: Words | None
    """What its last words were of. A large array is refused while little is resident."""
    data_limited: bool
    """Whether RLIMIT_DATA holds its memory."""


def of_evidence(evidence: Evidence, limits: Limits) -> Verdict:
    """Tell how a Deno process's run ended."""
    how, peak_bytes = evidence.how, evidence.peak_bytes
    if evidence.oom:
        return MemoryLimit(limit=limits.memory_bytes, used=peak_bytes)
    if evidence.cpu_looked_ms >= limits.cpu_ms or (how is not None and how.signal == signal.SIGXCPU):
        return CpuLimit(limit=limits.cpu_ms, used=round(max(evidence.cpu_told_ms, limits.cpu_ms), 3))
    for known in (evidence.ended_by_us, evidence.said):
        if known is not None:
            return known
    if evidence.jail_gone:
        return Crashed(signal="SIGKILL", message="its jail was ended from outside")
    if how is None:
        return Crashed(message="the run was given up")
    # Where RLIMIT_DATA holds it, memory is refused while less is resident, and what can't bear that ends with a fault.
    much_bytes = limits.memory_bytes // (4 if evidence.data_limited else 2)
    silent = how.signal in (_ABORTS if evidence.data_limited else _OWN_ABORTS) and evidence.words is None
    if (silent and peak_bytes >= much_bytes) or (evidence.words == "memory" and how.signal in _ABORTS):
        return MemoryLimit(limit=limits.memory_bytes, used=peak_bytes)
    if evidence.at_least is not None and (how.signal in _ABORTS or evidence.words == "fault"):
        return evidence.at_least
    return _by_signal(how.signal) if how.signal else _by_exit_code(how.exit_code)


def _by_signal(number: int) -> Crashed:
    return Crashed(signal=signal.Signals(number).name, message="the engine was ended by a signal")


def _by_exit_code(code: int) -> Crashed:
    return Crashed(message=f"the engine ended with exit code {code}")
