"""A daemon for one test with hostile clients, and measurements of its descriptors and memory."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from promptlogctl.client import Client
from tests.daemon.processes import resident_bytes, until

CONFIG = "[pool]\ncells = 2\nspare = 2\n[deno]\nidle_s = 1.0\n"
"""Four cells, so that their descriptors fit into the limit of a test on any number of cores. Deno's cells end soon."""

_DECODER = 2
"""Descriptors of the process that decodes large frames. It stays for a while after a large frame."""

_STEADY_S = 0.3

_ANSWER_S = 20.0


class Target:
    """A running daemon."""

    def __init__(self, socket_path: Path, pid: int, log: Path) -> None:
        self.socket = socket_path
        self.pid = pid
        self._log = log

    def descriptors(self) -> int:
        """Return the number of open descriptors of the daemon, without files that the store is writing."""
        return len([link for link in self._links() if "/programs/" not in link])

    def _links(self) -> Iterator[str]:
        for descriptor in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                yield os.readlink(descriptor)

    def resident(self) -> int:
        """Return the daemon's resident set in bytes."""
        return resident_bytes(self.pid)

    def log(self) -> str:
        """Return what the daemon has logged so far."""
        return self._log.read_text("utf-8", "replace")

    def connect(self) -> socket.socket:
        """Return a raw connection whose reads have a deadline."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.socket))  # no time-out yet: with one, a full backlog would be an error
        sock.settimeout(_ANSWER_S)
        return sock

    def canary(self) -> None:
        """Check that another client is served."""
        with Client(self.socket) as client:
            run = client.start(None, "canary", source="const result = prompt.length")
            assert run.result(_ANSWER_S).value == 6

    def steady_descriptors(self) -> int:
        """Return the number of open descriptors once it has been stable for a while.

        The number is higher for a moment while the daemon accepts a client or writes to the store.
        """
        count, since = self.descriptors(), time.monotonic()
        while time.monotonic() - since < _STEADY_S:
            if (now := self.descriptors()) != count:
                count, since = now, time.monotonic()
            time.sleep(0.01)
        return count

    def is_at_rest(self) -> bool:
        """Whether nothing runs, all QuickJS cells are blank, and only this client is connected."""
        with Client(self.socket) as client:
            stats = client.stats()
        pool = next(pool for pool in stats.pools if pool.engine == "quickjs")
        return stats.running == stats.queued == 0 and pool.blank == pool.size and stats.clients == 1


@contextmanager
def target(folder: Path, *, descriptors: int | None = None) -> Iterator[Target]:
    """Start a daemon. At the end, check that it serves a client, leaked no descriptor, and logged no traceback."""
    (folder / "promptlog.toml").write_text(CONFIG)
    reading, writing = os.pipe()

    def limit() -> None:
        if descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    command = [sys.executable, "-m", "promptlogd", "--socket", str(folder / "s"), "--state-dir", str(folder / "state")]
    command += ["--config", str(folder / "promptlog.toml")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--ready-fd", str(writing)], pass_fds=(writing,), stderr=log, preexec_fn=limit
        )
    os.close(writing)
    with process:
        try:
            with open(reading, "rb") as ready:
                assert ready.read() == b"ready\n", (folder / "log").read_text()
            daemon = Target(folder / "s", process.pid, folder / "log")
            daemon.canary()  # the store opens a file at the first run
            until(daemon.is_at_rest, 10)
            before = daemon.steady_descriptors()
            yield daemon
            daemon.canary()
            until(lambda: daemon.is_at_rest() and 0 <= daemon.steady_descriptors() - before <= _DECODER, 15)
            assert "Traceback" not in daemon.log()
        finally:
            process.terminate()
            process.wait(15)
