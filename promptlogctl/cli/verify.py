"""promptlogctl verify: request that the daemon verifies all programs. Design: docs/operations/store.md."""

from __future__ import annotations

import click

from promptlogctl.cli import output, terminal
from promptlogctl.cli.app import App, command
from promptlogctl.cli.output import Exit
from promptlogctl.cli.quantities import shown
from promptlogctl.client import DamagedPart


@click.command()
@command
def verify(app: App) -> Exit:
    """Verify all stored programs, and print what is damaged.

    This includes their artifacts (the results of checks). The daemon moves a damaged program to damaged/ in the state
    folder. It makes a damaged artifact again at the next run. Exit code 1: something is damaged.
    """
    programs = artifacts = size = 0
    damaged: list[DamagedPart] = []
    with app.client() as client:
        for page in client.verify():
            programs, artifacts, size = programs + page.programs, artifacts + page.artifacts, size + page.bytes
            damaged += page.damaged
            if not app.json:
                for one in page.damaged:
                    click.echo(f"{one.hash}\t{one.part}\t{terminal.safe(one.why)}")
    if app.json:
        output.as_json({"programs": programs, "artifacts": artifacts, "bytes": size, "damaged": damaged})
    else:
        output.note(f"{programs} programs, {artifacts} artifacts, {shown(size)}: {len(damaged)} damaged")
    return Exit.PROGRAM if damaged else Exit.OK
