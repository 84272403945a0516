"""Clients of the benchmarks: the sample program, a minimal client, and clients that send bombs."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.synchronize import Event as EventType
from pathlib import Path

from promptlogd.wire import ClientSession
from promptlogd.wire.messages import Error, Finished, Reply, Request, Run, Submit, Submitted
from sandbox.cells.job import Engine

SAMPLE = (Path(__file__).parents[1] / "examples/reverse.js").read_text()
EXPECT = "dlrow olleh"
PROMPT = "hello world"


class Caller:
    """A minimal client: one request, one reply."""

    def __init__(self, path: str, encoding: str = "msgpack") -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.session = ClientSession(encoding=encoding)  # type: ignore[arg-type]

    def ask(self, request: Request, *, outcome: str = "ok") -> Reply:
        """Send a request and wait for its reply. A run must have this outcome. Raises ConnectionError."""
        self.sock.sendall(self.session.send(request))
        while data := self.sock.recv(1 << 20):
            for reply in self.session.receive(data):
                if isinstance(reply, Error) or (
                    isinstance(reply, Finished) and reply.outcome.__struct_config__.tag != outcome
                ):
                    sys.exit(f"a benchmark request failed: {reply}")
                return reply
        raise ConnectionError("the daemon closed the connection")


BOMBS = (
    "for (;;) {}",
    "const a = []; for (;;) a.push(new Uint8Array(1 << 20).fill(1))",
    "for (;;) console.log('x'.repeat(10000))",
    "return 'x'.repeat(900000)",
)


def _bomber(path: str, source: str, engine: Engine, stop: EventType) -> None:
    caller = Caller(path)
    while not stop.is_set():
        caller.sock.sendall(caller.session.send(Run(id=1, source=source, engine=engine)))
        while not caller.session.receive(caller.sock.recv(1 << 20)):
            pass


@contextmanager
def bombs(path: str, engine: Engine = "quickjs") -> Iterator[None]:
    """Context manager: four clients that constantly send bombs and floods."""
    stop = multiprocessing.Event()
    bombers = [multiprocessing.Process(target=_bomber, args=(path, source, engine, stop)) for source in BOMBS]
    for bomber in bombers:
        bomber.start()
    time.sleep(0.5)
    try:
        yield
    finally:
        stop.set()
        for bomber in bombers:
            bomber.join()


def frames(requests: Sequence[Request], encoding: str = "msgpack") -> list[bytes]:
    """Return requests, encoded for the socket."""
    session = ClientSession(encoding=encoding)  # type: ignore[arg-type]
    return [session.send(request) for request in requests]


def submitted(path: str, source: str) -> str:
    """Submit a program and return its hash."""
    kept = Caller(path).ask(Submit(id=1, source=source))
    assert isinstance(kept, Submitted)
    return kept.hash


def new_programs(path: str, count: int, between: Callable[[int], None] = lambda number: None) -> list[float]:
    """Return the seconds from the submit of a program to the end of its first run.

    `between` is called after each run, with its number.
    """
    caller = Caller(path)
    samples = []
    for number in range(count):
        began = time.perf_counter()
        kept = caller.ask(Submit(id=1, source=f"{SAMPLE}\n// {number} {os.getpid()} {began}"))
        assert isinstance(kept, Submitted)
        caller.ask(Run(id=2, hash=kept.hash, prompt=PROMPT))
        samples.append(time.perf_counter() - began)
        between(number)
    return sorted(samples)
