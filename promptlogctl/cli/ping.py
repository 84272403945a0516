"""promptlogctl ping."""

from __future__ import annotations

import time

import click

from promptlogctl.cli import output, terminal
from promptlogctl.cli.app import App, command
from promptlogctl.client import NoDaemon

_AGAIN_S = 0.05


@click.command()
@click.option(
    "--wait", type=click.FloatRange(0, 3600), default=0.0, metavar="SECONDS", help="Wait up to this time for a daemon."
)
@command
def ping(app: App, wait: float) -> None:
    """Show the versions of the daemon and its engines."""
    deadline = time.monotonic() + wait
    with app.client() as client:
        while True:
            try:
                pong = client.ping()
                break
            except NoDaemon:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_AGAIN_S)
    if app.json:
        output.as_json(pong)
    else:
        click.echo(f"promptlogd {pong.version}, protocol {pong.protocol}, pid {pong.pid}")
        for engine, version in pong.engines.items():
            click.echo(f"{engine}: {terminal.safe(version)}")
        for engine in pong.disabled:
            click.echo(f"{engine}: disabled")
