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
    help="Where to listen. Any address but loopback needs --tokens.",
)
@click.option("--tokens", type=Location(), help="File with tokens: who may use the API, and for what.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Server processes.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A further host name that requests may have in Host; repeatable. `*`: any.",
)
@click.option("--access-log", is_flag=True, help="Log each request: method, path, status, time. No prompts.")
@command
def http(app: App, listen: Listen, tokens: Path | None, workers: int, hosts: tuple[str, ...], access_log: bool) -> Exit:
    """Serve the HTTP API, and a page to try programs in.

    It is a client of the daemon. While no daemon answers, it answers requests with 503. Under a systemd socket unit it
    uses the socket that systemd passes, in place of --listen.
    """
    return serve(app, listen, tokens=tokens, workers=workers, hosts=hosts, access_log=access_log)
