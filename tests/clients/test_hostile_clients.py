"""Hostile clients affect only their own connection, and cost the daemon no lasting resources."""

from __future__ import annotations

import array
import json
import os
import random
import signal
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from promptlogctl.client import Client
from tests.clients.target import Target, target
from tests.daemon.processes import many_descriptors, until
from tests.fuzz.fuzz import Fuzz

PING = b'{"type":"ping","id":1}\n'
_IDLE_BYTES = 20 << 10
"""Maximum memory that the daemon may use for an idle client."""


def _idle(stack: ExitStack, daemon: Target, client: Client, number: int, sent: bytes = b"") -> None:
    """Connect this number of clients that send these bytes, and wait until the daemon has accepted them all."""
    for _ in range(number):
        stack.enter_context(daemon.connect()).sendall(sent)
    until(lambda: client.stats().clients == number + 1, 20)


@pytest.mark.timed
def test_ten_thousand_idle_connections(tmp_path: Path) -> None:
    """With 10,000 idle clients another client is served, and the memory for each idle client is limited."""
    with many_descriptors(10_500), target(tmp_path) as daemon, Client(daemon.socket) as client, ExitStack() as stack:
        before = daemon.resident()
        _idle(stack, daemon, client, 10_000)
        daemon.canary()
        assert daemon.resident() - before < 10_000 * _IDLE_BYTES
        stack.close()
        until(lambda: client.stats().clients == 1, 20)


@pytest.mark.timed
@pytest.mark.parametrize(
    "sent", [pytest.param(b"", id="silent", marks=pytest.mark.long), pytest.param(PING, id="unread reply")]
)
def test_memory_of_closed_connections_is_reused(tmp_path: Path, sent: bytes) -> None:
    """Repeated waves of a thousand clients make the daemon's memory grow once, not with each wave."""
    resident = []
    with many_descriptors(1_500), target(tmp_path) as daemon, Client(daemon.socket) as client:
        for _ in range(6):
            with ExitStack() as stack:
                _idle(stack, daemon, client, 1000, sent)
                resident.append(daemon.resident())
            until(lambda: client.stats().clients == 1, 20)
    assert resident[-1] - resident[2] < 1000 * _IDLE_BYTES / 8


def test_passed_descriptors_are_closed(tmp_path: Path) -> None:
    """The daemon closes descriptors that clients pass in SCM_RIGHTS messages."""
    with target(tmp_path) as daemon, daemon.connect() as sock, open("/dev/null") as null:
        sock.sendall(PING)
        assert b"pong" in sock.recv(4096)
        before = daemon.descriptors()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null.fileno()] * 100))]
        for _ in range(50):
            sock.sendmsg([PING], rights)
            assert b"pong" in sock.recv(4096)
        until(lambda: daemon.descriptors() == before)  # the store may have a file open for a moment


def test_running_out_of_descriptors(tmp_path: Path) -> None:
    """If clients use up all descriptors, the daemon serves connected clients, and accepts others when some leave."""
    most = 120
    with target(tmp_path, descriptors=most) as daemon:
        before = daemon.descriptors()
        with ExitStack() as stack:
            first = stack.enter_context(daemon.connect())
            first.sendall(PING)
            assert b"pong" in first.recv(4096)
            waiting = [stack.enter_context(daemon.connect()) for _ in range(2 * most)]
            until(lambda: "can't accept a client now" in daemon.log())
            assert daemon.descriptors() == most
            first.sendall(PING)
            assert b"pong" in first.recv(4096)
            # These runs use up their cells, and starting new cells may fail for lack of descriptors.
            for engine in (b"quickjs", b"quickjs", b"quickjs", b"deno"):
                first.sendall(b'{"type":"run","id":2,"source":"for(;;){}","engine":"%b"}\n' % engine)
                assert b'"id":2' in first.recv(4096)
            first.sendall(PING)
            assert b"pong" in first.recv(4096)
            # A waiting client is served when another one leaves.
            for sock in waiting[:most]:
                sock.close()
            waiting[-1].sendall(PING)
            for sock in waiting[most:-1]:
                sock.close()
            assert b"pong" in waiting[-1].recv(4096)
        until(lambda: daemon.descriptors() <= before + 30)  # Deno's cells may have some descriptors now


def test_a_full_backlog(tmp_path: Path) -> None:
    """If more clients connect than the kernel queues, each is refused by the kernel or served by the daemon."""
    backlog = int(Path("/proc/sys/net/core/somaxconn").read_text())
    with many_descriptors(backlog + 500), target(tmp_path) as daemon, ExitStack() as stack:
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            waiting = []
            for _ in range(backlog + 100):
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.setblocking(False)
                try:
                    sock.connect(str(daemon.socket))
                except BlockingIOError:
                    break
                sock.send(PING)
                waiting.append(sock)
            else:
                pytest.fail("the backlog was never full")
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        assert waiting
        for sock in waiting:
            sock.settimeout(20)
            assert b"pong" in sock.recv(4096)


def test_slow_senders(tmp_path: Path) -> None:
    """A hundred clients that send one byte at a time all get their replies, and delay no other client."""
    with target(tmp_path) as daemon, ExitStack() as stack:
        socks = [stack.enter_context(daemon.connect()) for _ in range(100)]
        for byte in PING:
            for sock in socks:
                sock.send(bytes([byte]))
            # The canary is served while a hundred frames are incomplete.
            daemon.canary()
        for sock in socks:
            assert b"pong" in sock.recv(4096)


@pytest.mark.timed
def test_connections_cut_at_any_byte(tmp_path: Path) -> None:
    """Connections that end at random bytes leave no run, no descriptor and no memory behind."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown if the test fails
    chance = random.Random(seed)
    run = {"type": "run", "id": 2, "source": "for(;;){}", "limits": {"cpu_ms": 9000, "wall_ms": 20_000}}
    frames = [PING, json.dumps(run).encode() + b"\n", b'{"type":"ping","id":3}\n', b'{"type":"list","id":4}\n']
    talk = b"".join(frames)
    whole = [len(b"".join(frames[:number])) for number in range(len(frames) + 1)]
    with target(tmp_path) as daemon, Client(daemon.socket) as client:
        before = daemon.resident()
        for _ in range(300):
            with daemon.connect() as sock:
                # Cut anywhere, or right after a request, so that the pending reply is not part of an incomplete frame.
                sock.sendall(talk[: chance.choice((chance.randrange(len(talk) + 1), chance.choice(whole)))])
                if chance.random() < 0.3:
                    # This is load, not a check: some clients read a part of the replies, or all of them, before they
                    # leave.
                    sock.settimeout(0.02)
                    with suppress(TimeoutError):
                        while sock.recv(chance.choice((10, 4096))) and chance.random() < 0.7:
                            pass
        # A run that was not cancelled would take longer than this wait.
        until(lambda: client.stats().clients == 1)
        until(lambda: client.stats().running == client.stats().queued == 0)
        assert client.stats().runs.get("cancelled"), "no run was on when its client left"
        assert daemon.resident() - before < 32 << 20


def test_repeated_ids_and_many_cancels(tmp_path: Path) -> None:
    """An id in use is refused, a free one accepted, and each of a thousand cancels gets exactly one reply."""
    with target(tmp_path) as daemon, daemon.connect() as sock, sock.makefile() as stream:

        def ask(*messages: dict[str, Any]) -> list[dict[str, Any]]:
            sock.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
            return [json.loads(stream.readline()) for _ in messages]

        short = {"type": "run", "id": 1, "source": "return 1"}
        for _ in range(2):
            (reply,) = ask(short)
            assert (reply["type"], reply["outcome"]) == ("finished", {"kind": "ok", "value": 1})
        run = {"type": "run", "id": 1, "source": "for(;;){}", "limits": {"cpu_ms": 9000, "wall_ms": 9000}}
        cancels = [{"type": "cancel", "id": i, "target": i * 7} for i in range(2, 1002)]
        replies = ask(run, run, *cancels, {"type": "cancel", "id": 2000, "target": 1})
        of_id_1 = [reply for reply in replies if reply["id"] == 1]
        assert [reply["type"] for reply in of_id_1] == ["error", "finished"]
        assert "id" in of_id_1[0]["message"]
        assert of_id_1[1]["outcome"] == {"kind": "cancelled"}
        found = {reply["id"]: reply["found"] for reply in replies if reply["type"] == "cancelling"}
        assert found == {**dict.fromkeys(range(2, 1002), False), 2000: True}


@pytest.mark.timed
def test_random_mutated_frames(tmp_path: Path) -> None:
    """A million bytes of randomly damaged requests in both encodings cause no crash, no hang and no memory growth."""
    with target(tmp_path) as daemon:
        fuzz = Fuzz(daemon.socket, seed=random.randrange(2**32))
        before = daemon.resident()
        fuzz.go(1_000_000)
        assert fuzz.hangs == 0, fuzz.seed
        assert fuzz.sent_bytes >= 1_000_000
        # Both damaged and intact frames were sent.
        for kind in ("bad_request", "pong", "finished", "submitted"):
            assert fuzz.replies[kind] > 0, (kind, fuzz.seed)
        assert daemon.resident() - before < 48 << 20, fuzz.seed
