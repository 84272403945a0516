"""promptlogctl http."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from promptlogctl.cli.app import App, Location, command
from promptlogctl.cli.listen import DEFAULT, Listen, group_id, mode_of, parsed
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
@click.option("--listen-group", "group", callback=group_id, metavar="GROUP", help="With unix:PATH: the socket's group.")
@click.option(
    "--listen-mode",
    "mode",
    callback=mode_of,
    metavar="MODE",
    help="With unix:PATH: the socket's permissions. Default: 0660. Access for others needs --tokens.",
)
@click.option("--tokens", type=Location(), help="File with the tokens of users, and their rights.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of server processes.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Also accept this host name in the Host header. Repeatable. `*`: accept any.",
)
@click.option("--access-log", is_flag=True, help="Log method, path, status and time of each request, without prompts.")
@command
def http(
    app: App,
    listen: Listen,
    group: int | None,
    mode: int | None,
    tokens: Path | None,
    workers: int,
    hosts: tuple[str, ...],
    access_log: bool,
) -> Exit:
    """Serve the HTTP API, and a web page for trying programs.

    The server is a client of the daemon. While no daemon answers, the status of responses is 503. Under a systemd
    socket unit it uses the socket that systemd passes instead of --listen.
    """
    if listen.path is None and (group is not None or mode is not None):
        raise click.UsageError("--listen-group and --listen-mode go with --listen unix:PATH")
    if mode is not None and mode & 0o007 and tokens is None:
        raise click.UsageError(
            "every user of this host could connect: give --tokens FILE, or a --listen-mode like 0660"
        )
    listen = msgspec.structs.replace(listen, group=group, mode=0o660 if mode is None else mode)
    return serve(app, listen, tokens=tokens, workers=workers, hosts=hosts, access_log=access_log)
