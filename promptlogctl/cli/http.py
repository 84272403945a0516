"""promptlogctl http."""

from __future__ import annotations

from pathlib import Path

import click

from promptlogctl.cli.app import App, Location, command
from promptlogctl.cli.listen import DEFAULT, Listen, parsed
from promptlogctl.cli.output import Exit
from promptlogctl.cli.serve import serve


@click.command()
@click.option(
    "--listen",
    callback=parsed,
    default=DEFAULT,
    show_default=True,
    metavar="HOST:PORT|unix:PATH",
    help="Address to listen on. Addresses other than loopback need --tokens.",
)
@click.option("--tokens", type=Location(), help="Token file: who may use the API, with which rights.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Server processes.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Additional host name that is accepted in the Host header. Repeatable. `*`: any.",
)
@click.option("--access-log", is_flag=True, help="Log each request: method, path, status, time. No prompts.")
@command
def http(app: App, listen: Listen, tokens: Path | None, workers: int, hosts: tuple[str, ...], access_log: bool) -> Exit:
    """Serve the HTTP API, and a web page for trying programs.

    The server is a client of the daemon. While no daemon answers, the status of responses is 503.
    """
    return serve(app, listen, tokens=tokens, workers=workers, hosts=hosts, access_log=access_log)
