"""The results of requests, and the error of a run without a value. No sockets."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from promptlogctl.client.errors import ConnectionLost, PromptlogError, RequestRefused, with_place
from promptlogd.wire.messages import Engine, EngineVersion, Error, Finished, Reply, Submitted
from sandbox.limits import Limits
from sandbox.outcome import LogLine, Ok, Outcome, Usage, describe

_R = TypeVar("_R")
_SHOWN = 200
"""Characters of a result or an error in the `repr` of a run."""


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A stored program: its hash, whether it is new, and its engine."""

    hash: str
    created: bool
    engine: Engine
    moved_from: str | None = None
    """Hash of the program that the name was on before, if it was on another."""

    @classmethod
    def of(cls, reply: Submitted) -> Submission:
        """Return what a `submitted` reply tells."""
        return cls(hash=reply.hash, created=reply.created, engine=reply.engine, moved_from=reply.moved_from)


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a run: outcome, console lines and usage. `logs` is empty if `on_log` received the lines."""

    hash: str
    outcome: Outcome
    logs: list[LogLine]
    logs_truncated: bool
    usage: Usage
    engine_version: EngineVersion = ""
    """Name and version of the engine. Empty if the run was cancelled before that was known."""
    limits: Limits | None = None
    """The limits that were in force. None if the run did not begin."""

    @classmethod
    def of(cls, reply: Finished) -> RunResult:
        """Return the result in a `finished` reply."""
        return cls(
            hash=reply.hash,
            outcome=reply.outcome,
            logs=reply.logs,
            logs_truncated=reply.logs_truncated,
            usage=reply.usage,
            engine_version=reply.engine_version,
            limits=reply.limits,
        )

    def __repr__(self) -> str:
        text = _shown(self.json if self.ok else self.describe())
        used = self.usage
        lines = f", console lines: {len(self.logs)}" if self.logs else ""
        return (
            f"<RunResult {self.outcome.__struct_config__.tag}: {text} (cpu {used.cpu_ms:.1f} ms, "
            f"wall {used.wall_ms:.1f} ms, peak memory {used.peak_memory_bytes / 2**20:.1f} MiB{lines})>"
        )

    @property
    def ok(self) -> bool:
        """Whether the program returned a result."""
        return isinstance(self.outcome, Ok)

    @property
    def json(self) -> str:
        """The result's JSON, byte for byte as the program serialised it. Raises ProgramFailed."""
        if not isinstance(self.outcome, Ok):
            raise ProgramFailed(self)
        return bytes(self.outcome.value).decode()

    @property
    def value(self) -> Any:
        """The result as Python objects. Raises ProgramFailed if there is none."""
        return json.loads(self.json, parse_int=_integer)

    def describe(self) -> str:
        """Return the outcome as one sentence."""
        return describe(self.outcome)


class ProgramFailed(PromptlogError):
    """The value of a run was requested, but its outcome is not `ok`."""

    def __init__(self, result: RunResult) -> None:
        self.result = result
        self.outcome: Outcome = result.outcome
        line, column = (getattr(self.outcome, name, None) for name in ("line", "column"))
        super().__init__(with_place(result.describe(), line, column))


def _shown(text: str) -> str:
    """Return the beginning of a program's text. Control characters are escaped: they could control a terminal."""
    start = "".join(
        one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in text[:_SHOWN]
    )
    return f"{start}..." if len(text) > _SHOWN else start


def expect(reply: Reply, kind: type[_R]) -> _R:
    """Return the reply if it is of this kind. Raises RequestRefused for an `error`, ConnectionLost for anything
    else."""
    if isinstance(reply, Error):
        raise RequestRefused(reply)
    if not isinstance(reply, kind):
        raise ConnectionLost(f"the daemon answered with {type(reply).__name__}")
    return reply


def _integer(digits: str) -> int | float:
    """Convert a JSON number without a decimal point. As in JavaScript, a number with thousands of digits is
    infinite."""
    try:
        return int(digits)
    except ValueError:  # more digits than Python converts
        return float(digits)
