"""The wire: framing, sessions, and that nothing sent to it can raise but its own errors."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from promptlogd.wire import MAX_FRAME_BYTES, BadMessage, ClientSession, FrameDecoder, ProtocolError, ServerSession
from promptlogd.wire.messages import Error, Finished, Label, List, Ping, Request, Run, Show, Submit
from promptlogd.wire.reference import protocol_reference
from sandbox.outcome import Ok, Usage

REQUESTS = [
    Ping(id=1),
    Submit(id="a", source="const result = 'ü\u2028'", name="reverse"),
    Run(id=2, source="x", prompt="p\0", env=Raw(b'{"a":[1,{"b":null}]}'), stream_logs=True),
    Run(id=3, hash="@reverse"),
    Show(id=4, hash="abcdef0123", source=True),
    List(id=5, limit=3),
    Label(id=6, name="x"),
]
ENCODINGS = ["json", "msgpack"]


def _same(one: object, other: object) -> bool:
    return msgspec.json.encode(one) == msgspec.json.encode(other)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_requests_survive_the_wire(encoding: str, request_: Request) -> None:
    """A request is the same on the other side, in both encodings."""
    received = ServerSession().receive(ClientSession(encoding=encoding).send(request_))  # type: ignore[arg-type]
    assert len(received) == 1
    assert not isinstance(received[0], BadMessage)
    env = bytes(received[0].env) if isinstance(received[0], Run) else b""
    sent = bytes(request_.env) if isinstance(request_, Run) else b""
    assert env == sent
    if not env:
        assert received == [request_]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_value_keeps_its_bytes(encoding: str) -> None:
    """An `ok` value arrives byte for byte as the program serialised it."""
    value = b'{"a" : 1.0,"b":[1e400,"\\ud83d\\ude00"]}'
    server, client = ServerSession(), ClientSession(encoding=encoding)  # type: ignore[arg-type]
    server.receive(client.send(Ping(id=1)))
    usage = Usage(cpu_ms=1, wall_ms=1, peak_memory_bytes=1)
    data = server.send(Finished(id=1, hash="h", outcome=Ok(value=Raw(value)), logs=[], usage=usage))
    (reply,) = client.receive(data)
    assert isinstance(reply, Finished)
    assert isinstance(reply.outcome, Ok)
    assert bytes(reply.outcome.value) == value


@given(st.data())
def test_splitting_changes_nothing(data: st.DataObject) -> None:
    """However the stream is cut, the same messages come out."""
    encoding = data.draw(st.sampled_from(ENCODINGS))
    client = ClientSession(encoding=encoding)  # type: ignore[arg-type]
    stream = b"".join(client.send(request) for request in REQUESTS)
    server, received = ServerSession(), []
    while stream:
        size = data.draw(st.integers(1, 40))
        received += server.receive(stream[:size])
        stream = stream[size:]
    assert [type(message) for message in received] == [type(request) for request in REQUESTS]


_VALID = [ClientSession(encoding=encoding).send(request) for encoding in ("json", "msgpack") for request in REQUESTS]  # type: ignore[arg-type]


@given(
    st.one_of(st.binary(max_size=300), st.tuples(st.sampled_from(_VALID), st.integers(0, 60), st.binary(max_size=8)))
)
def test_no_bytes_raise_anything_but_protocol_errors(sent: bytes | tuple[bytes, int, bytes]) -> None:
    """Junk and damaged frames give messages, BadMessage or ProtocolError, and nothing else."""
    if isinstance(sent, tuple):
        frame, at, junk = sent
        sent = frame[:at] + junk + frame[at + len(junk) :]
    ServerSession().receive(sent)
    try:
        ClientSession().receive(sent)
    except ProtocolError:
        pass


def _frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff\xff\xff\xff",
        _frame(b""),
        _frame(b"\x91" * 100_000),
        _frame(b"\x81\xa4type\xa4ping"),
        _frame(b"\x82\xa4type\xa4ping\xa2id\xcb\x7f\xf8\0\0\0\0\0\0"),
        _frame(b"\x82\xa4type\xa4ping\xa2id\xa2\xff\xfe"),
        _frame(b"\xc7\x01\x05x"),
        b'{"type":"ping"}\n',
        b'{"type":"ping","id":-1}\n',
        b'{"type":"ping","id":' + b"9" * 5000 + b"}\n",
        b'{"type":"ping","id":[]}\n',
        b"{" + b"[" * 100_000 + b"\n",
        b'{"type":"run","env":{"id":1,"a":' + b"[" * 50_000 + b"]" * 50_000 + b'},"id":1}\n',
        b'{"id": NaN}\n',
        b"{\xff\xfe}\n",
    ],
)
def test_frames_without_a_readable_id_end_the_connection(sent: bytes) -> None:
    """What has no id to answer to is a ProtocolError, after the requests that stand before it."""
    (error,) = ServerSession().receive(sent)
    assert isinstance(error, ProtocolError)
    before = b'{"type":"ping","id":7}\n' if sent.startswith(b"{") else ClientSession().send(Ping(id=7))
    ping, error = ServerSession().receive(before + sent)
    assert ping == Ping(id=7)
    assert isinstance(error, ProtocolError)


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        ('{"type":"zap","id":1}', "zap"),
        ('{"type":"ping","id":1,"x":2}', "unknown field"),
        ('{"type":"run","id":1,"promt":"x"}', "promt"),
        ('{"type":"run","id":1,"prompt":5}', "prompt"),
        ('{"type":"run","id":1,"env":[1]}', "object"),
        ('{"type":"run","id":1,"limits":{"cpu_ms":0}}', "cpu_ms"),
        ('{"type":"submit","id":1}', "source"),
        ('{"type":"submit","id":1,"source":"x","name":"a b"}', "name"),
        ('{"type":"submit","id":1,"source":"x","name":"a\\n"}', "name"),
        ('{"type":"list","id":1,"limit":100000}', "limit"),
    ],
)
def test_bad_requests_are_answered_and_the_connection_goes_on(sent: str, says: str) -> None:
    """A wrong request with an id becomes a BadMessage that names the fault, and the next request is read."""
    server = ServerSession()
    bad, good = server.receive(sent.encode() + b'\n{"type":"ping","id":2}\n')
    assert isinstance(bad, BadMessage)
    assert bad.id == 1
    assert says in bad.message
    assert good == Ping(id=2)


def test_an_endless_line_is_refused_at_the_cap() -> None:
    """A line without end is refused once it is over the cap, and no more than that is ever held."""
    decoder = FrameDecoder()
    chunk = b"{" + b" " * 65535
    for _ in range(MAX_FRAME_BYTES // len(chunk)):
        assert list(decoder.feed(chunk)) == []
        assert decoder.buffered_bytes <= MAX_FRAME_BYTES
    with pytest.raises(ProtocolError, match="over the cap"):
        list(decoder.feed(chunk))


def test_an_error_without_id_has_none() -> None:
    """An error reply without id leaves the field out."""
    server = ServerSession()
    server.receive(b'{"type":"ping","id":1}\n')
    assert "id" not in json.loads(server.send(Error(code="bad_request", message="x")))


def test_the_protocol_reference_is_up_to_date() -> None:
    """docs/protocol.md is what the generator writes."""
    written = Path(__file__).parents[2] / "docs/protocol.md"
    assert written.read_text("utf-8") == protocol_reference(), "run: make docs"


@pytest.mark.parametrize("sent", [b"hello\n", b"[1]\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_what_a_person_types_is_answered_in_text(sent: bytes) -> None:
    """A connection that begins with neither `{` nor a length gets an error that says so, as a line of JSON."""
    session = ServerSession()
    (error,) = session.receive(sent)
    assert isinstance(error, ProtocolError)
    assert "begins with {" in error.message
    assert session.encoding == "json"


def test_white_space_may_stand_before_the_first_line() -> None:
    """A heredoc's line break or an indented message is JSON all the same."""
    assert ServerSession().receive(b'\n  {"type":"ping","id":1}\n') == [Ping(id=1)]
