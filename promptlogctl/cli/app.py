"""What all commands share: the options that lead to a daemon, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import click

from promptlogctl.blocking import Client
from promptlogctl.cli import output
from promptlogctl.cli.output import Exit
from promptlogctl.cli.spawn import private_daemon
from promptlogctl.endpoint import find_endpoint
from promptlogctl.errors import ConnectionLost, NoDaemon, PromptlogError, RequestRefused, UntrustedDaemon
from promptlogd.wire.messages import Language

MAX_FILE_BYTES = 16 << 20
_F = TypeVar("_F", bound=Callable[..., Any])
_TYPES = re.compile(
    r"[\w)?\]][ \t]*:[ \t]*(?:string|number|boolean|any|unknown|void|never)\b"
    r"|^[ \t]*(?:export[ \t]+)?(?:interface|enum|type|declare|namespace)[ \t]+\w"
    r"|\bas[ \t]+(?:any|const|unknown|string|number)\b",
    re.MULTILINE,
)


class Source:
    """A program's text as the user knows it, for error messages. `language`: if the user has said it."""

    def __init__(self, name: str, text: str | None, language: Language | None = None) -> None:
        self.name = name
        self.text = text
        self.language = language

    def hint(self) -> None:
        """Say so if this, which does not parse, looks like TypeScript, and was not said to be."""
        if self.language is None and self.text is not None and _TYPES.search(self.text):
            output.note("if this is TypeScript: a file's name ends in .ts then, or say --language typescript")


class App:
    """The options that every command takes."""

    def __init__(self, *, socket: Path | None, spawn: bool, state_dir: Path | None, json: bool) -> None:
        self.socket = socket
        """The socket that the user named, if any."""
        self.socket_path = find_endpoint(socket).path
        self.spawn = spawn
        self.state_dir = state_dir
        self.json = json
        self.source = Source("program", None)
        self.temporary = False
        """Whether what the command keeps is gone when it ends."""

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Give a client of the daemon that answers, or of a private one with `--spawn`."""
        if self.spawn and not _answers(self.socket_path):
            self.temporary = self.state_dir is None
            # Ended politely, it takes its daemon and its temporary folder along.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            with private_daemon(self.state_dir) as private, Client(private) as client:
                yield client
        else:
            if self.state_dir is not None:
                output.note(f"a daemon answers on {self.socket_path}: --state-dir is not used")
            with Client(self.socket) as client:
                yield client


def command(function: _F) -> _F:
    """Give a command the shared options, and turn what it raises into a line on stderr and an exit code."""

    @click.option(
        "--socket",
        type=click.Path(path_type=Path),
        envvar="PROMPTLOG_SOCKET",
        help="The daemon's socket [$PROMPTLOG_SOCKET].",
    )
    @click.option("--spawn", is_flag=True, help="Start a private daemon for this command if none answers.")
    @click.option("--state-dir", type=click.Path(path_type=Path), help="With --spawn: keep programs in this folder.")
    @click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
    @wraps(function)
    def wrapper(
        *args: Any, socket: Path | None, spawn: bool, state_dir: Path | None, as_json: bool, **kwargs: Any
    ) -> None:
        if state_dir is not None and not spawn:
            raise click.UsageError("--state-dir goes with --spawn")
        app = App(socket=socket, spawn=spawn, state_dir=state_dir, json=as_json)
        sys.exit(_guard(app, lambda: function(app, *args, **kwargs)))

    return wrapper  # type: ignore[return-value]  # click keeps the parameters on the wrapper


def _guard(app: App, call: Callable[[], Exit | None]) -> int:
    try:
        return call() or Exit.OK
    except RequestRefused as refused:
        if app.json:
            output.as_json({"error": {"code": refused.code, "message": refused.message, "detail": refused.detail}})
        else:
            output.refusal(refused, app.source.text, app.source.name)
            if "syntax_error" in refused.detail:
                app.source.hint()
        return output.refusal_code(refused)
    except (NoDaemon, UntrustedDaemon, ConnectionLost) as error:
        if app.json:
            output.as_json({"error": {"code": "no_daemon", "message": str(error), "detail": {}}})
        else:
            output.error(str(error))
        return Exit.DAEMON
    except KeyboardInterrupt:
        output.error("cancelled")
        return Exit.LIMIT
    except UnicodeEncodeError as error:
        output.error(f"not UTF-8: {error.object!r}")
        return Exit.USAGE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except OSError as error:
        output.error(f"can't write the output: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OUTPUT


def complete_program(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the names and hashes of kept programs that begin so; nothing where no daemon answers."""
    try:
        with Client(context.params.get("socket")) as client:
            programs = list(islice(client.list(), 1000))
    except PromptlogError:
        return []
    found = [f"@{name}" for row in programs for name in row.names]
    if incomplete and not incomplete.startswith("@"):
        found += [row.hash for row in programs]
    return sorted(text for text in found if text.startswith(incomplete))


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
    return True


def read_text(path: str, what: str) -> str:
    """Read a file, or standard input for `-`. Raises click.UsageError: too large, not UTF-8, or not to be read."""
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise click.UsageError(f"can't read the {what} {path}: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise click.UsageError(f"the {what} {path} is larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.UsageError(
            f"the {what} {path} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}"
        ) from None


LANGUAGE = click.option(
    "--language",
    type=click.Choice(["javascript", "typescript"]),
    help="What the program is written in; default: what the file's ending says, else javascript.",
)


def language_of(path: str) -> Language | None:
    """Return what a file's name says it is written in."""
    ending = Path(path).suffix.lower()
    if ending in (".tsx", ".jsx"):
        raise click.UsageError(f"{path}: JSX is not supported; build it first, or give --language")
    if ending in (".ts", ".mts", ".cts"):
        return "typescript"
    return "javascript" if ending in (".js", ".mjs", ".cjs") else None
