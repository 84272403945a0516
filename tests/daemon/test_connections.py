"""Clients that disconnect, stall, flood or send invalid data affect only their own connection."""

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
"""Four concurrent runs, for any number of cores."""

_LONG = {"cpu_ms": 9000, "wall_ms": 9000}


def test_json_lines_with_a_half_closed_client(socket_path: Path) -> None:
    """A client that closes its writing side at once gets its reply as one JSON line, then the end of the connection."""
    with talk(socket_path) as sock:
        sock.sendall(b'{"type":"run","id":1,"source":"const result = prompt.length","prompt":"abc"}\n')
        sock.shutdown(socket.SHUT_WR)
        received = b""
        while data := sock.recv(65536):
            received += data
    (line,) = received.splitlines()
    assert json.loads(line)["outcome"] == {"kind": "ok", "value": 3}


@pytest.mark.timed
def test_replies_are_sent_in_order_of_completion(socket_path: Path) -> None:
    """The shorter of two pipelined runs is answered first."""
    with Client(socket_path) as client:
        until(lambda: client.stats().pools[0].blank >= 2)
    with talk(socket_path) as sock:
        long = {"type": "run", "id": "long", "source": "for(;;){}"}
        replies = ask(sock, long, {"type": "run", "id": "short", "source": "return 1"})
    assert [reply["id"] for reply in replies] == ["short", "long"]


def test_a_run_can_be_cancelled(socket_path: Path) -> None:
    """A cancelled run ends as `cancelled` long before its limit, and reports the CPU time that it used."""
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


@pytest.mark.timed
def test_runs_are_cancelled_when_their_client_disconnects(tmp_path: Path) -> None:
    """When a client disconnects, the daemon ends its runs long before their limits, and serves other clients."""
    with a_daemon(tmp_path, config=FOUR_CELLS) as daemon, Client(daemon.socket) as client:
        runs = [{"type": "run", "id": id, "source": "for(;;){}", "limits": _LONG} for id in range(3)]
        with talk(daemon.socket, *runs):
            until(lambda: client.stats().running == 3)
        until(lambda: client.stats().running == 0, 2)
        assert client.run_source("return 1").value == 1


_PING = {"json": b'{"type":"ping","id":1}\n', "msgpack": ClientSession().send(Ping(id=1))}


def _until_closed(sock: socket.socket) -> bytes:
    """Return everything received until the daemon closes the connection."""
    received = b""
    while data := sock.recv(65536):
        received += data
    return received


@pytest.mark.parametrize("begun", [False, True], ids=["first frame", "after a ping"])
@pytest.mark.parametrize(
    ("encoding", "junk", "code", "says"),
    [
        ("msgpack", b"\xff" * 8, b"too_large", b"exceeds the maximum"),
        ("msgpack", b"\0\0\0\x01\xc1", b"bad_request", b"its id is not readable"),
        ("json", b"{nonsense\n", b"bad_request", b"its id is not readable"),
        ("json", b'{"type":"ping"}\n', b"bad_request", b"`id`"),
    ],
)
def test_invalid_frames_end_only_their_own_connection(
    socket_path: Path, client: Client, encoding: str, junk: bytes, code: bytes, says: bytes, begun: bool
) -> None:
    """The daemon answers bytes that are not a frame with an error, and closes only that connection."""
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


def test_another_protocol_gets_an_error_as_json(socket_path: Path, client: Client) -> None:
    """A client that starts with another protocol, such as HTTP, gets an error as a line of JSON."""
    with talk(socket_path) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert "starts with {" in json.loads(_until_closed(sock))["message"]
    assert client.ping().protocol == 1


def _flood(sock: socket.socket, size: int) -> bytes:
    """Send a line of this length, as far as the daemon reads it, and return what it sends until the connection ends."""
    line = b'{"type":"ping","id":1,"x":"' + b"x" * (size - 29) + b'"}'
    assert len(line) == size
    try:
        sock.sendall(line + b"\n")
        sock.shutdown(socket.SHUT_WR)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the daemon closed the connection before the whole line was sent
    received = b""
    try:
        received = _until_closed(sock)
    except ConnectionResetError:
        pass  # the daemon closed the connection before it had read the whole line
    return received


def test_a_frame_over_the_cap_ends_only_its_own_connection(socket_path: Path, client: Client) -> None:
    """The daemon reads a frame of 8 MiB, and refuses a longer one or cuts it off; other clients are not affected."""
    cap = 8 << 20
    with talk(socket_path) as sock:
        assert b"unknown field `x`" in _flood(sock, cap)
    with talk(socket_path) as sock:
        received = _flood(sock, cap + 1_000_000)
    assert b"unknown field" not in received
    assert b"too_large" in received or not received
    assert client.ping().protocol == 1


@pytest.mark.timed
def test_an_incomplete_frame_has_a_deadline(tmp_path: Path) -> None:
    """The daemon answers a frame in two parts, and closes a client that does not complete a frame after stall_s."""
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


@pytest.mark.timed
def test_a_client_that_reads_nothing_is_closed(tmp_path: Path) -> None:
    """A client that reads gets 60 MB of replies; the daemon closes one that reads nothing, and serves others."""
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


@pytest.mark.timed
def test_memory_of_an_oversized_frame_is_freed_with_its_connection(tmp_path: Path) -> None:
    """When the daemon closes a connection with an oversized frame, it frees the bytes of that frame at once."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        first = 0
        for number in range(12):
            with talk(daemon.socket) as sock:
                assert b"pong" not in _flood(sock, 9_000_000)
            until(lambda: client.stats().clients == 1)
            if number == 1:
                first = resident_bytes(daemon.process.pid)
        # Ten more frames would be 90 MB if they stayed. The allocator may keep one buffer.
        assert resident_bytes(daemon.process.pid) < first + (20 << 20)


@pytest.mark.timed
@pytest.mark.long  # tests/clients/test_hostile_clients.py does the same with 10,000
def test_many_connections(tmp_path: Path) -> None:
    """The daemon serves a client while 5,000 idle connections are open."""
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
    ids=["lone surrogate", "invalid escape", "deep nesting"],
)
@pytest.mark.parametrize("start", [b'{"type":"run","id":1,', b' { "id" : 1 , "type":"run",'], ids=["type", "id"])
def test_a_request_with_invalid_json_is_refused_by_its_id(
    socket_path: Path, start: bytes, right: bytes, wrong: bytes
) -> None:
    """If only the id can be read, the daemon refuses the request; the connection and later requests go on."""
    with talk(socket_path) as sock, sock.makefile("rb") as lines:
        sock.sendall(start + right + b"\n")
        assert json.loads(lines.readline())["outcome"] == {"kind": "ok", "value": 1}
        sock.sendall(start + wrong + b"\n")
        sock.sendall(b'{"type":"ping","id":2}\n')
        replies = [json.loads(lines.readline()) for _ in range(2)]
    told = {reply["id"]: reply.get("code", reply["type"]) for reply in replies}
    assert told == {1: "bad_request", 2: "pong"}


def test_only_the_id_of_the_message_itself_is_used(socket_path: Path) -> None:
    """The error for invalid JSON names the id of the message, and never an `id` inside its fields."""
    head = b'{"type":"run",%s"env":{"id":7,"a":"\\ud800"},"source":"1"}\n'
    with talk(socket_path) as sock, sock.makefile("rb") as lines:
        for own, told in ((b'"id":8,', 8), (b"", None)):
            sock.sendall(head % own)
            error = json.loads(lines.readline())
            assert (error.get("id"), error["code"]) == (told, "bad_request")


@pytest.mark.timed
def test_a_client_that_does_not_read_uses_little_memory(tmp_path: Path) -> None:
    """If nobody reads replies of half a gigabyte, the daemon prepares only a few, and frees their memory."""
    source = "return 'x'.repeat(4194000)"
    limits = {"result_bytes": 4194304, "cpu_ms": 500, "wall_ms": 20_000}
    with a_daemon(tmp_path, config=FOUR_CELLS) as daemon, Client(daemon.socket) as other:

        def big_replies() -> int:
            return other.stats().runs.get("ok", 0)

        assert other.run_source(source, limits=LimitsAsked(**limits)).ok
        before = resident_bytes(daemon.process.pid)
        runs = [{"type": "run", "id": i, "source": source, "limits": limits} for i in range(128)]
        with talk(daemon.socket, *runs), talk(daemon.socket, *runs):
            # Each of the two connections has reached its share: their replies wait, and no more of their runs start.
            until(lambda: big_replies() >= 3 and other.stats().running == other.stats().queued == 0, 20)
            for _ in range(30):  # results that are still being read become replies during this time
                assert other.run_source("return 1").value == 1
            made = big_replies() - 31
            for _ in range(30):
                assert other.run_source("return 1").value == 1
            assert big_replies() == made + 61, "more replies were made for those who do not read"
            assert 2 <= made <= 2 * (4 + 1)  # of each: one for each slot, and the next one when the first has ended
            assert resident_bytes(daemon.process.pid) - before < 96 << 20
        until(lambda: resident_bytes(daemon.process.pid) - before < 48 << 20)


@pytest.mark.timed
@pytest.mark.parametrize("message", [b'{"type":"cancel","id":1,"target":2}\n', b'{"id":1,"type":"what"}\n'])
def test_reading_stops_when_replies_are_not_read(tmp_path: Path, message: bytes) -> None:
    """The daemon stops reading cancels and invalid messages whose answers the client does not read, to bound memory."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as other:
        before = resident_bytes(daemon.process.pid)
        with talk(daemon.socket) as sock:
            sock.settimeout(1)
            much = message * (64 * MIB // len(message))
            with pytest.raises(TimeoutError):
                sock.sendall(much)
            assert resident_bytes(daemon.process.pid) - before < 16 << 20
            assert other.run_source("return 1").value == 1


@pytest.mark.timed
def test_a_disconnect_behind_too_many_requests_is_noticed(tmp_path: Path) -> None:
    """Runs end at once when their client disconnects, even if it pipelined more requests than the daemon reads."""
    config = FOUR_CELLS + "[server]\nmax_pipelined = 16\n"
    with a_daemon(tmp_path, config=config) as daemon, Client(daemon.socket) as other:
        runs = [{"type": "run", "id": i, "source": "for(;;){}", "limits": _LONG} for i in range(20)]
        with talk(daemon.socket, *runs):
            # Which of them run changes, because a run gives its slot to the next one after 0.1 s.
            until(lambda: (stats := other.stats()).running >= 3 and stats.running + stats.queued == 16)
        until(lambda: other.stats().running == other.stats().queued == 0, 2)


def test_requests_before_an_invalid_frame_are_answered(client: Client) -> None:
    """The daemon carries out and answers requests that arrived complete before the frame that ends the connection."""
    with talk(client.socket_path, {"type": "ping", "id": 1}, {"type": "ping", "id": 2}, {"x": 1}) as sock:
        replies = [json.loads(line) for line in sock.makefile()]
    assert sorted((reply["type"], reply.get("id")) for reply in replies[:3] if "id" in reply) == [
        ("pong", 1),
        ("pong", 2),
    ]
    assert [reply["code"] for reply in replies if reply["type"] == "error"] == ["bad_request"]
