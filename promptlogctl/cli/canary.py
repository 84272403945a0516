"""promptlogctl canary: run stored programs on two daemons, and report differences. See docs/engine-updates.md."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from promptlogctl.cli import output, terminal
from promptlogctl.cli.app import App, Location, command
from promptlogctl.cli.ends import RANKS, End, difference_of, end_of, first_difference
from promptlogctl.cli.files import FILE, read_text
from promptlogctl.cli.options import Count
from promptlogctl.cli.output import Exit
from promptlogctl.cli.program import complete_program
from promptlogctl.client import (
    Client,
    Engine,
    Language,
    LimitsAsked,
    RequestRefused,
)

_T = TypeVar("_T")

_MOST_RUNS = 10_000
"""Maximum number of runs on each daemon."""

_MOST_TOLD = 500
"""Maximum number of reported differences. Further ones are only counted."""

_MOST_CHARACTERS = 300
"""Maximum length of a value, message, console line or prompt in the report."""

_ABOUT_PROGRAM = ("unsupported", "too_large", "bad_request")
"""Error codes that concern the program and count as its outcome. Any other error ends the comparison."""


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the `--prompts` file: a program by `hash` or `name`, and the inputs of its run."""

    hash: str | None = None
    name: str | None = None
    prompt: str = ""
    env: dict[str, Any] | None = None
    limits: LimitsAsked | None = None

    @property
    def reference(self) -> str:
        """The reference of the program in requests."""
        return self.hash or f"@{(self.name or '').removeprefix('@')}"


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two daemons."""

    socket: str
    version: str
    engines: dict[Engine, str]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A run with different results on A and B. Texts are shortened."""

    hash: str
    names: list[str]
    prompt: str
    what: str
    """What differs: `outcome`, `value`, `error` or `logs`; `unsteady` if two runs on A differ in the same respects."""
    a: str
    b: str


class Report(msgspec.Struct, kw_only=True):
    """The result of a comparison. Each run is counted once for both daemons."""

    a: Side
    b: Side
    kept: int
    """Number of programs on A."""
    programs: int = 0
    """Number of selected programs."""
    same: int = 0
    different: int = 0
    unsteady: int = 0
    """Runs whose result depends on time or chance, so that they say nothing about B."""
    not_run: int = 0
    """Runs that were skipped for lack of time."""
    cpu_ms_a: float = 0.0
    """CPU time of the runs with equal results."""
    cpu_ms_b: float = 0.0
    cpu_ratio: float | None = None
    """`cpu_ms_b` / `cpu_ms_a`."""
    differences: list[Difference] = []


class _Program(msgspec.Struct, frozen=True, kw_only=True):
    hash: str
    names: list[str]
    source: str
    engine: Engine
    language: Language


@click.command()
@click.argument("programs", metavar="[HASH|PREFIX|@NAME]...", nargs=-1, shell_complete=complete_program)
@click.option("--other", type=Location(), required=True, help="The socket of the other daemon, B.")
@click.option(
    "--prompts",
    metavar="FILE|-",
    type=FILE,
    help='Lines of JSON, such as {"name": "x", "prompt": "..."}: "hash" or "name"; "prompt", "env", "limits".',
)
@click.option(
    "--limit", type=Count(), default=100, show_default=True, help="Without named programs: number of newest programs."
)
@click.option("--seconds", type=Count(), default=300, show_default=True, help="Start no run after this.")
@command
def canary(app: App, programs: tuple[str, ...], other: Path, prompts: str | None, limit: int, seconds: int) -> Exit:
    """Compare the runs of stored programs on two daemons.

    The canary runs each program on this daemon (A) and on another one (B), and reports differences. The programs are
    those in the arguments and in the --prompts file; without any, the newest ones. A program without a prompt runs with
    an empty prompt. Nothing is stored on B. Exit codes in addition to the usual ones: 0 no differences, 1 differences,
    3 no differences, but not all runs were done.
    """
    cases = _read_cases(prompts)
    ends = time.monotonic() + seconds
    with app.client() as client_a, Client(other) as client_b:
        report = Report(a=_side("A", client_a), b=_side("B", client_b), kept=_ask("A", client_a.stats).programs)
        chosen = _choose(client_a, programs, cases, limit)
        runs = sum(map(len, chosen.values()))
        if runs > _MOST_RUNS:
            raise click.UsageError(f"this would be {runs} runs on each daemon; the maximum is {_MOST_RUNS}")
        report.programs = len(chosen)
        for hash, of_program in chosen.items():
            if time.monotonic() > ends:
                report.not_run += len(of_program)
                continue
            program = _fetch(client_a, hash)
            for case in of_program:
                if time.monotonic() > ends:
                    report.not_run += 1
                    continue
                difference = _compare(report, client_a, client_b, program, case)
                if difference is not None and len(report.differences) < _MOST_TOLD:
                    report.differences.append(difference)
                    if not app.json:
                        _print_difference(difference)
    if report.cpu_ms_a > 0:
        report.cpu_ratio = round(report.cpu_ms_b / report.cpu_ms_a, 3)
    if app.json:
        output.as_json(report)
    else:
        _print_summary(report)
    if report.different:
        return Exit.PROGRAM
    return Exit.LIMIT if report.not_run else Exit.OK


def _read_cases(path: str | None) -> list[Case]:
    cases: list[Case] = []
    lines = [] if path is None else read_text(path, "file of prompts").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            case = msgspec.json.decode(line, type=Case)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise click.UsageError(f"line {number} of {path}: {error}") from None
        if (case.hash is None) == (case.name is None):
            raise click.UsageError(f'line {number} of {path}: give either "hash" or "name"')
        cases.append(case)
    return cases


def _choose(client: Client, programs: tuple[str, ...], cases: list[Case], limit: int) -> dict[str, list[Case]]:
    """Return the cases of each program, by its hash."""
    hashes: dict[str, str] = {}
    for reference in (*programs, *(case.reference for case in cases)):
        if reference not in hashes:
            hashes[reference] = _ask("A", lambda reference=reference: client.show(reference)).hash  # type: ignore[misc]
    chosen: dict[str, list[Case]] = {hash: [] for hash in hashes.values()}
    for case in cases:
        chosen[hashes[case.reference]].append(case)
    if not chosen:
        chosen = {row.hash: [] for row in _ask("A", lambda: list(islice(client.list(), limit)))}
    return {hash: of_program or [Case(hash=hash)] for hash, of_program in chosen.items()}


def _side(side: str, client: Client) -> Side:
    pong = _ask(side, client.ping)
    return Side(socket=str(client.socket_path), version=pong.version, engines=pong.engines)


def _fetch(client: Client, hash: str) -> _Program:
    shown = _ask("A", lambda: client.show(hash, source=True))
    return _Program(
        hash=hash, names=shown.names, source=shown.source or "", engine=shown.engine, language=shown.language
    )


def _ask(side: str, request: Callable[[], _T]) -> _T:
    """Send a request. An error message names the daemon."""
    try:
        return request()
    except RequestRefused as refused:
        refused.message = f"{side}: {refused.message}"
        raise


def _compare(report: Report, client_a: Client, client_b: Client, program: _Program, case: Case) -> Difference | None:
    """Run a program on both daemons, count the result, and return the difference."""
    a = _run("A", client_a, program, case)
    b = _run("B", client_b, program, case)
    found = difference_of(a, b)
    if found is None:
        report.same += 1
        report.cpu_ms_a = round(report.cpu_ms_a + a.cpu_ms, 3)
        report.cpu_ms_b = round(report.cpu_ms_b + b.cpu_ms, 3)
        return None
    what, told_a, told_b = found
    again = difference_of(a, _run("A", client_a, program, case))
    # The runs on A may differ in less, for example in a time in the value, while the run on B has crashed.
    if again is not None and RANKS.index(again[0]) <= RANKS.index(what):
        report.unsteady += 1
        what = "unsteady"
    else:
        report.different += 1
    same = first_difference(told_a, told_b)
    start = same - _MOST_CHARACTERS // 3 if same > _MOST_CHARACTERS // 2 else 0
    return Difference(
        hash=program.hash,
        names=program.names,
        prompt=_cut(case.prompt),
        what=what,
        a=_cut(told_a, start),
        b=_cut(told_b, start),
    )


def _run(side: str, client: Client, program: _Program, case: Case) -> End:
    # As a source on both daemons: a stored program is not checked again, so its CPU time would differ.
    try:
        result = _ask(
            side,
            lambda: client.run_source(
                program.source,
                case.prompt,
                engine=program.engine,
                language=program.language,
                env=case.env,
                limits=case.limits,
            ),
        )
    except RequestRefused as refused:
        if refused.code not in _ABOUT_PROGRAM:
            raise
        return End(kind="refused", compared=refused.code, told=f"refused: {refused.message.removeprefix(f'{side}: ')}")
    return end_of(result)


def _cut(text: str, start: int = 0) -> str:
    """Return a part of a text from `start` on, shortened for the report."""
    part = text[start : start + _MOST_CHARACTERS]
    whole = "" if part == text else f" ({len(text)} characters)"
    return f"{'…' if start else ''}{part}{'…' if start + len(part) < len(text) else ''}{whole}"


def _print_difference(difference: Difference) -> None:
    program = " ".join([difference.hash[:12], *(f"@{name}" for name in difference.names[:3])])
    with_prompt = f', prompt "{difference.prompt}"' if difference.prompt else ""
    click.echo(terminal.safe(f"{program}{with_prompt}: {difference.what}"))
    click.echo(terminal.safe(f"    A: {difference.a}"))
    click.echo(terminal.safe(f"    B: {difference.b}"))


def _print_summary(report: Report) -> None:
    for name, side in (("A", report.a), ("B", report.b)):
        engines = ", ".join(side.engines.values())
        click.echo(terminal.safe(f"{name}: promptlogd {side.version} on {side.socket}, {engines}"))
    counts = (
        f"{report.same} the same, {report.different} different, {report.unsteady} unsteady, {report.not_run} not run"
    )
    click.echo(f"{report.programs} of {report.kept} programs; runs: {counts}")
    if (untold := report.different + report.unsteady - len(report.differences)) > 0:
        click.echo(f"{untold} further differences are not shown")
    if report.cpu_ratio is not None:
        times = f"A {report.cpu_ms_a:.1f} ms, B {report.cpu_ms_b:.1f} ms"
        click.echo(f"CPU time of the equal runs: {times}; B / A = {report.cpu_ratio:.2f}")
