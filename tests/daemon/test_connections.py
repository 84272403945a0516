"""Clients that leave, stall, flood or send what is no request: each harms its own connection alone."""

from __future__ import annotations

import json
import resource
import socket
import time
from pathlib import Path

import pytest

from promptlogctl.client import Client
from promptlogd.wire.messages import LimitsAsked
from tests.daemon.processes import (
    a_daemon,
    ask,
    resident_bytes,
    talk,
    until,
)


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


def test_replies_come_when_ready(socket_path: Path) -> None:
    """Of two pipelined runs the short one answers first."""
    with talk(socket_path) as sock:
        long = {"type": "run", "id": "long", "source": "for(;;){}"}
        replies = ask(sock, long, {"type": "run", "id": "short", "source": "return 1"})
    assert [reply["id"] for reply in replies] == ["short", "long"]


def test_cancel(client: Client) -> None:
    """A cancelled run ends as `cancelled` with its usage, long before its limit."""
    run = client.start(None, source="for(;;){}", limits=LimitsAsked(cpu_ms=9000, wall_ms=9000))
    began = time.monotonic()
    assert run.cancel()
    result = run.result()
    assert result.outcome.__struct_config__.tag == "cancelled"
    assert time.monotonic() - began < 3
    assert not run.cancel()


def test_a_client_that_leaves_has_its_runs_cancelled(tmp_path: Path) -> None:
    """When the client vanishes, its runs end, and the daemon goes on."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        with talk(daemon.socket) as sock:
            for id in range(3):
                limits = {"cpu_ms": 9000, "wall_ms": 9000}
                sock.sendall(
                    json.dumps({"type": "run", "id": id, "source": "for(;;){}", "limits": limits}).encode() + b"\n"
                )
            until(lambda: client.stats().running == 3)
        until(lambda: client.stats().running == 0, 2)
        assert client.run_source("return 1").value == 1


@pytest.mark.parametrize(
    "junk", [b"\xff" * 8, b"\0\0\0\x01\xc1", b"{nonsense\n", b"GET / HTTP/1.1\r\n\r\n", b"{" + b"x" * 9_000_000]
)
def test_junk_ends_that_connection_alone(socket_path: Path, client: Client, junk: bytes) -> None:
    """What is no frame is answered with an error and the connection's end; other clients notice nothing."""
    assert client.ping().protocol == 1
    with talk(socket_path) as sock:
        try:
            sock.sendall(junk)
            sock.shutdown(socket.SHUT_WR)
            received = b""
            while data := sock.recv(65536):
                received += data
            assert b"error" in received
        except (BrokenPipeError, ConnectionResetError):
            pass  # closed while the rest of the flood was on its way
    assert client.ping().protocol == 1


def test_half_a_frame_is_waited_for_so_long(tmp_path: Path) -> None:
    """A client that owes the rest of a frame is told and closed after stall_s."""
    config = tmp_path / "c.toml"
    config.write_text("[server]\nstall_s = 0.3\n")
    with a_daemon(tmp_path, "--config", str(config)) as daemon, talk(daemon.socket) as sock:
        sock.sendall(b'{"type":"pi')
        received = b""
        while data := sock.recv(65536):
            received += data
        assert "rest of a frame" in json.loads(received)["message"]


def test_a_client_that_reads_nothing_is_closed(tmp_path: Path) -> None:
    """Replies that are not read are bounded, and end that client alone."""
    config = tmp_path / "c.toml"
    config.write_text("[server]\nstall_s = 0.3\n")
    with a_daemon(tmp_path, "--config", str(config)) as daemon, Client(daemon.socket) as client:
        with talk(daemon.socket) as sock:
            request = {"type": "run", "id": 1, "source": "return 'x'.repeat(1000000)"}
            for id in range(60):
                sock.sendall(json.dumps({**request, "id": id}).encode() + b"\n")
            until(lambda: client.stats().clients == 1, 15)
        assert client.run_source("return 1").value == 1


def test_an_oversized_frame_leaves_no_memory_behind(tmp_path: Path) -> None:
    """What a client sent of a frame over the cap is given back with its connection, not some time later."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        first = 0
        for number in range(12):
            with talk(daemon.socket) as sock:
                try:
                    sock.sendall(b"{" + b"x" * 9_000_000)
                    while sock.recv(65536):
                        pass
                except OSError:
                    pass  # closed while the rest of the flood was on its way
            until(lambda: client.stats().clients == 1)
            if number == 1:
                first = resident_bytes(daemon.process.pid)
        # Ten more would be 90 MB if they stayed; one buffer more or less is the allocator's affair.
        assert resident_bytes(daemon.process.pid) < first + (20 << 20)


def test_many_connections(tmp_path: Path) -> None:
    """With 5,000 idle connections open a client is served as ever."""
    with a_daemon(tmp_path) as daemon:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        idle = []
        try:
            for _ in range(5000):
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(str(daemon.socket))
                idle.append(sock)
            with Client(daemon.socket) as client:
                assert client.run_source("return 1").value == 1
                assert client.stats().clients == 5001
        finally:
            for sock in idle:
                sock.close()


@pytest.mark.parametrize(
    "rest",
    [
        b'"source":"return 1","prompt":"\\ud800"}',
        b'"source":"return 1","prompt":"\\q"}',
        b'"source":"return 1","env":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    ],
    ids=["half of a surrogate pair", "no escape", "deep"],
)
@pytest.mark.parametrize("start", [b'{"type":"run","id":1,', b' { "id" : 1 , "type":"run",'], ids=["type", "id"])
def test_what_json_can_not_be_read_as_a_whole_is_answered(socket_path: Path, start: bytes, rest: bytes) -> None:
    """Where its id can be read the request is refused, and the connection and what was sent behind it go on."""
    with talk(socket_path) as sock:
        sock.sendall(start + rest + b"\n")
        sock.sendall(b'{"type":"ping","id":2}\n')
        with sock.makefile("rb") as lines:
            replies = [json.loads(lines.readline()) for _ in range(2)]
    told = {reply["id"]: reply.get("code", reply["type"]) for reply in replies}
    assert told == {1: "bad_request", 2: "pong"}


def test_an_id_in_a_text_is_nobodys(socket_path: Path) -> None:
    """Only the message's own id is answered to."""
    with talk(socket_path) as sock:
        sock.sendall(b'{"type":"run","env":{"id":7,"a":"\\ud800"},"source":"1"}\n')
        error = json.loads(sock.makefile("rb").readline())
    assert (error.get("id"), error["code"]) == (None, "bad_request")


def test_a_client_that_does_not_read_costs_little(tmp_path: Path) -> None:
    """Asked for half a gigabyte that nobody reads, the daemon makes a few replies, and gives their memory back."""
    source = "return 'x'.repeat(4194000)"
    limits = {"result_bytes": 4194304, "cpu_ms": 500}
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as other:
        assert other.run_source(source, limits=LimitsAsked(**limits)).ok
        before = resident_bytes(daemon.process.pid)
        runs = [{"type": "run", "id": i, "source": source, "limits": limits} for i in range(128)]
        with talk(daemon.socket, *runs), talk(daemon.socket, *runs):
            for _ in range(30):
                assert other.run_source("return 1").value == 1
                time.sleep(0.05)
            assert resident_bytes(daemon.process.pid) - before < 96 << 20
        until(lambda: resident_bytes(daemon.process.pid) - before < 48 << 20)


def test_a_client_that_leaves_more_than_it_may_is_noticed(tmp_path: Path) -> None:
    """With more requests pipelined than are taken, a client's leaving still ends its runs at once."""
    limits = {"cpu_ms": 10000, "wall_ms": 30000}
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as other:
        runs = [{"type": "run", "id": i, "source": "for(;;){}", "limits": limits} for i in range(140)]
        with talk(daemon.socket, *runs):
            until(lambda: other.stats().running == 4)
        until(lambda: other.stats().running == 0, 2)


def test_requests_before_a_bad_one_are_answered(client: Client) -> None:
    """What came whole before the frame that ends the connection is done and answered."""
    with talk(client.socket_path, {"type": "ping", "id": 1}, {"type": "ping", "id": 2}, {"x": 1}) as sock:
        replies = [json.loads(line) for line in sock.makefile()]
    assert sorted((reply["type"], reply.get("id")) for reply in replies[:3] if "id" in reply) == [
        ("pong", 1),
        ("pong", 2),
    ]
    assert [reply["code"] for reply in replies if reply["type"] == "error"] == ["bad_request"]
