"""promptlogctl list."""

from __future__ import annotations

import sys
from itertools import islice

import click

from promptlogctl.cli import output, terminal
from promptlogctl.cli.app import App, command
from promptlogctl.cli.options import Count

_SHORT = 12
"""Digits of a hash that are shown on a terminal. As with 8 digits, commands accept them."""


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
            row.hash[:_SHORT] if short else row.hash,
            str(row.size),
            row.engine,
            output.when(row.created_at, short=short),
            str(row.runs),
            output.names(row.names, row.more_names),
        ]
        for row in programs
    ]
    terminal.table(["HASH", "BYTES", "ENGINE", "CREATED", "RUNS", "NAMES"], rows, cut=not no_trunc)
