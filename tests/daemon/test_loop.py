"""Input that a client or a program chose does not block the loop: replies are right, and turns are short.

The tests measure a turn by its CPU time, because the machine may be busy. Their bound is far above the usual time of
turns, and far below the time that the loop would take to parse these inputs itself.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from promptlogctl.client import Client, LimitsAsked
from promptlogd.wire import INLINE_BYTES, MAX_FRAME_BYTES, ClientSession
from promptlogd.wire.messages import Error, Finished, Ping, Pong, Reply, Request, Run, Submit
from sandbox.outcome import Ok
from tests.daemon.processes import Daemon, a_daemon, children, talk, until

pytestmark = pytest.mark.timed

MIB = 1 << 20
_TURN_MS = 40.0
_TURNS = "[pool]\ncells = 2\nspare = 2\n"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon for the tests of this module."""
    with a_daemon(tmp_path_factory.mktemp("loop"), config=_TURNS) as daemon:
        yield daemon


def _ask(daemon: Daemon, *frames: bytes, encoding: Any, replies: int) -> list[Reply]:
    """Send frames on a new connection, and return this number of replies in order of arrival."""
    session, found = ClientSession(encoding=encoding), list[Reply]()
    with talk(daemon.socket) as sock:
        sender = threading.Thread(target=lambda: list(map(sock.sendall, frames)), daemon=True)
        sender.start()
        while len(found) < replies:
            data = sock.recv(MIB)
            assert data, found
            found += session.receive(data)
        sender.join()
    return found


_MANY = 7 * MIB
_RUN = b'{"type":"run","id":1,'
_ITEMS = b"\x83\xa4type\xa3run\xa2id\x01\xaehost_functions\xdd" + _MANY.to_bytes(4, "big")
_AGAIN = b"\xdf" + (2 + _MANY // 8).to_bytes(4, "big") + b"\xa4type\xa3run\xa2id\x01"

_Frame = tuple[bytes, bytes, int, bytes]
"""The start, a repeated part, its count, and the end of a frame of several megabytes."""

_FRAMES: list[tuple[str, _Frame, Any, str]] = [
    # name, frame, encoding, text in the error
    ("an env of lists", (_RUN + b'"env":{"a":[', b"[],", 2_400_000, b"1]}}"), "json", "the env is"),
    ("an env of escapes", (_RUN + b'"env":{"a":"', b"\\n", 3_600_000, b'"}}'), "json", "the env"),
    ("a field of lists", (_RUN + b'"zap":[', b"[],", 2_400_000, b"1]}"), "json", "`zap`"),
    ("a field of lists first", (b'{"zap":[', b"[],", 2_400_000, b'1],"id":1}'), "json", "`type`"),
    ("a prompt of escapes", (_RUN + b'"prompt":"', b"\\n", 3_600_000, b'"}'), "json", "the prompt"),
    ("a source of escapes", (b'{"type":"submit","id":1,"source":"', b"\\n", 3_600_000, b'"}'), "json", "source"),
    ("lone surrogate", (_RUN + b'"prompt":"', b"\\n", 3_600_000, b'\\ud800"}'), "json", "truncated"),
    ("host functions", (_RUN + b'"host_functions":[', b'"a",', 1_800_000, b'"a"]}'), "json", "<= 64"),
    ("host functions in MessagePack", (_ITEMS, b"\xa0", _MANY, b""), "msgpack", "<= 64"),
    ("repeated limits", (_AGAIN, b"\xa6limits\x80", _MANY // 8, b""), "msgpack", "give either"),
]


@pytest.mark.parametrize(
    ("parts", "encoding", "says"), [case[1:] for case in _FRAMES], ids=[case[0] for case in _FRAMES]
)
def test_a_large_invalid_frame_is_refused_in_order(daemon: Daemon, parts: _Frame, encoding: Any, says: str) -> None:
    """A frame with millions of items gets its error, and the daemon answers the requests behind it afterwards."""
    begin, repeated, times, end = parts
    payload = begin + repeated * times + end
    frame = payload + b"\n" if encoding == "json" else len(payload).to_bytes(4, "big") + payload
    assert INLINE_BYTES < len(frame) <= MAX_FRAME_BYTES
    ping = ClientSession(encoding=encoding).send(Ping(id=2))
    error, pong = _ask(daemon, frame + ping, encoding=encoding, replies=2)
    assert isinstance(error, Error)
    assert error.id == 1
    assert says in error.message
    assert isinstance(pong, Pong)
    with Client(daemon.socket) as client:
        assert client.stats().turn_cpu_max_ms < _TURN_MS


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_large_requests_succeed(daemon: Daemon, encoding: Any) -> None:
    """Requests with a prompt, a source or an env near its limit succeed as small ones do."""
    prompt = "\U0001f600a" * (MIB // 5 - 1)
    source = "//" + "x" * (MIB - 100) + "\nreturn [prompt.length, env.a.length]"
    requests: list[Request] = [
        Run(id=1, source="return prompt", prompt=prompt, limits=None),
        Run(id=2, source=source, prompt="x" * 3000, env=_raw({"a": "y" * 200_000})),
        Submit(id=3, source=source),
    ]
    frames = list(map(ClientSession(encoding=encoding).send, requests))
    assert all(len(frame) > INLINE_BYTES for frame in frames)
    replies = {reply.id: reply for reply in _ask(daemon, *frames, encoding=encoding, replies=3)}
    assert _value(replies[1]) == prompt
    assert _value(replies[2]) == [3000, 200_000]
    submitted, run = replies[3], replies[2]
    assert isinstance(run, Finished)
    assert run.hash == submitted.hash  # type: ignore[union-attr]
    with Client(daemon.socket) as client:
        assert client.stats().turn_cpu_max_ms < _TURN_MS


def _raw(value: object) -> Raw:
    return Raw(json.dumps(value).encode())


def _value(reply: Reply) -> object:
    assert isinstance(reply, Finished), reply
    assert isinstance(reply.outcome, Ok), reply.outcome
    return json.loads(bytes(reply.outcome.value))


def test_a_frame_without_an_id_ends_only_its_own_connection(daemon: Daemon) -> None:
    """A large frame without an id gets an error, its connection is closed, and the next client is served."""
    with talk(daemon.socket) as sock, sock.makefile("rb") as lines:
        sock.sendall(b'{"zap":[' + b"[]," * 2_400_000 + b'1],"type":"run"}\n')
        error = json.loads(lines.readline())
        assert (error["type"], error.get("id")) == ("error", None)
        assert lines.readline() == b""
    with Client(daemon.socket) as client:
        assert client.run_source("return 1").value == 1


@pytest.mark.parametrize(
    "last", [pytest.param("1", id="lists", marks=pytest.mark.long), pytest.param("'\\ud800'", id="lone surrogate")]
)
def test_a_large_result_is_checked_in_the_decoder(daemon: Daemon, last: str) -> None:
    """A result of 4 MiB of lists is ok, also with a lone surrogate at its end."""
    source = f"const a = Array(1_390_000).fill([]); a.push({last}); return a"
    limits = LimitsAsked(cpu_ms=5000, wall_ms=20_000, result_bytes=4 * MIB)
    with Client(daemon.socket) as client:
        result = client.run_source(source, limits=limits)
        assert isinstance(result.outcome, Ok), result.outcome
        assert len(result.value) == 1_390_001
        assert result.value[-1] in (1, "\ufffd")
        assert client.stats().turn_cpu_max_ms < _TURN_MS


def test_a_client_can_disconnect_while_its_large_frame_waits(daemon: Daemon) -> None:
    """The daemon notices at once that clients disconnected while their frames wait, and serves the next client."""
    with Client(daemon.socket) as client:
        frame = b'{"type":"run","id":1,"env":{"a":[' + b"[]," * 2_400_000 + b"1]}}\n"
        for _ in range(4):
            with talk(daemon.socket) as sock:
                sock.sendall(frame)
        until(lambda: client.stats().clients == 1)
        assert client.run_source("return prompt.length", prompt="x" * MIB).value == MIB


def test_the_decoder_is_started_only_for_large_requests(tmp_path: Path) -> None:
    """Small requests start no decoder. After a decoder is killed, the next large request starts another."""
    with a_daemon(tmp_path, config=_TURNS) as daemon, Client(daemon.socket) as client:
        assert client.run_source("return 1").value == 1
        assert _decoders(daemon) == []
        assert client.run_source("return prompt.length", prompt="x" * MIB).value == MIB
        (pid,) = _decoders(daemon)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not os.path.exists(f"/proc/{pid}") or _is_zombie(pid))
        assert client.run_source("return prompt.length", prompt="x" * MIB).value == MIB
        (another,) = _decoders(daemon)
        assert another != pid
    until(lambda: not os.path.exists(f"/proc/{another}"))


def test_many_connections_keep_turns_short(daemon: Daemon) -> None:
    """Turns of the loop stay short when 200 connections of one process send pings at once."""
    with ExitStack() as stack:
        socks = [stack.enter_context(talk(daemon.socket)) for _ in range(200)]
        for sock in socks:
            sock.sendall(b'{"type":"ping","id":1}\n' * 300)
        for sock in socks:
            with sock.makefile("rb") as lines:
                for _ in range(300):
                    assert b"pong" in lines.readline()
    with Client(daemon.socket) as client:
        until(lambda: client.stats().clients == 1)
        assert client.stats().turn_cpu_max_ms < _TURN_MS


@pytest.mark.parametrize("what", ["stats", "list", "run"])
def test_disconnecting_with_thousands_of_requests_keeps_turns_short(daemon: Daemon, what: str) -> None:
    """Turns of the loop stay short when a client disconnects with thousands of unanswered requests."""
    with talk(daemon.socket) as sock:
        sock.settimeout(1.0)
        source = ',"source":"for (;;) {}"' if what == "run" else ""
        with suppress(TimeoutError):
            sock.sendall(
                b"".join(b'{"type":"%b","id":%d%b}\n' % (what.encode(), id, source.encode()) for id in range(9000))
            )
    with Client(daemon.socket) as client:
        until(lambda: client.stats().clients == 1)
        assert client.stats().turn_cpu_max_ms < _TURN_MS


def _decoders(daemon: Daemon) -> list[int]:
    found = []
    for pid in children(daemon.process.pid):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if b"decoder/script.py" in file.read():
                    found.append(pid)
        except OSError:
            continue
    return found


def _is_zombie(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("engine", ["quickjs", "deno"])
@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_a_slow_reader_gets_a_large_result_complete(daemon: Daemon, encoding: Any, engine: str) -> None:
    """A result of 4 MiB, a console line full of escapes and a later pong arrive unchanged."""
    limits = LimitsAsked(result_bytes=4 * MIB, cpu_ms=2000, wall_ms=20_000, memory_bytes=256 * MIB)
    source = "console.log('\\n'.repeat(50000)); return prompt + 'é'.repeat(1500000)"
    prompt = "語" * 200_000
    session = ClientSession(encoding=encoding)
    run = session.send(Run(id=1, source=source, prompt=prompt, engine=engine, limits=limits))
    replies: list[Reply] = []
    with talk(daemon.socket) as sock:
        sender = threading.Thread(target=lambda: sock.sendall(run), daemon=True)
        sender.start()
        while not replies:
            replies += session.receive(sock.recv(10_000))
        sender.join()
        sock.sendall(session.send(Ping(id=2)))
        while len(replies) < 2:
            replies += session.receive(sock.recv(10_000))
    finished, pong = replies
    assert isinstance(finished, Finished)
    assert isinstance(finished.outcome, Ok)
    assert json.loads(bytes(finished.outcome.value)) == prompt + "é" * 1_500_000
    assert [line.text for line in finished.logs] == ["\n" * 50_000]
    assert isinstance(pong, Pong)
