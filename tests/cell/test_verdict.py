"""How a run ended, from evidence alone: the kernel's word goes before the process's own."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from msgspec import Raw

from sandbox.cells.process import Ending
from sandbox.cells.verdict import Evidence, Report, of_evidence, of_last_words, of_report
from sandbox.limits import MIB, Limits
from sandbox.outcome import CpuLimit, Crashed, MemoryLimit, Ok, Outcome, WallLimit

_LIMITS = Limits(cpu_ms=50, memory_bytes=128 * MIB)
_OK = Ok(value=Raw(b"1"))
_OUT_OF_MEMORY = MemoryLimit(limit=128 * MIB, used=0)


@pytest.mark.parametrize(
    ("status", "cpu_ms", "peak_mib", "said", "kind"),
    [
        (0, 1.0, 20, _OK, Ok),
        (0, 1.0, 20, None, Crashed),
        (0, 1.0, 20, _OUT_OF_MEMORY, MemoryLimit),
        (signal.SIGXCPU, 50.0, 20, _OK, CpuLimit),
        (signal.SIGKILL, 51.0, 20, None, CpuLimit),
        (signal.SIGKILL, 2.0, 20, _OK, Crashed),
        (signal.SIGSEGV, 2.0, 127, None, MemoryLimit),
        (signal.SIGSEGV, 2.0, 20, None, Crashed),
        (signal.SIGSYS, 2.0, 127, _OK, Crashed),
        (signal.SIGSYS, 2.0, 127, None, MemoryLimit),
        (signal.SIGSYS, 2.0, 20, None, Crashed),
        (72 << 8, 2.0, 20, None, MemoryLimit),
        (1 << 8, 2.0, 20, _OK, Crashed),
    ],
)
def test_quickjs_by_wait_status(status: int, cpu_ms: float, peak_mib: int, said: Any, kind: type[Outcome]) -> None:
    """A child's wait status, CPU time and peak outweigh what it said."""
    assert type(of_report(Report(status, cpu_ms, peak_mib * MIB), _LIMITS, said)) is kind


@pytest.mark.parametrize(
    ("known", "kind"),
    [
        ({"said": _OK}, Ok),
        ({"said": _OK, "oom": True}, MemoryLimit),
        ({"said": _OK, "cpu_looked_ms": 50.0}, CpuLimit),
        ({"said": _OK, "cpu_looked_ms": 49.9}, Ok),
        ({"said": _OK, "ended_by_us": WallLimit(limit=1, used=2)}, WallLimit),
        ({"cpu_told_ms": 60.0, "how": Ending(pid=1, signal=signal.SIGTRAP)}, Crashed),
        ({"how": Ending(pid=1, signal=signal.SIGXCPU)}, CpuLimit),
        ({"how": Ending(pid=1, signal=signal.SIGTRAP), "peak_bytes": 70 * MIB}, MemoryLimit),
        ({"how": Ending(pid=1, exit_code=133), "peak_bytes": 70 * MIB}, Crashed),  # a code is a program's to choose
        ({"how": Ending(pid=1, signal=signal.SIGSEGV), "peak_bytes": 70 * MIB}, Crashed),
        ({"how": Ending(pid=1, signal=signal.SIGSEGV), "peak_bytes": 33 * MIB, "data_limited": True}, MemoryLimit),
        ({"how": Ending(pid=1, signal=signal.SIGSEGV), "data_limited": True}, Crashed),
        ({"how": Ending(pid=1, exit_code=3)}, Crashed),
        ({"how": Ending(pid=1, signal=signal.SIGTRAP), "words": "memory"}, MemoryLimit),
        ({"how": Ending(pid=1, signal=signal.SIGSEGV), "words": "memory"}, MemoryLimit),
        ({"how": Ending(pid=1, exit_code=133), "words": "memory"}, Crashed),  # words alone are a program's to say
        ({"how": Ending(pid=1, signal=signal.SIGKILL), "words": "memory"}, Crashed),
        ({"how": Ending(pid=1, signal=signal.SIGTRAP), "words": "fault", "peak_bytes": 70 * MIB}, Crashed),
        (
            {
                "how": Ending(pid=1, signal=signal.SIGABRT),
                "words": "fault",
                "peak_bytes": 70 * MIB,
                "data_limited": True,
            },
            Crashed,
        ),
        ({"jail_gone": True}, Crashed),
        ({"at_least": _OK, "how": Ending(pid=1, exit_code=3)}, Crashed),
        ({"at_least": _OK, "how": Ending(pid=1, exit_code=1), "words": "fault"}, Ok),
        ({"at_least": _OK, "how": Ending(pid=1, signal=signal.SIGKILL)}, Crashed),
        ({"at_least": _OK, "how": Ending(pid=1, signal=signal.SIGSEGV)}, Ok),
        ({"at_least": _OK, "how": Ending(pid=1, signal=signal.SIGTRAP), "peak_bytes": 70 * MIB}, MemoryLimit),
        ({"at_least": _OK, "jail_gone": True}, Crashed),
        ({}, Crashed),
    ],
)
def test_deno_by_the_kernels_accounts(known: dict[str, Any], kind: type[Outcome]) -> None:
    """Kills for lack of memory, the CPU clock, the daemon's reason, the last word, then how nsjail saw it end."""
    nothing: dict[str, Any] = {
        "oom": False,
        "cpu_looked_ms": 1.0,
        "cpu_told_ms": 1.0,
        "peak_bytes": 20 * MIB,
        "ended_by_us": None,
        "said": None,
        "at_least": None,
        "jail_gone": False,
        "how": None,
        "words": None,
        "data_limited": False,
    }
    assert type(of_evidence(Evidence(**nothing | known), _LIMITS)) is kind


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
def test_last_words(errors: bytes, words: str | None) -> None:
    """V8's and Rust's own texts, each at the start of a line."""
    assert of_last_words(errors) == words
