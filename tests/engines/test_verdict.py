"""The outcome of a run from evidence: the daemon's reason, the kernel's evidence, and last the process's own report."""

from __future__ import annotations

import os
import select
import shutil
import signal
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import trio

from sandbox.cells.plan import Plan
from sandbox.cells.process import Ending, only_child
from sandbox.engines.deno.host import stack as deno_stack
from sandbox.engines.deno.host import start as deno_cell
from sandbox.engines.deno.host import verdict as deno
from sandbox.engines.host.columns import Text
from sandbox.engines.host.outcomes import Reader, Verdict
from sandbox.engines.quickjs.host import stack as quickjs_stack
from sandbox.engines.quickjs.host import verdict as quickjs
from sandbox.engines.quickjs.host.verdict import Report
from sandbox.limits import MIB, Limits
from sandbox.outcome import (
    Cancelled,
    CpuLimit,
    Crashed,
    MemoryLimit,
    Ok,
    OutputLimit,
    ProgramException,
    ProgramSyntaxError,
    WallLimit,
)
from sandbox.protocol.events import Checked, Last, Message, OutOfMemory, Refused, Thrown, TooLarge, Trusted, Value
from sandbox.protocol.frames import Decoder
from tests.cell.cells import kept, run_on
from tests.hosts import host

_LIMITS = Limits(cpu_ms=50, memory_bytes=128 * MIB)
_TEXT = Text(b"return 1")
_OF_QUICKJS = Reader(_LIMITS, quickjs_stack, "program.js", _TEXT)
_OF_DENO = Reader(_LIMITS, deno_stack, "program.js", _TEXT)
_VALUE = Value(json=b"1")
_REFUSED = Refused(module=False, message=b"m", stack=b"")
_SAID: dict[Last, type[Verdict]] = {
    _VALUE: Ok,
    TooLarge(size=9): OutputLimit,
    Thrown(name=b"E", message=b"m", stack=b""): ProgramException,
    OutOfMemory(): MemoryLimit,
    _REFUSED: ProgramSyntaxError,
    Checked(module=False, code=None): Checked,
}
"""Last messages, and the outcome that each of them reports."""

_CAUSES = (None, Trusted.CPU, Trusted.WALL, Trusted.CANCEL, Trusted.MALFORMED, Trusted.CALLS)


def _of_quickjs(**known: Any) -> Verdict:
    nothing: dict[str, Any] = {
        "limits": _LIMITS, "cause": None, "malformed": "", "wall_ms": 5.0, "last": None,
        "report": Report(status=0, cpu_ms=1.0, peak_memory_bytes=20 * MIB),
    }  # fmt: skip
    return quickjs.verdict(quickjs.Evidence(**nothing | known), _OF_QUICKJS)


def _deno_evidence(**known: Any) -> deno.Evidence:
    nothing: dict[str, Any] = {
        "limits": _LIMITS, "oom": False, "cpu_looked_ms": 1.0, "cpu_accounted_ms": 1.0, "peak_bytes": 20 * MIB,
        "wall_ms": 5.0, "cause": None, "malformed": "", "last": None, "maybe": None, "jail_gone": False, "how": None,
        "words": None, "data_limited": False,
    }  # fmt: skip
    return deno.Evidence(**nothing | known)


def _of_deno(**known: Any) -> Verdict:
    return deno.verdict(_deno_evidence(**known), _OF_DENO)


@pytest.mark.parametrize(
    ("status", "cpu_ms", "peak_mib", "last", "kind"),
    [
        (0, 1.0, 20, _VALUE, Ok),
        (0, 1.0, 20, None, Crashed),
        (0, 1.0, 20, OutOfMemory(), MemoryLimit),
        (signal.SIGXCPU, 50.0, 20, _VALUE, CpuLimit),
        (signal.SIGKILL, 51.0, 20, None, CpuLimit),
        (signal.SIGKILL, 50.0, 20, None, CpuLimit),  # exactly the limit
        (signal.SIGKILL, 49.999, 20, None, Crashed),
        (signal.SIGKILL, 2.0, 20, _VALUE, Crashed),
        (signal.SIGSEGV, 2.0, 127, None, MemoryLimit),
        (signal.SIGSEGV, 2.0, 64, None, MemoryLimit),  # exactly half
        (signal.SIGSEGV, 2.0, 63, None, Crashed),
        (signal.SIGSEGV, 2.0, 20, None, Crashed),
        (signal.SIGABRT, 2.0, 127, _VALUE, MemoryLimit),
        (signal.SIGSYS, 2.0, 127, _VALUE, Crashed),
        (signal.SIGSYS, 2.0, 127, None, MemoryLimit),
        (signal.SIGSYS, 2.0, 20, None, Crashed),
        (72 << 8, 2.0, 20, None, MemoryLimit),
        (1 << 8, 2.0, 20, _VALUE, Crashed),
        (0, 60.0, 20, _VALUE, Ok),  # only the kernel's timer enforces the limit, and it did not expire
    ],
)
def test_quickjs_by_wait_status(
    status: int, cpu_ms: float, peak_mib: int, last: Last | None, kind: type[Verdict]
) -> None:
    """A child's wait status, CPU time and peak memory override its own report."""
    assert (
        type(_of_quickjs(report=Report(status=status, cpu_ms=cpu_ms, peak_memory_bytes=peak_mib * MIB), last=last))
        is kind
    )


@pytest.mark.parametrize(
    ("known", "kind"),
    [
        ({"cause": Trusted.WALL}, WallLimit),
        ({"cause": Trusted.CANCEL}, Cancelled),
        ({"cause": Trusted.MALFORMED, "malformed": "junk"}, Crashed),
        ({"cause": Trusted.WALL, "report": None}, WallLimit),
        ({"cause": Trusted.CANCEL, "report": None}, Cancelled),
        ({"report": None}, Crashed),
        ({"report": None, "last": _VALUE}, Crashed),
        ({"cause": Trusted.WALL, "last": _VALUE}, WallLimit),
        (
            {"cause": Trusted.CANCEL, "report": Report(status=signal.SIGXCPU, cpu_ms=50.0, peak_memory_bytes=0)},
            Cancelled,
        ),
    ],
)
def test_quickjs_by_the_daemons_reason(known: dict[str, Any], kind: type[Verdict]) -> None:
    """The daemon's reason to end a child overrides the kernel's evidence; without a report, no message counts."""
    assert type(_of_quickjs(**known)) is kind


def _signal(number: int) -> Ending:
    return Ending(pid=1, signal=number)


def _exit(code: int) -> Ending:
    return Ending(pid=1, exit_code=code)


@pytest.mark.parametrize(
    ("known", "kind"),
    [
        ({"last": _VALUE}, Ok),
        ({"last": _VALUE, "oom": True}, MemoryLimit),
        ({"last": _VALUE, "cpu_looked_ms": 50.0}, CpuLimit),  # exactly the limit
        ({"last": _VALUE, "cpu_looked_ms": 49.9}, Ok),
        ({"last": _VALUE, "cause": Trusted.WALL}, WallLimit),
        ({"cause": Trusted.CPU}, CpuLimit),
        ({"cause": Trusted.CANCEL}, Cancelled),
        ({"cause": Trusted.CANCEL, "oom": True, "cpu_looked_ms": 99.0, "last": _VALUE}, Cancelled),
        ({"cause": Trusted.CANCEL, "how": _signal(signal.SIGXCPU)}, Cancelled),
        ({"cause": Trusted.WALL, "cpu_looked_ms": 50.0}, CpuLimit),
        ({"cause": Trusted.MALFORMED, "malformed": "junk"}, Crashed),
        ({"cause": Trusted.MALFORMED, "malformed": "junk", "oom": True}, MemoryLimit),
        ({"cpu_accounted_ms": 60.0, "how": _signal(signal.SIGTRAP)}, Crashed),
        ({"how": _signal(signal.SIGXCPU)}, CpuLimit),
        ({"how": _signal(signal.SIGTRAP), "peak_bytes": 70 * MIB}, MemoryLimit),
        ({"how": _signal(signal.SIGTRAP), "peak_bytes": 64 * MIB}, MemoryLimit),  # exactly half
        ({"how": _signal(signal.SIGTRAP), "peak_bytes": 64 * MIB - 1}, Crashed),
        ({"how": _exit(133), "peak_bytes": 70 * MIB}, Crashed),  # a program can choose its exit code
        ({"how": _signal(signal.SIGSEGV), "peak_bytes": 70 * MIB}, Crashed),
        ({"how": _signal(signal.SIGSEGV), "peak_bytes": 33 * MIB, "data_limited": True}, MemoryLimit),
        ({"how": _signal(signal.SIGSEGV), "data_limited": True}, Crashed),
        ({"how": _exit(3)}, Crashed),
        ({"how": _signal(signal.SIGTRAP), "words": "memory"}, MemoryLimit),
        ({"how": _signal(signal.SIGSEGV), "words": "memory"}, MemoryLimit),
        ({"how": _exit(133), "words": "memory"}, Crashed),  # a program can write these words
        ({"how": _signal(signal.SIGKILL), "words": "memory"}, Crashed),
        ({"how": _signal(signal.SIGTRAP), "words": "fault", "peak_bytes": 70 * MIB}, Crashed),
        (
            {"how": _signal(signal.SIGABRT), "words": "fault", "peak_bytes": 70 * MIB, "data_limited": True},
            Crashed,
        ),
        ({"jail_gone": True}, Crashed),
        ({"maybe": _REFUSED, "how": _exit(3)}, Crashed),
        ({"maybe": _REFUSED, "how": _exit(1), "words": "fault"}, ProgramSyntaxError),
        ({"maybe": _REFUSED, "how": _signal(signal.SIGKILL)}, Crashed),
        ({"maybe": _REFUSED, "how": _signal(signal.SIGSEGV)}, ProgramSyntaxError),
        ({"maybe": _REFUSED, "how": _signal(signal.SIGTRAP), "peak_bytes": 70 * MIB}, MemoryLimit),
        ({"maybe": _REFUSED, "jail_gone": True}, Crashed),
        ({"maybe": _REFUSED}, Crashed),
        ({}, Crashed),
    ],
)
def test_deno_by_the_evidence_in_order(known: dict[str, Any], kind: type[Verdict]) -> None:
    """In order: a cancel, an out-of-memory kill, the CPU clock, the daemon's reason, the last message, the exit."""
    assert type(_of_deno(**known)) is kind


@pytest.mark.parametrize(("last", "kind"), _SAID.items(), ids=[type(last).__name__ for last in _SAID])
def test_a_last_message_counts_without_other_evidence(last: Last, kind: type[Verdict]) -> None:
    """The process's last message gives the outcome if neither the kernel nor the daemon has other evidence."""
    assert type(_of_quickjs(last=last)) is kind
    assert type(_of_deno(last=last)) is kind


def test_limits_are_reported_with_usage() -> None:
    """A limit's outcome has the limit and the usage; the CPU time is never reported as below the limit."""
    assert _of_quickjs(cause=Trusted.WALL, wall_ms=1001.5) == WallLimit(limit=1000, used=1001.5)
    assert _of_deno(cause=Trusted.WALL, wall_ms=1001.5) == WallLimit(limit=1000, used=1001.5)
    assert _of_quickjs(report=Report(status=signal.SIGXCPU, cpu_ms=50.1239, peak_memory_bytes=0)) == CpuLimit(
        limit=50, used=50.124
    )
    assert _of_deno(cause=Trusted.CPU, cpu_accounted_ms=50.1239) == CpuLimit(limit=50, used=50.124)
    assert _of_deno(how=_signal(signal.SIGXCPU), cpu_accounted_ms=40.0) == CpuLimit(limit=50, used=50.0)
    assert _of_quickjs(report=Report(status=72 << 8, cpu_ms=1.0, peak_memory_bytes=7 * MIB)) == MemoryLimit(
        limit=128 * MIB, used=7 * MIB
    )
    assert _of_deno(oom=True, peak_bytes=7 * MIB) == MemoryLimit(limit=128 * MIB, used=7 * MIB)
    assert _of_quickjs(last=OutOfMemory()) == MemoryLimit(limit=128 * MIB, used=20 * MIB)


def test_a_crash_has_a_signal_or_a_reason() -> None:
    """A crash names the signal, the exit code, or the error in the bytes."""
    for verdict in (
        _of_quickjs(report=Report(status=signal.SIGSYS, cpu_ms=1.0, peak_memory_bytes=0)),
        _of_deno(how=_signal(signal.SIGSYS)),
    ):
        assert isinstance(verdict, Crashed)
        assert verdict.signal == "SIGSYS"
    for verdict in (
        _of_quickjs(report=Report(status=3 << 8, cpu_ms=1.0, peak_memory_bytes=0)),
        _of_deno(how=_exit(3)),
    ):
        assert isinstance(verdict, Crashed)
        assert verdict.signal is None
        assert verdict.message.endswith("exit code 3")
    for verdict in (
        _of_quickjs(cause=Trusted.MALFORMED, malformed="junk"),
        _of_deno(cause=Trusted.MALFORMED, malformed="junk"),
    ):
        assert verdict == Crashed(message="the engine wrote junk")
    for verdict in (_of_quickjs(report=None), _of_deno(jail_gone=True)):
        assert verdict == Crashed(signal="SIGKILL", message="its jail was killed from outside")


def test_quickjs_out_of_memory_by_the_cgroup() -> None:
    """A kill at the cgroup's limit is memory_limit, of the child or of the whole jail; not if the daemon ended it."""
    killed = Report(status=signal.SIGKILL, cpu_ms=60.0, peak_memory_bytes=100 * MIB)
    assert _of_quickjs(report=killed, oom=True) == MemoryLimit(limit=128 * MIB, used=100 * MIB)
    assert isinstance(_of_quickjs(report=killed), CpuLimit)
    assert isinstance(_of_quickjs(report=None, oom=True), MemoryLimit)
    for cause, kind in ((Trusted.WALL, WallLimit), (Trusted.CANCEL, Cancelled), (Trusted.MALFORMED, Crashed)):
        assert isinstance(_of_quickjs(report=killed, oom=True, cause=cause), kind)


_STATUSES = (
    0, 1 << 8, 70 << 8, 72 << 8, 255 << 8, signal.SIGXCPU, signal.SIGKILL, signal.SIGSEGV, signal.SIGSEGV | 0x80,
    signal.SIGABRT, signal.SIGSYS, signal.SIGTERM, signal.SIGTRAP,
)  # fmt: skip


def _quickjs_evidence() -> Iterator[quickjs.Evidence]:
    """Every combination of representative values of the evidence of a QuickJS run."""
    reports = [
        Report(status=status, cpu_ms=cpu_ms, peak_memory_bytes=peak_mib * MIB)
        for status, cpu_ms, peak_mib in product(_STATUSES, (1.0, 50.0, 51.0), (0, 20, 64, 127))
    ]
    for cause, malformed, report, last in product(_CAUSES, ("", "junk"), (None, *reports), (None, *_SAID)):
        yield quickjs.Evidence(
            limits=_LIMITS, cause=cause, malformed=malformed, wall_ms=5.0, report=report, last=last
        )  # fmt: skip


def test_quickjs_with_every_combination_of_evidence() -> None:
    """Every combination has a verdict, in order: wall, cancel, malformed, jail gone, kernel's evidence, message."""
    for evidence in _quickjs_evidence():
        verdict, report, last = quickjs.verdict(evidence, _OF_QUICKJS), evidence.report, evidence.last
        of_report = None if report is None else quickjs.verdict(_of_report(report), _OF_QUICKJS)
        if evidence.cause is Trusted.WALL:
            assert isinstance(verdict, WallLimit), evidence
        elif evidence.cause is Trusted.CANCEL:
            assert isinstance(verdict, Cancelled), evidence
        elif evidence.cause is Trusted.MALFORMED:
            assert verdict == Crashed(message=f"the engine wrote {evidence.malformed}"), evidence
        elif report is None:
            assert verdict == Crashed(signal="SIGKILL", message="its jail was killed from outside"), evidence
        elif report.status != 0:
            assert isinstance(verdict, CpuLimit | MemoryLimit | Crashed), evidence
            if report.signal != signal.SIGSYS:  # a child that cannot continue may have reported why
                assert verdict == of_report, evidence
            if report.signal == signal.SIGXCPU or (report.signal == signal.SIGKILL and report.cpu_ms >= 50):
                assert isinstance(verdict, CpuLimit), evidence
        elif last is None:
            assert isinstance(verdict, Crashed), evidence
        elif evidence.cause is None:
            assert type(verdict) is _SAID[last], evidence


def _of_report(report: Report) -> quickjs.Evidence:
    return quickjs.Evidence(limits=_LIMITS, cause=None, malformed="", wall_ms=5.0, report=report, last=None)


def test_quickjs_is_ok_only_without_other_evidence() -> None:
    """`ok` needs a last message with a value, a report with a clean exit, and no cause."""
    count = 0
    for evidence in _quickjs_evidence():
        if isinstance(quickjs.verdict(evidence, _OF_QUICKJS), Ok | Checked | ProgramException | ProgramSyntaxError):
            assert evidence.cause is None, evidence
            assert evidence.report is not None, evidence
            assert evidence.report.status == 0, evidence
            assert evidence.last is not None, evidence
            count += 1
    assert count


_HOWS = (
    None, _exit(0), _exit(3), _exit(133), _signal(signal.SIGXCPU), _signal(signal.SIGKILL), _signal(signal.SIGTRAP),
    _signal(signal.SIGILL), _signal(signal.SIGABRT), _signal(signal.SIGSEGV), _signal(signal.SIGSYS),
)  # fmt: skip


def _all_deno_evidence() -> Iterator[deno.Evidence]:
    """Every combination of representative values of the evidence of a Deno run."""
    for oom, cpu_ms, peak_mib, cause, last, maybe, jail_gone, how, words, data_limited in product(
        (False, True),
        ((1.0, 1.0), (1.0, 60.0), (50.0, 50.0)),
        (20, 33, 70),
        _CAUSES,
        (None, *_SAID),
        (None, _REFUSED),
        (False, True),
        _HOWS,
        (None, "memory", "fault"),
        (False, True),
    ):
        yield _deno_evidence(
            oom=oom, cpu_looked_ms=cpu_ms[0], cpu_accounted_ms=cpu_ms[1], peak_bytes=peak_mib * MIB, cause=cause,
            malformed="junk" if cause is Trusted.MALFORMED else "", last=last, maybe=maybe, jail_gone=jail_gone,
            how=how, words=words, data_limited=data_limited,
        )  # fmt: skip


def test_deno_with_every_combination_of_evidence() -> None:
    """Every combination has a verdict, in order: cancel, oom, CPU, wall, malformed, the last message, the end.

    If the process had already ended, its last message is not in the evidence. Only its provisional outcome counts, and
    only if an abort or a fault of the engine confirms it.
    """
    aborts = (signal.SIGTRAP, signal.SIGILL, signal.SIGABRT, signal.SIGSEGV)
    for e in _all_deno_evidence():
        verdict = deno.verdict(e, _OF_DENO)
        number = 0 if e.how is None else e.how.signal
        if e.cause is Trusted.CANCEL:
            assert isinstance(verdict, Cancelled), e
        elif e.oom:
            assert isinstance(verdict, MemoryLimit), e
        elif e.cause is Trusted.CPU or e.cpu_looked_ms >= 50 or number == signal.SIGXCPU:
            assert isinstance(verdict, CpuLimit), e
            assert verdict.used >= verdict.limit
        elif e.cause is Trusted.WALL:
            assert isinstance(verdict, WallLimit), e
        elif e.cause is Trusted.MALFORMED:
            assert verdict == Crashed(message="the engine wrote junk"), e
        elif e.last is None:
            assert isinstance(verdict, MemoryLimit | Crashed | ProgramSyntaxError), e
            if isinstance(verdict, ProgramSyntaxError):
                assert e.maybe is not None, e
                assert number in aborts or e.words == "fault", e
            if isinstance(verdict, MemoryLimit):
                assert number in aborts, e
                assert e.words == "memory" or (e.words is None and e.peak_bytes >= 33 * MIB), e
            if e.jail_gone or e.how is None:
                assert isinstance(verdict, Crashed), e
        elif e.how is None and not e.jail_gone and e.cause is None:
            assert type(verdict) is _SAID[e.last], e


def test_deno_is_ok_only_without_other_evidence() -> None:
    """`ok` needs a last message with a value from a process that the daemon ended: no signal, code, cause or oom."""
    count = 0
    for e in _all_deno_evidence():
        if isinstance(deno.verdict(e, _OF_DENO), Ok | Checked | ProgramException):
            assert e.last is not None, e
            assert not e.oom, e
            assert e.cause is None, e
            assert e.how is None, e
            assert not e.jail_gone, e
            count += 1
    assert count


def test_every_signal_has_a_verdict() -> None:
    """The outcome is defined for each of the kernel's 64 signals (signal(7)), also for those without a name."""
    for number in range(1, 65):
        for verdict in (
            _of_quickjs(report=Report(status=number, cpu_ms=1.0, peak_memory_bytes=0), last=_VALUE),
            _of_deno(how=_signal(number)),
        ):
            assert isinstance(verdict, Crashed | CpuLimit), number


@pytest.fixture(scope="module")
def deno_plan() -> Iterator[Plan]:
    """A plan that starts a Deno cell, with a separate root folder for its jail."""
    folder = Path(tempfile.mkdtemp(prefix="promptlog-", dir="/run" if os.geteuid() == 0 else None))
    folder.chmod(0o755)
    try:
        yield trio.run(host("deno", folder / "root").plan, None)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("killed", [False, True])
async def test_the_result_of_a_dead_deno_does_not_count(
    killed: bool, deno_plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result counts only if the process that sent it is still alive when the daemon reads it."""
    feed = Decoder.feed
    async with kept(lambda reactor: deno_cell.start(deno_plan, reactor)) as cell:

        def end_after_the_last_message(decoder: Decoder, data: bytes) -> list[Message]:
            messages = feed(decoder, data)
            if killed and decoder.ended:
                pid = only_child(cell.process.pid)
                pidfd = os.pidfd_open(pid)
                os.kill(pid, signal.SIGKILL)
                assert select.select([pidfd], [], [], 10)[0]
                os.close(pidfd)
            return messages

        monkeypatch.setattr(Decoder, "feed", end_after_the_last_message)
        result = await run_on(cell, "return 1", cpu_ms=5000, memory_bytes=deno_plan.default.memory_bytes)
    assert type(result.outcome) is (Crashed if killed else Ok)


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        (b"", None),
        (b"warning: something\n", None),
        (b"\n#\n# Fatal JavaScript out of memory: CALL_AND_RETRY_LAST\n#\n", "memory"),
        (b"# Fatal process out of memory: Zone\n", "memory"),
        (b"memory allocation of 1200000 bytes failed\n", "memory"),
        (
            b"\nthread 'tokio-runtime-worker' (2) has overflowed its stack\nfatal runtime error: stack overflow\n",
            "fault",
        ),
        (b"thread 'main' (1) panicked at cli/main.rs:1:2:\nwhy\n", "fault"),
        (b"\n#\n# Fatal error in , line 0\n# Check failed: x.\n", "fault"),
        (b"a line of # Fatal JavaScript out of memory: x", None),
        (b"\xff\xfe\0" * 20_000, None),
    ],
)
def test_fatal_errors_on_standard_error(errors: bytes, words: str | None) -> None:
    """Fatal error messages of V8 and Rust are recognized at the start of a line."""
    assert deno.of_last_words(errors) == words
