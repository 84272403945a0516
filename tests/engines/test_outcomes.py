"""Converting the last message of a process to an outcome: values, errors, and places in the program."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import json

from sandbox.engines.deno.host import stack as deno
from sandbox.engines.host.columns import Text
from sandbox.engines.host.console import Stacks
from sandbox.engines.host.outcomes import INLINE_BYTES, Reader, Verdict, read_value
from sandbox.engines.quickjs.host import stack as quickjs
from sandbox.limits import Limits
from sandbox.outcome import (
    BadResult,
    Crashed,
    MemoryLimit,
    Ok,
    OutputLimit,
    ProgramException,
    ProgramSyntaxError,
)
from sandbox.protocol.events import Checked, Last, NoJson, OutOfMemory, Refused, Thrown, TooLarge, Value


def _outcome(last: Last, *, source: str = "", stacks: Stacks = quickjs) -> Verdict:
    return Reader(Limits(), stacks, "p.js", Text(source.encode())).outcome(last, 7)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (b"0", b""),
        (b"1", b"1 2"),
        (b'{"a":1}', b'{"a":1}}'),
        (b'{"a":1} ', b'{"a":1}\n'),
        (b"[1, 2]", b"[1,\r2]"),
        (b'"\xc3\xa4"', b'"\xff"'),
        (b"null", b"NaN"),
        (b"null", b"undefined"),
        (b'"x"', b"'x'"),
        (b'{"a":1,"kind":"x"}', b'{"a":1},"kind":"x"'),
        (b"[]", b"["),
        (b'"\\u00e4"', b'"\\x41"'),
        (b"-1.5e3", b"01"),
    ],
)
def test_a_value_must_be_one_json_value(right: bytes, wrong: bytes) -> None:
    """One JSON value on one line is the result, unchanged; anything else is a crash of the engine."""
    outcome = _outcome(Value(json=right))
    assert isinstance(outcome, Ok)
    assert bytes(outcome.value) == right
    refused = _outcome(Value(json=wrong))
    assert isinstance(refused, Crashed)
    assert "a value" in refused.message


@given(st.binary(max_size=60))
def test_any_value_that_is_ok_is_one_json_value(payload: bytes) -> None:
    """Whatever a process sends as its value, an `ok` result is one line of JSON in UTF-8."""
    outcome = _outcome(Value(json=payload))
    assert isinstance(outcome, Ok | BadResult | Crashed)
    if isinstance(outcome, Ok):
        json.decode(outcome.value)
        assert bytes(outcome.value) == payload
        assert b"\n" not in payload


@pytest.mark.parametrize("value", [b'"\\ud800"', b'["a","\\udc00\\ud800"]', b'{"\\ud83d":1}'])
def test_a_lone_surrogate_is_a_bad_result(value: bytes) -> None:
    """A lone surrogate, which JSON.stringify can escape, is an error of the program and not of the engine."""
    assert isinstance(_outcome(Value(json=b'"\\ud83d\\ude00"')), Ok)
    outcome = _outcome(Value(json=value))
    assert isinstance(outcome, BadResult)
    assert "surrogate" in outcome.message


def test_a_deeply_nested_value_is_a_bad_result() -> None:
    """A value nested too deeply for a recursive parser is a bad result."""
    assert isinstance(_outcome(Value(json=b"[" * 100 + b"]" * 100)), Ok)
    for deep in (b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 70_000 + b"1" + b"}" * 70_000):
        assert isinstance(_outcome(Value(json=deep)), BadResult)


def test_a_large_value_is_left_to_the_decoder() -> None:
    """The loop checks no value above its bound; `read_value` gives the outcome that the loop would have given."""
    for right, wrong in ((b"[]", b"[1"), (b'"x"', b'"\\ud800"')):
        fits, large = (right + b" " * (size - len(right)) for size in (INLINE_BYTES, INLINE_BYTES + 1))
        assert isinstance(_outcome(Value(json=fits)), Ok)
        for payload, kind in ((large, Ok), (wrong + b" " * INLINE_BYTES, BadResult | Crashed)):
            assert _outcome(Value(json=payload)) == Value(json=payload)
            assert isinstance(read_value(payload), kind)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16-le", "utf-16-be", "utf-16", "utf-32-le", "utf-32-be"])
def test_a_value_in_another_encoding_is_a_crash(encoding: str) -> None:
    """A value must be UTF-8; the same text in another encoding is a crash of the engine, not a bad result."""
    outcome = _outcome(Value(json="1234".encode(encoding)))
    assert isinstance(outcome, Crashed), outcome


def test_each_message_has_its_outcome() -> None:
    """Limits include their number and messages their text, and the answer of a check is passed on unchanged."""
    assert _outcome(TooLarge(size=9)) == OutputLimit(limit=Limits().result_bytes, used=9)
    assert _outcome(NoJson(message="é".encode())) == BadResult(message="é")
    assert _outcome(OutOfMemory()) == MemoryLimit(limit=Limits().memory_bytes, used=7)
    for checked in (Checked(module=True, code=None), Checked(module=False, code=b"x")):
        assert _outcome(checked) is checked


@pytest.mark.parametrize("stacks", [quickjs, deno], ids=["quickjs", "deno"])
@given(name=st.binary(max_size=30), message=st.binary(max_size=30), stack=st.binary(max_size=60), module=st.booleans())
def test_any_bytes_become_text(stacks: Stacks, name: bytes, message: bytes, stack: bytes, module: bool) -> None:
    """Names, messages and stacks may be any bytes: invalid UTF-8 is replaced.

    A place has line and column or neither.
    """
    thrown = _outcome(Thrown(name=name, message=message, stack=stack), source="a\nb", stacks=stacks)
    assert isinstance(thrown, ProgramException)
    assert thrown.message == message.decode("utf-8", "replace")
    thrown.stack.encode()
    refused = _outcome(Refused(module=module, message=message, stack=stack), source="a\nb", stacks=stacks)
    assert isinstance(refused, ProgramSyntaxError)
    for place in (thrown, refused):
        assert (place.line is None) == (place.column is None)
        assert place.line is None or place.line >= 1


def test_a_long_message_is_truncated() -> None:
    """A message keeps 32 Ki characters, or 32 Ki bytes if it is invalid UTF-8, because replacing bytes takes time."""
    whole = "漢".encode() * 60_000
    for message, kept in ((whole, 32_768), (b"\xff" * 1000, 1000), (b"\xff" * 100_000, 32_768)):
        outcome = _outcome(Thrown(name=b"", message=message, stack=b""))
        assert isinstance(outcome, ProgramException)
        assert len(outcome.message) == kept


@pytest.mark.parametrize(
    ("stacks", "frame"), [(quickjs, "eval_script:3:7"), (deno, "program.js, <anonymous>:5:7")], ids=["quickjs", "deno"]
)
@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("    at f ({})", "    at f (p.js:2:7)"),
        ("    at {}", "    at <anonymous> (p.js:2:7)"),
        ("  at a b (c) (d ({})", "  at a b (c) (d (p.js:2:7)"),
        ("    at  ({})", None),
        ("    at ({})", "    at ({})"),
        ("x   at f ({})", "x   at f ({})"),
        ("    at f ({}) ", "    at f ({}) "),
        ("    at f ({0}) ({0})", "    at f ({0}) (p.js:2:7)"),
        ("    at " + "f" * 1900 + " ({})", "    at " + "f" * 1900 + " (p.js:2:7)"),
        ("    at " + "f" * 2100 + " ({})", "    at " + "f" * 2100 + " ({})"),
        ("    at " + " (" * 900 + " ({})", "    at " + " (" * 900 + " (p.js:2:7)"),
    ],
)
def test_frames_are_recognized(stacks: Stacks, frame: str, line: str, shown: str | None) -> None:
    """A frame is `at`, a name with any characters, also parentheses, and a place. Other lines stay unchanged."""
    outcome = _outcome(
        Thrown(name=b"", message=b"", stack=("0\n" if stacks is deno else "").encode() + line.format(frame).encode()),
        source="f(\n  null.x)",
        stacks=stacks,
    )
    assert isinstance(outcome, ProgramException)
    if shown is None:
        shown = "    at <anonymous> (p.js:2:7)" if stacks is quickjs else "    at  (p.js:2:7)"
    assert outcome.stack == shown.format(frame)


_PLACES = st.builds(
    "    at {}{}:{}:{}{}".format,
    st.sampled_from(["", "f (", "async g (", "<eval> ("]),
    st.sampled_from(
        ["eval_script", "program", "check", "<input>", "program.js, <anonymous>", "program:module", "v8", "swc"]
    ),
    st.integers(0, 999_999_999),
    st.integers(0, 999_999_999),
    st.sampled_from(["", ")"]),
)


@pytest.mark.parametrize("stacks", [quickjs, deno], ids=["quickjs", "deno"])
@given(lines=st.lists(_PLACES, max_size=5), mapped=st.sampled_from(["", "0\n", "1\n", "2\n"]), module=st.booleans())
def test_any_place_is_within_the_program(stacks: Stacks, lines: list[str], mapped: str, module: bool) -> None:
    """A place that a process makes up is reported as one within the program's lines, or not at all."""
    source, stack = "const a = 1;\nb\n\tc", (mapped + "\n".join(lines)).encode()
    refused = _outcome(Refused(module=module, message=b"", stack=stack), source=source, stacks=stacks)
    assert isinstance(refused, ProgramSyntaxError)
    assert refused.line is None or 1 <= refused.line <= 3


def test_places_refer_to_the_program() -> None:
    """Lines of wrapper and prelude are removed, and the program's name is inserted."""
    frames = b"    at f (eval_script:3:7)\n    at ok (promptlog:prelude:1:1)\n    at <eval> (eval_script:9:1)\n"
    assert _outcome(Thrown(name=b"TypeError", message=b"m", stack=frames), source="f(\n  null.x)") == ProgramException(
        name="TypeError", message="m", stack="    at f (p.js:2:7)", line=2, column=7
    )


def test_places_of_deno_refer_to_the_program() -> None:
    """Lines of the runner and of Deno are removed, and the three lines of the wrapper are subtracted."""
    frames = (
        b"0\n    at f (program.js, <anonymous>:5:8)\n    at run (file:///app/runner.js:1:1)\n"
        b"    at async go (ext:core/x.js:1:1)\n    at eval (program.js, <anonymous>:4:1)"
    )
    assert _outcome(
        Thrown(name=b"TypeError", message=b"m", stack=frames), source="f(\n  null.x)", stacks=deno
    ) == ProgramException(
        name="TypeError",
        message="m",
        stack="    at f (p.js:2:8)\n    at <anonymous> (p.js:1:1)",
        line=2,
        column=8,
    )


@pytest.mark.parametrize(
    ("line", "column", "place"),
    [
        (2, 1, (1, 1)),
        (2, 4, (1, 3)),
        (2, 8, (1, 5)),
        (2, 9, (1, 6)),
        (2, 999, (1, 14)),
        (3, 5, (2, 2)),
        (99, 3, (98, 1)),
    ],
)
def test_columns_count_utf16_units(line: int, column: int, place: tuple[int, int]) -> None:
    """The engine's byte columns become UTF-16 columns; a column past the line's end becomes the end."""
    stack = b"    at f (eval_script:%d:%d)\n" % (line, column)
    outcome = _outcome(Thrown(name=b"TypeError", message=b"m", stack=stack), source="aé\U0001f600b = null;\n}")
    assert isinstance(outcome, ProgramException)
    assert (outcome.line, outcome.column) == place


@pytest.mark.parametrize(
    ("module", "stack", "place"),
    [
        (False, "    at eval_script:3:4\n", (2, 3)),
        (True, "    at program:2:4\n", (2, 3)),
        (True, "    at check:2:4", (2, 3)),
        (False, "    at eval_script:1:50\n", (1, 1)),  # in the line of the wrapper
        (False, "    at eval_script:4:1\n", (2, 4)),  # past the end
        (False, "nowhere", (None, None)),
        (False, "", (None, None)),
    ],
)
def test_a_syntax_error_has_its_place(module: bool, stack: str, place: tuple[int | None, int | None]) -> None:
    """The wrapper's line is subtracted from the place of a syntax error in a body, but not in a module."""
    refused = Refused(module=module, message=b"m", stack=stack.encode())
    outcome = _outcome(refused, source="a\né +")
    assert outcome == ProgramSyntaxError(message="m", line=place[0], column=place[1])


@pytest.mark.parametrize(
    ("module", "stack", "place"),
    [
        (True, "    at v8:2:3", (2, 3)),
        (False, "    at v8:3:3", (2, 3)),
        (False, "    at swc:3:3", (2, 2)),  # for this parser, a tab is two characters wide
        (False, "    at v8:1:9", (1, 1)),
        (False, "    at v8:9:1", (2, 4)),
        (False, "    at v8:3", (None, None)),
        (False, "", (None, None)),
    ],
)
def test_a_syntax_error_of_deno_has_its_place(module: bool, stack: str, place: tuple[int | None, int | None]) -> None:
    """Deno's two parsers count columns differently; both are converted to columns of JavaScript."""
    refused = Refused(module=module, message=b"m", stack=stack.encode())
    outcome = _outcome(refused, source="a\n\tb+", stacks=deno)
    assert outcome == ProgramSyntaxError(message="m", line=place[0], column=place[1])
