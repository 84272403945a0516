"""promptlogctl run, promptlogctl exec."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from promptlogctl.blocking import Client
from promptlogctl.cli import output
from promptlogctl.cli.app import LANGUAGE, App, Source, command, complete_program, language_of, read_text
from promptlogctl.cli.output import Exit
from promptlogctl.errors import RequestRefused
from promptlogctl.result import RunResult
from promptlogd.wire.messages import LimitsAsked
from sandbox.outcome import ProgramSyntaxError

_F = TypeVar("_F", bound=Callable[..., Any])


class _Count(click.IntRange):
    """A whole number over 0; how large a limit may be is the daemon's to say."""

    def __init__(self) -> None:
        super().__init__(1, 2**31 - 1)

    def _describe_range(self) -> str:
        return "x>=1"


_COUNT = _Count()


def _run_options(function: _F) -> _F:
    options = [
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
        click.option(
            "--isolation", type=click.Choice(["cell", "jail"]), help="`jail`: a brand-new nsjail for this run."
        ),
        click.option(
            "--engine",
            type=click.Choice(["quickjs", "deno"]),
            help="The engine; default: the program's own.",
        ),
        click.option("--usage", "show_usage", is_flag=True, help="Print what the run used on stderr."),
    ]
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), function)


@click.command()
@click.argument("program", metavar="HASH|PREFIX|@NAME", shell_complete=complete_program)
@_run_options
@command
def run(app: App, program: str, **options: Any) -> Exit:
    """Run a kept program and print its result's JSON.

    Default and maximum of a limit are those of a daemon whose settings say nothing else.
    """
    asked = _Asked(**options)
    with app.client() as client:
        result = asked.run(client, program, None)
        if not result.ok and not app.json:
            app.source = Source(program, _source(client, program))
    return _report(app, result, show_usage=options["show_usage"])


@click.command(name="exec")
@click.argument("file", metavar="FILE|-")
@click.option("--no-keep", is_flag=True, help="Do not keep the program in the store.")
@LANGUAGE
@_run_options
@command
def exec_(app: App, file: str, no_keep: bool, language: Any, **options: Any) -> Exit:
    """Submit and run the program in FILE; it is kept, but for --no-keep.

    Default and maximum of a limit are those of a daemon whose settings say nothing else.
    """
    if file == "-" and options["prompt_file"] == "-":
        raise click.UsageError("the program and the prompt can't both be standard input")
    asked = _Asked(**options)
    source = read_text(file, "program")
    language = language or language_of(file)
    app.source = Source(file, source, language)
    with app.client() as client:
        hash = None if no_keep else _keep(client, source, options["engine"], language)
        result = asked.run(client, hash, source if hash is None else None, language if hash is None else None)
    return _report(app, result, show_usage=options["show_usage"])


def _keep(client: Client, source: str, engine: Any, language: Any) -> str | None:
    """Keep a program and return its hash. One that is kept as something else stays that: None, it is run as given."""
    try:
        return client.submit(source, engine=engine, language=language).hash
    except RequestRefused as refused:
        hash, kept, kind = (refused.detail.get(field) for field in ("hash", "engine", "language"))
        if not isinstance(hash, str):
            raise
        output.note(f"not kept: this very text is kept as {kind} for {kept} already ({hash[:12]})")
        return None


class _Asked:
    """The options of a run, checked."""

    def __init__(
        self,
        *,
        prompt: str | None,
        prompt_file: str | None,
        env: str | None,
        cpu_ms: int | None,
        wall_ms: int | None,
        memory_mb: int | None,
        result_kb: int | None,
        log_kb: int | None,
        isolation: Any,
        engine: Any,
        show_usage: bool,
    ) -> None:
        if prompt is not None and prompt_file is not None:
            raise click.UsageError("give --prompt or --prompt-file, not both")
        self._prompt = read_text(prompt_file, "prompt") if prompt_file is not None else prompt or ""
        try:
            self._prompt.encode("utf-8")
        except UnicodeEncodeError:
            raise click.UsageError("the prompt is not UTF-8") from None
        self._env = _env(env)
        self._isolation, self._engine = isolation, engine
        self._limits = LimitsAsked(
            cpu_ms=cpu_ms,
            wall_ms=wall_ms,
            memory_bytes=None if memory_mb is None else memory_mb << 20,
            result_bytes=None if result_kb is None else result_kb << 10,
            log_bytes=None if log_kb is None else log_kb << 10,
        )

    def run(self, client: Client, reference: str | None, source: str | None, language: Any = None) -> RunResult:
        """Run it and wait; console lines are printed as they come."""
        return client.start(
            reference,
            self._prompt,
            source=source,
            env=self._env,
            limits=self._limits,
            isolation=self._isolation,
            engine=self._engine,
            language=language,
        ).result()


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


def _source(client: Client, program: str) -> str | None:
    try:
        return client.show(program, source=True).source
    except RequestRefused:
        return None


def _report(app: App, result: RunResult, *, show_usage: bool) -> Exit:
    if app.json:
        output.as_json(result)
        return output.exit_code(result)
    for line in result.logs:
        output.log_line(line)
    if result.logs_truncated:
        click.echo("[the log was cut at its limit]", err=True)
    if result.ok:
        output.value(result)
    else:
        output.failure(result, app.source.text, app.source.name)
        if isinstance(result.outcome, ProgramSyntaxError):
            app.source.hint()
    if show_usage:
        output.usage(result)
    return output.exit_code(result)
