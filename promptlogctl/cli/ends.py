"""Compares the results of two runs, for comparing builds of an engine."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from promptlogctl.client import BadResult, Crashed, Ok, ProgramException, ProgramSyntaxError, RunResult

RANKS = ("outcome", "error", "value", "logs")
"""Respects in which two results can differ. Each is compared only if the previous ones are equal."""


class End(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a result that must be equal on two builds."""

    kind: str
    """The outcome's kind, or `refused`."""
    compared: str = ""
    """The value's JSON, or an error with its position."""
    logs: list[str] = []
    told: str
    """The result as text for people."""
    cpu_ms: float = 0.0


def end_of(result: RunResult) -> End:
    """Return the comparable parts of a result, without times, memory, and the engine's own stack frames."""
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
            # If a run was ended from outside, the console lines so far depend on timing.
            return End(kind=kind, told=told, cpu_ms=cpu_ms)
    logs = [f"[{line.level}] {line.text}" for line in result.logs]
    logs += ["(cut at the limit)"] if result.logs_truncated else []
    return End(kind=kind, compared=compared, logs=logs, told=told, cpu_ms=cpu_ms)


def difference_of(a: End, b: End) -> tuple[str, str, str] | None:
    """Return (respect, text of a, text of b) of the first difference; None if the results are equal."""
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
    """Return the first index at which two texts, or two lists of lines, differ."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(a), len(b)))
