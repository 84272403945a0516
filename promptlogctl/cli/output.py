"""The output of commands, and the exit codes. Hostile text is escaped before it reaches a terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import IntEnum
from itertools import groupby
from typing import Any

import click
import msgspec

from promptlogctl.cli.files import Source
from promptlogctl.cli.hints import LOG_LIMIT, hint_of, refusal_hint, syntax_hint
from promptlogctl.cli.terminal import columns, discard_output, excerpt, safe, say, styled
from promptlogctl.client import (
    BadResult,
    Crashed,
    LogLine,
    Ok,
    ProgramException,
    ProgramSyntaxError,
    RequestRefused,
    RunResult,
)

_LINE_CELLS = 160
"""Maximum width of a source line in an error. A terminal may be narrower."""

SHORT_HASH = 12
"""Digits of a hash in a table on a terminal. Commands accept 8 or more digits."""

_INDENT = "    "
_FRAMES = 10
"""The most lines of a stack that are shown."""
_OWN_NAME = re.compile(r"\(program\.[jt]s:")


class Exit(IntEnum):
    """The exit codes of commands."""

    OK = 0
    PROGRAM = 1
    USAGE = 2
    LIMIT = 3
    DAEMON = 4
    NOT_FOUND = 5
    OUTPUT = 6


def exit_code(result: RunResult) -> Exit:
    """Return the exit code for how a run ended."""
    match result.outcome:
        case Ok():
            return Exit.OK
        case ProgramException() | ProgramSyntaxError() | BadResult() | Crashed():
            return Exit.PROGRAM
        case _:
            return Exit.LIMIT


def names(some: Sequence[str], more: int) -> str:
    """Format the names in a reply, and the number of further names."""
    text = " ".join(f"@{name}" for name in some)
    return f"{text} and {more} more" if more else text


def refusal_code(error: RequestRefused) -> Exit:
    """Return the exit code for an `error` reply."""
    match error.code:
        case "not_found" | "ambiguous":
            return Exit.NOT_FOUND
        case "bad_request" if "syntax_error" in error.detail:
            return Exit.PROGRAM
        case "bad_request" | "too_large" | "unsupported":
            return Exit.USAGE
        case _:
            return Exit.DAEMON


def error(message: str) -> None:
    """Print an error on stderr, in one line."""
    say(f"{styled('error', sys.stderr, fg='red', bold=True)}: {safe(message)}")


def problem(
    code: str,
    message: str,
    exit_code: Exit,
    *,
    json: bool,
    detail: dict[str, Any] | None = None,
    to_stderr: bool = False,
) -> Exit:
    """Print an error as a line on stderr, or as a line of JSON on stdout, and return the exit code given."""
    if json:
        with _reader_may_leave():
            as_json({"error": {"code": code, "message": message, "detail": detail or {}}}, to_stderr=to_stderr)
    else:
        error(message)
    return exit_code


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    """Context manager: ignore a broken pipe on standard output, so that the exit code stays that of the run."""
    try:
        yield
    except BrokenPipeError:
        discard_output(sys.stdout)


def note(message: str) -> None:
    """Print a note on stderr, in one line."""
    say(f"note: {safe(message)}")


def as_json(value: Any, *, to_stderr: bool = False) -> None:
    """Print a record as one line of JSON. Of a reply, omit fields about the connection."""
    line = msgspec.json.encode(in_full(value))
    stream = sys.stderr if to_stderr else sys.stdout
    text = safe(line.decode(), code="\\u{:04x}") if stream.isatty() else line  # bytes: JSON is UTF-8 in any locale
    if to_stderr:
        say(text)
    else:
        click.echo(text)


def in_full(value: Any) -> Any:
    """Convert records to dicts, including fields that messages omit because of their default values."""
    if isinstance(value, list):
        return [in_full(item) for item in value]
    if not isinstance(value, msgspec.Struct):
        return value
    kind = value.__struct_config__
    fields = {name: getattr(value, name) for name in value.__struct_fields__}
    if kind.tag_field == "type":  # the id of a message belongs to its connection; an entry of the journal keeps its id
        del fields["id"]
    found = {name: in_full(field) for name, field in fields.items() if field is not None}
    return {"kind": kind.tag, **found} if kind.tag_field == "kind" else found


def value(result: RunResult) -> None:
    """Print a result's JSON: indented on a terminal, byte for byte otherwise."""
    text = result.json
    if sys.stdout.isatty():
        text = safe(msgspec.json.format(text, indent=2), lines=True, code="\\u{:04x}")
    click.echo(text)


def log_line(line: LogLine) -> None:
    """Print a console line on stderr."""
    colour = {"error": "red", "warn": "yellow", "debug": "bright_black"}.get(line.level)
    # Continuation lines are indented, to distinguish them from the next call's first line.
    text = f"[{line.level}] {safe(line.text, lines=True)}".replace("\n", "\n    ")
    say(styled(text, sys.stderr, fg=colour) if colour else text)


def usage(result: RunResult) -> None:
    """Print the resource usage of a run on stderr."""
    used = result.usage
    peak = used.peak_memory_bytes / 2**20
    say(f"cpu {used.cpu_ms:.1f} ms, wall {used.wall_ms:.1f} ms, peak memory {peak:.1f} MiB")


def end_of_run(result: RunResult, source: Source, *, json: bool, show_usage: bool) -> Exit:
    """Print the result of a run, and return its exit code."""
    if json:
        with _reader_may_leave():
            as_json(result)
        return exit_code(result)
    for line in result.logs:
        log_line(line)
    if result.logs_truncated:
        say("[the log was cut at its limit]")
        note(LOG_LIMIT)
    if result.ok:
        with _reader_may_leave():
            value(result)
    else:
        failure(result, source)
    if show_usage:
        usage(result)
    return exit_code(result)


def failure(result: RunResult, source: Source) -> None:
    """Print why there is no result, with the source line and a caret if the position is known."""
    match result.outcome:
        case ProgramException(line=line, column=column, stack=stack):
            place(result.describe(), source, line, column)
            for frame in _frames(stack)[:_FRAMES]:
                say(safe(_OWN_NAME.sub(lambda _: f"({source.name}:", frame, count=1)))
        case ProgramSyntaxError(line=line, column=column):
            place(result.describe(), source, line, column)
        case _:
            error(result.describe())
    _advise(hint_of(result.outcome, source, result.engine_version))


def _frames(stack: str) -> list[str]:
    """Return the lines of a stack. Of a frame that is repeated, as in a recursion, there are one and a count."""
    found: list[str] = []
    for frame, same in groupby(line for line in stack.splitlines() if line.strip()):
        found.append(frame)
        if more := len(list(same)) - 1:
            found.append(frame if more == 1 else f"    ... {more} more of this frame")
    return found


def refusal(refused: RequestRefused, source: Source) -> None:
    """Print an `error` reply. For a syntax error, include its position."""
    detail = refused.detail
    if "syntax_error" in detail:
        line, column = detail.get("line"), detail.get("column")
        place(
            f"SyntaxError: {detail['syntax_error']}",
            source,
            line if isinstance(line, int) else None,
            column if isinstance(column, int) else None,
        )
        _advise(syntax_hint(source, line if isinstance(line, int) else None))
        return
    error(refused.message)
    _advise(refusal_hint(refused.message))
    matches = detail.get("matches")
    for match in matches if isinstance(matches, list) else []:
        say(f"  {match}")


def place(message: str, source: Source, line: int | None, column: int | None) -> None:
    """Print `name:line:column: message`, the source line and a caret."""
    lines = [] if source.text is None else source.text.split("\n")
    where = ":".join(str(part) for part in (source.name, line, column) if part is not None) + ": "
    say(f"{safe(where)}{safe(message)}")
    if line is None or column is None or not 1 <= line <= len(lines):
        return
    text = lines[line - 1].rstrip("\r")
    # A column counts UTF-16 code units.
    at = len(text.encode("utf-16-le")[: 2 * (column - 1)].decode("utf-16-le", "ignore"))
    width = min(_LINE_CELLS, (columns(sys.stderr) or _LINE_CELLS + len(_INDENT) + 1) - len(_INDENT) - 1)
    shown, before = excerpt(text.replace("\t", " "), at, max(width, 1))
    say(f"{_INDENT}{shown}")
    say(f"{_INDENT}{' ' * before}^")


def _advise(hint: str | None) -> None:
    if hint is not None:
        note(hint)


def when(at: float | None, *, short: bool = False) -> str:
    """Format a time in this host's time zone. `short`: to the minute, without the time zone."""
    if at is None:
        return "never"
    time = datetime.fromtimestamp(at).astimezone()
    return f"{time:%Y-%m-%d %H:%M}" if short else time.isoformat(timespec="seconds")
