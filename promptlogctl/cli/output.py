"""What the commands print, and the exit codes. Everything hostile is escaped before a terminal sees it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import datetime
from enum import IntEnum
from typing import Any

import click
import msgspec

from promptlogctl.cli.files import Source
from promptlogctl.cli.hints import hint_of, syntax_hint
from promptlogctl.cli.terminal import columns, excerpt, safe, say, styled
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
"""The most of a source line that is shown. A terminal may have less."""

_INDENT = "    "
_OWN_NAME = re.compile(r"\(program\.[jt]s:")


class Exit(IntEnum):
    """What a command's exit code says."""

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
    """Return the names in a reply, and the number of further names, as text."""
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
    """Print one line about what went wrong on stderr."""
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
        as_json({"error": {"code": code, "message": message, "detail": detail or {}}}, to_stderr=to_stderr)
    else:
        error(message)
    return exit_code


def note(message: str) -> None:
    """Print one line on stderr that is no error."""
    say(f"note: {safe(message)}")


def as_json(value: Any, *, to_stderr: bool = False) -> None:
    """Print a record as one line of JSON; of a reply, what is about the program and not about the connection."""
    line = msgspec.json.encode(in_full(value))
    stream = sys.stderr if to_stderr else sys.stdout
    text = safe(line.decode(), code="\\u{:04x}") if stream.isatty() else line  # bytes: JSON is UTF-8 in any locale
    if to_stderr:
        say(text)
    else:
        click.echo(text)


def in_full(value: Any) -> Any:
    """Return records as dicts with the fields that a message leaves out for having their defaults."""
    if isinstance(value, list):
        return [in_full(item) for item in value]
    if not isinstance(value, msgspec.Struct):
        return value
    fields = {name: getattr(value, name) for name in value.__struct_fields__}
    about_program = {name: in_full(field) for name, field in fields.items() if name != "id" and field is not None}
    kind = value.__struct_config__
    return {"kind": kind.tag, **about_program} if kind.tag_field == "kind" else about_program


def value(result: RunResult) -> None:
    """Print a result's JSON: laid out for a terminal, byte for byte otherwise."""
    text = result.json
    if sys.stdout.isatty():
        text = safe(msgspec.json.format(text, indent=2), lines=True, code="\\u{:04x}")
    click.echo(text)


def log_line(line: LogLine) -> None:
    """Print a console line on stderr."""
    colour = {"error": "red", "warn": "yellow", "debug": "bright_black"}.get(line.level)
    # Further lines stand apart from the next call's first.
    text = f"[{line.level}] {safe(line.text, lines=True)}".replace("\n", "\n    ")
    say(styled(text, sys.stderr, fg=colour) if colour else text)


def usage(result: RunResult) -> None:
    """Print what a run used on stderr."""
    used = result.usage
    peak = used.peak_memory_bytes / 2**20
    say(f"cpu {used.cpu_ms:.1f} ms, wall {used.wall_ms:.1f} ms, peak memory {peak:.1f} MiB")


def end_of_run(result: RunResult, source: Source, *, json: bool, show_usage: bool) -> Exit:
    """Print how a run ended, and return the exit code for it."""
    if json:
        as_json(result)
        return exit_code(result)
    for line in result.logs:
        log_line(line)
    if result.logs_truncated:
        say("[the log was cut at its limit]")
    if result.ok:
        value(result)
    else:
        failure(result, source)
    if show_usage:
        usage(result)
    return exit_code(result)


def failure(result: RunResult, source: Source) -> None:
    """Print why there is no result, with the user's own line and a caret where that is known."""
    match result.outcome:
        case ProgramException(line=line, column=column, stack=stack):
            place(result.describe(), source, line, column)
            frames = [frame for frame in stack.splitlines() if frame.strip()]
            for frame in frames[:10]:
                say(safe(_OWN_NAME.sub(lambda _: f"({source.name}:", frame, count=1)))
        case ProgramSyntaxError(line=line, column=column):
            place(result.describe(), source, line, column)
        case _:
            error(result.describe())
    _advise(hint_of(result.outcome, source, result.engine_version))


def refusal(refused: RequestRefused, source: Source) -> None:
    """Print an `error` reply, with the place if it is about a program that does not parse."""
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
    """Return a time as text, in this host's time zone. `short`: to the minute, and without the time zone."""
    if at is None:
        return "never"
    time = datetime.fromtimestamp(at).astimezone()
    return f"{time:%Y-%m-%d %H:%M}" if short else time.isoformat(timespec="seconds")
