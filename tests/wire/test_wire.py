"""Framing and sessions: whatever is received, they raise only protocol errors."""

from __future__ import annotations

import json
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from promptlogd.wire import (
    MAX_FRAME_BYTES,
    BadMessage,
    ClientSession,
    FrameDecoder,
    ProtocolError,
    ServerSession,
    TextBounds,
)
from promptlogd.wire.messages import (
    Backup,
    Cancel,
    Collect,
    Config,
    Error,
    Finished,
    JournalStats,
    Label,
    LimitsAsked,
    List,
    Ping,
    ReadJournal,
    Remove,
    Reply,
    Request,
    Run,
    Show,
    Stats,
    Submit,
    Verify,
)
from promptlogd.wire.reference import protocol_reference
from sandbox.outcome import LogLine, Ok, Usage

REQUESTS: list[Request] = [
    Ping(id=1),
    Submit(id="a", source="const result = 'ü\u2028'", name="reverse", engine="deno", language="typescript"),
    Run(id=2, source="x", prompt="p\0", env=Raw(b'{"a":[1,{"b":null}]}'), stream_logs=True, isolation="jail"),
    Run(id=3, hash="@reverse", limits=LimitsAsked(cpu_ms=20, memory_bytes=64 << 20)),
    Cancel(id=2**53 - 1, target="a"),
    Show(id=4, hash="abcdef0123", source=True),
    List(id=5, limit=3, after="0x1p3:ab"),
    Remove(id=6, hash="abcdef0123"),
    Label(id=7, name="x"),
    Stats(id="x" * 64),
    ReadJournal(id=8, limit=7, before=9, hash="@a", failed=True, since=1.5),
    JournalStats(id=9, hash="ab" * 32, since=0.5),
    Config(id=8),
    Collect(id=9, unused_s=1.5, over_bytes=7, dry_run=True, limit=3, after="a"),
    Verify(id=9, limit=3, after="ab" * 32),
    Backup(id=9, folder="/a"),
]
ENCODINGS: list[Any] = ["json", "msgpack"]


def _plain(message: object) -> object:
    """Return a value that is equal for two messages exactly if they are the same; Raw does not define equality."""
    if isinstance(message, msgspec.Struct):
        fields = {name: _plain(getattr(message, name)) for name in message.__struct_fields__}
        return type(message), fields
    return bytes(message) if isinstance(message, Raw) else message


def test_all_requests_are_covered() -> None:
    """The list above has every kind of request."""
    assert {type(request) for request in REQUESTS} == set(Request.__args__)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_requests_are_decoded_as_they_were_sent(encoding: Any, request_: Request) -> None:
    """A request has the same fields on the other side, in both encodings."""
    received = ServerSession().receive(ClientSession(encoding=encoding).send(request_))
    assert list(map(_plain, received)) == [_plain(request_)]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_value_keeps_its_bytes(encoding: Any) -> None:
    """An `ok` value arrives with the same bytes that the program serialized."""
    value = b'{"a" : 1.0,"b":[1e400,"\\ud83d\\ude00"]}'
    server, client = ServerSession(), ClientSession(encoding=encoding)
    server.receive(client.send(Ping(id=1)))
    usage = Usage(cpu_ms=1, wall_ms=1, peak_memory_bytes=1)
    data = b"".join(server.send(Finished(id=1, hash="h", outcome=Ok(value=Raw(value)), logs=[], usage=usage)))
    (reply,) = client.receive(data)
    assert isinstance(reply, Finished)
    assert isinstance(reply.outcome, Ok)
    assert bytes(reply.outcome.value) == value


@given(st.data())
def test_splitting_the_stream_changes_nothing(data: st.DataObject) -> None:
    """However the stream is split, also at the ends of frames, the same messages are decoded."""
    client = ClientSession(encoding=data.draw(st.sampled_from(ENCODINGS)))
    frames = [client.send(request) for request in REQUESTS]
    stream, ends = b"".join(frames), list(accumulate(map(len, frames)))
    server, received, at = ServerSession(), [], 0
    while at < len(stream):
        next_end = next(end for end in ends if end > at)
        end = data.draw(st.one_of(st.just(next_end), st.integers(at + 1, at + 40)))
        received += server.receive(stream[at:end])
        at = end
    assert list(map(_plain, received)) == list(map(_plain, REQUESTS))


_VALID = [ClientSession(encoding=encoding).send(request) for encoding in ENCODINGS for request in REQUESTS]


@given(
    st.one_of(st.binary(max_size=300), st.tuples(st.sampled_from(_VALID), st.integers(0, 60), st.binary(max_size=8)))
)
def test_any_bytes_raise_only_protocol_errors(sent: bytes | tuple[bytes, int, bytes]) -> None:
    """Junk and damaged frames give messages, BadMessage or a final ProtocolError, and nothing else."""
    if isinstance(sent, tuple):
        frame, at, junk = sent
        sent = frame[:at] + junk + frame[at + len(junk) :]
    events = ServerSession().receive(sent)
    assert all(isinstance(event, Request | BadMessage | ProtocolError) for event in events)
    assert not any(isinstance(event, ProtocolError) for event in events[:-1])
    for encoding in ENCODINGS:
        try:
            replies = ClientSession(encoding=encoding).receive(sent)
        except ProtocolError:
            continue
        assert all(isinstance(reply, Reply) for reply in replies)


def _frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


_PING = b"\x82\xa4type\xa4ping\xa2id"
_HUGE_ID = b"9" * 5000
_DEEP_LIST = b"[" * 50_000 + b"]" * 50_000

_NO_ID: list[tuple[str, bytes, bytes, str]] = [
    # name; a frame without the defect; one with it; text in the error
    ("a length exceeds the maximum", _frame(_PING + b"\1"), b"\xff\xff\xff\xff", "exceeds the maximum"),
    ("an empty frame", _frame(_PING + b"\1"), _frame(b""), "truncated"),
    ("not a map", _frame(_PING + b"\1"), _frame(b"\x91" + _PING + b"\1"), "Expected `object`"),
    ("nested lists", _frame(_PING + b"\1"), _frame(b"\x91" * 100_000), "its id is not readable"),
    ("no id", _frame(_PING + b"\1"), _frame(b"\x81\xa4type\xa4ping"), "`id`"),
    ("an id that is not a number", _frame(_PING + b"\1"), _frame(_PING + b"\xcb\x7f\xf8\0\0\0\0\0\0"), "`$.id`"),
    ("an id with invalid UTF-8", _frame(_PING + b"\xa2ab"), _frame(_PING + b"\xa2\xff\xfe"), "UTF-8"),
    ("an extension as the id", _frame(_PING + b"\1"), _frame(_PING + b"\xc7\x01\x05x"), "`$.id`"),
    ("no id", b'{"type":"ping","id":1}', b'{"type":"ping"}', "`id`"),
    ("an id below zero", b'{"type":"ping","id":0}', b'{"type":"ping","id":-1}', "`$.id`"),
    ("an id of 2**53", b'{"type":"ping","id":%d}' % (2**53 - 1), b'{"type":"ping","id":%d}' % 2**53, "`$.id`"),
    (
        "an id of 5,000 digits",
        b'{"type":"ping","id":9}',
        b'{"type":"ping","id":' + _HUGE_ID + b"}",
        "its id is not readable",
    ),
    ("a list as the id", b'{"type":"ping","id":1}', b'{"type":"ping","id":[]}', "`$.id`"),
    ("an empty id", b'{"type":"ping","id":"a"}', b'{"type":"ping","id":""}', "`id` is empty"),
    (
        "an id of 65 characters",
        b'{"type":"ping","id":"%s"}' % (b"a" * 64),
        b'{"type":"ping","id":"%s"}' % (b"a" * 65),
        "`$.id`",
    ),
    ("NaN as the id", b'{"type":"ping","id":1}', b'{"type":"ping","id":NaN}', "invalid character"),
    ("an id with invalid UTF-8", b'{"type":"ping","id":"ab"}', b'{"type":"ping","id":"\xff\xfe"}', "UTF-8"),
    ("an object that does not end", b'{"type":"ping","id":1}', b'{"type":"ping","id":1', "truncated"),
    ("nested lists", b'{"type":"ping","id":1}', b"{" + b"[" * 100_000, "its id is not readable"),
    (
        "a deep env before the id",
        b'{"type":"run","env":{"id":1,"a":[]},"id":1}',
        b'{"type":"run","env":{"id":1,"a":' + _DEEP_LIST + b'},"id":1}',
        "nested too deeply",
    ),
]


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [(right, wrong, says) for _, right, wrong, says in _NO_ID],
    ids=[f"{what} ({'JSON' if right.startswith(b'{') else 'MessagePack'})" for what, right, _, _ in _NO_ID],
)
def test_frames_without_a_readable_id_end_the_connection(right: bytes, wrong: bytes, says: str) -> None:
    """A frame without a readable id is a ProtocolError with the reason, after the requests before it."""
    if right.startswith(b"{"):
        right, wrong, before = right + b"\n", wrong + b"\n", b'{"type":"ping","id":7}\n'
    else:
        before = ClientSession().send(Ping(id=7))
    ping, request = ServerSession().receive(before + right)
    assert ping == Ping(id=7)
    assert isinstance(request, Ping | Run)
    ping, error = ServerSession().receive(before + wrong + before)
    assert ping == Ping(id=7)
    assert isinstance(error, ProtocolError)
    assert says in error.message


_RUN = {"type": "run", "id": 1, "source": "x", "prompt": "p", "env": {"a": 1}, "limits": {"cpu_ms": 5}}
_SUBMIT = {"type": "submit", "id": 1, "source": "x", "name": "a-b"}


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ({"type": "ping", "id": 1}, {"type": "zap"}, "zap"),
        ({"type": "ping", "id": 1}, {"x": 2}, "unknown field `x`"),
        (_RUN, {"promt": "x"}, "unknown field `promt`"),
        (_RUN, {"prompt": 5}, "`$.prompt`"),
        (_RUN, {"prompt": None}, "`$.prompt`"),
        (_RUN, {"env": [1]}, "`env` must be a JSON object"),
        (_RUN, {"env": "{}"}, "`env` must be a JSON object"),
        (_RUN, {"limits": {"cpu_ms": 0}}, "`$.limits.cpu_ms`"),
        (_RUN, {"limits": {"cpu": 5}}, "unknown field `cpu`"),
        (_RUN, {"language": "coffee"}, "valid values: 'javascript', 'typescript'"),
        (_RUN, {"tenant": ""}, "`tenant` is empty"),
        (_RUN, {"language": "ts"}, "valid values: 'javascript', 'typescript'"),
        (_RUN, {"isolation": "process"}, "valid values: 'cell', 'jail'"),
        (_RUN, {"engine": ""}, "`engine` is empty"),
        (_SUBMIT, {"visibility": "secret"}, "valid values: 'own', 'group', 'all'"),
        (_SUBMIT, {"source": None}, "`$.source`"),
        (_SUBMIT, {"name": "a b"}, "`name`"),
        (_SUBMIT, {"name": "a\n"}, "`name`"),
        ({"type": "list", "id": 1, "limit": 1000}, {"limit": 1001}, "`$.limit`"),
    ],
)
def test_bad_requests_are_answered_and_the_connection_continues(
    right: dict[str, Any], wrong: dict[str, Any], says: str
) -> None:
    """A request with one defect becomes a BadMessage that names it, and the next request is decoded."""
    server = ServerSession()
    lines = [json.dumps(message).encode() + b"\n" for message in (right, {**right, **wrong}, {"type": "ping", "id": 2})]
    first, bad, last = server.receive(b"".join(lines))
    assert isinstance(first, Request)
    assert isinstance(bad, BadMessage)
    assert bad.id == 1
    assert says in bad.message
    assert last == Ping(id=2)


def test_a_line_without_end_is_refused_at_the_cap() -> None:
    """A line of the cap's length is a frame; a longer one is refused, and never more than the cap is buffered."""
    whole = b"{" + b" " * (MAX_FRAME_BYTES - 2) + b"}"
    assert list(FrameDecoder().feed(whole + b"\n")) == [whole]
    decoder = FrameDecoder()
    chunk = b"{" + b" " * 65535
    for _ in range(MAX_FRAME_BYTES // len(chunk)):
        assert list(decoder.feed(chunk)) == []
        assert decoder.buffered_bytes <= MAX_FRAME_BYTES
    with pytest.raises(ProtocolError, match="exceeds the maximum"):
        list(decoder.feed(chunk))


def test_an_error_without_id_has_none() -> None:
    """An error reply without an id omits the field, and one with an id has it."""
    server = ServerSession()
    server.receive(b'{"type":"ping","id":1}\n')
    assert json.loads(b"".join(server.send(Error(id=7, code="bad_request", message="x"))))["id"] == 7
    assert "id" not in json.loads(b"".join(server.send(Error(code="bad_request", message="x"))))


def test_the_protocol_reference_is_up_to_date() -> None:
    """docs/protocol.md matches the generator's output."""
    written = Path(__file__).parents[2] / "docs/protocol.md"
    assert written.read_text("utf-8") == protocol_reference(), "run: make docs"


@pytest.mark.parametrize("sent", [b"hello\n", b"[1]\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_other_text_is_answered_with_an_error_in_json(sent: bytes) -> None:
    """A connection that begins with neither `{` nor a length gets an error about this, as a line of JSON."""
    session = ServerSession()
    (error,) = session.receive(sent)
    assert isinstance(error, ProtocolError)
    assert "starts with {" in error.message
    assert session.encoding == "json"


def test_white_space_may_precede_the_first_line() -> None:
    """A line break of a heredoc, or indentation, may come before the JSON."""
    assert ServerSession().receive(b'\n  {"type":"ping","id":1}\n') == [Ping(id=1)]


@pytest.mark.parametrize("bytes_in", [b'{"prompt":"x"}\n', b'{"id":"\xff"}\n', b"GET / HTTP/1.1\r\n"])
def test_a_protocol_error_refers_to_no_received_frames(bytes_in: bytes) -> None:
    """A reference to frames would keep megabytes until the next garbage collection."""
    (error,) = ServerSession().receive(bytes_in)
    assert isinstance(error, ProtocolError)
    assert (error.__context__, error.__cause__, error.__traceback__) == (None, None, None)


def test_blank_lines_are_skipped_quickly() -> None:
    """A megabyte of line feeds is skipped in a few steps of Python, and none of it is kept."""
    decoder = FrameDecoder(encoding="json")
    steps = [0]

    def step(*_: object) -> Any:
        steps[0] += 1
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        frames = list(decoder.feed(b"\n \r\n\t" * 200_000 + b'{"a":1}\n' + b"\n" * 1000))
    finally:
        sys.settrace(before)
    assert frames == [b'{"a":1}']
    assert decoder.buffered_bytes == 0
    assert steps[0] < 100


@pytest.mark.parametrize("field", ['"type":"{}"', '"type":"ping","{}":1'])
def test_an_error_quotes_only_a_short_text(field: str) -> None:
    """The error for an unknown type or field names it, truncated."""
    request = '{"id":1,' + field.replace("{}", "x" * 1_000_000) + "}\n"
    (event,) = ServerSession().receive(request.encode())
    assert isinstance(event, BadMessage)
    assert "xxx" in event.message
    assert len(event.message) < 400


def test_an_env_that_is_too_large_is_not_parsed() -> None:
    """An env over the limit is passed on unparsed and refused by its size; a smaller one must be a JSON object."""
    session = ServerSession(bounds=TextBounds(env_bytes=100))
    large, small = (b'{"type":"run","id":1,"env":[' + b"1," * count + b"1]}\n" for count in (100, 10))
    (request,), (event,) = session.receive(large), session.receive(small)
    assert isinstance(request, Run)
    assert isinstance(event, BadMessage)
    assert "must be a JSON object" in event.message


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 4 << 20])
def test_a_large_value_is_not_copied_and_keeps_its_bytes(encoding: Any, size: int) -> None:
    """A large result arrives unchanged between the other fields; above the bound, the reply contains a view of it."""
    value = b'"' + b"x" * (size - 2) + b'"'
    server, client = ServerSession(), ClientSession(encoding=encoding)
    server.receive(client.send(Ping(id="id")))
    logs = [LogLine(level="warn", text="é" * 50_000)]
    usage = Usage(cpu_ms=1, wall_ms=2, peak_memory_bytes=3)
    parts = server.send(Finished(id="id", hash="h", outcome=Ok(value=Raw(value)), logs=logs, usage=usage))
    assert any(len(part) == size for part in parts) == (size > 65_536)
    (reply,) = client.receive(b"".join(parts))
    assert isinstance(reply, Finished)
    assert isinstance(reply.outcome, Ok)
    assert bytes(reply.outcome.value) == value
    assert (reply.id, reply.hash, reply.logs, reply.usage) == ("id", "h", logs, usage)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_reply_over_the_cap_is_an_error(encoding: Any) -> None:
    """If a result does not fit into a frame, the reply is an error with its size."""
    server, client = ServerSession(), ClientSession(encoding=encoding)
    server.receive(client.send(Ping(id=1)))
    usage = Usage(cpu_ms=1, wall_ms=1, peak_memory_bytes=1)
    value = Raw(b'"' + b"x" * MAX_FRAME_BYTES + b'"')
    parts = server.send(Finished(id=1, hash="h", outcome=Ok(value=value), logs=[], usage=usage))
    (reply,) = client.receive(b"".join(parts))
    assert isinstance(reply, Error)
    assert reply.code == "too_large"
