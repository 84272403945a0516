"""Shared by all commands: the options for connecting to a daemon, and the conversion of errors to exit codes."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from importlib import import_module
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
    """A path that is not empty. The code that uses the path reports other errors."""

    def __init__(self) -> None:
        super().__init__(readable=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.fspath(value):
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


class App:
    """The options of every command."""

    def __init__(self, *, socket: Path | None, spawn: bool, state_dir: Path | None, json: bool) -> None:
        self.socket = socket
        """The socket that the user named, if any."""
        self.socket_path = Client(socket).socket_path
        self.spawn = spawn
        self.state_dir = state_dir
        self.json = json
        self.source = Source("program", None)
        self.temporary = False
        """Whether programs that the command stores are deleted when it ends."""

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Context manager: a client of the daemon, or of a private daemon with `--spawn`."""
        with self.daemon() as private, Client(private or self.socket) as client:
            yield client

    @contextmanager
    def daemon(self) -> Iterator[Path | None]:
        """Context manager: with `--spawn`, if no daemon answers, the socket of a private daemon, which is stopped at
        the end."""
        if self.spawn and not _answers(self.socket_path):
            self.temporary = self.state_dir is None
            # So that the private daemon and its temporary folder are removed.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            with private_daemon(self.state_dir) as private:
                yield private
        else:
            if self.state_dir is not None:
                output.note(f"a daemon answers on {self.socket_path}; --state-dir is ignored")
            yield None


class Commands(click.Group):
    """The group of commands. With --json, errors of usage are one line of JSON too."""

    def __init__(self, *args: Any, modules: Mapping[str, str], **kwargs: Any) -> None:
        """`modules`: the module of each command, as MODULE or MODULE:FUNCTION. It is imported when it is needed."""
        super().__init__(*args, **kwargs)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = self._modules.get(_ALIASES.get(cmd_name, cmd_name))
        if place is None:
            return None
        module, _, function = place.partition(":")
        found = getattr(import_module(f"promptlogctl.cli.{module}"), function or module)
        assert isinstance(found, click.Command)
        return found

    def main(self, args: Sequence[str] | None = None, *others: Any, **kwargs: Any) -> Any:
        # For output outside of a command: --help, and errors in the options before the command.
        args = sys.argv[1:] if args is None else args
        call = partial(super().main, args, *others, **{**kwargs, "standalone_mode": False})
        json = "--json" in args
        sys.exit(_written(lambda: _told(call, json=json), json=json))


def shared_options(function: _F) -> _F:
    """Add --json and the options for connecting to a daemon. They may also stand before the command."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one line of JSON."),
        click.option("--state-dir", type=Location(), help="With --spawn: store programs in this folder."),
        click.option("--spawn", is_flag=True, help="If no daemon answers, start a private one for this command."),
        click.option(
            "--socket",
            type=Location(),
            envvar="PROMPTLOG_SOCKET",
            help="Path of the daemon's socket [$PROMPTLOG_SOCKET].",
        ),
    ):
        function = option(function)
    return function


def socket_of(context: click.Context) -> Path | None:
    """Return the socket given after the command, before it, or in the environment, in this order."""
    contexts = list(_chain(context))
    for one in contexts:
        if one.get_parameter_source("socket") is ParameterSource.COMMANDLINE:
            return cast(Path, one.params["socket"])
    return next((one.params["socket"] for one in contexts if one.params.get("socket") is not None), None)


def _chain(context: click.Context) -> Iterator[click.Context]:
    """Yield a command's context, then those of the groups that it is in."""
    found: click.Context | None = context
    while found is not None:
        yield found
        found = found.parent


def command(function: _F) -> _F:
    """Add the shared options to a command, and convert exceptions to a line on stderr and an exit code."""

    @shared_options
    @wraps(function)
    def wrapper(
        *args: Any, socket: Path | None, spawn: bool, state_dir: Path | None, as_json: bool, **kwargs: Any
    ) -> None:
        context = click.get_current_context()
        before = [one.params for one in _chain(context)][1:]
        socket = socket_of(context)
        spawn = spawn or any(params.get("spawn") for params in before)
        as_json = as_json or any(params.get("as_json") for params in before)
        state_dir = state_dir or next((params["state_dir"] for params in before if params.get("state_dir")), None)
        if state_dir is not None and not spawn:
            raise click.UsageError("--state-dir needs --spawn")
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


def _told(call: Callable[[], int | None], *, json: bool) -> int:
    """Call click, print an error of usage as a line like that of any other error, and return the exit code."""
    try:
        return call() or Exit.OK
    except click.exceptions.NoArgsIsHelpError as error:
        terminal.say(error.format_message())  # the help
        return Exit.USAGE
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        message = error.format_message().replace("\n\t", " ")  # click lists choices in lines of their own
        if not json:
            message = message.rstrip(".") + ("" if context is None else f"; see {context.command_path} --help")
        return output.problem("usage", message, Exit.USAGE, json=json)
    except click.Abort:
        return output.problem("cancelled", "cancelled", Exit.LIMIT, json=json)


def _written(call: Callable[[], int], *, json: bool) -> int:
    """Call a function that writes to standard output, and return its exit code, or another if writing fails."""
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
