"""Starts a server of promptlogctl as systemd does: with a listening socket on descriptor 3."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def passed_server(
    log: Path, sock: socket.socket, *arguments: str, count: str = "1"
) -> Iterator[subprocess.Popen[bytes]]:
    """Start `promptlogctl` with these arguments, and kill it at the end. `count`: the value of $LISTEN_FDS."""
    script = f"exec 3<&{sock.fileno()} {sock.fileno()}<&-; "
    script += f'export LISTEN_FDS={count} LISTEN_PID=$$ LISTEN_FDNAMES=x; exec "$@"'
    command = ["bash", "-c", script, "bash", sys.executable, "-m", "promptlogctl", *arguments]
    with log.open("wb") as file:
        process = subprocess.Popen(command, pass_fds=(sock.fileno(),), stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
