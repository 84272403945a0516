"""Measures how far runs on Deno exceed their wall and CPU limits during an attack, with a third client.

On Deno, promptlog's own processes enforce both limits, not a timer in the kernel. So the excess shows whether these
processes get enough CPU time during the attack.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from promptlogd.wire import ClientSession, ProtocolError
from promptlogd.wire.messages import Finished, LimitsAsked, Reply, Run
from sandbox.outcome import CpuLimit, WallLimit

_WALL_MS = 300
_CPU_MS = 50
_EVERY_S = 0.5
_ANSWER_S = 20.0

OWN_UID = 65533
"""Of the third client, where the attacker has another uid than the good client. Then its long runs are nobody else's.
"""

_IDLE = "console.log(Date.now()); await new Promise((done) => setTimeout(done, 60000))"
_ENDLESS = "for (;;) {}"


class Excess(threading.Thread):
    """Sends runs that wait and runs that compute, in turn. Both are endless."""

    def __init__(self, path: str, uid: int | None) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._client: _Client | None = _Client(path, uid)
        self._told_to_stop = threading.Event()
        self.wall_told_ms: list[float] = []
        """According to the daemon."""
        self.wall_seen_ms: list[float] = []
        """From the first statement of the program to the reply at the client."""
        self.cpu_ms: list[float] = []
        """According to the kernel's account of the process."""
        self.other: list[str] = []
        """Runs that did not end at their limit: another outcome, an error, or no reply in time."""

    def run(self) -> None:
        """Measure until `stop` is called."""
        due, turn = time.monotonic(), 0
        while not self._told_to_stop.is_set():
            try:
                self._client = self._client or _Client(self._path, None)
                reply = self._client.ask(_waits() if turn % 2 else _computes())
                self._take(reply, time.time() * 1000)
            except (OSError, ProtocolError) as error:
                self._client = None
                if not self._told_to_stop.is_set():
                    self.other.append(str(error) or type(error).__name__)
            turn += 1
            due = max(due + _EVERY_S, time.monotonic())
            self._told_to_stop.wait(due - time.monotonic())

    def _take(self, reply: Reply, now_ms: float) -> None:
        match reply:
            case Finished(outcome=WallLimit(), usage=usage):
                self.wall_told_ms.append(usage.wall_ms - _WALL_MS)
                if reply.logs:
                    self.wall_seen_ms.append(now_ms - json.loads(reply.logs[0].text) - _WALL_MS)
            case Finished(outcome=CpuLimit(), usage=usage):
                self.cpu_ms.append(usage.cpu_ms - _CPU_MS)
            case _:
                self.other.append(repr(reply)[:200])

    def stop(self) -> None:
        """Stop after the next reply."""
        self._told_to_stop.set()
        self.join(_ANSWER_S + 1)


@contextmanager
def excess(path: str, *, uid: int | None) -> Iterator[Excess]:
    """Context manager: measure during the block, as this user, or as the user of this process."""
    measured = Excess(path, uid)
    measured.start()
    try:
        yield measured
    finally:
        measured.stop()


class _Client:
    def __init__(self, path: str, uid: int | None) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        own_uid = os.geteuid()
        os.seteuid(own_uid if uid is None else uid)  # what the daemon sees is the uid at this moment
        try:
            self._socket.connect(path)  # no timeout yet: with one, it fails at once while the backlog is full
        finally:
            os.seteuid(own_uid)
        self._socket.settimeout(_ANSWER_S)
        self._session = ClientSession()

    def ask(self, request: Run) -> Reply:
        self._socket.sendall(self._session.send(request))
        while True:
            data = self._socket.recv(1 << 20)
            if not data:
                raise ConnectionError("the daemon closed the connection")
            for reply in self._session.receive(data):
                return reply


def _waits() -> Run:
    return Run(id=1, source=_IDLE, engine="deno", limits=LimitsAsked(wall_ms=_WALL_MS))


def _computes() -> Run:
    return Run(id=1, source=_ENDLESS, engine="deno", limits=LimitsAsked(cpu_ms=_CPU_MS, wall_ms=10_000))
