"""Runs the HTTP server, for the commands `http` and `play`."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from promptlogctl.cli import output
from promptlogctl.cli.app import App
from promptlogctl.cli.listen import Listen, inherited, listening, url_of
from promptlogctl.cli.output import Exit

if TYPE_CHECKING:
    import uvicorn

REQUIREMENTS = ("starlette>=0.46", "uvicorn>=0.54,<1", "httptools>=0.7", "uvloop>=0.21")
"""Requirements of the extra `http`."""

_DRAIN_S = 10
"""Time limit for requests in flight when the server stops."""

_KEEP_ALIVE_S = 75


def serve(
    app: App,
    listen: Listen,
    *,
    tokens: Path | None = None,
    workers: int = 1,
    hosts: tuple[str, ...] = (),
    access_log: bool = False,
    any_port: bool = False,
    opens: bool = False,
) -> Exit:
    names = [re.split("[<>=]", requirement)[0] for requirement in REQUIREMENTS]
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        wanted = " ".join(f"'{requirement}'" for requirement in REQUIREMENTS)
        raise click.UsageError(f"{', '.join(missing)} is not installed; run: pip install {wanted}")
    try:
        passed = inherited()
    except OSError as error:
        why = f"can't use the socket that systemd passed: {error.strerror or error}"
        return Exit(output.problem("usage", why, Exit.USAGE, json=app.json))
    if passed is not None:
        listen = passed[0]
        if tokens is None and _is_open_to_all(listen.path):
            raise click.UsageError(
                f"every user may connect to {listen.path}; set SocketMode=0660 in the unit, or give --tokens FILE"
            )
    if not listen.is_local and tokens is None:
        raise click.UsageError(
            f"{listen.host} is reachable from other hosts; give --tokens FILE, or listen on 127.0.0.1 or unix:PATH"
        )
    from promptlogctl.http.settings import HOSTS, LOOPBACK_HOSTS, SOCKET, TOKENS
    from promptlogctl.http.tokens import TokenError, read_tokens

    if tokens is not None:
        try:
            read_tokens(tokens)
        except TokenError as error:
            raise click.UsageError(str(error)) from None
        os.environ[TOKENS] = str(tokens.absolute())
    own = [*LOOPBACK_HOSTS, listen.name]
    os.environ[HOSTS] = "*" if listen.path is not None or "*" in hosts else ",".join([*own, *hosts])
    with app.daemon() as private:
        if private is not None or app.socket is not None:
            os.environ[SOCKET] = str(private or app.socket)
        try:
            sock = passed[1] if passed is not None else listening(listen, any_port=any_port)
        except OSError as error:
            where = listen.path or f"{listen.host}:{listen.port}"
            code = Exit.USAGE
            return Exit(
                output.problem("usage", f"can't listen on {where}: {error.strerror or error}", code, json=app.json)
            )
        try:
            url = url_of(listen, sock)
            if not listen.is_local and not hosts:
                output.note(f"requests for other hosts than {', '.join(own)} are refused; give --host NAME for each")
            output.note(f"listening on {url}; stop with Ctrl-C")
            if opens:
                webbrowser.open(url)  # the socket is already listening
            _run(_config(workers, access_log), sock)
        finally:
            sock.close()
            if listen.path is not None and passed is None:
                with suppress(OSError):
                    listen.path.unlink()
    return Exit.OK


def _config(workers: int, access_log: bool) -> uvicorn.Config:
    import uvicorn

    formatter = {"format": "%(asctime)s %(levelname)s %(message)s"}
    logged = {"handlers": ["stderr"], "level": "INFO" if access_log else "WARNING", "propagate": False}
    return uvicorn.Config(
        "promptlogctl.http.application:application_from_environment",
        factory=True,
        http="promptlogctl.http.server:Protocol",
        loop="uvloop",
        ws="none",
        workers=workers,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_DRAIN_S,
        log_config={
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": formatter},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            "loggers": {
                "uvicorn": {"handlers": ["stderr"], "level": "ERROR", "propagate": False},
                "promptlogctl.http": logged,
            },
        },
    )


def _run(config: uvicorn.Config, sock: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from promptlogctl.http.descriptors import raise_descriptor_limit

    raise_descriptor_limit()
    # uvicorn raises the signal again after it has stopped. As KeyboardInterrupt, it lets the clean-up run.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        if config.workers == 1:
            uvicorn.Server(config).run(sockets=[sock])
        else:
            Multiprocess(config, sockets=[sock]).run()


def _is_open_to_all(path: Path | None) -> bool:
    """Whether every user may connect to a Unix socket that systemd passed. Its default mode is 0666."""
    if path is None:
        return False
    try:
        return os.stat(path).st_mode & 0o002 != 0  # to connect takes write permission (unix(7))
    except (OSError, ValueError):  # a socket without a file has no permissions
        return True
