"""promptlogctl log: what happened, from the daemon's journal. Design: docs/journal.md."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import click

from promptlogctl.cli import output, terminal
from promptlogctl.cli.app import App, command, shared_options
from promptlogctl.cli.options import Count
from promptlogctl.cli.program import complete_program
from promptlogctl.cli.quantities import age_s
from promptlogctl.client import Client, ConnectionLost, JournalEntry, NoDaemon, RequestRefused

_FOLLOW_S = 0.5
_HEADER = ["ENTRY", "TIME", "UID", "WHAT", "OUTCOME", "PROGRAM", "NAME", "ENGINE", "CPU MS", "WALL MS", "MIB"]
_OPTIONAL = ["MIB", "WALL MS", "ENGINE", "CPU MS", "UID", "NAME", "TIME"]
"""Columns that are omitted on a narrow terminal, in this order."""


class Since(click.ParamType[float]):
    """A time: an age, such as 90s, 30m, 1h or 2d, or a date with or without a time. In seconds since the epoch."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the time. Fails with what would be right."""
        if isinstance(value, float):
            return value
        age = age_s(value)
        if age is not None:
            return max(time.time() - age, 0.0)
        try:
            return max(datetime.fromisoformat(value).astimezone().timestamp(), 0.0)
        except (ValueError, OverflowError, OSError):
            self.fail(
                f"{value!r} is no time: give an age, as 90s, 30m, 1h, 2d, or a date, as 2026-11-30T12:00", param, ctx
            )


@click.group(invoke_without_command=True)
@click.option("--program", metavar="HASH|PREFIX|@NAME", shell_complete=complete_program, help="Only this program.")
@click.option("--failed", is_flag=True, help="Only runs without a result, and refused requests.")
@click.option("--since", type=Since(), help="Only from this time on: an age (90s, 30m, 1h, 2d) or a date.")
@click.option("--limit", type=Count(), help="Maximum number of entries. Default: 100.")
@click.option("--follow", "-f", is_flag=True, help="Print new entries as they come, until Ctrl-C.")
@click.option("--stats", is_flag=True, help="Show sums of the runs, by program.")
@click.option("--no-trunc", is_flag=True, help="On a terminal: do not truncate hashes and lines.")
@shared_options
@click.pass_context
def log(context: click.Context, /, **options: Any) -> None:
    """Show the journal, newest entries first.

    The journal has runs, submits, removals, moves of names, and refused requests. You see the entries of your own user.
    Root and the daemon's user see all entries. `log show ENTRY` shows one entry in full.
    """
    if context.invoked_subcommand is None:
        context.invoke(_log, **options)
        return
    for name in _FILTERS:
        if options.get(name):
            raise click.UsageError(f"--{name.replace('_', '-')} does not go with `log {context.invoked_subcommand}`")


_FILTERS = ("program", "failed", "since", "limit", "follow", "stats")


@click.command("log")
@command
def _log(
    app: App,
    program: str | None,
    failed: bool,
    since: float | None,
    limit: int | None,
    follow: bool,
    stats: bool,
    no_trunc: bool,
) -> None:
    if stats and (failed or follow or limit):
        raise click.UsageError("--stats goes with --program and --since alone")
    with app.client() as client:
        if stats:
            _show_sums(app, client, program, since, short=not no_trunc)
            return
        wanted = {"hash": program, "failed": failed, "since": since}
        entries = list(client.journal(**wanted, limit=limit or 100))  # type: ignore[arg-type]
        if not entries and client.stats().journal is None:
            output.note("the daemon keeps no journal: the setting journal.enabled is false")
        if not follow:
            if app.json:
                output.as_json(entries)
            else:
                terminal.table(_HEADER, _rows(entries, short=not no_trunc), cut=not no_trunc, optional=_OPTIONAL)
            return
        _follow(app, client, wanted, entries, short=not no_trunc)


def _follow(app: App, client: Client, wanted: Mapping[str, Any], entries: list[JournalEntry], *, short: bool) -> None:
    """Print new entries, oldest first, until Ctrl-C. If the daemon stops or can't read the journal, try again."""
    newest = entries[0].id if entries else _newest(client)
    new = entries[::-1]
    is_away = False
    while True:
        for entry, row in zip(new, _rows(new, short=short), strict=True):
            newest = max(newest, entry.id)
            if app.json:
                output.as_json(entry)
            else:
                line = ("  " if sys.stdout.isatty() else "\t").join(row)
                click.echo(terminal.clipped(line) if short else line)
        sys.stdout.flush()
        time.sleep(_FOLLOW_S)
        new = []
        try:
            last = _newest(client)
            if last < newest:
                newest = 0  # the daemon has begun a new journal, whose numbers begin at 1
            new = list(client.journal(**wanted, after=newest)) if last > newest else []
            newest = max(newest, last)  # so that the next query does not read entries that the filter omits
            is_away = False
        except (NoDaemon, ConnectionLost) as error:
            if not is_away:
                output.note(f"{error}; trying again")
            is_away = True
        except RequestRefused as refused:
            if refused.code not in ("busy", "shutting_down", "internal"):
                raise
            if refused.code == "internal" and not is_away:  # the journal is damaged, and the daemon replaces it
                output.note(f"{refused}; trying again")
                is_away = True


def _newest(client: Client) -> int:
    """Return the number of the newest entry; 0 if there is none."""
    return next((entry.id for entry in client.journal(limit=1)), 0)


def _rows(entries: Iterable[JournalEntry], *, short: bool) -> list[list[str]]:
    short = short and sys.stdout.isatty()
    return [
        [
            str(entry.id),
            output.when(entry.at, short=short),
            str(entry.uid) if entry.tenant is None else f"{entry.uid} {_cell(entry.tenant)}",
            entry.kind,
            entry.outcome if entry.count == 1 else f"{entry.outcome} x{entry.count}",
            (entry.hash or "")[: output.SHORT_HASH if short else None],
            f"@{_cell(entry.name)}" if entry.name else "",
            entry.engine or "",
            "" if entry.cpu_ms is None else f"{entry.cpu_ms:.1f}",
            "" if entry.wall_ms is None else f"{entry.wall_ms:.1f}",
            "" if entry.memory_bytes is None else f"{entry.memory_bytes / 2**20:.1f}",
        ]
        for entry in entries
    ]


def _cell(text: str) -> str:
    """Return a client's text for a table, whose cells are separated by tabs in a pipe."""
    return terminal.safe(text).replace("\t", "\\t")


def _show_sums(app: App, client: Client, program: str | None, since: float | None, *, short: bool) -> None:
    sums = client.journal_sums(hash=program, since=since)
    if app.json:
        output.as_json(list(sums))
        return
    short = short and sys.stdout.isatty()
    rows = [
        [
            row.hash[: output.SHORT_HASH if short else None] or "unknown",
            row.engine,
            str(row.runs),
            str(row.failed),
            f"{row.cpu_ms:.1f}",
            f"{row.cpu_max_ms:.1f}",
            f"{row.wall_mean_ms:.1f}",
            f"{row.memory_max_bytes / 2**20:.1f}",
            output.when(row.last_at, short=short),
        ]
        for row in sums
    ]
    header = ["PROGRAM", "ENGINE", "RUNS", "FAILED", "CPU MS", "MAX", "MEAN WALL", "MAX MIB", "LAST"]
    terminal.table(header, rows, cut=short, optional=["LAST", "MAX MIB", "MEAN WALL", "MAX", "ENGINE"])


@log.command("show")
@click.argument("entry", type=Count(2**53 - 1), metavar="ENTRY")
@command
def show(app: App, entry: int) -> None:
    """Show one entry in full.

    This includes the texts that the setting journal.keep selects.
    """
    with app.client() as client:
        found = client.journal_entry(entry)
    if app.json:
        output.as_json(found)
        return
    fields = {name: getattr(found, name) for name in found.__struct_fields__ if name != "content"}
    fields["at"] = output.when(found.at)
    for name, value in fields.items():
        if value is not None and (name, value) != ("count", 1):
            click.echo(f"{name.replace('_', ' '):14} {terminal.safe(str(value))}")
    for name, text in (found.content or {}).items():
        click.echo(f"\n{name}:\n{terminal.safe(text, lines=True)}")
