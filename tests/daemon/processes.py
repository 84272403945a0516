"""A daemon of one test's own, what is seen of its processes, and a plain socket to it."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_AT_WORK_S = 0.02
"""CPU time that no child has used before it has a run: to warm its memory takes a tenth of that."""


class Daemon:
    """A promptlogd of one test's own."""

    def __init__(self, folder: Path, *options: str, config: str = "", process_group: int | None = None) -> None:
        """Start it. `config`: its settings, as TOML. `process_group`: 0 puts it in one of its own, as a shell does."""
        if config:
            (folder / "promptlog.toml").write_text(config)
            options = ("--config", str(folder / "promptlog.toml"), *options)
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
                process_group=process_group,
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
def a_daemon(folder: Path, *options: str, config: str = "", process_group: int | None = None) -> Iterator[Daemon]:
    """Start a daemon for the length of a block. Options as for `Daemon`."""
    daemon = Daemon(folder, *options, config=config, process_group=process_group)
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


def nsjails(pid: int) -> list[int]:
    """Return the pids of a daemon's nsjails."""
    return [child for child in children(pid) if b"nsjail" in _command(child).split(b"\0")[0]]


def watchdogs(daemon: Daemon) -> list[int]:
    """Return the pids of a daemon's watchdogs: one, but while it is replaced."""
    return [child for child in children(daemon.process.pid) if b"/cells/watchdog.py" in _command(child)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has just ended
        return b""


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, all of its threads, in seconds; 0 if it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3)
    except OSError:
        return 0.0


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
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
    """Return the jails whose child has a run that uses the CPU: nsjail, zygote, child."""
    chains = [
        (jail, zygote, child)
        for jail in children(daemon.process.pid)
        for zygote in children(jail)
        for child in children(zygote)
    ]
    return [chain for chain in chains if cpu_s(chain[2]) >= _AT_WORK_S]


def jailed_denos(daemon: Daemon) -> list[tuple[int, int]]:
    """Return the nsjails that have a Deno in them, with that."""
    found = []
    for nsjail in children(daemon.process.pid):
        for child in children(nsjail):
            with suppress(OSError):  # it has just ended
                if b"/bin/deno" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append((nsjail, child))
    return found


@contextmanager
def many_descriptors(number: int) -> Iterator[None]:
    """Let this process have so many descriptors for the length of a block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= number, f"this host lets a process have {hard} descriptors; the test needs {number}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, number), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def talk(path: Path, *messages: dict[str, Any]) -> socket.socket:
    """Connect, and send these messages as JSON lines."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))  # without a time-out: with one, a full backlog is an error
    sock.settimeout(10)
    sock.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
    return sock


def ask(sock: socket.socket, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    """Send these requests as JSON lines, and return as many replies."""
    sock.sendall(b"".join(json.dumps(request).encode() + b"\n" for request in requests))
    with sock.makefile("rb") as replies:
        return [json.loads(replies.readline()) for _ in requests]
