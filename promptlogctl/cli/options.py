"""The options of the commands that run a program."""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
import msgspec
from click.shell_completion import CompletionItem

from promptlogctl.cli import output
from promptlogctl.cli.files import FILE, read_text
from promptlogctl.client import Engine, Isolation, LimitsAsked, RunOptions
from sandbox.engines import ENGINES

_WAIT_S = 2.0
_F = TypeVar("_F", bound=Callable[..., Any])


class Count(click.IntRange):
    """An integer of at least 1. The daemon checks the maximum of a limit."""

    name = "integer"  # not "integer range" in messages

    def __init__(self, most: int = 2**31 - 1) -> None:
        super().__init__(1)
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the integer. Fails with the bound that it exceeds."""
        count = int(super().convert(value, param, ctx))
        if count > self._most:
            self.fail(f"{count} is too large; the maximum is {self._most}", param, ctx)
        return count


def _complete_env(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete a file's name after `@`. See completion.py."""
    return [CompletionItem(incomplete, type="at-file")] if incomplete.startswith("@") else []


VISIBILITY = click.option(
    "--visibility",
    type=click.Choice(["own", "group", "all"]),
    help="Who sees the program or the name: only you, also your group, or everyone.",
)
_COUNT = Count()
_OPTIONS = (
    click.option("--prompt", help="The prompt. Default: standard input, unless that is a terminal."),
    click.option("--prompt-file", metavar="FILE|-", type=FILE, help="Read the prompt from a file or standard input."),
    click.option(
        "--env",
        metavar="NAME=TEXT|JSON|@FILE",
        multiple=True,
        shell_complete=_complete_env,
        help="Set `env`: NAME=TEXT, a JSON object, or a file with one. Repeatable; the last value of a name wins.",
    ),
    click.option("--cpu-ms", type=_COUNT, help="CPU limit in ms. Default 50, at most 10000."),
    click.option(
        "--wall-ms",
        type=_COUNT,
        help="Wall limit in ms. Default 1000, or twice --cpu-ms if that is not below the default; at most 30000.",
    ),
    click.option("--memory-mb", type=_COUNT, help="Memory limit in MiB. Default 128, at most 512."),
    click.option("--result-kb", type=_COUNT, help="Limit of the result's JSON in KiB. Default 1024, at most 4096."),
    click.option("--log-kb", type=_COUNT, help="Limit of the console lines in KiB. Default 64, at most 1024."),
    click.option("--isolation", type=click.Choice(["cell", "jail"]), help="`jail`: run the program in a new jail."),
    click.option("--engine", type=click.Choice(list(ENGINES)), help="The engine. Default: the program's own."),
    click.option("--usage", "show_usage", is_flag=True, help="Print the resource usage of the run on standard error."),
)


def run_options(function: _F) -> _F:
    """Add the options of a run to a command. `checked` converts all but --usage to a prompt and RunOptions."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def checked(
    *,
    stdin_is_free: bool = True,
    prompt: str | None,
    prompt_file: str | None,
    env: tuple[str, ...],
    cpu_ms: int | None,
    wall_ms: int | None,
    memory_mb: int | None,
    result_kb: int | None,
    log_kb: int | None,
    isolation: Isolation | None,
    engine: Engine | None,
) -> tuple[str, RunOptions]:
    """Return the prompt and the options for the client. Raises click.UsageError.

    `stdin_is_free`: whether nothing else is read from standard input.
    """
    if prompt is not None and prompt_file is not None:
        raise click.UsageError("give --prompt or --prompt-file, not both")
    if prompt is None and prompt_file is None and stdin_is_free and "@-" not in env and _stdin_has_input():
        _tell_if_waiting()
        prompt_file = "-"
    text = read_text(prompt_file, "prompt") if prompt_file is not None else prompt or ""
    whole(text, "the prompt")
    limits = LimitsAsked(
        cpu_ms=cpu_ms,
        wall_ms=wall_ms,
        memory_bytes=None if memory_mb is None else memory_mb << 20,
        result_bytes=None if result_kb is None else result_kb << 10,
        log_bytes=None if log_kb is None else log_kb << 10,
    )
    return text, {"env": _env(env), "limits": limits, "isolation": isolation, "engine": engine}


def _stdin_has_input() -> bool:
    """Whether standard input is a pipe, a socket or a file.

    Node, ssh and inetd give a command a socket. A terminal is not read, because that would wait for the user.
    """
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode)


def _tell_if_waiting() -> None:
    """Print a note if standard input has no data for a while, for users who did not intend to pipe a prompt."""
    if not select.select([sys.stdin], [], [], _WAIT_S)[0]:
        output.note("waiting for the prompt on standard input; to avoid this, give --prompt")


def _env(given: Sequence[str]) -> dict[str, Any] | None:
    """Merge the --env options; a later value replaces an earlier one."""
    found: dict[str, Any] = {}
    for one in given:
        name, equals, text = whole(one, "--env").partition("=")
        if equals and name and not one.lstrip().startswith(("{", "[", '"', "@")):
            found[name] = text
        else:
            found |= _object(one)
    return found if given else None


def whole(text: str, what: str) -> str:
    """Return a command line argument unchanged. Raises click.UsageError if it is not UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise click.UsageError(f"{what} is not UTF-8") from None
    return text


def _object(given: str) -> dict[str, Any]:
    text = read_text(given[1:], "env") if given.startswith("@") else given
    if not text.strip():
        raise click.UsageError("--env is empty; an empty JSON object is {}")
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise click.UsageError(f"--env is neither NAME=TEXT nor a JSON object: {error}") from None
