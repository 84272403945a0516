"""Hostile clients: whatever they do ends at their own connection, and costs the daemon nothing that stays."""

from __future__ import annotations

import array
import json
import os
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from promptlogctl.client import Client
from tests.fuzz.fuzz import Fuzz

PING = b'{"type":"ping","id":1}\n'


class Target:
    """A daemon of one test's own, and what it holds."""

    def __init__(self, socket_path: Path, pid: int) -> None:
        self.socket = socket_path
        self.pid = pid

    def descriptors(self) -> int:
        """How many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def resident(self) -> int:
        """Its resident memory in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) << 10

    def connect(self) -> socket.socket:
        """A raw connection."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.socket))  # without a time-out: with one, a full backlog is an error
        sock.settimeout(20)
        return sock

    def canary(self) -> None:
        """Another client is served."""
        with Client(self.socket) as client:
            assert client.run_source("const result = prompt.length", "canary").value == 6


@contextmanager
def target(folder: Path, *, descriptors: int | None = None) -> Iterator[Target]:
    """Start a daemon; at the end a canary answers and its descriptors are as they were."""
    reading, writing = os.pipe()

    def limit() -> None:
        if descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    command = [sys.executable, "-m", "promptlogd", "--socket", folder / "s", "--state-dir", folder / "state"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--ready-fd", str(writing)], pass_fds=(writing,), stderr=log, preexec_fn=limit
        )
    os.close(writing)
    with process:
        try:
            with open(reading, "rb") as ready:
                assert ready.read() == b"ready\n", (folder / "log").read_text()
            daemon = Target(folder / "s", process.pid)
            _until(lambda: _all_blank(daemon))
            before = daemon.descriptors()
            yield daemon
            daemon.canary()
            # The pool may be at replacing a cell: three descriptors each.
            _until(lambda: abs(daemon.descriptors() - before) <= 6)
            assert "Traceback" not in (folder / "log").read_text()
        finally:
            process.terminate()
            process.wait(15)


def _all_blank(daemon: Target) -> bool:
    with Client(daemon.socket) as client:
        pool, _ = client.stats().pools
    return pool.blank == pool.size


def _until(condition, seconds: float = 10.0) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def test_ten_thousand_idle_connections(tmp_path: Path) -> None:
    """With 10,000 clients that say nothing, another is served, and their memory comes back when they leave."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= 10_500, f"this host lets a process have {hard} descriptors; the test needs 10,500"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with target(tmp_path) as daemon, ExitStack() as stack:
            before = daemon.resident()
            for _ in range(10_000):
                stack.enter_context(daemon.connect())
            _until(lambda: daemon.descriptors() > 10_000)
            daemon.canary()
            assert daemon.resident() - before < 200 << 20
            stack.close()
            _until(lambda: daemon.descriptors() < 500)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_descriptors_that_are_passed_are_not_kept(tmp_path: Path) -> None:
    """SCM_RIGHTS messages, whole and with a frame, leave the daemon with no descriptor more."""
    with target(tmp_path) as daemon, daemon.connect() as sock, open("/dev/null") as null:
        before = daemon.descriptors()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null.fileno()] * 100))]
        for _ in range(50):
            sock.sendmsg([PING], rights)
            assert sock.recv(4096)
        assert daemon.descriptors() == before


def test_running_out_of_descriptors_is_survived(tmp_path: Path) -> None:
    """With all its descriptors taken by clients the daemon goes on, and takes new ones when those leave."""
    with target(tmp_path, descriptors=120) as daemon:
        with ExitStack() as stack:
            first = stack.enter_context(daemon.connect())
            for _ in range(300):
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.setblocking(False)
                try:
                    sock.connect(str(daemon.socket))
                except BlockingIOError:
                    break
            time.sleep(0.5)
            first.sendall(PING)
            assert b"pong" in first.recv(4096)
        _until(lambda: daemon.descriptors() < 100)


def test_a_full_backlog_is_worked_off(tmp_path: Path) -> None:
    """More connections at once than the kernel queues are refused by it or served, and none is left hanging."""
    with target(tmp_path) as daemon, ExitStack() as stack:
        os.kill(daemon.pid, 19)
        try:
            waiting = []
            for _ in range(3000):
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
            os.kill(daemon.pid, 18)
        for sock in waiting:
            sock.setblocking(True)
            sock.settimeout(20)
            assert b"pong" in sock.recv(4096)


def test_slow_senders(tmp_path: Path) -> None:
    """A hundred clients that send a byte at a time are each answered, and hold up nobody."""
    with target(tmp_path) as daemon, ExitStack() as stack:
        socks = [stack.enter_context(daemon.connect()) for _ in range(100)]
        for byte in PING:
            for sock in socks:
                sock.send(bytes([byte]))
            began = time.monotonic()
            daemon.canary()
            assert time.monotonic() - began < 2
        for sock in socks:
            assert b"pong" in sock.recv(4096)


def test_clients_that_vanish_at_any_point(tmp_path: Path) -> None:
    """Connections cut at random bytes of a conversation leave no run, no descriptor and no memory."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    run = json.dumps({"type": "run", "id": 2, "source": "for(;;){}", "limits": {"cpu_ms": 2000, "wall_ms": 5000}})
    talk = PING + run.encode() + b"\n" + PING + b'{"type":"list","id":3}\n'
    with target(tmp_path) as daemon:
        before = daemon.resident()
        for _ in range(300):
            with daemon.connect() as sock:
                sock.sendall(talk[: chance.randrange(len(talk) + 1)])
                if chance.random() < 0.3:
                    sock.settimeout(0.02)
                    with suppress(TimeoutError):
                        sock.recv(chance.randrange(1, 200))
        with Client(daemon.socket) as client:
            _until(lambda: client.stats().running == 0 and client.stats().clients == 1)
        assert daemon.resident() - before < 32 << 20, seed


def test_the_same_id_and_floods_of_cancels(tmp_path: Path) -> None:
    """Ids in use are refused, cancels of anything are answered, each exactly once."""
    with target(tmp_path) as daemon, daemon.connect() as sock:
        run = {"type": "run", "id": 1, "source": "for(;;){}", "limits": {"cpu_ms": 9000, "wall_ms": 9000}}
        messages = [run, run, *({"type": "cancel", "id": i, "target": i * 7} for i in range(2, 1002))]
        messages += [{"type": "cancel", "id": 2000, "target": 1}]
        sock.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
        stream = sock.makefile()
        replies = [json.loads(stream.readline()) for _ in messages]
        kinds = [reply["type"] for reply in replies]
        assert (kinds.count("cancelling"), kinds.count("error"), kinds.count("finished")) == (1001, 1, 1)
        assert next(reply for reply in replies if reply["type"] == "finished")["outcome"] == {"kind": "cancelled"}


def test_every_field_of_a_wrong_type(tmp_path: Path) -> None:
    """Each field of each request, given each JSON type that it does not take, is an error with the request's id."""
    requests = {
        "submit": {"source": "x", "name": "n"},
        "run": {"hash": "a" * 64, "source": "x", "prompt": "p", "env": {}, "engine": "quickjs", "limits": {},
                "isolation": "cell", "stream_logs": True, "host_functions": []},
        "cancel": {"target": 1}, "show": {"hash": "a" * 64, "source": True}, "list": {"limit": 1, "after": "x"},
        "remove": {"hash": "a" * 64}, "label": {"name": "n", "hash": "a" * 64},
    }  # fmt: skip
    with target(tmp_path) as daemon, daemon.connect() as sock:
        stream = sock.makefile()
        for kind, fields in requests.items():
            for field, right in fields.items():
                for value in (1.5, True, "", "x", [], [1], {}, {"x": 1}, -1, 2**70):
                    if type(value) is type(right) or (field == "target" and value in ("x", True)):
                        continue
                    message = {"type": kind, "id": "t", field: value}
                    sock.sendall(json.dumps(message).encode() + b"\n")
                    reply = json.loads(stream.readline())
                    assert (reply["type"], reply["id"]) == ("error", "t"), message


def test_a_random_run_of_mutated_frames(tmp_path: Path) -> None:
    """A million bytes of damaged requests in both encodings: no crash, no hang, no growth."""
    with target(tmp_path) as daemon:
        fuzz = Fuzz(daemon.socket, seed=random.randrange(2**32))
        before = daemon.resident()
        fuzz.go(1_000_000)
        assert fuzz.hangs == 0, fuzz.seed
        assert daemon.resident() - before < 48 << 20, fuzz.seed
