"""How attacks use connections: a constant number of requests in flight, or replies that are never read.

Requests are encoded before the attack begins, and replies are counted without decoding. Otherwise, on a host with few
cores, the attacker's own CPU time would distort the measurements.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle

from promptlogd.wire import ClientSession
from promptlogd.wire.messages import Request

_READ_BYTES = 1 << 20
_UNREAD_S = 15.0
"""Time after which a connection that reads no replies is closed. By default, the daemon closes it earlier."""
_POUR_S = 0.005
_REPLY = re.compile(rb"\xa4type(?!\xa3log)[\xa0-\xbf]")
"""The beginning of a MessagePack reply that is not a `log`."""
_LOOK_AHEAD = 9
"""Longest match of the pattern, with its lookahead."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The attacked daemon, and the number of programs that an attack may store there."""

    path: str
    programs: int


Step = Callable[[], None]
"""Attacks until the process is killed. The attacker calls it again if the daemon closes a connection (OSError)."""

Prepare = Callable[[Target], Step]
"""Prepares an attack, and returns its step."""


class Wire:
    """A connection that sends prepared bytes and counts replies without decoding them."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.send = self.socket.sendall
        self._tail = b""

    def receive(self) -> int:
        """Wait for bytes. Return the number of replies that have started since. Raises ConnectionError at the end."""
        data = self.socket.recv(_READ_BYTES)
        if not data:
            raise ConnectionError
        data = self._tail + data
        begun, sure = 0, max(0, len(data) - _LOOK_AHEAD)
        for found in _REPLY.finditer(data):
            if found.start() > sure:
                break
            begun += 1
            sure = max(sure, found.end())
        self._tail = data[sure:]
        return begun

    def exchange(self, requests: Sequence[bytes]) -> None:
        """Send these requests, and wait until each reply has begun."""
        self.send(b"".join(requests))
        left = len(requests)
        while left > 0:
            left -= self.receive()

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


def frames(requests: Sequence[Request]) -> list[bytes]:
    """Return requests, encoded for a MessagePack connection."""
    session = ClientSession()
    return [session.send(request) for request in requests]


def again(requests: Callable[[], Sequence[bytes]], *, connections: int = 1, pipelined: int = 1) -> Prepare:
    """Keep this many requests in flight on each connection. When a reply starts, send the next request."""

    def prepare(target: Target) -> Step:
        sent = requests()

        def attack() -> None:
            following = cycle(sent)
            wires: dict[int, Wire] = {}
            with select.epoll() as ready:
                for _ in range(connections):
                    wire = Wire(target.path)
                    wires[wire.socket.fileno()] = wire
                    ready.register(wire.socket, select.EPOLLIN)
                    for _ in range(pipelined):
                        wire.send(next(following))
                while True:
                    for descriptor, _ in ready.poll():
                        for _ in range(wires[descriptor].receive()):
                            wires[descriptor].send(next(following))

        return attack

    return prepare


def lines(requests: Callable[[], Sequence[bytes]]) -> Prepare:
    """Send JSON lines. Each waits for the reply to the line before."""

    def prepare(target: Target) -> Step:
        sent = requests()

        def attack() -> None:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(target.path)
                for line in cycle(sent):
                    sock.sendall(line)
                    while not (data := sock.recv(_READ_BYTES)).endswith(b"\n"):
                        if not data:
                            return

        return attack

    return prepare


def unread(first: bytes, again: bytes = b"", *, connections: int = 1) -> Prepare:
    """Send bytes, then repeat other bytes without end, and never read; or wait until the daemon disconnects."""

    def prepare(target: Target) -> Step:
        def attack() -> None:
            socks = [socket.socket(socket.AF_UNIX) for _ in range(connections)]
            try:
                for sock in socks:
                    sock.connect(target.path)
                    sock.sendall(first)
                while again:
                    for sock in socks:
                        sock.sendall(again)
                closed = select.poll()
                closed.register(socks[0], 0)  # POLLHUP alone: nothing is read
                closed.poll(_UNREAD_S * 1000)
            finally:
                for sock in socks:
                    sock.close()

        return attack

    return prepare


def full(sent: bytes, *, connections: int) -> Prepare:
    """Send these bytes over and over on this many connections, and read the replies."""

    def prepare(target: Target) -> Step:
        def attack() -> None:
            wires = [Wire(target.path) for _ in range(connections)]
            unsent = {wire.socket.fileno(): (wire.socket, b"") for wire in wires}
            with select.epoll() as ready:
                for wire in wires:
                    wire.socket.setblocking(False)
                    ready.register(wire.socket, select.EPOLLIN | select.EPOLLOUT)
                while True:
                    for descriptor, events in ready.poll():
                        sock, rest = unsent[descriptor]
                        if events & select.EPOLLIN and not sock.recv(_READ_BYTES):
                            raise ConnectionError
                        if events & select.EPOLLOUT:
                            rest = rest or sent
                            unsent[descriptor] = sock, rest[sock.send(rest) :]

        return attack

    return prepare


def poured(sent: bytes, *, connections: int = 1, seconds: float = 0.5) -> Prepare:
    """Repeat: send these bytes for this time, read nothing, and disconnect."""

    def prepare(target: Target) -> Step:
        def attack() -> None:
            while True:
                wires = [Wire(target.path) for _ in range(connections)]
                unsent = [memoryview(sent) for _ in wires]
                ends = time.monotonic() + seconds
                for wire in wires:
                    wire.socket.setblocking(False)
                while time.monotonic() < ends:
                    for at, wire in enumerate(wires):
                        with suppress(BlockingIOError):
                            unsent[at] = unsent[at][wire.socket.send(unsent[at][:_READ_BYTES]) :]
                    time.sleep(_POUR_S)
                for wire in wires:
                    wire.close()

        return attack

    return prepare


def left(sent: bytes) -> Prepare:
    """Repeat: connect, send these bytes, and disconnect at once."""

    def prepare(target: Target) -> Step:
        def attack() -> None:
            while True:
                wire = Wire(target.path)
                wire.send(sent)
                wire.close()

        return attack

    return prepare


def half(sent: bytes, *, connections: int) -> Prepare:
    """Start a frame on each of this many connections, then keep sending single bytes on each."""

    def prepare(target: Target) -> Step:
        def attack() -> None:
            wires = [Wire(target.path) for _ in range(connections)]
            for wire in wires:
                wire.send(sent)
            while True:
                for wire in wires:
                    wire.send(b"x")

        return attack

    return prepare
