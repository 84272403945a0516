"""promptlogd: command line arguments, logging, exit codes."""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import trio
from click.core import ParameterSource

from promptlogd import allocator
from promptlogd.config import ConfigError
from promptlogd.listener import ListenError
from promptlogd.log_rate import RateLimit, fit
from promptlogd.log_writer import LogWriter
from promptlogd.server import serve
from promptlogd.service_manager import Notifier, inherited_socket
from promptlogd.settings import Settings
from promptlogd.store import StoreError
from promptlogd.version import VERSION
from promptlogd.wire.paths import default_paths
from sandbox.engines.installed import installed_versions
from sandbox.errors import SandboxError
from sandbox.jail.root import RootError

_PR_SET_PDEATHSIG = 1

_DESCRIPTOR = click.IntRange(min=3)
_DESCRIPTOR.name = "integer"  # and not "integer range", in messages


class _AbsolutePath(click.Path):
    """A path, made absolute at once, because the daemon and its jails change their working folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        # Nothing else is checked here: the code that uses a path reports what is wrong with it.
        if not os.fspath(value):
            self.fail("the path is empty", param, ctx)
        try:
            return Path(os.fsdecode(value)).absolute()
        except FileNotFoundError:
            self.fail(f"{os.fspath(value)!r} is relative, and the current folder was removed", param, ctx)


class _Command(click.Command):
    """The command. If its help or version can't be written, it says so in one line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _output():
            return super().parse_args(ctx, args)


@click.command(cls=_Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda context, parameter, wanted: _print_version(context) if wanted else None,
    help="Show the versions of promptlog and of its engines, and exit.",
)
@click.option(
    "--socket",
    "socket_path",
    type=_AbsolutePath(),
    envvar="PROMPTLOG_SOCKET",
    help="Path of the Unix socket [$PROMPTLOG_SOCKET].",
)
@click.option("--state-dir", type=_AbsolutePath(), help="State folder, which contains the programs (mode 0700).")
@click.option("--config", "config_path", type=_AbsolutePath(), help="Configuration file (TOML).")
@click.option("--check-config", is_flag=True, help="Check the settings, and exit.")
@click.option("--verbose", is_flag=True, help="Log more.")
@click.option("--ready-fd", type=_DESCRIPTOR, help="Write 'ready' to this descriptor when the daemon serves clients.")
@click.option("--exit-with-parent", is_flag=True, help="Stop when the process that started this one ends.")
def _run(
    socket_path: Path | None,
    state_dir: Path | None,
    config_path: Path | None,
    check_config: bool,
    verbose: bool,
    ready_fd: int | None,
    exit_with_parent: bool,
) -> None:
    """Run untrusted JavaScript, each run in its own jailed process."""
    writer = _set_up_logging(verbose=verbose)
    allocator.set_up()
    if ready_fd is not None and not _is_writable(ready_fd):
        raise click.BadParameter(f"descriptor {ready_fd} is not open for writing", param_hint="--ready-fd")
    if exit_with_parent:
        _exit_with_parent()
    failures: list[BaseException] = []
    try:
        settings = Settings.read(config_path)
        writer.choose(settings.config.log.format)
        settings.on_change(lambda config: writer.choose(config.log.format))
        if check_config:
            with _output():
                click.echo(fit(f"the settings are valid: {', '.join(settings.files) or 'the defaults'}"))
            return
        socket_path, state_dir = _choose_paths(settings, socket_path, state_dir)

        def ready() -> None:
            if ready_fd is not None:
                with suppress(OSError):  # the reader has closed it
                    os.write(ready_fd, b"ready\n")
                    os.close(ready_fd)

        notifier, inherited = Notifier(os.environ), inherited_socket(os.environ)
        if inherited is not None:
            settings.override("server.socket", os.fsdecode(inherited.getsockname()), "systemd's socket unit")

        async def run() -> None:
            await serve(
                settings=settings,
                socket_path=socket_path,
                state_dir=state_dir,
                ready=ready,
                notifier=notifier,
                inherited=inherited,
            )

        try:
            trio.run(run)
        finally:
            # When the interpreter exits, it restores the default handlers in place of any other.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
    except* (ConfigError, StoreError, ListenError, SandboxError, RootError) as group:
        failures += _leaves(group)
    if failures:  # not above: what is raised there is shown with a traceback
        for error in failures:
            logging.getLogger("promptlogd").error("%s", error)
        sys.exit(1)


@contextmanager
def _output() -> Iterator[None]:
    """Context manager: end with one line on standard error if standard output can't be written."""
    try:
        yield
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python fails at exit, when it flushes the buffer
        with suppress(OSError):
            click.echo(f"Error: can't write the output: {error.strerror}", err=True)
        sys.exit(1)


def _open_closed_streams() -> None:
    """Open closed standard streams, as after `2>&-` in a shell.

    Otherwise the daemon's sockets and files get their descriptors, and sys.stderr is None. Reading from the opened
    standard input and writing to the opened standard output fail with EBADF; standard error is discarded.
    """
    for descriptor, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest free descriptor, and those below are open
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def main() -> None:
    """Run the daemon."""
    _open_closed_streams()
    _run()


def _choose_paths(settings: Settings, socket: Path | None, state_dir: Path | None) -> tuple[Path, Path]:
    """Return where the socket and the state are: an argument or variable goes first, then a file, then the default."""
    paths, server = default_paths(os.geteuid(), os.environ), settings.config.server
    context = click.get_current_context()
    from_environment = context.get_parameter_source("socket_path") is ParameterSource.ENVIRONMENT
    if socket is not None:
        settings.override("server.socket", str(socket), "$PROMPTLOG_SOCKET" if from_environment else "--socket")
    elif server.socket is None:
        settings.override("server.socket", str(paths.socket), "default")
    if state_dir is not None:
        settings.override("server.state_dir", str(state_dir), "--state-dir")
    elif server.state_dir is None:
        settings.override("server.state_dir", str(paths.state_dir), "default")
    return Path(socket or server.socket or paths.socket), Path(state_dir or server.state_dir or paths.state_dir)


def _print_version(context: click.Context) -> None:
    click.echo(f"promptlogd, version {VERSION}")
    for engine, name in installed_versions().items():
        click.echo(f"{engine}: {name}")
    context.exit()


def _is_writable(descriptor: int) -> bool:
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    except OSError:
        return False


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _exit_with_parent() -> None:
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(0)


def _set_up_logging(*, verbose: bool) -> LogWriter:
    handler = LogWriter(sys.stderr)
    handler.addFilter(RateLimit())
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
    return handler


if __name__ == "__main__":
    main()
