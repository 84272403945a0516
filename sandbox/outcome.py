"""Records of how a run ended, what it used and what it logged. Each kind of outcome has its own type.

The kinds and their fields are part of the protocol: messages to clients contain these records unchanged.
"""

from __future__ import annotations

from typing import Literal

import msgspec

_SHOWN_BYTES = 200
"""Bytes of a result in its `repr`."""


class _Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    pass


class Ok(_Record, frozen=True, kw_only=True, tag="ok"):
    """The program returned a result."""

    value: msgspec.Raw
    """The result as JSON text, byte for byte as the program's JSON.stringify wrote it."""

    def __repr__(self) -> str:
        text = bytes(memoryview(self.value)[:_SHOWN_BYTES]).decode(errors="replace")
        more = "..." if len(memoryview(self.value)) > _SHOWN_BYTES else ""
        return f"Ok(value={text!r}{more})"


class ProgramException(_Record, frozen=True, kw_only=True, tag="exception"):
    """The program threw. `line` and `column` refer to the submitted program, if known.

    Both start at 1. Columns count UTF-16 code units, like JavaScript strings.
    """

    name: str
    message: str
    stack: str = ""
    line: int | None = None
    column: int | None = None


class ProgramSyntaxError(_Record, frozen=True, kw_only=True, tag="syntax_error"):
    """The program has a syntax error. `line` and `column` as in `exception`."""

    message: str
    line: int | None = None
    column: int | None = None


class BadResult(_Record, frozen=True, kw_only=True, tag="bad_result"):
    """The program ended without a result, or its result is not JSON."""

    message: str


class CpuLimit(_Record, frozen=True, kw_only=True, tag="cpu_limit"):
    """The run reached its CPU limit. `limit` and `used` are in ms."""

    limit: int
    used: float


class WallLimit(_Record, frozen=True, kw_only=True, tag="wall_limit"):
    """The run reached its wall limit. `limit` and `used` are in ms."""

    limit: int
    used: float


class MemoryLimit(_Record, frozen=True, kw_only=True, tag="memory_limit"):
    """The run reached its memory limit. `limit` and `used` are in bytes. `used` is the peak resident set, which
    excludes the allocation that was refused."""

    limit: int
    used: int


class OutputLimit(_Record, frozen=True, kw_only=True, tag="output_limit"):
    """The result exceeds its limit. `limit` and `used` are in bytes of UTF-8."""

    limit: int
    used: int


class Cancelled(_Record, frozen=True, kw_only=True, tag="cancelled"):
    """The client cancelled the run, or disconnected."""


class Crashed(_Record, frozen=True, kw_only=True, tag="crashed"):
    """The engine ended abnormally, or sent invalid data. The jail contained it. `signal` is the name of the signal that
    ended the process, such as SIGSYS."""

    signal: str | None = None
    message: str = ""


Outcome = (
    Ok
    | ProgramException
    | ProgramSyntaxError
    | BadResult
    | CpuLimit
    | WallLimit
    | MemoryLimit
    | OutputLimit
    | Cancelled
    | Crashed
)


def describe(outcome: Outcome) -> str:
    """Return an outcome as one sentence."""
    match outcome:
        case Ok():
            return "ok"
        case ProgramException(name=name, message=message):
            return f"{name}: {message}" if name else message
        case ProgramSyntaxError(message=message):
            return f"SyntaxError: {message}"
        case BadResult(message=message):
            return message
        case CpuLimit(limit=limit, used=used):
            return f"stopped at the CPU limit of {limit} ms (used {used:.1f} ms)"
        case WallLimit(limit=limit):
            return f"stopped at the wall limit of {limit} ms"
        case MemoryLimit(limit=limit, used=peak):
            told = f"the peak was {peak / 2**20:.1f} MiB resident, and a request for more was refused"
            return f"stopped at the memory limit of {limit >> 20} MiB ({told})"
        case OutputLimit(limit=limit, used=size):
            return f"the result of {size} bytes exceeds the limit of {limit} bytes"
        case Cancelled():
            return "cancelled"
        case Crashed(signal=signal, message=message):
            return f"the engine crashed: {message}" + (f" ({signal})" if signal else "")


LogLevel = Literal["debug", "log", "info", "warn", "error"]
"""The level of a console line. `trace` is debug, `dir` and `table` are log, a failed `assert` is error."""


# gc=False: tens of thousands of tracked objects would start full garbage collections.
class LogLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One call of a console function, such as console.log."""

    level: LogLevel
    text: str


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a run used, as accounted by the kernel. Wall time is from the daemon's clock.

    Peak memory on QuickJS: the peak resident set (wait4(2)). On Deno: the peak of its cgroup; without a cgroup, the
    peak of its anonymous memory, which excludes the engine's file.
    """

    cpu_ms: float
    wall_ms: float
    peak_memory_bytes: int
