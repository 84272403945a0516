"""Any bytes that a jailed process writes become messages or Malformed, and memory for them is bounded."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.protocol.events import (
    LAST,
    Call,
    Checked,
    Log,
    Maybe,
    Message,
    NoJson,
    OutOfMemory,
    Refused,
    Thrown,
    TooLarge,
    Value,
    Wait,
)
from sandbox.protocol.frames import (
    HEADER_BYTES,
    LINE_BYTES,
    LINE_TEXT_BYTES,
    MESSAGES_AT_ONCE,
    TEXT_AT_ONCE_BYTES,
    Caps,
    Decoder,
    Malformed,
    Task,
)

_KINDS = "lcwqvobxmsf"
_TEXT_BYTES = 256 * 1024
_TOKEN = b"0123456789abcdef"


def _frame(kind: str, payload: bytes | memoryview = b"") -> bytes:
    return kind.encode("latin-1") + len(payload).to_bytes(4, "big") + payload


def _announced(kind: str, size: int) -> bytes:
    """Return only the header of a frame of this size."""
    return kind.encode() + size.to_bytes(4, "big")


def _fields(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def _number(number: int) -> bytes:
    return number.to_bytes(4, "big")


def _decoder(task: Task = Task.RUN, token: bytes = b"", **caps: Any) -> Decoder:
    given_caps: dict[str, Any] = {
        "result_bytes": 1000, "log_bytes": 1600, "artifact_bytes": 100, "call_bytes": 200, "mappings": 3,
    }  # fmt: skip
    return Decoder(Caps(task=task, **given_caps | caps), token=token)


def _decode(decoder: Decoder, parts: list[bytes]) -> tuple[list[Message], bool]:
    """Return the messages of these parts, and whether they are malformed. Any other exception fails the test."""
    messages: list[Message] = []
    try:
        for part in parts:
            messages += decoder.feed(part)
    except Malformed:
        return messages, True
    return messages, False


_FIELD = st.binary(max_size=20)
_NUMBER = st.integers(0, 2**32 - 1)
_REFUSED = st.builds(Refused, module=st.booleans(), message=_FIELD, stack=_FIELD)
_BEFORE = st.one_of(
    st.builds(Log, level=st.integers(0, 4), mapping=st.integers(0, 2), text=_FIELD),
    st.builds(Call, number=_NUMBER, name=_FIELD, arguments=_FIELD),
    st.builds(Wait, answers_seen=_NUMBER, wake_ms=st.none() | st.integers(0, 2**32 - 2)),
    st.builds(Maybe, last=st.none() | _REFUSED),
)
_LAST = st.one_of(
    st.builds(Value, json=_FIELD),
    st.builds(TooLarge, size=st.integers(0, 10**15 - 1)),
    st.builds(NoJson, message=_FIELD),
    st.builds(Thrown, name=_FIELD, message=_FIELD, stack=_FIELD),
    st.builds(OutOfMemory),
    _REFUSED,
)


def _encoded(message: Message) -> bytes:
    """Encode a message as a jailed process does."""
    match message:
        case Log(level=level, mapping=mapping, text=text):
            return _frame("l", bytes([ord("0") + level + 5 * mapping]) + text)
        case Call(number=number, name=name, arguments=arguments):
            return _frame("c", _number(number) + _fields(name, arguments))
        case Wait(answers_seen=seen, wake_ms=wake_ms):
            return _frame("w", _number(seen) + (b"\xff" * 4 if wake_ms is None else _number(wake_ms)))
        case Maybe(last=last):
            return _frame("q", b"" if last is None else _form(last) + _fields(last.message, last.stack))
        case Value(json=json):
            return _frame("v", json)
        case TooLarge(size=size):
            return _frame("o", b"%d" % size)
        case NoJson(message=text):
            return _frame("b", text)
        case Thrown(name=name, message=text, stack=stack):
            return _frame("x", _fields(name, text, stack))
        case OutOfMemory():
            return _frame("m")
        case Refused(message=text, stack=stack):
            return _frame("s", _form(message) + _fields(text, stack))
        case Checked(code=code):
            return _frame("f", _form(message) + bytes(code or b""))


def _form(message: Refused | Checked) -> bytes:
    return b"M" if message.module else b"B"


@given(st.sampled_from(Task), st.lists(st.binary(max_size=40), max_size=8))
def test_any_bytes_are_messages_or_malformed(task: Task, parts: list[bytes]) -> None:
    """No bytes of a process raise anything but Malformed, or give anything but messages."""
    messages, _ = _decode(_decoder(task), parts)
    assert all(isinstance(message, get_args(Message)) for message in messages)


@given(st.sampled_from(Task), st.sampled_from(_KINDS), st.binary(max_size=60))
def test_any_payload_of_a_known_kind_is_a_message_or_malformed(task: Task, kind: str, payload: bytes) -> None:
    """A well-formed frame with any content gives one message, or is malformed."""
    messages, malformed = _decode(_decoder(task), [_frame(kind, payload)])
    assert len(messages) == (0 if malformed else 1)
    assert all(isinstance(message, get_args(Message)) for message in messages)


@given(
    st.lists(_BEFORE, max_size=6),
    st.none() | _LAST,
    st.sampled_from([b"", _TOKEN]),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_every_message_is_decoded_as_it_was_encoded(
    before: list[Message], last: Message | None, token: bytes, cuts: list[int]
) -> None:
    """Any sequence of messages, split in any way, is decoded to exactly these messages."""
    messages = before if last is None else [*before, last]
    data = b"".join(token + _encoded(message) for message in messages)
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    parts = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    decoder = _decoder(Task.CHECK_AND_RUN, token)
    assert _decode(decoder, parts) == (messages, False)
    assert decoder.ended == (last is not None)
    assert not decoder.surplus


@given(st.booleans(), st.none() | st.binary(min_size=1, max_size=100))
def test_a_check_sends_the_form_and_the_code(module: bool, code: bytes | None) -> None:
    """The message of a check is decoded as it was encoded, up to the code's cap."""
    message = Checked(module=module, code=code)
    assert _decoder(Task.CHECK).feed(_encoded(message)) == [message]


_FRAMES = {
    "l": b"1text",
    "c": _number(0) + _fields(b"f", b"[]"),
    "w": _number(0) + _number(5),
    "q": b"",
    "v": b"1",
    "o": b"5000",
    "b": b"no JSON",
    "x": _fields(b"Error", b"no", b""),
    "m": b"",
    "s": b"B" + _fields(b"m", b""),
    "f": b"B",
}


@pytest.mark.parametrize(("task", "its_own"), [
    (Task.RUN, "lcwvobxms"),
    (Task.CHECK, "qxmsf"),
    (Task.CHECK_AND_RUN, "lcwqvobxms"),
])  # fmt: skip
def test_each_task_has_its_kinds(task: Task, its_own: str) -> None:
    """A process may send the kinds of its task; any other kind is malformed, whatever size follows."""
    for kind in map(chr, range(256)):
        if kind in its_own:
            assert len(_decoder(task).feed(_frame(kind, _FRAMES[kind]))) == 1, kind
            continue
        for size in (0, 1, 0xFFFFFFFF):
            with pytest.raises(Malformed, match="no known kind"):
                _decoder(task).feed(kind.encode("latin-1") + _number(size))


def test_only_an_engine_without_kernel_evidence_may_report_memory() -> None:
    """If the kernel reports out-of-memory for an engine, a message of the process that reports it is malformed."""
    assert _decoder().feed(_frame("m")) == [OutOfMemory()]
    with pytest.raises(Malformed, match="no known kind"):
        _decoder(tells_memory=False).feed(_frame("m"))


@pytest.mark.parametrize(
    ("task", "kind", "most"),
    [
        (Task.RUN, "l", 3 * 1600 + 8),
        (Task.RUN, "c", 200),
        (Task.CHECK, "f", 101),
        *((Task.CHECK_AND_RUN, kind, _TEXT_BYTES) for kind in "wqobxms"),
        *((Task.CHECK, kind, _TEXT_BYTES) for kind in "qxms"),
    ],
)
def test_a_frame_over_its_cap_is_refused_by_its_header(task: Task, kind: str, most: int) -> None:
    """The decoder waits for a frame at its cap, and refuses one byte more as soon as the header announces it."""
    assert _decoder(task).feed(_announced(kind, most)) == []
    for size in (most + 1, 0x7FFFFFFF, 0xFFFFFFFF):
        with pytest.raises(Malformed, match=f"announces {size} bytes"):
            _decoder(task).feed(_announced(kind, size))


def test_calls_must_be_granted() -> None:
    """A call of a host function is malformed if the run was granted none."""
    caps = Caps(task=Task.RUN, result_bytes=10, log_bytes=10)
    with pytest.raises(Malformed, match="announces 15 bytes"):
        Decoder(caps).feed(_frame("c", _FRAMES["c"]))


@pytest.mark.parametrize("size", [1001, 2000, 0xFFFFFFFF])
def test_a_value_over_its_cap_is_too_large(size: int) -> None:
    """A header that announces a value over its cap gives TooLarge, and ends the messages."""
    assert _decoder().feed(_announced("v", 1000)) == []
    decoder = _decoder()
    assert decoder.feed(_announced("v", size)) == [TooLarge(size=size)]
    assert decoder.ended
    with pytest.raises(Malformed, match="no known kind"):
        _decoder(Task.CHECK).feed(_announced("v", size))


def test_the_rest_of_a_value_over_its_cap_is_not_surplus() -> None:
    """An honest process sends all of a value over its cap, because its script counts UTF-16 units: this is not surplus.

    The number of parts in which the value arrives makes no difference.
    """
    value = _frame("v", b"x" * 1500)
    whole = _decoder()
    whole.feed(value)
    assert not whole.surplus
    parts = _decoder()
    for at in range(0, len(value), 100):
        parts.feed(value[at : at + 100])
    assert not parts.surplus


def test_a_frame_after_a_value_over_its_cap_is_surplus() -> None:
    """Bytes after the end of such a value are bytes after the last message."""
    whole = _decoder()
    whole.feed(_frame("v", b"x" * 1500) + b"l")
    assert whole.surplus


def test_the_first_last_message_counts() -> None:
    """Bytes after the last message, in the same part or later, are dropped undecoded, and noted as surplus."""
    for last in _FRAMES:
        task = Task.CHECK if last == "f" else Task.RUN
        if last in "lcwq":
            continue
        for parts in ([_frame(last, _FRAMES[last]) + b"\0"], [_frame(last, _FRAMES[last]), b"v", b"\xff" * 99]):
            decoder = _decoder(task)
            messages, malformed = _decode(decoder, parts)
            assert len(messages) == 1
            assert isinstance(messages[0], LAST)
            assert not malformed
            assert decoder.ended
            assert decoder.surplus


def test_other_messages_do_not_end_decoding() -> None:
    """After log lines, calls, waits and provisional outcomes, the next frame is decoded, and nothing is surplus."""
    decoder = _decoder(Task.CHECK_AND_RUN)
    for kind in "lcwq":
        assert len(decoder.feed(_frame(kind, _FRAMES[kind]))) == 1
        assert not decoder.ended
        assert not decoder.surplus
    assert decoder.feed(_frame("v", b"1")) == [Value(json=b"1")]


def test_a_flood_of_messages_is_decoded_in_parts() -> None:
    """However many frames arrive at once, each call decodes MESSAGES_AT_ONCE of them, and all come in order."""
    decoder, count = _decoder(log_bytes=1 << 20), 3 * MESSAGES_AT_ONCE + 7
    parts = [decoder.feed(b"".join(_frame("l", b"1%d" % number) for number in range(count)) + _frame("v", b"1"))]
    while decoder.backlog:
        parts.append(decoder.feed(b""))
    assert [len(part) for part in parts] == [MESSAGES_AT_ONCE] * 3 + [8]
    texts = [message.text for part in parts for message in part if isinstance(message, Log)]
    assert texts == [b"%d" % number for number in range(count)]
    assert parts[-1][-1] == Value(json=b"1")
    assert not decoder.surplus


def test_a_large_result_is_decoded_as_it_was_encoded() -> None:
    """A large result is a view of the received bytes with the same content. A frame after it is surplus."""
    decoder = _decoder(result_bytes=4 << 20, log_bytes=4 << 20)
    text = bytes(range(32, 127)) * 20_000
    data = _frame("l", b"1first") + _frame("v", b"1" + text) + _frame("v", b"2")
    messages, malformed = _decode(decoder, [data[at : at + 100_000] for at in range(0, len(data), 100_000)])
    assert not malformed
    _, large = messages
    assert isinstance(large, Value)
    assert large.json == b"1" + text
    assert decoder.surplus


def test_held_parts_are_decoded_one_by_one() -> None:
    """Each call decodes one of the held parts, in order; bytes after the last message are surplus."""
    frames = [_frame("l", b"1%d" % number) for number in range(5)]
    decoder = _decoder()
    decoder.hold([*frames[:3], frames[3] + frames[4][:2], frames[4][2:], _frame("v", b"1") + b"x", b"more"])
    assert decoder.partial
    parts = []
    while decoder.backlog:
        parts.append(decoder.feed(b""))
    assert [len(part) for part in parts] == [1, 1, 1, 1, 1, 1]
    assert [message.text for part in parts for message in part if isinstance(message, Log)] == [
        b"%d" % number for number in range(5)
    ]
    assert decoder.surplus
    assert not decoder.partial


def test_the_text_decoded_at_once_has_a_limit() -> None:
    """After TEXT_AT_ONCE_BYTES of console lines, the rest waits; all lines come in order."""
    size, count = 10_000, 40
    decoder = _decoder(log_bytes=1 << 20)
    texts = [b"%d" % number + b"x" * size for number in range(count)]
    parts = [decoder.feed(b"".join(b"l" + (len(text) + 1).to_bytes(4, "big") + b"1" + text for text in texts))]
    while decoder.backlog:
        parts.append(decoder.feed(b""))
    assert [message.text for part in parts for message in part if isinstance(message, Log)] == texts
    assert [len(part) for part in parts] == [TEXT_AT_ONCE_BYTES // size + 1] * 10 + [0]


def test_only_the_kept_part_of_a_line_is_copied() -> None:
    """A line over its limit is returned with one byte more, its full size counts, and the next message is decoded."""
    decoder = _decoder(log_bytes=1 << 20)
    over = 3 << 19, LINE_TEXT_BYTES + 1
    for size, kept in ((LINE_TEXT_BYTES, LINE_TEXT_BYTES), over, over):
        (line,) = decoder.feed(b"l" + (size + 1).to_bytes(4, "big") + b"1" + b"x" * size)
        assert line == Log(level=1, mapping=0, text=b"x" * kept)
        assert decoder.backlog
        assert decoder.feed(b"") == []
    with pytest.raises(Malformed, match="more console lines"):
        decoder.feed(b"l" + ((3 << 19) + 1).to_bytes(4, "big") + b"1" + b"x" * (3 << 19))


def test_provisional_outcomes_are_limited() -> None:
    """A check may send as many provisional outcomes as the engines' scripts need; more are malformed."""
    decoder = _decoder(Task.CHECK)
    assert decoder.feed(_frame("q") * 16) == [Maybe(last=None)] * 16
    with pytest.raises(Malformed, match="more provisional outcomes"):
        decoder.feed(_frame("q"))


@pytest.mark.parametrize("last", [_frame("v", b"1"), _announced("v", 0xFFFFFFFF) + b"x" * 3000])
def test_many_bytes_after_the_last_message_are_a_flood(last: bytes) -> None:
    """Some bytes after the last message are surplus, which a broken process may send; many bytes are a flood."""
    decoder = _decoder()
    assert len(decoder.feed(last)) == 1
    assert not decoder.surplus
    decoder.feed(b"x" * 65536)
    assert decoder.surplus
    assert not decoder.flood
    decoder.feed(b"x")
    assert decoder.flood


@pytest.mark.parametrize("log_bytes", [0, 1, 15, 16, 100, 1600])
def test_the_number_of_console_lines_is_limited(log_bytes: int) -> None:
    """A process may send as many empty lines as its cap permits, and two more to report truncation."""
    decoder = _decoder(log_bytes=log_bytes)
    for _ in range(log_bytes // LINE_BYTES + 2):
        assert decoder.feed(_frame("l", b"1")) == [Log(level=1, mapping=0, text=b"")]
    with pytest.raises(Malformed, match="more console lines"):
        decoder.feed(_frame("l", b"1"))


def test_the_bytes_of_console_lines_are_limited() -> None:
    """The text of all lines may have three bytes for each byte of the cap, and 16 for each line."""
    log_bytes = 1600
    budget = 3 * log_bytes + LINE_BYTES * (log_bytes // LINE_BYTES + 2)
    decoder = _decoder(log_bytes=log_bytes)
    for size in (budget // 2, budget - budget // 2):
        assert len(decoder.feed(_frame("l", b"1" + b"x" * size))) == 1
    assert len(decoder.feed(_frame("l", b"1"))) == 1  # an empty line uses none of it
    with pytest.raises(Malformed, match="more console lines"):
        decoder.feed(_frame("l", b"1x"))


@given(st.integers(0, 400), st.lists(st.integers(0, 500), max_size=60))
def test_lines_of_the_engines_script_are_within_the_limits(log_bytes: int, sizes: list[int]) -> None:
    """Lines truncated as the engines' script does it, with three bytes per character, stay within the limits."""
    decoder, left, told = _decoder(log_bytes=log_bytes), log_bytes, False
    for size in sizes:
        if left < 0:
            if not told:
                decoder.feed(_frame("l", b"1"))
            told = True
            continue
        units = min(size, left + 1)
        left -= units + LINE_BYTES
        assert len(decoder.feed(_frame("l", b"1" + "漢".encode() * units))) == 1


@pytest.mark.parametrize("mappings", [1, 2, 3])
def test_a_line_has_a_level_and_a_mapping_of_its_engine(mappings: int) -> None:
    """A line's first character encodes level and mapping. Characters that the engine does not use are malformed."""
    for number in range(256):
        mapping, level = divmod(number - ord("0"), 5)
        decoder = _decoder(mappings=mappings)
        if 0 <= mapping < mappings:
            assert decoder.feed(_frame("l", bytes([number, 255]))) == [Log(level=level, mapping=mapping, text=b"\xff")]
        else:
            with pytest.raises(Malformed, match="without a level"):
                decoder.feed(_frame("l", bytes([number])))
    with pytest.raises(Malformed, match="without a level"):
        _decoder(mappings=mappings).feed(_frame("l"))


def test_each_frame_follows_the_token() -> None:
    """With a token, frames are valid only after it; a token with one wrong byte, or no token, is malformed."""
    frame = _frame("l", b"1a")
    decoder = _decoder(token=_TOKEN)
    assert len(decoder.feed((_TOKEN + frame) * 3)) == 3
    for at in range(len(_TOKEN)):
        other = bytearray(_TOKEN + frame)
        other[at] ^= 1
        with pytest.raises(Malformed, match="not a frame"):
            _decoder(token=_TOKEN).feed(bytes(other))
    with pytest.raises(Malformed, match="not a frame"):
        _decoder(token=_TOKEN).feed(_TOKEN + frame + frame + bytes(16))
    with pytest.raises(Malformed, match="no known kind"):
        _decoder().feed(_TOKEN + frame)


@given(st.binary(min_size=len(_TOKEN) + HEADER_BYTES, max_size=80).filter(lambda data: not data.startswith(_TOKEN)))
def test_bytes_without_the_token_are_not_a_message(data: bytes) -> None:
    """A program that does not know the token cannot create a message."""
    assert _decode(_decoder(token=_TOKEN), [data]) == ([], True)


@pytest.mark.parametrize("payload", [b"", b"-1", b"1.5", b"1e3", b"\xb2", "²".encode(), b" 1", b"9" * 16, b"9" * 5000])
def test_an_invalid_size_counts_as_zero(payload: bytes) -> None:
    """A process may report any size for a result that is too large; anything but up to 15 digits counts as 0."""
    assert _decoder().feed(_frame("o", b"9" * 15)) == [TooLarge(size=10**15 - 1)]
    assert _decoder().feed(_frame("o", payload)) == [TooLarge(size=0)]


@pytest.mark.parametrize(
    ("kind", "payload", "fields"),
    [("x", b"", 3), ("s", b"B", 2), ("q", b"M", 2), ("c", _number(7), 2)],
)
def test_fields_lie_within_their_frame(kind: str, payload: bytes, fields: int) -> None:
    """A frame is malformed if it ends within its fields, or if a field claims more bytes than it has."""
    whole = payload + _fields(*[b"abc"] * fields)
    assert len(_decoder(Task.CHECK_AND_RUN).feed(_frame(kind, whole))) == 1
    for end in range(1, len(whole)):
        with pytest.raises(Malformed):
            _decoder(Task.CHECK_AND_RUN).feed(_frame(kind, whole[:end]))
    for size in (4, 0x7FFFFFFF, 0xFFFFFFFF):
        with pytest.raises(Malformed, match="do not fill it"):
            _decoder(Task.CHECK_AND_RUN).feed(_frame(kind, whole[:-7] + _number(size) + b"abc"))


@pytest.mark.parametrize(
    ("kind", "payload"), [("x", b""), ("s", b"B"), ("q", b"M"), ("c", _number(7))]
)  # fmt: skip
def test_fields_fill_their_frame(kind: str, payload: bytes) -> None:
    """A frame with bytes after its last field is malformed."""
    whole = payload + _fields(*[b"abc"] * (3 if kind == "x" else 2))
    with pytest.raises(Malformed, match="do not fill it"):
        _decoder(Task.CHECK_AND_RUN).feed(_frame(kind, whole + b"more"))


def test_the_out_of_memory_frame_has_no_payload() -> None:
    """The frame that reports out-of-memory is malformed if it has a payload."""
    with pytest.raises(Malformed):
        _decoder().feed(_frame("m", b"more"))
