"""Clients that leave, stall, flood or send what is no request: each harms its own connection alone."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from promptlogctl.client import Client
from promptlogd.wire import ClientSession
from promptlogd.wire.messages import LimitsAsked, Ping
from sandbox.limits import MIB
from tests.daemon.processes import (
    a_daemon,
    ask,
    many_descriptors,
    resident_bytes,
    talk,
    until,
)

FOUR_CELLS = "[pool]\ncells = 4\nspare = 4\n"
"""Four runs at once, whatever the number of cores."""

_LONG = {"cpu_ms": 9000, "wall_ms": 9000}


def test_json_lines_with_a_half_closed_client(socket_path: Path) -> None:
    """A shell's client, that closes its writing side at once, gets one JSON line with the value, then the end."""
    with talk(socket_path) as sock:
        sock.sendall(b'{"type":"run","id":1,"source":"const result = prompt.length","prompt":"abc"}\n')
        sock.shutdown(socket.SHUT_WR)
        received = b""
        while data := sock.recv(65536):
            received += data
    (line,) = received.splitlines()
    assert json.loads(line)["outcome"] == {"kind": "ok", "value": 3}


@pytest.mark.alone
def test_replies_come_when_ready(socket_path: Path) -> None:
    """Of two pipelined runs the short one answers first."""
    with Client(socket_path) as client:
        until(lambda: client.stats().pools[0].blank >= 2)
    with talk(socket_path) as sock:
        long = {"type": "run", "id": "long", "source": "for(;;){}"}
        replies = ask(sock, long, {"type": "run", "id": "short", "source": "return 1"})
    assert [reply["id"] for reply in replies] == ["short", "long"]


def test_cancel(socket_path: Path) -> None:
    """A cancelled run ends as `cancelled`, with the CPU time that it used, long before its limit."""
    run = {"type": "run", "id": 1, "source": "console.log('on'); for(;;){}", "stream_logs": True, "limits": _LONG}
    with talk(socket_path) as sock, sock.makefile("rb") as lines:
        sock.sendall(json.dumps(run).encode() + b"\n")
        assert json.loads(lines.readline())["text"] == "on"
        sock.sendall(b'{"type":"cancel","id":2,"target":1}\n')
        replies = {reply["id"]: reply for reply in (json.loads(lines.readline()) for _ in range(2))}
        assert replies[2]["found"] is True
        assert replies[1]["outcome"] == {"kind": "cancelled"}
        assert 0 < replies[1]["usage"]["cpu_ms"] < _LONG["cpu_ms"]
        sock.sendall(b'{"type":"cancel","id":3,"target":1}\n')
        assert json.loads(lines.readline())["found"] is False


@pytest.mark.alone
def test_a_client_that_leaves_has_its_runs_cancelled(tmp_path: Path) -> None:
    """When a client vanishes its runs end, long before their limits, and the daemon goes on."""
    with a_daemon(tmp_path, config=FOUR_CELLS) as daemon, Client(daemon.socket) as client:
        runs = [{"type": "run", "id": id, "source": "for(;;){}", "limits": _LONG} for id in range(3)]
        with talk(daemon.socket, *runs):
            until(lambda: client.stats().running == 3)
        until(lambda: client.stats().running == 0, 2)
        assert client.run_source("return 1").value == 1


_PING = {"json": b'{"type":"ping","id":1}\n', "msgpack": ClientSession().send(Ping(id=1))}


def _until_closed(sock: socket.socket) -> bytes:
    """Return all that comes until the daemon closes the connection."""
    received = b""
    while data := sock.recv(65536):
        received += data
    return received


@pytest.mark.parametrize("begun", [False, True], ids=["at once", "after a ping"])
@pytest.mark.parametrize(
    ("encoding", "junk", "code", "says"),
    [
        ("msgpack", b"\xff" * 8, b"too_large", b"exceeds the maximum"),
        ("msgpack", b"\0\0\0\x01\xc1", b"bad_request", b"its id is not readable"),
        ("json", b"{nonsense\n", b"bad_request", b"its id is not readable"),
        ("json", b'{"type":"ping"}\n', b"bad_request", b"`id`"),
    ],
)
def test_junk_ends_that_connection_alone(
    socket_path: Path, client: Client, encoding: str, junk: bytes, code: bytes, says: bytes, begun: bool
) -> None:
    """What is no frame is answered with an error and the connection's end; other clients notice nothing."""
    assert client.ping().protocol == 1
    with talk(socket_path) as sock:
        if begun:
            sock.sendall(_PING[encoding])
            assert b"pong" in sock.recv(65536)
        sock.sendall(junk)
        received = _until_closed(sock)
    assert code in received
    assert says in received
    assert client.ping().protocol == 1


def test_another_protocol_is_answered_in_text(socket_path: Path, client: Client) -> None:
    """What begins as no connection of ours does is told so in a line of JSON."""
    with talk(socket_path) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert "starts with {" in json.loads(_until_closed(sock))["message"]
    assert client.ping().protocol == 1


def _flood(sock: socket.socket, size: int) -> bytes:
    """Send a line of this length, or what the daemon takes of it, and return what comes until the connection ends."""
    line = b'{"type":"ping","id":1,"x":"' + b"x" * (size - 29) + b'"}'
    assert len(line) == size
    try:
        sock.sendall(line + b"\n")
        sock.shutdown(socket.SHUT_WR)
    except (BrokenPipeError, ConnectionResetError):
        pass  # closed while the rest of the flood was on its way
    received = b""
    try:
        received = _until_closed(sock)
    except ConnectionResetError:
        pass  # closed with a part of the flood unread
    return received


def test_a_frame_over_the_cap_ends_that_connection_alone(socket_path: Path, client: Client) -> None:
    """A frame of 8 MiB is read; a longer one is refused, or cut off where it stands, and others notice nothing."""
    cap = 8 << 20
    with talk(socket_path) as sock:
        assert b"unknown field `x`" in _flood(sock, cap)
    with talk(socket_path) as sock:
        received = _flood(sock, cap + 1_000_000)
    assert b"unknown field" not in received
    assert b"too_large" in received or not received
    assert client.ping().protocol == 1


@pytest.mark.alone
def test_half_a_frame_is_waited_for_so_long(tmp_path: Path) -> None:
    """A frame in two parts is answered; a client that owes the rest of one is closed after stall_s, and no sooner."""
    stall_s = 0.5
    with a_daemon(tmp_path, config=f"[server]\nstall_s = {stall_s}\n") as daemon, talk(daemon.socket) as sock:
        ping = b'{"type":"ping","id":1}\n'
        for part in (ping[:9], ping[9:]):
            sock.sendall(part)
        assert b"pong" in sock.recv(65536)
        began = time.monotonic()
        sock.sendall(ping[:9])
        received = _until_closed(sock)
        assert time.monotonic() - began >= stall_s
        assert "rest of a frame" in json.loads(received)["message"]


@pytest.mark.alone
def test_a_client_that_reads_nothing_is_closed(tmp_path: Path) -> None:
    """A client that reads gets all of 60 MB of replies; one that reads nothing is closed, and others are served."""
    runs = [{"type": "run", "id": id, "source": "return 'x'.repeat(1000000)"} for id in range(60)]
    with a_daemon(tmp_path, config="[server]\nstall_s = 0.5\n") as daemon, Client(daemon.socket) as client:
        with talk(daemon.socket) as sock:
            assert {reply["outcome"]["kind"] for reply in ask(sock, *runs)} == {"ok"}
        until(lambda: client.stats().clients == 1)
        with talk(daemon.socket, *runs) as sock:
            until(lambda: client.stats().clients == 2)
            until(lambda: client.stats().clients == 1, 15)
            assert _until_closed(sock).count(b"\n") < 60
        until(lambda: "does not read its replies" in daemon.log.read_text())
        assert client.run_source("return 1").value == 1


@pytest.mark.alone
def test_an_oversized_frame_leaves_no_memory_behind(tmp_path: Path) -> None:
    """What a client sent of a frame exceeds the maximum is given back with its connection, not some time later."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        first = 0
        for number in range(12):
            with talk(daemon.socket) as sock:
                assert b"pong" not in _flood(sock, 9_000_000)
            until(lambda: client.stats().clients == 1)
            if number == 1:
                first = resident_bytes(daemon.process.pid)
        # Ten more would be 90 MB if they stayed; one buffer more or less is the allocator's affair.
        assert resident_bytes(daemon.process.pid) < first + (20 << 20)


@pytest.mark.alone
def test_many_connections(tmp_path: Path) -> None:
    """With 5,000 idle connections open a client is served as ever."""
    with many_descriptors(5_500), a_daemon(tmp_path) as daemon, ExitStack() as idle:
        for _ in range(5000):
            idle.enter_context(talk(daemon.socket))
        with Client(daemon.socket) as client:
            assert client.run_source("return 1").value == 1
            assert client.stats().clients == 5001


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (b'"source":"return 1","prompt":"\\ud83d\\ude00"}', b'"source":"return 1","prompt":"\\ud800"}'),
        (b'"source":"return 1","prompt":"\\n"}', b'"source":"return 1","prompt":"\\q"}'),
        (
            b'"source":"return 1","env":{"a":[[]]}}',
            b'"source":"return 1","env":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        ),
    ],
    ids=["half of a surrogate pair", "no escape", "deep"],
)
@pytest.mark.parametrize("start", [b'{"type":"run","id":1,', b' { "id" : 1 , "type":"run",'], ids=["type", "id"])
def test_what_json_can_not_be_read_as_a_whole_is_answered(
    socket_path: Path, start: bytes, right: bytes, wrong: bytes
) -> None:
    """Where its id can be read the request is refused, and the connection and what was sent behind it go on."""
    with talk(socket_path) as sock, sock.makefile("rb") as lines:
        sock.sendall(start + right + b"\n")
        assert json.loads(lines.readline())["outcome"] == {"kind": "ok", "value": 1}
        sock.sendall(start + wrong + b"\n")
        sock.sendall(b'{"type":"ping","id":2}\n')
        replies = [json.loads(lines.readline()) for _ in range(2)]
    told = {reply["id"]: reply.get("code", reply["type"]) for reply in replies}
    assert told == {1: "bad_request", 2: "pong"}


def test_an_id_in_a_text_is_nobodys(socket_path: Path) -> None:
    """Only the message's own id is answered to."""
    head = b'{"type":"run",%s"env":{"id":7,"a":"\\ud800"},"source":"1"}\n'
    with talk(socket_path) as sock, sock.makefile("rb") as lines:
        for own, told in ((b'"id":8,', 8), (b"", None)):
            sock.sendall(head % own)
            error = json.loads(lines.readline())
            assert (error.get("id"), error["code"]) == (told, "bad_request")


@pytest.mark.alone
def test_a_client_that_does_not_read_costs_little(tmp_path: Path) -> None:
    """Asked for half a gigabyte that nobody reads, the daemon makes a few replies, and gives their memory back."""
    source = "return 'x'.repeat(4194000)"
    limits = {"result_bytes": 4194304, "cpu_ms": 500, "wall_ms": 20_000}
    with a_daemon(tmp_path, config=FOUR_CELLS) as daemon, Client(daemon.socket) as other:

        def big_replies() -> int:
            return other.stats().runs.get("ok", 0)

        assert other.run_source(source, limits=LimitsAsked(**limits)).ok
        before = resident_bytes(daemon.process.pid)
        runs = [{"type": "run", "id": i, "source": source, "limits": limits} for i in range(128)]
        with talk(daemon.socket, *runs), talk(daemon.socket, *runs):
            # Each of the two has its share: their replies wait, and no run of theirs goes on.
            until(lambda: big_replies() >= 3 and other.stats().running == other.stats().queued == 0, 20)
            for _ in range(30):  # results that are still being read become replies meanwhile
                assert other.run_source("return 1").value == 1
            made = big_replies() - 31
            for _ in range(30):
                assert other.run_source("return 1").value == 1
            assert big_replies() == made + 61, "more replies were made for those who do not read"
            assert 2 <= made <= 2 * (4 + 1)  # of each: in the four slots, and the next one as the first ended
            assert resident_bytes(daemon.process.pid) - before < 96 << 20
        until(lambda: resident_bytes(daemon.process.pid) - before < 48 << 20)


@pytest.mark.alone
@pytest.mark.parametrize("message", [b'{"type":"cancel","id":1,"target":2}\n', b'{"id":1,"type":"what"}\n'])
def test_replies_that_nobody_reads_end_the_reading(tmp_path: Path, message: bytes) -> None:
    """Cancels and messages that are no requests are answered at once, but not without a reader: it costs no memory."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as other:
        before = resident_bytes(daemon.process.pid)
        with talk(daemon.socket) as sock:
            sock.settimeout(1)
            much = message * (64 * MIB // len(message))
            with pytest.raises(TimeoutError):
                sock.sendall(much)
            assert resident_bytes(daemon.process.pid) - before < 16 << 20
            assert other.run_source("return 1").value == 1


@pytest.mark.alone
def test_a_client_that_leaves_more_than_it_may_is_noticed(tmp_path: Path) -> None:
    """With more requests pipelined than are taken, a client's leaving still ends its runs at once."""
    config = FOUR_CELLS + "[server]\nmax_pipelined = 16\n"
    with a_daemon(tmp_path, config=config) as daemon, Client(daemon.socket) as other:
        runs = [{"type": "run", "id": i, "source": "for(;;){}", "limits": _LONG} for i in range(20)]
        with talk(daemon.socket, *runs):
            # Which of them run changes: one that has run for 0.1 s gives its slot to the next.
            until(lambda: (stats := other.stats()).running >= 3 and stats.running + stats.queued == 16)
        until(lambda: other.stats().running == other.stats().queued == 0, 2)


def test_requests_before_a_bad_one_are_answered(client: Client) -> None:
    """What came whole before the frame that ends the connection is done and answered."""
    with talk(client.socket_path, {"type": "ping", "id": 1}, {"type": "ping", "id": 2}, {"x": 1}) as sock:
        replies = [json.loads(line) for line in sock.makefile()]
    assert sorted((reply["type"], reply.get("id")) for reply in replies[:3] if "id" in reply) == [
        ("pong", 1),
        ("pong", 2),
    ]
    assert [reply["code"] for reply in replies if reply["type"] == "error"] == ["bad_request"]
