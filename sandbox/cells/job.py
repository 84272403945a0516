"""One job for a cell, and its result. The same records for each engine."""

from __future__ import annotations

import msgspec

from sandbox.limits import Limits
from sandbox.outcome import LogLine, Outcome, Usage
from sandbox.program import Artifact, Engine, Language
from sandbox.protocol.events import Checked, Value
from sandbox.protocol.frames import Task

HASHBANG, COMMENT = b"#!", b"//"
"""How a text may begin (ECMA-262, 12.5), and what takes its place: a body begins in the middle of another text."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One run or one check of a source. `artifact` is None unless the task is to run a checked program."""

    task: Task
    source: bytes
    """The text of the program as submitted. Positions refer to it."""
    artifact: Artifact | None = None
    artifact_bytes: int = 0
    """Maximum size of the code that a check may return. 0: no code is wanted."""
    engine: Engine = "quickjs"
    language: Language = "javascript"
    prompt: str | bytes = ""
    """If it is long: bytes of UTF-8, because encoding takes 0.5 ms for each MiB."""
    env: str = "{}"
    """JSON text of an object."""
    limits: Limits
    source_name: str = "program.js"
    """Name of the program in stacks."""

    def source_parts(self) -> tuple[bytes | memoryview, ...]:
        """Return the source as engines read it, in parts: a first line that names an interpreter is a comment."""
        if self.source.startswith(HASHBANG):
            return COMMENT, memoryview(self.source)[len(HASHBANG) :]
        return (self.source,)

    def prompt_bytes(self) -> bytes:
        """Return the prompt in UTF-8."""
        return self.prompt if isinstance(self.prompt, bytes) else self.prompt.encode()


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one job. `Checked`: the checked source is a program. `Value`: a large result, not decoded yet."""

    outcome: Outcome | Checked | Value
    logs: list[LogLine] = []
    """Empty if the lines were streamed."""
    logs_truncated: bool = False
    usage: Usage
    artifact_failed: bool = False
    """Whether the process could not load the artifact's code."""
