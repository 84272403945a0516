"""Makes the journal entry of a run."""

from __future__ import annotations

import re
import time
from collections.abc import Container

from promptlogd.journal.entry import Entry
from promptlogd.principal import Principal
from promptlogd.store import is_hash
from promptlogd.wire.messages import Run
from sandbox.outcome import (
    BadResult,
    Crashed,
    LogLine,
    Ok,
    Outcome,
    ProgramException,
    ProgramSyntaxError,
    Usage,
)
from sandbox.program import Engine

_NAME = re.compile(r"@([A-Za-z0-9][A-Za-z0-9._-]{0,63})")
"""A reference by name. The daemon checks the reference of a request only when it looks up the program."""
_ERROR_CHARACTERS = 2048
"""Maximum that is stored of an error's message, and of its stack. A client can have thousands of failed runs a second,
and each is written to the disk."""


def run_entry(
    principal: Principal,
    request: Run,
    *,
    hash: str,
    engine: Engine | None,
    outcome: Outcome,
    usage: Usage,
    lines: list[LogLine],
    line_count: int,
    keep: Container[str],
    keep_bytes: int,
) -> Entry:
    """Return the entry of a run that has ended. It has the prompt, for its digest, and the texts that `keep` names,
    each up to `keep_bytes`. `line_count`: number of all console lines; `lines` may have only the first of them."""
    reference = request.hash or ""
    named = _NAME.fullmatch(reference) if reference.startswith("@") else None
    entry = Entry(
        at=time.time(),
        kind="run",
        uid=principal.uid,
        tenant=principal.tenant,
        outcome=str(outcome.__struct_config__.tag),
        hash=hash if is_hash(hash) else None,  # otherwise it is the reference from the request
        name=named[1] if named else None,
        engine=engine,
        line=getattr(outcome, "line", None),
        column=getattr(outcome, "column", None),
        cpu_ms=usage.cpu_ms,
        wall_ms=usage.wall_ms,
        memory_bytes=usage.peak_memory_bytes,
        prompt=request.prompt,
        console_lines=line_count,
    )
    if isinstance(outcome, Ok):
        value = memoryview(outcome.value)
        entry.result_bytes = value.nbytes
        if "result" in keep:
            entry.result = value[: keep_bytes + 1].tobytes()  # one more, so that a cut shows
    elif "error" in keep:
        entry.error = _error_text(outcome)
    if lines and "console" in keep:
        entry.console = _beginning(lines, keep_bytes)
    return entry


def _error_text(outcome: Outcome) -> str | None:
    """Return the message of a failed run, and its stack if there is one. A limit has no message."""
    match outcome:
        case ProgramException():
            message = _cut(outcome.message)
            text = f"{outcome.name}: {message}" if outcome.name else message  # a value that is no error has no name
            return f"{text}\n{_cut(outcome.stack)}".rstrip()
        case ProgramSyntaxError():
            return f"SyntaxError: {_cut(outcome.message)}"
        case BadResult() | Crashed():
            return _cut(outcome.message) or None
        case _:
            return None


def _cut(text: str) -> str:
    return text if len(text) <= _ERROR_CHARACTERS else f"{text[:_ERROR_CHARACTERS]}…"


def _beginning(lines: list[LogLine], most_bytes: int) -> list[tuple[str, str]]:
    """Return the first lines, with a little more than so many characters."""
    taken, left = list[tuple[str, str]](), most_bytes
    for line in lines:
        taken.append((line.level, line.text[: left + 1]))
        left -= len(line.text) + 1
        if left < 0:
            break
    return taken
