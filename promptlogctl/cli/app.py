"""What all commands share: the options that lead to a daemon, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from click.core import ParameterSource

from promptlogctl import startup
from promptlogctl.cli import output, terminal
from promptlogctl.cli.files import Source
from promptlogctl.cli.output import Exit
from promptlogctl.cli.spawn import NotStarted, private_daemon
from promptlogctl.client import Client, ConnectionLost, NoDaemon, RequestRefused, UntrustedDaemon

_F = TypeVar("_F", bound=Callable[..., Any])
_ALIASES = {"ls": "list", "rm": "remove"}


class Location(click.Path):
    """A path. Whether it can be used is told by those who use it, but for an empty one."""

    def __init__(self) -> None:
        super().__init__(readable=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.fspath(value):
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


class App:
    """The options that every command takes."""

    def __init__(self, *, socket: Path | None, spawn: bool, state_dir: Path | None, json: bool) -> None:
        self.socket = socket
        """The socket that the user named, if any."""
        self.socket_path = Client(socket).socket_path
        self.spawn = spawn
        self.state_dir = state_dir
        self.json = json
        self.source = Source("program", None)
        self.temporary = False
        """Whether what the command keeps is gone when it ends."""

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Give a client of the daemon that answers, or of a private one with `--spawn`."""
        with self.daemon() as private, Client(private or self.socket) as client:
            yield client

    @contextmanager
    def daemon(self) -> Iterator[Path | None]:
        """With `--spawn`, and if no daemon answers, start a private one and give its socket. Stop it at the end."""
        if self.spawn and not _answers(self.socket_path):
            self.temporary = self.state_dir is None
            # Ended politely, it takes its daemon and its temporary folder along.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            with private_daemon(self.state_dir) as private:
                yield private
        else:
            if self.state_dir is not None:
                output.note(f"a daemon answers on {self.socket_path}: --state-dir is not used")
            yield None


class Commands(click.Group):
    """The commands; an error of usage is one line of JSON, too, for who asked for JSON."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, _ALIASES.get(cmd_name, cmd_name))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if not ctx.obj:
                raise
            ctx.exit(output.problem("usage", error.format_message(), Exit.USAGE, json=True))

    def main(self, *args: Any, **kwargs: Any) -> Any:
        # For what is printed outside of a command: --help, and errors of usage.
        call = partial(super().main, *args, **{**kwargs, "standalone_mode": False})
        sys.exit(_written(lambda: _told(call), json=False))


def shared_options(function: _F) -> _F:
    """Give a command the options that lead to a daemon, and --json. They may stand before the command as well."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one line of JSON."),
        click.option("--state-dir", type=Location(), help="With --spawn: keep programs in this folder."),
        click.option("--spawn", is_flag=True, help="Start a private daemon for this command if none answers."),
        click.option(
            "--socket",
            type=Location(),
            envvar="PROMPTLOG_SOCKET",
            help="The daemon's socket [$PROMPTLOG_SOCKET].",
        ),
    ):
        function = option(function)
    return function


def socket_of(context: click.Context) -> Path | None:
    """Return the socket that was given after the command, else before it, else in the environment."""
    contexts = (context, context.find_root())
    for one in contexts:
        if one.get_parameter_source("socket") is ParameterSource.COMMANDLINE:
            return cast(Path, one.params["socket"])
    return next((one.params["socket"] for one in contexts if one.params.get("socket") is not None), None)


def command(function: _F) -> _F:
    """Give a command the shared options, and turn what it raises into a line on stderr and an exit code."""

    @shared_options
    @wraps(function)
    def wrapper(
        *args: Any, socket: Path | None, spawn: bool, state_dir: Path | None, as_json: bool, **kwargs: Any
    ) -> None:
        context = click.get_current_context()
        before = context.find_root().params
        socket = socket_of(context)
        spawn, as_json = spawn or before.get("spawn", False), as_json or before.get("as_json", False)
        state_dir = state_dir or before.get("state_dir")
        if state_dir is not None and not spawn:
            raise click.UsageError("--state-dir goes with --spawn")
        app = App(socket=socket, spawn=spawn, state_dir=state_dir, json=as_json)
        sys.exit(_written(lambda: _guard(app, lambda: function(app, *args, **kwargs)), json=as_json))

    return wrapper  # type: ignore[return-value]  # click keeps the parameters on the wrapper


def _guard(app: App, call: Callable[[], Exit | None]) -> int:
    """Call a command, print its error, and return the exit code."""
    try:
        with startup.interrupt_raises():
            return call() or Exit.OK
    except RequestRefused as refused:
        if app.json:
            code = output.refusal_code(refused)
            return output.problem(refused.code, refused.message, code, json=True, detail=refused.detail)
        output.refusal(refused, app.source)
        return output.refusal_code(refused)
    except (NoDaemon, NotStarted, UntrustedDaemon, ConnectionLost) as error:
        return output.problem("no_daemon", str(error), Exit.DAEMON, json=app.json)
    except KeyboardInterrupt:
        return output.problem("cancelled", "cancelled", Exit.LIMIT, json=app.json)
    except UnicodeEncodeError as error:
        return output.problem("usage", f"not UTF-8: {error.object!r}", Exit.USAGE, json=app.json)


def _told(call: Callable[[], int | None]) -> int:
    """Call click, print an error of usage as a line like that of any other error, and return the exit code."""
    try:
        return call() or Exit.OK
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()  # the help
        return Exit.USAGE
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        where = "" if context is None else f"; see {context.command_path} --help"
        return output.problem("usage", f"{error.format_message().rstrip('.')}{where}", Exit.USAGE, json=False)
    except click.Abort:
        return output.problem("cancelled", "cancelled", Exit.LIMIT, json=False)


def _written(call: Callable[[], int], *, json: bool) -> int:
    """Call what writes to standard output and returns an exit code; return another if that can't be written."""
    try:
        return call()
    except BrokenPipeError:
        code = int(Exit.OK)
    except OSError as error:
        why = f"can't write the output: {error.strerror}"
        code = output.problem("output", why, Exit.OUTPUT, json=json, to_stderr=True)
    terminal.discard_output(sys.stdout)
    return code


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
    return True
