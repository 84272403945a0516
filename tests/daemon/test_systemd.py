"""What systemd passes to the daemon, and what the daemon reports to it. Environment variables simulate systemd."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from promptlogctl.client import Client
from promptlogd.service_manager import Notifier
from tests.daemon.processes import until


@contextmanager
def _service(
    folder: Path, sock: socket.socket | None, *, count: str = "1", variables: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a daemon as systemd does, with a listening socket on descriptor 3."""
    script = 'export LISTEN_PID=$$; exec "$@"'
    if sock is not None:
        script = f"exec 3<&{sock.fileno()} {sock.fileno()}<&-; export LISTEN_FDS={count}; {script}"
    command = ["bash", "-c", script, "bash", sys.executable, "-m", "promptlogd"]
    command += ["--state-dir", str(folder / "state"), "--socket", str(folder / "own")]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command,
            pass_fds=() if sock is None else (sock.fileno(),),
            env={**os.environ, **(variables or {})},
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    path.chmod(0o600)
    sock.listen()
    return sock


def test_a_socket_from_systemd_is_served(tmp_path: Path) -> None:
    """The daemon serves clients that connected before its start, and does not remove the socket file when it stops."""
    path = tmp_path / "passed"
    with _listening(path) as sock, Client(path) as client, _service(tmp_path, sock) as process:
        assert client.run_source("return 1").value == 1
        assert not (tmp_path / "own").exists()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert path.exists()
    assert f"listening on {path}," in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("kind", "count", "says"),
    [
        ("stream", "2", "systemd passed 2 sockets; the socket unit must have exactly one ListenStream="),
        ("datagram", "1", "a socket that is not a listening Unix stream socket; see ListenStream="),
        ("not listening", "1", "a socket that is not a listening Unix stream socket"),
        ("tcp", "1", "a socket that is not a listening Unix stream socket"),
        ("file", "1", "no socket on descriptor 3"),
        ("open to all", "1", "s (mode 0666); set SocketMode=0600 in the socket unit, or 0660 with SocketGroup="),
        ("abstract", "1", "a socket without a file, to which every user may connect; name a path"),
    ],
)
def test_an_unusable_descriptor_is_an_error(tmp_path: Path, kind: str, count: str, says: str) -> None:
    """If the passed socket is unsuitable, the daemon exits with a line that says what to change."""
    with (
        socket.socket(
            socket.AF_INET if kind == "tcp" else socket.AF_UNIX,
            socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM,
        ) as sock,
        open("/dev/null") as file,
    ):
        if kind == "tcp":
            sock.bind(("127.0.0.1", 0))
        elif kind == "abstract":
            sock.bind(f"\0promptlog-test-{os.getpid()}")
        else:
            sock.bind(str(tmp_path / "s"))
            (tmp_path / "s").chmod(0o666 if kind == "open to all" else 0o600)
        if kind not in ("datagram", "not listening"):
            sock.listen()
        if kind == "file":
            os.dup2(file.fileno(), sock.fileno())
        with _service(tmp_path, sock, count=count) as process:
            assert process.wait(30) == 1
    assert says in (tmp_path / "log").read_text()


def test_sockets_of_another_process_are_not_taken(tmp_path: Path) -> None:
    """The daemon ignores LISTEN_* variables that were meant for its parent process."""
    variables = {"LISTEN_FDS": "1"}
    with _service(tmp_path, None, variables=variables) as process:
        # The shell sets LISTEN_PID. Without descriptor 3, its own pid is an error, and another pid is ignored.
        assert process.wait(30) == 1
    command = [
        sys.executable,
        "-m",
        "promptlogd",
        "--state-dir",
        str(tmp_path / "state"),
        "--socket",
        str(tmp_path / "own"),
    ]
    daemon = subprocess.Popen(command, env={**os.environ, **variables, "LISTEN_PID": "1"}, stderr=subprocess.DEVNULL)
    try:
        until((tmp_path / "own").exists)
    finally:
        daemon.terminate()
        daemon.wait()


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_notified(tmp_path: Path, abstract: bool) -> None:
    """The daemon sends READY when it serves clients, WATCHDOG only while its loop turns, and STOPPING at SIGTERM."""
    address = f"\0promptlog-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    name = "@" + address[1:] if abstract else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(address)
        told.settimeout(20)
        variables = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "400000"}
        with _service(tmp_path, None, variables=variables) as process:
            seen: list[str] = []
            while "READY=1" not in seen:
                seen.append(told.recv(4096).decode())
            with Client(tmp_path / "own") as client:
                client.ping()
                while "WATCHDOG=1\nSTATUS=1 clients, 0 runs, 0 waiting" not in seen:
                    seen.append(told.recv(4096).decode())
            process.send_signal(signal.SIGSTOP)
            told.settimeout(0.5)
            ends = time.monotonic() + 10
            with suppress(TimeoutError):  # messages that were sent before may still be unread
                while told.recv(4096):
                    assert time.monotonic() < ends, "a stopped daemon tells that its loop turns"
            told.settimeout(20)
            process.send_signal(signal.SIGCONT)
            assert told.recv(4096).startswith(b"WATCHDOG=1\n")
            process.send_signal(signal.SIGTERM)
            while told.recv(4096) != b"STOPPING=1":
                pass
            assert process.wait(20) == 0


def test_a_notification_socket_without_a_receiver(tmp_path: Path) -> None:
    """A missing or full notification socket does no harm, and the variables are removed from the environment."""
    environment = {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "x", "WATCHDOG_PID": "1", "OTHER": "1"}
    notifier = Notifier(environment)
    assert environment == {"OTHER": "1"}
    assert notifier.is_wanted
    for _ in range(3):
        notifier.ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as full:
        full.bind(str(tmp_path / "gone"))
        for _ in range(1000):
            notifier.alive("full")
    notifier.close()
    assert not notifier.is_wanted
    assert not Notifier({}).is_wanted
    assert Notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).interval_s == 10
    assert Notifier({"WATCHDOG_USEC": "1000000"}).interval_s == 0.5
