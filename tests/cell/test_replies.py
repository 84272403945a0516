"""What a child may write: hostile bytes, read with caps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.engines.quickjs import stack
from sandbox.engines.replies import BadReply, ReplyReader, Wrapped
from sandbox.limits import Limits
from sandbox.outcome import BadResult, LogLine, Ok, ProgramException


def _reader(wrapped_bytes: int = 0, source: str = "", **limits: int) -> ReplyReader:
    return ReplyReader(
        limits=Limits(**limits), source_name="p.js", stacks=stack, source=source.encode, wrapped_bytes=wrapped_bytes
    )


def _frame(kind: bytes, payload: bytes) -> bytes:
    return kind + len(payload).to_bytes(4, "big") + payload


def _fields(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def _read(reader: ReplyReader, *parts: bytes) -> None:
    """Feed it, and check that what it gives is text that its limits allow, and nothing but BadReply comes of it."""
    lines: list[LogLine] = []
    try:
        for part in parts:
            lines += reader.feed(part)
    except BadReply:
        pass
    assert sum(len(line.text) for line in lines) <= Limits().log_bytes


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_any_bytes_are_a_reply_or_a_bad_reply(parts: list[bytes]) -> None:
    """Nothing that a child can write raises anything but BadReply."""
    _read(_reader(), *parts)


@given(st.sampled_from(b"lvobxmsw"), st.binary(max_size=60))
def test_any_payload_of_a_known_kind_is_a_reply_or_a_bad_reply(kind: int, payload: bytes) -> None:
    """A frame of the right form with any content raises nothing but BadReply."""
    _read(_reader(), _frame(bytes([kind]), payload))


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
    ],
)
def test_a_value_must_be_one_json_value(right: bytes, wrong: bytes) -> None:
    """A JSON value on one line is the result, byte for byte; what is not exactly that is none."""
    reader = _reader()
    reader.feed(_frame(b"v", right))
    assert isinstance(reader.said, Ok)
    assert bytes(reader.said.value) == right
    with pytest.raises(BadReply, match="a value"):
        _reader().feed(_frame(b"v", wrong))


def test_the_first_word_counts() -> None:
    """A second result, or anything after the first, is dropped."""
    reader = _reader()
    reader.feed(_frame(b"v", b"1") + _frame(b"v", b"2"))
    reader.feed(_frame(b"x", b"junk"))
    assert isinstance(reader.said, Ok)
    assert bytes(reader.said.value) == b"1"


@pytest.mark.parametrize(
    ("kind", "most"), [(b"l", 3 * Limits().log_bytes + 8), (b"b", 256 * 1024), (b"x", 256 * 1024), (b"s", 256 * 1024)]
)
def test_a_frame_over_its_cap_is_refused_by_its_announcement(kind: bytes, most: int) -> None:
    """A frame that announces as much as it may is waited for; one byte more is refused before any of it is kept."""
    assert _reader().feed(kind + most.to_bytes(4, "big")) == []
    for size in (most + 1, 0x7FFFFFFF):
        with pytest.raises(BadReply, match=f"announces {size} bytes"):
            _reader().feed(kind + size.to_bytes(4, "big"))


def test_logs_are_capped() -> None:
    """Lines past the cap are dropped, the line that crosses it is cut, and that is told."""
    reader = _reader(log_bytes=100)
    lines = [line.text for _ in range(50) for line in reader.feed(_frame(b"l", b"1" + b"x" * 30))]
    # Each line counts 16 bytes more than its text.
    assert lines == ["x" * 30, "x" * 30, "x" * 8]
    assert reader.logs_truncated
    whole = _reader(log_bytes=100)
    assert [line.text for line in whole.feed(_frame(b"l", b"1" + b"x" * 100))] == ["x" * 100]
    assert not whole.logs_truncated


def test_a_deep_value_is_a_bad_result() -> None:
    """Nesting that a recursive reader can't follow is told as a bad result."""
    reader = _reader()
    reader.feed(_frame(b"v", b"[" * 100 + b"]" * 100))
    assert isinstance(reader.said, Ok)
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
    for size in (2, 100):
        reader = _reader(wrapped_bytes=100)
        reader.feed(_frame(b"w", bytes(size)))
        assert reader.said == Wrapped(code=bytes(size))
    with pytest.raises(BadReply, match="announces 101 bytes"):
        _reader(wrapped_bytes=100).feed(_frame(b"w", bytes(101)))


@pytest.mark.parametrize(
    ("frame", "of_a_run"),
    [
        (_frame(b"w", b"Bx"), False),
        (_frame(b"v", b"1"), True),
        (_frame(b"l", b"1text"), True),
        (_frame(b"x", _fields(b"Error", b"no", b"")), True),
        (_frame(b"b", b"no JSON"), True),
        (_frame(b"o", b"5000"), True),
    ],
)
def test_a_check_and_a_run_have_words_of_their_own(frame: bytes, of_a_run: bool) -> None:
    """Wrapped code is no answer to a run, and what a program says none to a check."""
    its_own, other = _reader(wrapped_bytes=0 if of_a_run else 100), _reader(wrapped_bytes=100 if of_a_run else 0)
    assert its_own.feed(frame) or its_own.said is not None
    with pytest.raises(BadReply, match="no known kind"):
        other.feed(frame)
