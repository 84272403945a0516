"""promptlogctl name."""

from __future__ import annotations

import click

from promptlogctl.cli import output
from promptlogctl.cli.app import App, command
from promptlogctl.cli.options import VISIBILITY
from promptlogctl.cli.program import complete_program
from promptlogctl.client import Visibility


@click.command()
@click.argument("name")
@click.argument("program", metavar="[HASH|PREFIX|@NAME]", required=False, shell_complete=complete_program)
@click.option("--back", is_flag=True, help="Undo the last move of the name.")
@VISIBILITY
@command
def name(app: App, name: str, program: str | None, back: bool, visibility: Visibility | None) -> None:
    """Give NAME to a program, or undo the last move of NAME.

    If another program has the name, the name moves. Repeat --back to undo earlier moves.
    """
    if back == (program is not None):
        raise click.UsageError("give a program or --back, not both" if back else "give a program, or --back")
    with app.client() as client:
        named = client.label(name.removeprefix("@"), program, visibility=visibility)
    if app.json:
        output.as_json(named)
    else:
        click.echo(named.hash)
