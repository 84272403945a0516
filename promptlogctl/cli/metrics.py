"""promptlogctl metrics: the daemon's counters for Prometheus. Metrics: docs/metrics.md."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import click

from promptlogctl.cli import output
from promptlogctl.cli.app import App, command
from promptlogctl.cli.listen import Listen, inherited, listening, parsed, url_of
from promptlogctl.cli.output import Exit
from promptlogctl.client import AsyncClient

REQUIREMENT = "prometheus-client>=0.21"
"""Requirement of the extra `metrics`."""


def _parsed(ctx: click.Context, param: click.Parameter, text: str | None) -> Listen | None:
    return None if text is None else parsed(ctx, param, text)


@click.command()
@click.option(
    "--listen",
    callback=_parsed,
    metavar="HOST:PORT|unix:PATH",
    help="Serve the metrics at /metrics on this loopback address, such as 127.0.0.1:9464, or on this Unix socket.",
)
@command
def metrics(app: App, listen: Listen | None) -> Exit:
    """Print or serve the daemon's counters for Prometheus.

    Without --listen, the command prints them once, unless a socket unit of systemd passes a socket to serve on. The
    server is a client of the daemon. While no daemon answers, promptlog_up is 0.
    """
    if importlib.util.find_spec("prometheus_client") is None:
        raise click.UsageError(f"prometheus-client is not installed; run: pip install '{REQUIREMENT}'")
    if app.json:
        raise click.UsageError("metrics have no --json; `promptlogctl stats --json` has the same counters")
    try:
        passed = inherited()
        if listen is not None and passed is None:
            return _serve(app, listen, None)
        if passed is not None:
            return _serve(app, *passed)
    except OSError as error:
        return output.problem("usage", error.strerror or str(error), Exit.USAGE, json=False)
    from promptlogctl.metrics.exposition import exposition

    with app.client() as client:
        click.echo(exposition(client.stats()), nl=False)
    return Exit.OK


def _serve(app: App, listen: Listen, passed: socket.socket | None) -> Exit:
    """Serve until a signal. `passed`: the listening socket of a socket unit."""
    if not listen.is_local:
        raise click.UsageError(f"{listen.host} is reachable from other hosts; listen on 127.0.0.1 or unix:PATH")
    with app.daemon() as private:
        try:
            sock = passed or listening(listen, any_port=False)
        except OSError as error:
            where = listen.path or f"{listen.host}:{listen.port}"
            why = f"can't listen on {where}: {error.strerror or error}"
            return output.problem("usage", why, Exit.USAGE, json=False)
        with sock:
            try:
                # SIGTERM before the server handles it itself must remove the socket, too.
                signal.signal(signal.SIGTERM, signal.default_int_handler)
                output.note(f"listening on {url_of(listen, sock).rstrip('/')}; stop with Ctrl-C")
                asyncio.run(_run(private or app.socket, listen, sock))
            finally:
                if passed is None:  # the file of a socket unit is systemd's
                    _remove(listen.path)
    return Exit.OK


async def _run(daemon: str | os.PathLike[str] | None, listen: Listen, sock: socket.socket) -> None:
    from promptlogctl.metrics.server import LOOPBACK, MetricsServer

    async with AsyncClient(daemon) as client:
        hosts = None if listen.path is not None else LOOPBACK | {listen.name}
        await MetricsServer(client, hosts).serve(sock)


def _remove(path: Path | None) -> None:
    if path is not None:
        with suppress(OSError):
            path.unlink()
