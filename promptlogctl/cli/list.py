"""promptlogctl list."""

from __future__ import annotations

import sys
from itertools import islice

import click

from promptlogctl.cli import output, terminal
from promptlogctl.cli.app import App, command
from promptlogctl.cli.options import Count


@click.command(name="list")
@click.option("--limit", type=Count(), help="Maximum number of programs.")
@click.option("--no-trunc", is_flag=True, help="On a terminal: do not truncate hashes and lines.")
@command
def list_(app: App, limit: int | None, no_trunc: bool) -> None:
    """List the stored programs, newest first."""
    with app.client() as client:
        programs = list(islice(client.list(), limit))
    if app.json:
        output.as_json(programs)
        return
    short = sys.stdout.isatty() and not no_trunc
    rows = [
        [
            row.hash[: output.SHORT_HASH] if short else row.hash,
            str(row.size),
            row.engine,
            output.when(row.created_at, short=short),
            str(row.runs),
            output.names(row.names, row.more_names),
        ]
        for row in programs
    ]
    header = ["HASH", "BYTES", "ENGINE", "CREATED", "RUNS", "NAMES"]
    terminal.table(header, rows, cut=not no_trunc, optional=["CREATED", "BYTES", "ENGINE", "RUNS"])
