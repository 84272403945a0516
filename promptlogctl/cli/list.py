"""promptlogctl list."""

from __future__ import annotations

from itertools import islice

import click

from promptlogctl.cli import output
from promptlogctl.cli.app import App, command
from promptlogctl.cli.options import Count


@click.command(name="list")
@click.option("--limit", type=Count(), help="No more than so many.")
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
            output.when(row.created_at),
            str(row.runs),
            output.names(row.names, row.more_names),
        ]
        for row in programs
    ]
    output.table(["HASH", "BYTES", "ENGINE", "CREATED", "RUNS", "NAMES"], rows)
