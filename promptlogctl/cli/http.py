"""promptlogctl http and play."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
import signal
import socket
import stat
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from promptlogctl.cli import output
from promptlogctl.cli.app import App, Location, command
from promptlogctl.cli.output import Exit

if TYPE_CHECKING:
    import uvicorn

_F = TypeVar("_F", bound=Callable[..., Any])

_DEFAULT = "127.0.0.1:8787"
REQUIREMENTS = ("starlette>=0.46", "uvicorn>=0.54,<1", "httptools>=0.7", "uvloop>=0.21")
"""Of the extra `http`."""

_BACKLOG = 4096
_DRAIN_S = 10
"""How long a stop waits for requests in flight."""

_KEEP_ALIVE_S = 75


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """Where an HTTP server listens."""

    host: str = ""
    port: int = 0
    path: Path | None = None
    """Of a Unix socket."""

    @property
    def is_local(self) -> bool:
        """Whether only processes of this host can connect."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def _parsed(ctx: click.Context, param: click.Parameter, text: str) -> Listen:
    """Return what `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH` means."""
    if text.startswith("unix:"):
        if not text[5:]:
            raise click.BadParameter("the path is empty; give unix:PATH")
        return Listen(path=Path(text[5:]))
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        raise click.BadParameter(f"{text!r} is neither HOST:PORT, such as {_DEFAULT}, nor unix:PATH")
    return Listen(host=host.removeprefix("[").removesuffix("]"), port=int(port))


_OPTIONS = (
    click.option("--tokens", type=Location(), help="File with tokens: who may use the API, and for what."),
    click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Server processes."),
    click.option(
        "--host", "hosts", multiple=True, metavar="NAME", help="A host name that requests may be for; `*`: any."
    ),
    click.option("--access-log", is_flag=True, help="Log each request: method, path, status, time. No prompts."),
)


def _options(function: _F) -> _F:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command()
@click.option(
    "--listen",
    callback=_parsed,
    default=_DEFAULT,
    show_default=True,
    metavar="HOST:PORT|unix:PATH",
    help="Where to listen. Other than loopback and Unix sockets only with --tokens.",
)
@_options
@command
def http(app: App, listen: Listen, **given: Any) -> Exit:
    """Serve the HTTP API, and a page to try programs in.

    It is a client of the daemon, which may be away at the start and in between: requests are answered with 503 then.
    """
    return _serve(app, listen, opens=False, **given)


@click.command()
@click.option("--no-browser", is_flag=True, help="Print the address, and open no browser.")
@command
def play(app: App, no_browser: bool) -> Exit:
    """Open a page to try programs in. Starts what is needed: a private daemon if none answers, and the HTTP server."""
    app.spawn = True
    listen = Listen(host="127.0.0.1", port=8787)
    return _serve(app, listen, opens=not no_browser, tokens=None, workers=1, hosts=(), access_log=False, any_port=True)


def _serve(
    app: App,
    listen: Listen,
    *,
    opens: bool,
    tokens: Path | None,
    workers: int,
    hosts: tuple[str, ...],
    access_log: bool,
    any_port: bool = False,
) -> Exit:
    names = [re.split("[<>=]", requirement)[0] for requirement in REQUIREMENTS]
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        wanted = " ".join(f"'{requirement}'" for requirement in REQUIREMENTS)
        raise click.UsageError(f"{', '.join(missing)} is not installed; run: pip install {wanted}")
    if not listen.is_local and tokens is None:
        raise click.UsageError(
            f"{listen.host} can be reached from other hosts: give --tokens FILE, or listen on 127.0.0.1 or unix:PATH"
        )
    from promptlogctl.http.settings import HOSTS, LOOPBACK_HOSTS, SOCKET, TOKENS
    from promptlogctl.http.tokens import TokenError, read_tokens

    if tokens is not None:
        try:
            read_tokens(tokens)
        except TokenError as error:
            raise click.UsageError(str(error)) from None
        os.environ[TOKENS] = str(tokens.absolute())
    own = [*LOOPBACK_HOSTS, f"[{listen.host}]" if ":" in listen.host else listen.host]
    os.environ[HOSTS] = "*" if listen.path is not None or "*" in hosts else ",".join([*own, *hosts])
    with app.daemon() as private:
        if private is not None or app.socket is not None:
            os.environ[SOCKET] = str(private or app.socket)
        try:
            sock = _listening(listen, any_port=any_port)
        except OSError as error:
            where = listen.path or f"{listen.host}:{listen.port}"
            code = Exit.USAGE
            return Exit(
                output.problem("usage", f"can't listen on {where}: {error.strerror or error}", code, json=app.json)
            )
        try:
            url = _url(listen, sock)
            output.note(f"listening on {url}; stop with Ctrl-C")
            if opens:
                threading.Timer(0.5, webbrowser.open, [url]).start()
            _run(_config(workers, access_log), sock)
        finally:
            sock.close()
            if listen.path is not None:
                with suppress(OSError):
                    listen.path.unlink()
    return Exit.OK


def _listening(listen: Listen, *, any_port: bool) -> socket.socket:
    """Return a socket that listens. Raises OSError. `any_port`: take another port if this one is in use."""
    if listen.path is not None:
        return _listening_unix(listen.path)
    family, _, _, _, address = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
        except OSError:
            if not any_port:
                raise
            sock.bind((address[0], 0, *address[2:]))
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _listening_unix(path: Path) -> socket.socket:
    """Return a Unix socket that listens, for this user and group alone. One that nobody listens on is replaced."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(2)
                with suppress(ConnectionRefusedError):
                    probe.connect(os.fspath(path))
                    raise OSError(f"another server answers on {path}")
            path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o117)
    try:
        sock.bind(os.fspath(path))
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(previous)
    return sock


def _url(listen: Listen, sock: socket.socket) -> str:
    if listen.path is not None:
        return f"unix:{listen.path}"
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    return f"http://{host}:{sock.getsockname()[1]}/"


def _config(workers: int, access_log: bool) -> uvicorn.Config:
    import uvicorn

    formatter = {"format": "%(asctime)s %(levelname)s %(message)s"}
    logged = {"handlers": ["stderr"], "level": "INFO" if access_log else "WARNING", "propagate": False}
    return uvicorn.Config(
        "promptlogctl.http:app",
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

    from promptlogctl.http.server import raise_descriptor_limit

    raise_descriptor_limit()
    # uvicorn raises the signal that ended it once more: so what comes after it is done as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        if config.workers == 1:
            uvicorn.Server(config).run(sockets=[sock])
        else:
            Multiprocess(config, sockets=[sock]).run()
