"""A daemon of one test's own, what is seen of its processes, and a plain socket to it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Daemon:
    """A promptlogd of one test's own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.socket = folder / "s"
        self.state = folder / "state"
        reading, writing = os.pipe()
        self.log = folder / "log"
        with self.log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "promptlogd", "--ready-fd", str(writing)]
                + ["--socket", str(self.socket), "--state-dir", str(self.state), *options],
                pass_fds=(writing,),
                stderr=stderr,
            )
        os.close(writing)
        with open(reading, "rb") as ready:
            self.ready = ready.read() == b"ready\n"

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait, return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(15)

    def jailed(self) -> list[int]:
        """Pids of all descendants."""
        found = children(self.process.pid)
        for pid in found:
            found += children(pid)  # which the loop then comes to as well
        return found


@contextmanager
def a_daemon(folder: Path, *options: str) -> Iterator[Daemon]:
    """A daemon for the length of a block."""
    daemon = Daemon(folder, *options)
    try:
        assert daemon.ready, daemon.log.read_text()
        yield daemon
    finally:
        if daemon.process.poll() is None:
            daemon.stop()


def children(pid: int) -> list[int]:
    """Return the pids of its child processes."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def cpu_ticks(pid: int) -> int:
    """Return the CPU time that it used, in clock ticks; 0 if it is gone."""
    try:
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
    except OSError:  # gone: no such file before the opening, no such process after it
        return 0


def group_of(pid: int) -> int:
    """Return its process group; -1 if it is gone."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for what must come about by then."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def resident_bytes(pid: int) -> int:
    """Return its resident set."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) << 10


def at_work(daemon: Daemon) -> list[tuple[int, int, int]]:
    """The jails whose child has used CPU: nsjail, zygote, child."""
    chains = [
        (jail, zygote, child)
        for jail in children(daemon.process.pid)
        for zygote in children(jail)
        for child in children(zygote)
    ]
    return [chain for chain in chains if cpu_ticks(chain[2]) >= 2]


def talk(path: Path, *messages: dict[str, Any]) -> socket.socket:
    """Connect, and send these messages as JSON lines."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(str(path))
    sock.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
    return sock


def ask(sock: socket.socket, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    """Send these requests as JSON lines, and return as many replies."""
    sock.sendall(b"".join(json.dumps(request).encode() + b"\n" for request in requests))
    with sock.makefile("rb") as replies:
        return [json.loads(replies.readline()) for _ in requests]
