"""`console` is the same on both engines, and what a program writes with it comes as one would read it elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from promptlogctl.client import Client
from sandbox.engines.quickjs import stack
from sandbox.engines.replies import ReplyReader
from sandbox.limits import Limits

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
const began = performance.now();
console.time();
while (performance.now() - began < 2);
console.timeEnd();
const result = null;
"""


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_console_formats_groups_and_counts(client: Client, engine: str) -> None:
    """Places in the first text, groups (32 deep at the most), counts, timers, the members of a Map and a Set."""
    result = client.run_source(_SOURCE, engine=engine)  # type: ignore[arg-type]
    assert result.ok, result.outcome
    lines = [(line.level, line.text) for line in result.logs]
    assert lines[:-1] == [
        ("log", 'x is 5 of 12, 1.5% {"a":1}. rest 1'),
        ("log", "100% 1"),
        ("log", "10 NaN"),
        ("log", "outer"),
        ("log", "  in"),
        ("warn", "    deeper"),
        ("error", "out"),
        ("info", "default: 1"),
        ("info", "a: 1"),
        ("info", "default: 2"),
        ("info", "default: 1"),
        ("log", 'Map(1) [["a",1]] Set(2) [1,"b"] {} Map(0) []'),
        ("info", 64 * " " + "deep"),
    ]
    level, text = lines[-1]
    assert level == "info"
    assert 1 <= float(text.strip().removeprefix("default: ").removesuffix("ms")) < 500


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
def test_a_format_can_not_flood_the_log(client: Client, engine: str) -> None:
    """A text of a thousand places, each filled with a long one, ends at the log's limit."""
    source = "console.log('%s'.repeat(1000), ...Array(1000).fill('x'.repeat(10000))); const result = 1"
    result = client.run_source(source, engine=engine)  # type: ignore[arg-type]
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
def test_an_errors_frames_are_the_programs_own(client: Client, engine: Any, language: Any, wrap: bool) -> None:
    """An error in the console has its place and its cause, in the program's lines; its stack alone has them as well."""
    source = f"export default () => {{ {_THROWS}\n}}" if wrap else _THROWS
    result = client.run_source(source, engine=engine, language=language)
    assert result.value == 1
    first, second = (line.text.split("\n") for line in result.logs)
    name = "program.ts" if language == "typescript" else "program.js"
    assert first[0] == "failed: Error: boom"
    assert first[1].startswith(f"    at f ({name}:2:")
    assert first[2].startswith("    at ")
    assert f"({name}:5:" in first[2]
    assert "Caused by: TypeError: inner" in first
    assert first[-1] == "after"
    assert [line for line in second if "at f (" in line] == [first[1]]
    for line in first + second:
        assert not re.search(r"promptlog|runner\.js|eval_script|blob:|<eval>", line), line


def test_frames_in_the_console_are_mapped_up_to_a_bound() -> None:
    """Each takes a pass over the source: what a program with a long one may ask for has an end."""
    source = b"//" + b"x" * (1 << 20) + b"\nf()"
    reader = ReplyReader(limits=Limits(log_bytes=1 << 20), source_name="p.js", stacks=stack, source=lambda: source)
    line = b"1\n    at f (eval_script:3:1)"
    frame = b"l" + len(line).to_bytes(4, "big") + line
    texts = [reader.feed(frame)[0].text for _ in range(10)]
    assert texts[0] == "\n    at f (p.js:2:1)"
    assert texts[-1] == "\n    at f (eval_script:3:1)"


def test_further_lines_of_a_console_call_stand_apart(socket_path: Path) -> None:
    """On a terminal no text of a program's looks like another call's line."""
    done = subprocess.run(
        [sys.executable, "-m", "promptlogctl", "exec", "-", "--no-keep", "--socket", str(socket_path)],
        input="console.log('one\\n[error] two'); return 1",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "[log] one\n    [error] two\n"
