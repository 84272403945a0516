"""promptlogctl remove."""

from __future__ import annotations

import click

from promptlogctl.cli import output
from promptlogctl.cli.app import App, command
from promptlogctl.cli.output import Exit
from promptlogctl.cli.program import complete_program
from promptlogctl.client import Client, RequestRefused


@click.command()
@click.argument("programs", metavar="HASH|PREFIX|@NAME...", nargs=-1, required=True, shell_complete=complete_program)
@click.option("--force", is_flag=True, help="Also remove programs that have other names.")
@command
def remove(app: App, programs: tuple[str, ...], force: bool) -> Exit:
    """Remove programs and their names.

    If a program has other names than those given, --force is required.
    """
    with app.client() as client:
        for program in () if force else programs:
            if names := _further_names(client, program, programs):
                why = f"{program} also has {names}, which would be removed too; use --force to remove it"
                return output.problem("names", why, Exit.USAGE, json=app.json)
        gone: list[str] = []
        for program in programs:
            try:
                removed = client.remove(program)
            except RequestRefused as refused:
                if refused.code == "not_found" and any(text.startswith(program.lower()) for text in gone):
                    continue  # it was given twice, in different forms
                raise
            gone += [removed.hash, *(f"@{name}".lower() for name in removed.names)]
            if app.json:
                output.as_json(removed)
                continue
            click.echo(removed.hash)
            if removed.names:
                output.note("removed names: " + output.names(removed.names, removed.more_names))
    return Exit.OK


def _further_names(client: Client, program: str, given: tuple[str, ...]) -> str:
    """Format the names of a program that were not given."""
    try:
        shown = client.show(program)
    except RequestRefused as refused:
        if refused.code == "not_found":
            return ""  # its remains can still be removed
        raise
    further = [name for name in shown.names if f"@{name}" not in given]
    return output.names(further, shown.more_names) if further or shown.more_names else ""
