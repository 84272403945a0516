"""What the journal notes of a run."""

from __future__ import annotations

import time
from collections.abc import Container

from promptlogd.journal.entry import Entry
from promptlogd.principal import Principal
from promptlogd.store import is_hash
from promptlogd.wire.messages import Run
from sandbox.outcome import LogLine, Ok, Outcome, ProgramException, Usage
from sandbox.program import Engine


def run_entry(
    principal: Principal,
    request: Run,
    *,
    hash: str,
    engine: Engine | None,
    outcome: Outcome,
    usage: Usage,
    lines: list[LogLine],
    keep: Container[str],
) -> Entry:
    """Return the entry of a run that has ended. `keep`: which texts are wanted, beside the prompt for its digest."""
    reference = request.hash or ""
    entry = Entry(
        at=time.time(),
        kind="run",
        uid=principal.uid,
        tenant=principal.tenant,
        outcome=str(outcome.__struct_config__.tag),
        hash=hash if is_hash(hash) else None,  # else it is what the client has sent
        name=reference[1:] if reference.startswith("@") else None,
        engine=engine,
        line=getattr(outcome, "line", None),
        column=getattr(outcome, "column", None),
        cpu_ms=usage.cpu_ms,
        wall_ms=usage.wall_ms,
        memory_bytes=usage.peak_memory_bytes,
        prompt=request.prompt,
        console_lines=None if request.stream_logs else len(lines),
    )
    if isinstance(outcome, Ok):
        value = memoryview(outcome.value)
        entry.result_bytes = value.nbytes
        if "result" in keep:
            entry.result = value.tobytes()
    elif isinstance(outcome, ProgramException) and "error" in keep:
        entry.error = f"{outcome.name}: {outcome.message}\n{outcome.stack}"
    if lines and "console" in keep:
        entry.console = [(line.level, line.text) for line in lines]
    return entry
