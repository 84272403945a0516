"""promptlogctl show, list, remove, name: what is kept."""

from __future__ import annotations

import sys
from datetime import datetime
from itertools import islice

import click

from promptlogctl.cli import output
from promptlogctl.cli.app import App, command, complete_program


def _when(at: float | None) -> str:
    return "never" if at is None else datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")


@click.command()
@click.argument("program", metavar="HASH|PREFIX|@NAME", shell_complete=complete_program)
@click.option("--source", is_flag=True, help="Print the source alone, byte for byte.")
@command
def show(app: App, program: str, source: bool) -> None:
    """Show what is known of a program, and where its names have been."""
    with app.client() as client:
        shown = client.show(program, source=source)
    if app.json:
        output.as_json(shown)
    elif source:
        text = shown.source or ""
        click.echo(output.safe(text, lines=True) if sys.stdout.isatty() else text, nl=False)
    else:
        rows = [
            ["hash", shown.hash],
            ["size", f"{shown.size} bytes"],
            ["created", f"{_when(shown.created_at)} by uid {shown.created_by}"],
            ["engine", f"{shown.engine}, {shown.language}"],
            ["runs", f"{shown.runs}, last {_when(shown.last_run_at)}"],
            ["names", " ".join(f"@{name}" for name in shown.names) or "none"],
        ]
        for name, changes in shown.history.items():
            rows += [[f"@{name}", f"{_when(change.at)} on {change.hash}"] for change in changes]
        for key, value in rows:
            click.echo(f"{key:10} {output.safe(value)}")


@click.command(name="list")
@click.option("--limit", type=click.IntRange(min=1), help="No more than so many.")
@command
def list_(app: App, limit: int | None) -> None:
    """List the programs that are kept, newest first."""
    with app.client() as client:
        programs = list(islice(client.list(), limit))
    if app.json:
        output.as_json(programs)
        return
    rows = [
        [
            row.hash,
            str(row.size),
            row.engine,
            _when(row.created_at),
            str(row.runs),
            " ".join(f"@{name}" for name in row.names),
        ]
        for row in programs
    ]
    output.table(["HASH", "BYTES", "ENGINE", "CREATED", "RUNS", "NAMES"], rows)


@click.command()
@click.argument("program", metavar="HASH|PREFIX|@NAME", shell_complete=complete_program)
@command
def remove(app: App, program: str) -> None:
    """Remove a program, and with it all names on it."""
    with app.client() as client:
        removed = client.remove(program)
    if app.json:
        output.as_json(removed)
    else:
        click.echo(removed.hash)
        if removed.names:
            output.note("no longer a name: " + " ".join(f"@{name}" for name in removed.names))


@click.command()
@click.argument("name")
@click.argument("program", metavar="[HASH|PREFIX|@NAME]", required=False, shell_complete=complete_program)
@click.option("--back", is_flag=True, help="Undo the last move of the name.")
@command
def name(app: App, name: str, program: str | None, back: bool) -> None:
    """Move NAME to a program, or back (--back again: one move further back)."""
    if back == (program is not None):
        raise click.UsageError("give a program, or --back, and not both" if back else "give a program, or --back")
    with app.client() as client:
        named = client.label(name.removeprefix("@"), program)
    if app.json:
        output.as_json(named)
    else:
        click.echo(named.hash)
