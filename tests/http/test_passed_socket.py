"""The HTTP server on a socket that systemd passes, which the tests imitate with environment variables."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.passed_socket import passed_server


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_the_passed_socket_is_used(tmp_path: Path, socket_path: Path, family: str) -> None:
    """The server answers requests that were sent before its start, and leaves the socket file in place when it ends."""
    with socket.socket(socket.AF_INET if family == "tcp" else socket.AF_UNIX) as sock:
        sock.bind(("127.0.0.1", 0) if family == "tcp" else str(tmp_path / "s"))
        sock.listen()
        transport = None if family == "tcp" else httpx.HTTPTransport(uds=str(tmp_path / "s"))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}" if family == "tcp" else "http://localhost"
        with (
            passed_server(tmp_path / "log", sock, "http", "--socket", str(socket_path)) as process,
            httpx.Client(base_url=url, transport=transport, timeout=30) as web,
        ):
            assert web.post("/exec", json={"code": "return [1]"}).json() == [1]
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    assert family == "tcp" or (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("kind", "count", "says"),
    [
        ("stream", "2", "systemd passed 2 sockets; the socket unit must have one ListenStream="),
        ("datagram", "1", "a socket that is no listening stream socket; see ListenStream="),
        ("not listening", "1", "a socket that is no listening stream socket"),
        ("other hosts", "1", "0.0.0.0 is reachable from other hosts; give --tokens FILE"),
        ("file", "1", "can't use the socket that systemd passed"),
    ],
)
def test_unusable_descriptors(tmp_path: Path, kind: str, count: str, says: str) -> None:
    """The server refuses a descriptor that is no listening socket, and a public socket without tokens."""
    type = socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, type) as sock, open("/dev/null") as file:
        sock.bind(("0.0.0.0" if kind == "other hosts" else "127.0.0.1", 0))
        if kind not in ("datagram", "not listening"):
            sock.listen()
        if kind == "file":
            os.dup2(file.fileno(), sock.fileno())
        with passed_server(tmp_path / "log", sock, "http", count=count) as process:
            assert process.wait(30) == 2
    assert says in (tmp_path / "log").read_text()


@pytest.mark.parametrize("mode", [0o666, 0o660])
def test_a_public_unix_socket_needs_tokens(tmp_path: Path, socket_path: Path, mode: int) -> None:
    """A socket that every user may connect to, which is systemd's default mode, is refused without tokens."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        (tmp_path / "s").chmod(mode)
        with passed_server(tmp_path / "log", sock, "http", "--socket", str(socket_path)) as process:
            if mode == 0o666:
                assert process.wait(30) == 2
                assert "every user may connect to" in (tmp_path / "log").read_text()
            else:
                with httpx.Client(transport=httpx.HTTPTransport(uds=str(tmp_path / "s")), timeout=30) as web:
                    assert web.get("http://localhost/healthz").status_code == 200
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
