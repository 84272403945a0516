"""Starts a daemon for one test, inspects its processes, and opens plain sockets to it."""

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

FRESH_S = 0.05
"""More than the time for which the store returns a program from memory without a look at its file."""

_AT_WORK_S = 0.02
"""CPU time above which a child has a run. Warming its memory takes a tenth of this."""


class Daemon:
    """A promptlogd process for one test."""

    def __init__(self, folder: Path, *options: str, config: str = "", process_group: int | None = None) -> None:
        """Start the daemon.

        `config` is its settings as TOML. `process_group=0` creates a new process group, as shells do.
        """
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
        """Send a signal, wait for the exit, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(15)

    def jailed(self) -> list[int]:
        """Return the pids of all descendants of the daemon."""
        found = children(self.process.pid)
        for pid in found:
            found += children(pid)  # the loop visits the added pids too
        return found


@contextmanager
def a_daemon(folder: Path, *options: str, config: str = "", process_group: int | None = None) -> Iterator[Daemon]:
    """Run a daemon within a `with` block. The options are those of `Daemon`."""
    daemon = Daemon(folder, *options, config=config, process_group=process_group)
    try:
        assert daemon.ready, daemon.log.read_text()
        yield daemon
    finally:
        if daemon.process.poll() is None:
            daemon.stop()


def children(pid: int) -> list[int]:
    """Return the pids of the child processes of a process."""
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
    """Return the pids of a daemon's watchdogs: exactly one, except while the daemon replaces it."""
    return [child for child in children(daemon.process.pid) if b"/cells/watchdog.py" in _command(child)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # the process has just ended
        return b""


def cpu_s(pid: int) -> float:
    """Return the CPU time of all threads of a process, in seconds; 0 if the process has ended."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3)
    except OSError:
        return 0.0


def is_alive(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until the condition is true; fail after this many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def resident_bytes(pid: int) -> int:
    """Return the resident set of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) << 10


def at_work(daemon: Daemon) -> list[tuple[int, int, int]]:
    """Return nsjail, zygote and child of each jail whose child uses the CPU for a run."""
    chains = [
        (jail, zygote, child)
        for jail in children(daemon.process.pid)
        for zygote in children(jail)
        for child in children(zygote)
    ]
    return [chain for chain in chains if cpu_s(chain[2]) >= _AT_WORK_S]


def jailed_denos(daemon: Daemon) -> list[tuple[int, int]]:
    """Return the pids of nsjail and Deno for each jail that contains a Deno."""
    found = []
    for nsjail in children(daemon.process.pid):
        for child in children(nsjail):
            with suppress(OSError):  # the process has just ended
                if b"/bin/deno" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append((nsjail, child))
    return found


@contextmanager
def many_descriptors(number: int) -> Iterator[None]:
    """Raise this process's limit of open descriptors within a `with` block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= number, f"this host lets a process have {hard} descriptors; the test needs {number}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, number), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def talk(path: Path, *messages: dict[str, Any]) -> socket.socket:
    """Connect to the daemon, and send these messages as JSON lines."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))  # without a time-out, because with one a full backlog is an error
    sock.settimeout(10)
    sock.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
    return sock


def ask(sock: socket.socket, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    """Send these requests as JSON lines, and return one reply for each."""
    sock.sendall(b"".join(json.dumps(request).encode() + b"\n" for request in requests))
    with sock.makefile("rb") as replies:
        return [json.loads(replies.readline()) for _ in requests]
