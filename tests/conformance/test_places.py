"""Positions and messages of errors: both engines report the same line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from promptlogctl.client import Client
from sandbox.outcome import ProgramException, ProgramSyntaxError

_ROWS = [json.loads(line) for line in (Path(__file__).parent / "places.jsonl").read_text("utf-8").splitlines()]
"""Programs that fail, the line that V8 gives, for some also its column, and QuickJS's message."""


@pytest.mark.parametrize("engine", ["quickjs", pytest.param("deno", marks=pytest.mark.long)])
def test_errors_have_their_line(client: Client, engine: Any) -> None:
    """Patterns, constants, fields, chains and calls over several lines, classes of errors, imports, private names."""
    assert len(_ROWS) > 150
    for row in _ROWS:
        outcome = client.run_source(row["source"], engine=engine).outcome
        assert isinstance(outcome, ProgramException if row["kind"] == "exception" else ProgramSyntaxError), row[
            "source"
        ]
        assert outcome.line == row["line"], row["source"]
        assert outcome.column == row.get("column", outcome.column), row["source"]
        if engine == "quickjs":
            assert outcome.message == row["quickjs"], row["source"]


_READ_TWICE = """
const fails = [() => { const o = {}; o.run(1); }, () => { const { a } = null; }, () => { const [b] = null; },
  () => { null.x; }, () => { const c = 1; c = 2; }];
return fails.map((fail) => {
  try {
    fail();
  } catch (error) {
    const { stack } = error;
    return [stack === error.stack, stack.split('\\n')[0], error.message];
  }
});
"""


def test_a_better_message_stays(client: Client) -> None:
    """On QuickJS the stack of an error is the same each time, and its first line and `message` agree."""
    for same, first_line, message in client.run_source(_READ_TWICE, engine="quickjs").value:
        assert same
        assert first_line == f"TypeError: {message}"


_STACKS = [
    (
        "class MyError extends Error {}\nconst make = (text) => new MyError(\n  text\n);\nthrow make(\n  prompt\n);",
        "    at make (program.js:2:24)\n    at <anonymous> (program.js:5:7)",
    ),
    (
        "const f = (...values) => { throw new Error('x'); };\nf(\n  [1].map(\n    (v) => v,\n  ),\n  prompt,\n);",
        "    at f (program.js:1:34)\n    at <anonymous> (program.js:2:1)",
    ),
    (
        "class MyError extends Error {\n  static of(text) {\n    return new this(text);\n  }\n}\nthrow MyError.of('');",
        "    at of (program.js:3:12)\n    at <anonymous> (program.js:6:15)",
    ),
]


@pytest.mark.parametrize(("source", "stack"), _STACKS)
def test_frames_have_the_place_of_their_call(client: Client, source: str, stack: str) -> None:
    """On QuickJS, a frame has the place of its call, not of an argument. Constructors of the error have no frames."""
    outcome = client.run_source(source, engine="quickjs").outcome
    assert isinstance(outcome, ProgramException)
    assert outcome.stack == stack


_OWN_MESSAGES = [
    "throw new TypeError('not a function')",
    "const text = 'x is not a function'; throw new TypeError(text)",
    "const [x] = [new TypeError('x is not iterable')]; throw x",
    "const wrap = (e) => e; const text = 'not a function'; throw wrap(new TypeError(text))",
    "throw new TypeError(\"cannot read property 'x' of null\")",
    "throw new ReferenceError('y is not initialized')",
]


@pytest.mark.parametrize("source", _OWN_MESSAGES)
def test_messages_of_the_program_stay(client: Client, source: str) -> None:
    """A message that the program itself sets stays unchanged."""
    outcome = client.run_source(source, engine="quickjs").outcome
    assert isinstance(outcome, ProgramException)
    assert outcome.message in source


def test_a_long_program(client: Client) -> None:
    """The place is found in a text with more tokens than are looked at, in little time."""
    source = "const o = {a: [1, `x${2}y`, /[/]/]};\n" + "o.a.at(0); // it's\n" * 5_000 + "const y = o\n  .b\n  .c;\n"
    outcome = client.run_source(source + "o.a.at(0);\n" * 2_000, engine="quickjs").outcome
    assert isinstance(outcome, ProgramException)
    assert outcome.line == 5_004
