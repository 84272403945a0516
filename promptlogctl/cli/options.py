"""The options of the commands that run a program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from promptlogctl.cli.files import read_text
from promptlogctl.client import Engine, Isolation, LimitsAsked, RunOptions
from sandbox.engines import ENGINES

_F = TypeVar("_F", bound=Callable[..., Any])


class Count(click.IntRange):
    """A whole number over 0; how large a limit may be is the daemon's to say."""

    name = "integer"  # and not "integer range", in messages

    def __init__(self) -> None:
        super().__init__(1, 2**31 - 1)

    def _describe_range(self) -> str:
        return "x>=1"


_COUNT = Count()
_OPTIONS = (
    click.option("--prompt", help="The prompt."),
    click.option("--prompt-file", metavar="FILE|-", help="Read the prompt from a file or standard input."),
    click.option("--env", metavar="JSON|@FILE", help="A JSON object that the program sees as `env`."),
    click.option("--cpu-ms", type=_COUNT, help="CPU limit in ms. Default 50, at most 10000."),
    click.option(
        "--wall-ms", type=_COUNT, help="Wall limit in ms. Default 1000, for much CPU twice that; at most 30000."
    ),
    click.option("--memory-mb", type=_COUNT, help="Memory limit in MiB. Default 128, at most 512."),
    click.option("--result-kb", type=_COUNT, help="Limit of the result's JSON in KiB. Default 1024, at most 4096."),
    click.option("--log-kb", type=_COUNT, help="Limit of the console lines in KiB. Default 64, at most 1024."),
    click.option("--isolation", type=click.Choice(["cell", "jail"]), help="`jail`: a brand-new nsjail for this run."),
    click.option("--engine", type=click.Choice(list(ENGINES)), help="The engine; default: the program's own."),
    click.option("--usage", "show_usage", is_flag=True, help="Print what the run used on stderr."),
)


def run_options(function: _F) -> _F:
    """Give a command the options of a run; `checked` makes a prompt and RunOptions of all but --usage."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def checked(
    *,
    prompt: str | None,
    prompt_file: str | None,
    env: str | None,
    cpu_ms: int | None,
    wall_ms: int | None,
    memory_mb: int | None,
    result_kb: int | None,
    log_kb: int | None,
    isolation: Isolation | None,
    engine: Engine | None,
) -> tuple[str, RunOptions]:
    """Return the prompt and the options that the client takes. Raises click.UsageError."""
    if prompt is not None and prompt_file is not None:
        raise click.UsageError("give --prompt or --prompt-file, not both")
    text = read_text(prompt_file, "prompt") if prompt_file is not None else prompt or ""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise click.UsageError("the prompt is not UTF-8") from None
    limits = LimitsAsked(
        cpu_ms=cpu_ms,
        wall_ms=wall_ms,
        memory_bytes=None if memory_mb is None else memory_mb << 20,
        result_bytes=None if result_kb is None else result_kb << 10,
        log_bytes=None if log_kb is None else log_kb << 10,
    )
    return text, {"env": _env(env), "limits": limits, "isolation": isolation, "engine": engine}


def _env(given: str | None) -> dict[str, Any] | None:
    if given is None:
        return None
    text = read_text(given[1:], "env") if given.startswith("@") else given
    if not text.strip():
        raise click.UsageError("--env is empty; a JSON object without anything in it is {}")
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise click.UsageError(f"--env is no JSON object: {error}") from None
