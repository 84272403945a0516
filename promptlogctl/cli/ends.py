"""How a run ended, and in what two ends differ. For comparisons of one engine's builds."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from promptlogctl.client import BadResult, Crashed, Ok, ProgramException, ProgramSyntaxError, RunResult

RANKS = ("outcome", "error", "value", "logs")
"""In what two ends can differ. Each is compared only if those before it are the same."""


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended, in the parts that must be the same on two builds."""

    kind: str
    """The outcome's kind, or `refused`."""
    compared: str = ""
    """What must be the same besides: the value's JSON, or an error with its place."""
    logs: list[str] = []
    told: str
    """The same for people."""
    cpu_ms: float = 0.0


def end_of(result: RunResult) -> End:
    """Return how a run ended, without what is never quite the same: times, memory, and the engine's own frames."""
    kind = str(result.outcome.__struct_config__.tag)
    told, cpu_ms = f"{kind}: {result.describe()}", result.usage.cpu_ms
    match result.outcome:
        case Ok():
            compared, told = result.json, f"{kind}: {result.json}"
        case ProgramException(name=name, message=message, line=line, column=column):
            compared = f"{name}: {message} ({line}:{column})"
            told = f"{kind}: {compared}"
        case ProgramSyntaxError(message=message, line=line, column=column):
            compared = f"{message} ({line}:{column})"
            told = f"{kind}: {compared}"
        case BadResult(message=message):
            compared = message
        case Crashed(signal=signal):
            return End(kind=kind, compared=str(signal), told=told, cpu_ms=cpu_ms)
        case _:
            # What a run that was ended from outside has logged by then is a matter of chance.
            return End(kind=kind, told=told, cpu_ms=cpu_ms)
    logs = [f"[{line.level}] {line.text}" for line in result.logs]
    logs += ["(cut at the limit)"] if result.logs_truncated else []
    return End(kind=kind, compared=compared, logs=logs, told=told, cpu_ms=cpu_ms)


def difference_of(a: End, b: End) -> tuple[str, str, str] | None:
    """Return in what two ends differ, and what is told of each."""
    if a.kind != b.kind:
        return "outcome", a.told, b.told
    if a.compared != b.compared:
        return "value" if a.kind == "ok" else "error", a.told, b.told
    if a.logs == b.logs:
        return None
    at = first_difference(a.logs, b.logs)
    line_a, line_b = ((end.logs[at] if at < len(end.logs) else "no such line") for end in (a, b))
    return "logs", f"line {at + 1} of {len(a.logs)}: {line_a}", f"line {at + 1} of {len(b.logs)}: {line_b}"


def first_difference(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the first place at which two texts, or two lists of lines, differ."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(a), len(b)))
