"""promptlogctl canary runs the kept programs on two daemons and reports the differences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from promptlogctl.cli.ends import difference_of, end_of
from promptlogctl.client import Client, LogLine, Ok, ProgramException, RunResult, Usage
from tests.ctl.command import ctl
from tests.daemons import configured_daemon

STEADY = "console.log('seen', prompt); return {length: prompt.length, env}"
THROWS = "\nnull.x"
BUSY = "for (let i = 0; i < Number(prompt); i++) Math.sqrt(i); return 1"
ROOMY = "try { new ArrayBuffer(48 << 20); return 'room' } catch { return 'no room' }"
TALKS = "for (let i = 0; i < 40; i++) console.log('x'.repeat(100)); return 1"
RANDOM = BUSY.replace("return 1", "return Math.random()")
ON_DENO = "return typeof Deno"

LOWER = """
[limits.default]
cpu_ms = 20
memory_mb = 32
log_kb = 1
[engines]
disabled = ["deno"]
"""


@pytest.fixture(scope="module")
def a() -> Iterator[Path]:
    """The daemon that keeps the programs (A)."""
    with configured_daemon("[limits.default]\ncpu_ms = 5000\nwall_ms = 10000\n") as socket:
        with Client(socket) as client:
            for name, source in (("steady", STEADY), ("throws", THROWS), ("busy", BUSY), ("roomy", ROOMY)):
                client.submit(source, name=name)
            client.submit(TALKS, name="talks")
            client.submit(RANDOM, name="random")
            client.submit(ON_DENO, name="deno", engine="deno")
        yield socket


@pytest.fixture(scope="module")
def b() -> Iterator[Path]:
    """A daemon with lower limits and without Deno (B), on which some of the programs end differently."""
    with configured_daemon(LOWER) as socket:
        yield socket


def _canary(a: Path, b: Path, *arguments: str, input: bytes = b"") -> tuple[int, dict[str, Any]]:
    done = ctl(a, "canary", "--other", str(b), "--json", *arguments, input=input)
    assert done.stdout.count(b"\n") == 1, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_equal_results(a: Path, b: Path) -> None:
    """If values, errors and logs are equal, the exit code is 0 and no difference is reported; B keeps no program."""
    code, report = _canary(a, b, "@steady", "@throws")
    assert (code, report["programs"], report["same"], report["differences"]) == (0, 2, 2, [])
    assert (report["kept"], report["different"], report["unsteady"], report["not_run"]) == (7, 0, 0, 0)
    assert report["cpu_ratio"] > 0
    assert report["a"]["socket"] == str(a)
    assert report["a"]["engines"]["quickjs"] == report["b"]["engines"]["quickjs"]
    with Client(b) as client:
        assert list(client.list()) == []
    with Client(a) as client:
        assert client.show("@steady").runs == 0


def test_differences_are_reported(a: Path, b: Path) -> None:
    """Each different outcome, value, log or refusal is reported with both sides, and the exit code is 1."""
    prompts = b'{"name": "busy", "prompt": "2000000"}\n\n{"name": "@steady", "prompt": "hi", "env": {"k": [1]}}\n'
    code, report = _canary(a, b, "@roomy", "@talks", "@deno", "--prompts", "-", input=prompts)
    assert (code, report["programs"], report["same"], report["different"]) == (1, 5, 1, 4)
    told = {difference["names"][0]: difference for difference in report["differences"]}
    assert told["busy"]["what"] == "outcome"
    assert told["busy"]["prompt"] == "2000000"
    assert told["busy"]["b"].startswith("cpu_limit: stopped at the CPU limit of 20 ms")
    assert (told["roomy"]["what"], told["roomy"]["a"], told["roomy"]["b"]) == (
        "value",
        'ok: "room"',
        'ok: "no room"',
    )
    assert told["talks"]["what"] == "logs"
    assert " of 40: [log] x" in told["talks"]["a"]
    assert " of 40: " not in told["talks"]["b"]
    assert (told["deno"]["what"], told["deno"]["a"]) == ("outcome", 'ok: "undefined"')
    assert told["deno"]["b"].startswith("refused: the engine deno is disabled")


def test_a_random_value_is_no_difference(a: Path, b: Path) -> None:
    """A program whose value changes with each run is reported as unsteady, unless its outcome differs on B."""
    code, report = _canary(a, b, "@random")
    assert (code, report["unsteady"], report["different"]) == (0, 1, 0)
    assert report["differences"][0]["what"] == "unsteady"
    code, report = _canary(a, b, "--prompts", "-", input=b'{"name": "random", "prompt": "2000000"}')
    assert (code, report["unsteady"], report["different"]) == (1, 0, 1)
    assert report["differences"][0]["what"] == "outcome"


def test_limits_of_a_prompt_apply_to_both_runs(a: Path, b: Path) -> None:
    """The limits of a prompt apply on both daemons, so that the same program ends in the same way."""
    limits = b'{"name": "busy", "prompt": "1e9", "limits": {"cpu_ms": 10, "wall_ms": 10000}}'
    code, report = _canary(a, b, "--prompts", "-", input=limits)
    assert (code, report["same"]) == (0, 1)


def test_the_newest_programs_are_compared_by_default(a: Path, b: Path) -> None:
    """Without program names, the newest `--limit` programs are compared, and the summary gives the total."""
    done = ctl(a, "canary", "--other", str(b), "--limit", "3")
    assert done.returncode == 1, done.stderr
    text = done.stdout.decode()
    assert " @talks: logs\n    A: line " in text
    assert " @deno: outcome\n" in text
    assert f"\nB: promptlogd 0.1.0 on {b}, quickjs-ng " in text
    assert "\n3 of 7 programs; runs: 0 the same, 2 different, 1 unsteady, 0 not run\n" in text


def test_the_time_limit(a: Path, b: Path) -> None:
    """No run starts after `--seconds`; the runs that were left out are counted, and the exit code is 3."""
    slow = b'{"name": "busy", "prompt": "1e12", "limits": {"cpu_ms": 100, "wall_ms": 10000}}\n' * 200
    code, report = _canary(a, b, "--seconds", "1", "--prompts", "-", input=slow)
    assert (code, report["same"] + report["not_run"]) == (3, 200)
    assert report["not_run"] > 100


@pytest.mark.parametrize(
    ("arguments", "input", "code", "says"),
    [
        (("@none",), b"", 5, "A: no program '@none' here"),
        (("--prompts", "-"), b'{"name": "steady"}\n{"prompt": "x"}', 2, 'line 2 of -: give either "hash" or "name"'),
        (("--prompts", "-"), b'{"name": "steady", "promt": "x"}', 2, "line 1 of -: Object contains unknown field"),
        (("--prompts", "-"), b'{"name": "steady"}\n' * 10_001, 2, "this would be 10001 runs on each daemon"),
        (("--prompts", "/none"), b"", 2, "can't read the file of prompts"),
    ],
)
def test_wrong_arguments(a: Path, b: Path, arguments: tuple[str, ...], input: bytes, code: int, says: str) -> None:
    """A missing program, an invalid file of prompts and a missing daemon B end with their usual exit codes."""
    done = ctl(a, "canary", "--other", str(b), *arguments, input=input)
    assert (done.returncode, says in done.stderr.decode()) == (code, True), done.stderr
    assert ctl(a, "canary", "--other", str(b) + "x", "@steady").returncode == 4


def test_a_long_value_is_cut_around_the_difference(a: Path, b: Path) -> None:
    """For a value of thousands of characters, the report shows the part that differs."""
    source = f"const all = 'x'.repeat(5000) + '!'; {ROOMY.replace('return ', 'return all + ')}"
    with Client(a) as client:
        hash = client.submit(source).hash
    try:
        [difference] = _canary(a, b, hash)[1]["differences"]
    finally:
        with Client(a) as client:
            client.remove(hash)
    for side, end in (("a", "room"), ("b", "no room")):
        assert difference[side].endswith(f'x!{end}" ({len(end) + 5007} characters)')
        assert difference[side].startswith("…x")


def test_comparison_of_two_runs() -> None:
    """Two runs are equal if values, places of errors and all log lines are equal; the text of a stack may differ."""

    def end(outcome: Ok | ProgramException, *lines: str, cut: bool = False) -> Any:
        logs = [LogLine(level="log", text=text) for text in lines]
        usage = Usage(cpu_ms=1.0, wall_ms=1.0, peak_memory_bytes=1)
        return end_of(RunResult(hash="0" * 64, outcome=outcome, logs=logs, logs_truncated=cut, usage=usage))

    def thrown(line: int, stack: str) -> ProgramException:
        return ProgramException(name="TypeError", message="no", stack=stack, line=line, column=3)

    ok = Ok(value=msgspec.Raw(b"1"))
    assert difference_of(end(ok, "x"), end(ok, "x")) is None
    assert difference_of(end(thrown(1, "a")), end(thrown(1, "b"))) is None
    assert difference_of(end(thrown(1, "")), end(thrown(2, ""))) == (
        "error",
        "exception: TypeError: no (1:3)",
        "exception: TypeError: no (2:3)",
    )
    assert difference_of(end(ok, "x", "y"), end(ok, "x")) == (
        "logs",
        "line 2 of 2: [log] y",
        "line 2 of 1: no such line",
    )
