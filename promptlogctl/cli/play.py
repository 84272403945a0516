"""promptlogctl play."""

from __future__ import annotations

import click

from promptlogctl.cli.app import App, command
from promptlogctl.cli.listen import Listen
from promptlogctl.cli.output import Exit
from promptlogctl.cli.serve import serve


@click.command()
@click.option("--no-browser", is_flag=True, help="Only print the address; do not open a browser.")
@command
def play(app: App, no_browser: bool) -> Exit:
    """Open a web page for trying programs.

    The command starts the HTTP server. If no daemon answers, it also starts a private one.
    """
    app.spawn = True
    return serve(app, Listen(host="127.0.0.1", port=8787), any_port=True, opens=not no_browser)
