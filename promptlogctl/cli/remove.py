"""promptlogctl remove."""

from __future__ import annotations

import click

from promptlogctl.cli import output
from promptlogctl.cli.app import App, command
from promptlogctl.cli.program import PROGRAM


@click.command()
@PROGRAM
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
            output.note("no longer a name: " + output.names(removed.names, removed.more_names))
