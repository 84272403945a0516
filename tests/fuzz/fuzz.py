"""Sends mutated frames to a real daemon over real connections: `make fuzz` (BYTES=20000000).

    python -m tests.fuzz.fuzz [--bytes N] [--seed N]

The fuzzer damages valid requests of both encodings: bits, bytes, lengths, cuts, repeats, splices and junk. It uses each
connection until the daemon closes it, and then checks that the daemon still answers. It prints what was sent and
received. The exit code is 1 for a hang, a dead daemon, or growing memory or descriptors.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Literal

from msgspec import Raw

from promptlogctl.cli.spawn import private_daemon
from promptlogctl.client import Client
from promptlogd.wire import ClientSession, ProtocolError
from promptlogd.wire.messages import (
    Backup,
    Cancel,
    Collect,
    Config,
    Error,
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

VALID: list[Request] = [
    Ping(id=1),
    Stats(id="s"),
    ReadJournal(id=9, limit=7, before=9, hash="@a", failed=True, since=1.5),
    JournalStats(id=9, hash="ab" * 32, since=0.5),
    Config(id="c"),
    Collect(id=9, unused_s=1.5, over_bytes=7, dry_run=True, limit=3, after="a"),
    Verify(id=9, limit=3, after="ab" * 32),
    Backup(id=9, folder="/a"),
    Submit(id=2, source="const result = 1", name="fuzz"),
    Run(id=3, source="return [prompt, env]", prompt="ü\0\u2028", env=Raw(b'{"a":[1,{"b":null}]}'), stream_logs=True),
    Run(id=4, hash="@fuzz", limits=LimitsAsked(cpu_ms=20, wall_ms=100, memory_bytes=64 << 20)),
    Run(id=5, source="for(;;){}", limits=LimitsAsked(cpu_ms=5)),
    Cancel(id=6, target=5),
    Show(id=7, hash="@fuzz", source=True),
    List(id=8, limit=3, after="0x1p3:ab"),
    Label(id=9, name="fuzz"),
    Remove(id=10, hash="00000000"),
]
_REST_S = 20.0
_JUNK = (b"", b"{", b"}", b"\n", b"\0", b"\xff" * 4, b"\xc1", b"\xdf\xff\xff\xff\xff", b"[" * 2000, b"\x91" * 2000)


class Fuzz:
    """A seeded stream of damaged requests, with an account of the replies."""

    def __init__(self, path: Path, seed: int) -> None:
        self.seed = seed
        self.sent_bytes = 0
        self.frames = 0
        self.connections = 0
        self.hangs = 0
        self.replies: Counter[str] = Counter()
        self._path = path
        self._chance = random.Random(seed)

    def go(self, total_bytes: int) -> None:
        """Send this number of bytes."""
        while self.sent_bytes < total_bytes and not self.hangs:
            self._connection(self._chance.choice(("json", "msgpack")))

    def _connection(self, encoding: Literal["json", "msgpack"]) -> None:
        self.connections += 1
        session = ClientSession(encoding=encoding)
        frames = [session.send(request) for request in VALID]
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self._path))
            sock.setblocking(False)
            for _ in range(self._chance.randrange(1, 60)):
                data = self._chance.choice(frames)
                if self._chance.random() < 0.7:
                    data = self._damage(data, frames)
                self.frames += 1
                if not self._send(sock, data, session):
                    break
            else:
                self._read_the_rest(sock, session)
        if self.connections % 20 == 0:
            self._ping()

    def _damage(self, data: bytes, frames: list[bytes]) -> bytes:
        chance, damaged = self._chance, bytearray(data)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(damaged) + 1)
            match chance.randrange(7):
                case 0 if damaged:
                    damaged[at % len(damaged)] ^= 1 << chance.randrange(8)
                case 1 if damaged:
                    damaged[at % len(damaged)] = chance.randrange(256)
                case 2:
                    del damaged[at:]
                case 3:
                    damaged[at:at] = chance.choice(_JUNK)
                case 4:
                    other = chance.choice(frames)
                    damaged[at:] = other[chance.randrange(len(other)) :]
                case 5:
                    damaged[at:at] = damaged[: chance.randrange(len(damaged) + 1)] * chance.randrange(1, 20)
                case _:
                    damaged[at:at] = chance.randbytes(chance.randrange(200))
        return bytes(damaged)

    def _send(self, sock: socket.socket, data: bytes, session: ClientSession) -> bool:
        """Send all data and read meanwhile. Return whether the connection is still open."""
        view = memoryview(data)
        deadline = time.monotonic() + 20
        while True:
            try:
                got = sock.recv(1 << 20)
                self._count(session.receive(got))
                if not got:
                    return False
            except BlockingIOError:
                pass
            except (OSError, ProtocolError):
                return False
            if not view:
                return True
            try:
                sent = sock.send(view)
                view = view[sent:]
                self.sent_bytes += sent
            except BlockingIOError:
                time.sleep(0.001)
                if time.monotonic() > deadline:
                    self.hangs += 1
                    return False
            except OSError:
                return False

    def _read_the_rest(self, sock: socket.socket, session: ClientSession) -> None:
        """Shut down the sending side, and read until the daemon has answered everything and closes the connection."""
        sock.settimeout(20)
        try:
            sock.shutdown(socket.SHUT_WR)
            while got := sock.recv(1 << 20):
                self._count(session.receive(got))
        except TimeoutError:
            self.hangs += 1
        except (OSError, ProtocolError):
            pass

    def _count(self, replies: list[Reply]) -> None:
        for reply in replies:
            self.replies[reply.code if isinstance(reply, Error) else type(reply).__name__.lower()] += 1

    def _ping(self) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(self._path))
            sock.sendall(b'{"type":"ping","id":1}\n')
            try:
                if b"pong" not in sock.recv(4096):
                    self.hangs += 1
            except TimeoutError:
                self.hangs += 1


def _held(pid: int) -> tuple[int, int]:
    status = Path(f"/proc/{pid}/status").read_text()
    resident = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    return resident, len(os.listdir(f"/proc/{pid}/fd"))


def _wait_for_rest(path: Path) -> None:
    """Wait until the daemon has ended all runs and closed all other connections."""
    deadline = time.monotonic() + _REST_S
    with Client(path) as client:
        while (stats := client.stats()).running or stats.queued or stats.clients > 1:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not at rest after {_REST_S:g} s: {stats}")
            time.sleep(0.01)


def main() -> None:
    """Run the fuzzer, and print its account."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=20_000_000, help="number of bytes to send")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="seed of the random damage")
    options = parser.parse_args()
    with private_daemon(None) as path:
        with Client(path) as client:
            pid = client.ping().pid
        fuzz = Fuzz(path, options.seed)
        fuzz.go(options.bytes // 10)
        _wait_for_rest(path)
        before = _held(pid)
        fuzz.go(options.bytes)
        _wait_for_rest(path)
        after = _held(pid)
        with Client(path) as client:
            alive = client.run_source("return prompt", "canary").value == "canary"
    print(f"seed {options.seed}: {fuzz.sent_bytes} bytes, {fuzz.frames} frames, {fuzz.connections} connections")
    for kind, count in sorted(fuzz.replies.items()):
        print(f"  {kind:14} {count}")
    print(f"memory {before[0]} -> {after[0]} KiB, descriptors {before[1]} -> {after[1]}, hangs {fuzz.hangs}")
    grown = after[0] > 1.25 * before[0] or abs(after[1] - before[1]) > 12
    sys.exit(0 if alive and not fuzz.hangs and not grown else 1)


if __name__ == "__main__":
    main()
