"""promptlogctl ping."""

from __future__ import annotations

import click

from promptlogctl.cli import output, terminal
from promptlogctl.cli.app import App, command


@click.command()
@command
def ping(app: App) -> None:
    """Show the versions of the daemon and its engines."""
    with app.client() as client:
        pong = client.ping()
    if app.json:
        output.as_json(pong)
    else:
        click.echo(f"promptlogd {pong.version}, protocol {pong.protocol}, pid {pong.pid}")
        for engine, version in pong.engines.items():
            click.echo(f"{engine}: {terminal.safe(version)}")
        for engine in pong.disabled:
            click.echo(f"{engine}: disabled")
