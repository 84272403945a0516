"""promptlogctl config."""

from __future__ import annotations

import click

from promptlogctl.cli import output, terminal
from promptlogctl.cli.app import App, command


@click.command()
@click.option("--changed", is_flag=True, help="Leave out settings that have their defaults.")
@command
def config(app: App, changed: bool) -> None:
    """Show the daemon's settings in force, and where each value came from.

    `reload` stands at those that `systemctl reload promptlogd`, or SIGHUP, changes.
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
    terminal.table(["SETTING", "VALUE", "FROM", ""], rows)
