"""promptlogctl backup: request that the daemon copies its state folder. Design: docs/operations/store.md."""

from __future__ import annotations

from pathlib import Path

import click

from promptlogctl.cli import output, terminal
from promptlogctl.cli.app import App, command


@click.command()
@click.argument("folder", type=click.Path())
@command
def backup(app: App, folder: str) -> None:
    """Copy the state folder to FOLDER while the daemon runs.

    To restore, run promptlogd --state-dir with the copy. The daemon writes the copy. So FOLDER must be an absolute
    path, an empty folder with mode 0700, and belong to the daemon's user. Only root and the daemon's user may use this
    command.
    """
    if not Path(folder).is_absolute():
        raise click.UsageError(
            f"{folder!r} is not an absolute path; the daemon, which writes it, runs in another folder"
        )
    with app.client() as client:
        done = client.back_up(folder)
    if app.json:
        output.as_json(done)
        return
    click.echo(terminal.safe(folder))
    output.note(f"{done.programs} programs; {done.linked} files are hard links, {done.copied} are copies")
