"""promptlogctl show."""

from __future__ import annotations

import sys

import click

from promptlogctl.cli import output, terminal
from promptlogctl.cli.app import App, command
from promptlogctl.cli.program import PROGRAM

_SEEN_BY = {"own": "this holder only", "group": "this holder's group", "all": "everyone"}


@click.command()
@PROGRAM
@click.option("--source", is_flag=True, help="Print only the source, byte for byte.")
@command
def show(app: App, program: str, source: bool) -> None:
    """Describe a program, and list the moves of its names."""
    with app.client() as client:
        shown = client.show(program, source=source)
    if app.json:
        output.as_json(shown)
    elif source:
        text = shown.source or ""
        click.echo(terminal.safe(text, lines=True) if sys.stdout.isatty() else text, nl=False)
    else:
        digits = output.SHORT_HASH if sys.stdout.isatty() else None
        rows = [
            ["hash", shown.hash],
            ["size", f"{shown.size} bytes"],
            ["created", f"{output.when(shown.created_at)} by uid {shown.created_by}"],
            ["engine", f"{shown.engine}, {shown.language}"],
            ["runs", f"{shown.runs}, last {output.when(shown.last_run_at)}"],
            ["names", output.names(shown.names, shown.more_names) or "none"],
        ]
        for holder in shown.holders:
            whose = f"uid {holder.uid}" + (f", tenant {holder.tenant}" if holder.tenant else "")
            since, seen_by = output.when(holder.at), _SEEN_BY[holder.visibility]
            rows.append(["holder", f"{whose} since {since}, visible to {seen_by}"])
        for name, changes in shown.history.items():
            rows += [[f"@{name}", f"{output.when(change.at)} on {change.hash[:digits]}"] for change in changes]
        for key, value in rows:
            click.echo(f"{key:10} {terminal.safe(value)}")
