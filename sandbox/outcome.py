"""How a run ended, what it used and what it logged: plain records, one type for each kind of outcome.

The kinds and their fields are the contract with every client; the wire embeds these records as they are.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class _Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    pass


class Ok(_Record, frozen=True, kw_only=True, tag="ok"):
    """The program gave a result."""

    value: msgspec.Raw
    """The result as JSON text, byte for byte as the program's JSON.stringify wrote it."""


class ProgramException(_Record, frozen=True, kw_only=True, tag="exception"):
    """The program threw. `line` and `column` are in the program as submitted, where known.

    Both count from 1; a column counts UTF-16 code units, as JavaScript's strings do.
    """

    name: str
    message: str
    stack: str = ""
    line: int | None = None
    column: int | None = None


class ProgramSyntaxError(_Record, frozen=True, kw_only=True, tag="syntax_error"):
    """The program does not parse. `line` and `column` as in `exception`."""

    message: str
    line: int | None = None
    column: int | None = None


class BadResult(_Record, frozen=True, kw_only=True, tag="bad_result"):
    """The program ended without a result, or with one that is not JSON."""

    message: str


class CpuLimit(_Record, frozen=True, kw_only=True, tag="cpu_limit"):
    """The process reached its CPU limit. In ms."""

    limit: int
    used: float


class WallLimit(_Record, frozen=True, kw_only=True, tag="wall_limit"):
    """The daemon's deadline passed. In ms."""

    limit: int
    used: float


class MemoryLimit(_Record, frozen=True, kw_only=True, tag="memory_limit"):
    """The kernel refused the process memory. In bytes; `used` is the peak resident set, without what was refused."""

    limit: int
    used: int


class OutputLimit(_Record, frozen=True, kw_only=True, tag="output_limit"):
    """The result is larger than the limit. In bytes of UTF-8; `used` in UTF-16 code units if the engine stopped it."""

    limit: int
    used: int


class Cancelled(_Record, frozen=True, kw_only=True, tag="cancelled"):
    """The client asked for it, or went away."""


class Crashed(_Record, frozen=True, kw_only=True, tag="crashed"):
    """The engine died of itself, or wrote what is no reply; contained. `signal` by name, such as SIGSYS."""

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
            return f"the result of {size} bytes is over the limit of {limit} bytes"
        case Cancelled():
            return "cancelled"
        case Crashed(signal=signal, message=message):
            return f"the engine crashed: {message}" + (f" ({signal})" if signal else "")


LogLevel = Literal["debug", "log", "info", "warn", "error"]
"""Which of the console's functions was called; `trace` is debug, `dir` and `table` are log, a failed `assert` error."""


# gc=False: tens of thousands of tracked objects would start full garbage collections.
class LogLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One call of console.log and its like."""

    level: LogLevel
    text: str


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a run used, from the kernel's account of its process; wall time from the daemon's clock.

    Memory: QuickJS, the peak resident set (wait4(2)); Deno, the peak of its cgroup, or without one of what was resident
    of its own, which does not have the engine's file in it.
    """

    cpu_ms: float
    wall_ms: float
    peak_memory_bytes: int
