"""What a child may write: hostile bytes, read with caps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.engines.quickjs import stack
from sandbox.engines.replies import BadReply, ReplyReader, Wrapped
from sandbox.limits import Limits
from sandbox.outcome import BadResult, Ok, ProgramException


def _reader(wrapped_bytes: int = 0, source: str = "", **limits: int) -> ReplyReader:
    return ReplyReader(
        limits=Limits(**limits), source_name="p.js", stacks=stack, source=source.encode, wrapped_bytes=wrapped_bytes
    )


def _frame(kind: bytes, payload: bytes) -> bytes:
    return kind + len(payload).to_bytes(4, "big") + payload


def _fields(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_any_bytes_are_a_reply_or_a_bad_reply(parts: list[bytes]) -> None:
    """Nothing that a child can write raises anything but BadReply."""
    reader = _reader()
    try:
        for part in parts:
            reader.feed(part)
    except BadReply:
        pass


@given(st.sampled_from(b"lvobxmsw"), st.binary(max_size=60))
def test_any_payload_of_a_known_kind_is_a_reply_or_a_bad_reply(kind: int, payload: bytes) -> None:
    """The same for frames of the right form with any content."""
    try:
        _reader().feed(_frame(bytes([kind]), payload))
    except BadReply:
        pass


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"1 2",
        b'{"a":1}}',
        b'{"a":1}\n',
        b"[1,\r2]",
        b'"\xff"',
        b"NaN",
        b"undefined",
        b"'x'",
        b'{"a":1},"kind":"x"',
    ],
)
def test_a_value_must_be_one_json_value(value: bytes) -> None:
    """What is not exactly one JSON value on one line is no result."""
    with pytest.raises(BadReply):
        _reader().feed(_frame(b"v", value))


def test_the_first_word_counts() -> None:
    """A second result, or anything after the first, is dropped."""
    reader = _reader()
    reader.feed(_frame(b"v", b"1") + _frame(b"v", b"2"))
    reader.feed(_frame(b"x", b"junk"))
    assert isinstance(reader.said, Ok)
    assert bytes(reader.said.value) == b"1"


@pytest.mark.parametrize("kind", [b"l", b"b", b"x"])
def test_a_frame_over_its_cap_is_refused_by_its_announcement(kind: bytes) -> None:
    """A frame that announces too much is refused before a byte of it is kept."""
    with pytest.raises(BadReply):
        _reader().feed(kind + b"\x7f\xff\xff\xff")


def test_logs_are_capped() -> None:
    """Lines past the cap are dropped, the line that crosses it is cut, and that is told."""
    reader = _reader(log_bytes=100)
    lines = [line for _ in range(50) for line in reader.feed(_frame(b"l", b"1" + b"x" * 30))]
    assert sum(len(line.text) for line in lines) <= 100
    assert reader.logs_truncated


def test_a_deep_value_is_a_bad_result() -> None:
    """Nesting that a recursive reader can't follow is told as a bad result."""
    reader = _reader()
    reader.feed(_frame(b"v", b"[" * 100_000 + b"]" * 100_000))
    assert isinstance(reader.said, BadResult)


def test_places_are_the_users_own() -> None:
    """Wrapper and prelude lines are taken off, and the program's name put in."""
    reader = _reader(source="f(\n  null.x)")
    frames = b"    at f (eval_script:3:7)\n    at ok (promptlog:prelude:1:1)\n    at <eval> (eval_script:9:1)\n"
    reader.feed(_frame(b"x", _fields(b"TypeError", b"m", frames)))
    assert reader.said == ProgramException(name="TypeError", message="m", stack="    at f (p.js:2:7)", line=2, column=7)


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
def test_columns_are_utf_16(line: int, column: int, place: tuple[int, int]) -> None:
    """The engine's bytes are counted as JavaScript counts its strings; past a line's end is its end."""
    reader = _reader(source="aé\U0001f600b = null;\n}")
    reader.feed(_frame(b"x", _fields(b"TypeError", b"m", b"    at f (eval_script:%d:%d)\n" % (line, column))))
    assert isinstance(reader.said, ProgramException)
    assert (reader.said.line, reader.said.column) == place


def test_wrapped_code_is_taken() -> None:
    """A check gives the wrapped code, up to its cap."""
    reader = ReplyReader(
        limits=Limits(), source_name="p.js", stacks=stack, source=lambda: b"const a = 1", wrapped_bytes=100
    )
    reader.feed(_frame(b"w", b"Bx"))
    assert reader.said == Wrapped(code=b"Bx")
    with pytest.raises(BadReply):
        ReplyReader(
            limits=Limits(), source_name="p.js", stacks=stack, source=lambda: b"const a = 1", wrapped_bytes=100
        ).feed(_frame(b"w", bytes(101)))


def test_a_check_and_a_run_have_words_of_their_own() -> None:
    """Wrapped code is no answer to a run, and a value none to a check."""
    with pytest.raises(BadReply):
        _reader().feed(_frame(b"w", b"Bx"))
    for kind in (b"v", b"l", b"x"):
        with pytest.raises(BadReply):
            ReplyReader(
                limits=Limits(), source_name="p.js", stacks=stack, source=lambda: b"const a = 1", wrapped_bytes=100
            ).feed(_frame(kind, b"1"))
