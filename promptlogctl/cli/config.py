"""promptlogctl config."""

from __future__ import annotations

import click

from promptlogctl.cli import output, terminal
from promptlogctl.cli.app import App, command


@click.command()
@click.option("--changed", is_flag=True, help="Omit settings that have their default.")
@command
def config(app: App, changed: bool) -> None:
    """Show the daemon's settings, and where they came from.

    The values are those in force now. `reload` marks the settings that a reload (`systemctl reload promptlogd`, or
    SIGHUP) changes.
    """
    with app.client() as client:
        reply = client.config()
    settings = [one for one in reply.settings if one.source != "default" or one.after_restart or not changed]
    if app.json:
        output.as_json({"files": reply.files, "settings": [output.in_full(one) for one in settings]})
        return
    rows = []
    for one in settings:
        notes = ["reload"] if one.reload else []
        if one.after_restart is not None:
            notes.append(f"{one.after_restart} after a restart")
        rows.append([one.name, one.value, one.source, ", ".join(notes)])
    terminal.table(["SETTING", "VALUE", "FROM", ""], rows, optional=["", "FROM"])
