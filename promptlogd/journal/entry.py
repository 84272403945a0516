"""One entry of the journal, before it is written."""

from __future__ import annotations

import msgspec

from promptlogd.wire.messages import EntryKind


class Entry(msgspec.Struct, kw_only=True, gc=False):
    """One event. A field is None if it does not apply, or is not known."""

    at: float
    """Seconds since the epoch."""
    kind: EntryKind
    uid: int
    outcome: str
    """For a run: its outcome. For a refused request: the error code. Otherwise: what was done."""
    tenant: str | None = None
    hash: str | None = None
    name: str | None = None
    """The name in the request: under which a program was run, or that was moved."""
    engine: str | None = None
    line: int | None = None
    column: int | None = None
    cpu_ms: float | None = None
    wall_ms: float | None = None
    memory_bytes: int | None = None
    prompt: str | bytes | None = None
    """Bytes are UTF-8: so the decoder gives the prompt of a large request."""
    result: bytes | None = None
    result_bytes: int | None = None
    console: list[tuple[str, str]] | None = None
    """Level and text of each line."""
    console_lines: int | None = None
    error: str | None = None
    """Name, message and stack of what a program threw, or the message of another failure."""
    count: int = 1
    """Of refusals: how many there were."""

    @property
    def held_bytes(self) -> int:
        """Approximate memory of its texts."""
        console = sum(len(text) for _, text in self.console) if self.console else 0
        return len(self.prompt or "") + len(self.result or b"") + len(self.error or "") + console
