"""HTTP servers for tests: `promptlogctl http` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.daemon.processes import until

_READY = re.compile(r"listening on (\S+);")


@contextmanager
def http_server(
    *arguments: str, daemon: Path | None = None, listen: str = "127.0.0.1:0", variables: dict[str, str] | None = None
) -> Iterator[str]:
    """Start a server, yield its URL (or `unix:PATH`), and stop the server when the block ends."""
    environment = {**os.environ, **(variables or {})}
    if daemon is not None:
        environment["PROMPTLOG_SOCKET"] = str(daemon)
    command = [sys.executable, "-m", "promptlogctl", "http", "--listen", listen, *arguments]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=environment, stderr=log)

        def said() -> str:
            log.seek(0)
            return log.read()

        try:
            until(lambda: _READY.search(said()) is not None or process.poll() is not None, 30)
            ready = _READY.search(said())
            assert ready, said()
            yield ready[1]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
            assert "Traceback" not in said(), said()


def connected(url: str, *, receive_bytes: int | None = None) -> socket.socket:
    """Return a socket that is connected to a server. `receive_bytes` sets the size of its TCP receive buffer."""
    if url.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(20)
        sock.connect(url[5:])
        return sock
    parts = urlsplit(url)
    sock = socket.socket()
    sock.settimeout(20)
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.connect((parts.hostname, parts.port))
    return sock


def exchanged(url: str, sent: bytes) -> bytes:
    """Send bytes on a new connection, and return everything that the server sends before it closes the connection."""
    with connected(url) as sock:
        sock.sendall(sent)
        received = b""
        while part := sock.recv(65536):
            received += part
        return received


def status_of(response: bytes) -> int:
    """Return the status code of a raw response."""
    assert response.startswith(b"HTTP/1.1 "), response
    return int(response[9:12])


def free_port() -> int:
    """Return a TCP port of the loopback interface that is not in use."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])
