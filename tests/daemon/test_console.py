"""`console` behaves the same on both engines, and formats values as other JavaScript hosts do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from promptlogctl.client import Client, RunResult
from promptlogd.wire import ClientSession
from promptlogd.wire.messages import LimitsAsked, Run
from sandbox.engines.host.columns import Text
from sandbox.engines.host.console import Console
from sandbox.engines.quickjs.host import stack
from sandbox.limits import Limits
from sandbox.outcome import Ok, ProgramException
from sandbox.protocol.events import Log
from tests.daemon.processes import talk

_SOURCE = """
console.log("%s is %d of %i, %f%% %o%c.", "x", 5, "12px", "1.5", {a: 1}, "color: red", "rest", 1);
console.log("100%", 1);
console.log("%d %i", 10n, Symbol("s"));
console.group("outer"); console.log("in"); console.group(); console.warn("deeper"); console.groupEnd();
console.groupEnd(); console.groupEnd(); console.error("out");
console.count(); console.count("a"); console.count(); console.countReset(); console.count();
console.timeEnd("never begun");
console.log(new Map([["a", 1]]), new Set([1, "b"]), {}, new Map());
for (let i = 0; i < 100; i++) console.group();
console.info("deep");
console.time();
const began = performance.now();
while (performance.now() - began < 2);
console.timeEnd();
const result = null;
"""


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_console_formats_groups_and_counts(client: Client, engine: str) -> None:
    """Format specifiers in the first argument, groups, counters, timers, members of Map and Set."""
    result = client.run_source(_SOURCE, engine=engine)
    assert result.ok, result.outcome
    lines = [(line.level, line.text) for line in result.logs]
    assert lines[:-1] == [
        ("log", "x is 5 of 12, 1.5% { a: 1 }. rest 1"),
        ("log", "100% 1"),
        ("log", "10n NaN"),
        ("log", "outer"),
        ("log", "  in"),
        ("warn", "    deeper"),
        ("error", "out"),
        ("info", "default: 1"),
        ("info", "a: 1"),
        ("info", "default: 2"),
        ("info", "default: 1"),
        ("log", "Map(1) { 'a' => 1 } Set(2) { 1, 'b' } {} Map(0) {}"),
        ("info", 200 * " " + "deep"),
    ]
    level, text = lines[-1]
    assert level == "info"
    assert 1.9 <= float(text.strip().removeprefix("default: ").removesuffix("ms")) <= result.usage.wall_ms


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_a_format_string_can_not_exceed_the_log_limit(client: Client, engine: str) -> None:
    """A format string of a thousand specifiers with long values ends at the log limit."""
    source = "console.log('%s'.repeat(1000), ...Array(1000).fill('x'.repeat(10000))); const result = 1"
    result = client.run_source(source, engine=engine)
    assert result.ok, result.outcome
    assert result.logs_truncated
    assert sum(len(line.text) for line in result.logs) <= 64 * 1024


_THROWS = """const f = () => {
  throw new Error('boom', { cause: new TypeError('inner') });
};
try {
  f();
} catch (error) {
  console.error('failed:', error, 'after');
  console.log(error.stack);
}
return 1;"""


@pytest.mark.parametrize(
    ("engine", "language", "wrap"),
    [
        ("quickjs", "javascript", False),
        ("deno", "javascript", False),
        ("deno", "typescript", False),
        ("quickjs", "javascript", True),
        ("deno", "javascript", True),
        ("deno", "typescript", True),
    ],
)
def test_error_frames_refer_to_the_program(client: Client, engine: Any, language: Any, wrap: bool) -> None:
    """A logged error, and its `stack` logged alone, have frames and cause in lines of the program."""
    source = f"export default () => {{ {_THROWS}\n}}" if wrap else _THROWS
    result = client.run_source(source, engine=engine, language=language)
    assert result.value == 1
    first, second = (line.text.split("\n") for line in result.logs)
    name = "program.ts" if language == "typescript" else "program.js"
    assert first[0] == "failed: Error: boom"
    assert first[1].startswith(f"    at f ({name}:2:")
    assert first[2].startswith("    at ")
    assert f"({name}:5:" in first[2]
    assert "  [cause]: TypeError: inner" in first
    assert first[-1] == "} after"
    assert [line for line in second if "at f (" in line] == [first[1]]
    for line in first + second:
        assert not re.search(r"promptlog|runner\.js|eval_script|blob:|<eval>", line), line


def test_mapping_of_console_frames_is_bounded() -> None:
    """The daemon maps only a bounded amount of console text to places in the program."""
    console = Console(Limits(log_bytes=1 << 20), stack, "p.js", Text(b"\nf()"))
    log = Log(level=1, mapping=0, text=b"x" * 60_000 + b"\n    at f (eval_script:3:1)")
    texts = [line.text[60_000:] for line in (console.line(log) for _ in range(6)) if line is not None]
    assert texts[0] == "\n    at f (p.js:2:1)"
    assert texts[-1] == "\n    at f (eval_script:3:1)"


_LARGE = [
    ("deno", "\r" * 900_000 + "for (let i = 0; i < 200; i++) console.log(new Error('x')); return 1"),
    ("deno", "\u2028" * 300_000 + "for (let i = 0; i < 200; i++) console.log(new Error('x')); return 1"),
    ("deno", "\n" * 900_000 + "\r" + "for (let i = 0; i < 200; i++) console.log(new Error('x')); return 1"),
    ("quickjs", "\n" * 900_000 + "for (let i = 0; i < 200; i++) console.log(new Error('x')); return 1"),
    ("quickjs", "/*" + "é" * 400_000 + "*/ for (let i = 0; i < 200; i++) console.log(new Error('x')); return 1"),
    ("quickjs", "console.log('\\n' + '    at f (eval_script:1:500000)\\n'.repeat(30000)); return 1 //" + "é" * 400_000),
]


@pytest.mark.parametrize(("engine", "source"), _LARGE)
def test_mapping_frames_in_a_large_source_does_not_block_others(
    client: Client, socket_path: Path, engine: Any, source: str
) -> None:
    """Mapping places in sources with extreme lines delays other clients by less than 1 s (it once took minutes)."""
    done: list[RunResult] = []
    with Client(socket_path) as other:
        run = client.start(None, source=source, engine=engine, limits=LimitsAsked(cpu_ms=2000, log_bytes=1 << 20))
        waiting = threading.Thread(target=lambda: done.append(run.result()))
        waiting.start()
        took: list[float] = []
        while not took or waiting.is_alive():
            began = time.monotonic()
            assert other.run_source("return 1").value == 1
            took.append(time.monotonic() - began)
    waiting.join()
    assert done[0].value == 1
    assert done[0].logs, "the daemon had no places to look for"
    assert max(took) < 1


_INNOCENT = [
    "const rows = Array.from({length: 5000}, (_, i) => ({id: i})); rows[7].meta = {}; show(rows); return 1",
    "const rows = Array.from({length: 5000}, (_, i) => ({id: i, code: '() => {}'})); show(rows); return 1",
    "const rows = Array.from({length: 1500}, (_, i) => ({id: i, tags: [], meta: {}})); show(rows); return 1",
    "let o = {}; for (let i = 0; i < 22; i++) o = {l: o, r: o};"
    " try { throw new Error('bad', {cause: o}) } catch (e) { show(e) } return 1",
]


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
@pytest.mark.parametrize("source", _INNOCENT)
def test_logging_large_values_is_cheap(client: Client, engine: Any, source: str) -> None:
    """Logging thousands of members takes less than 8 times the CPU time of JSON.stringify."""
    limits = LimitsAsked(cpu_ms=5000, wall_ms=9000)
    logged = client.run_source("const show = console.log; " + source, engine=engine, limits=limits)
    plain = client.run_source("const show = JSON.stringify; " + source, engine=engine, limits=limits)
    assert logged.value == plain.value == 1
    assert (len(logged.logs), len(plain.logs)) == (1, 0)
    assert logged.usage.cpu_ms < 8 * plain.usage.cpu_ms


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_a_large_cause_does_not_hide_the_exception(client: Client, engine: Any) -> None:
    """An exception with a very large cause is still reported with its place."""
    source = "let o = {}; for (let i = 0; i < 22; i++) o = {l: o, r: o};\nthrow new Error('bad', {cause: o})"
    outcome = client.run_source(source, engine=engine).outcome
    assert isinstance(outcome, ProgramException)
    assert (outcome.message, outcome.line) == ("bad", 2)
    _, cause = outcome.stack.split("\nCaused by: ")
    assert cause.startswith("{\n  l: { l: { l: [Object], r: [Object] }, r: {")
    assert len(cause) < 200


def test_continuation_lines_of_a_console_call_are_indented(socket_path: Path) -> None:
    """On a terminal, a program's text cannot look like a line of another console call."""
    done = subprocess.run(
        [sys.executable, "-m", "promptlogctl", "exec", "-", "--socket", str(socket_path)],
        input="console.log('one\\n[error] two'); return 1",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "[log] one\n    [error] two\n"


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_inner_errors_of_an_aggregate_error_are_reported(client: Client, engine: Any) -> None:
    """The console and the stack of an AggregateError, also one of Promise.any, contain its inner errors."""
    any_of = "Promise.any([Promise.reject(new Error('first one')), Promise.reject('second one')])"
    result = client.run_source(
        f"try {{ await {any_of} }} catch (error) {{ console.log(error); throw error }}", engine=engine
    )
    assert isinstance(result.outcome, ProgramException)
    assert result.outcome.name == "AggregateError"
    first, second = result.outcome.stack.split("\nOne of its errors: ")[1:]
    assert first.startswith("Error: first one\n    at ")
    assert second == "second one"
    name, errors = result.logs[0].text.split(" {\n  [errors]: [\n")
    assert "AggregateError" in name
    assert errors.startswith("    Error: first one\n        at ")
    assert errors.endswith(",\n    'second one'\n  ]\n}")
    many = "throw new AggregateError(Array.from({length: 1000}, (_, n) => new Error('e' + n)), 'many')"
    stack = client.run_source(many, engine=engine).outcome.stack  # type: ignore[union-attr]
    assert "Error: e7" in stack
    assert "Error: e8" not in stack
    assert stack.endswith("\nand 992 more")


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_assertions_and_lines_of_groups(client: Client, engine: Any) -> None:
    """A failed assertion formats its message. In a group, each line is indented and frames keep their places."""
    source = """console.assert(0, '%s is %d', 'x', 5); console.assert(0, {a: 1}); console.assert(0);
    console.group('G'); console.log('one\\ntwo'); console.log(new Error('inside'));
    console.groupEnd(); console.log('out\\nout');"""
    result = client.run_source(source + "return 1", engine=engine)
    texts = [line.text for line in result.logs]
    assert texts[:5] == [
        "Assertion failed: x is 5",
        "Assertion failed { a: 1 }",
        "Assertion failed",
        "G",
        "  one\n  two",
    ]
    assert re.fullmatch(r"  Error: inside\n      at <anonymous> \(program\.js:2:\d+\)", texts[5])
    assert texts[6:] == ["out\nout"]


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_a_lone_surrogate_in_a_result(client: Client, socket_path: Path, engine: Any, encoding: Any) -> None:
    """A lone surrogate becomes U+FFFD with a warning.

    Pairs, and text that only looks like an escape, stay unchanged.
    """
    for code, value, warned in (
        ("return ['a\\ud800', '\\udc00b', {'\\udfff': 1}]", ["a\ufffd", "\ufffdb", {"\ufffd": 1}], True),
        ("return '\\ud83d\\ude00'", "\U0001f600", False),
        (r"return '\\ud800 \\\\ud800'", "\\ud800 \\\\ud800", False),
        (r"return '\\\\' + '\ud800' + '\\' + '\ud800'", "\\\\\ufffd\\\ufffd", True),
        ("return Array(20000).fill('\\ud800').join('x')", "x".join(["\ufffd"] * 20_000), True),
    ):
        sent = ClientSession(encoding=encoding).send(Run(id=1, source=code, engine=engine))
        with talk(socket_path) as sock:
            sock.sendall(sent)
            session, replies = ClientSession(encoding=encoding), list[Any]()
            while not replies:
                replies = session.receive(sock.recv(1 << 20))
        (finished,) = replies
        assert isinstance(finished.outcome, Ok), finished
        assert msgspec.json.decode(finished.outcome.value) == value
        assert [line.level for line in finished.logs] == ["warn"] * warned
    assert client.run_source(r"return '\ud800'", engine=engine).value == "\ufffd"


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_results_with_escapes_near_the_limit(client: Client, engine: Any) -> None:
    """A result full of escape sequences is returned within the default limits; one over its limit is reported."""
    escaped = r"\ud83d\ude00 " * 60_000
    result = client.run_source("return prompt", escaped, engine=engine)
    assert (result.outcome.__struct_config__.tag, result.logs) == ("ok", [])
    assert result.value == escaped
    limits = LimitsAsked(cpu_ms=1000)
    large = client.run_source(r"return 'x'.repeat(2e6) + '\ud800'", engine=engine, limits=limits)
    assert (large.outcome.__struct_config__.tag, large.logs) == ("output_limit", [])


def test_raw_json_with_surrogates(client: Client) -> None:
    """Escapes in JSON.rawJSON may be in capitals: surrogate pairs stay, and lone surrogates are replaced."""
    for raw, value in (
        (r"\ud83d\uDE00", "\U0001f600"),
        (r"\uD83D\ude00", "\U0001f600"),
        (r"a\uD800", "a\ufffd"),
        (r"\uDC00\ud83d\ude00\uD83D", "\ufffd\U0001f600\ufffd"),
    ):
        source = f"return JSON.rawJSON({json.dumps(json.dumps('')[:1] + raw + json.dumps('')[1:])})"
        assert client.run_source(source, engine="deno").value == value, raw


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_large_data_in_the_errors_property(client: Client, engine: Any) -> None:
    """Large data in an error's `errors` property, as validation libraries add it, does not hide the error."""
    source = "const e = new Error('bad'); e.errors = [{data: Array(1e5).fill(1)}, 'plain']; throw e"
    outcome = client.run_source(source, engine=engine).outcome
    assert isinstance(outcome, ProgramException)
    assert outcome.message == "bad"
    _, data, plain = outcome.stack.split("\nOne of its errors: ")
    assert data.startswith("{\n  data: [\n    1, 1, 1,")
    assert data.endswith("\n    ... 99900 more items\n  ]\n}")
    assert plain == "plain"
