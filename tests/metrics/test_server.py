"""The HTTP listener of `promptlogctl metrics`: a daemon that stops, and slow, invalid or many clients."""

from __future__ import annotations

import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from promptlogctl.client import Client
from promptlogctl.metrics import server
from tests.daemon.processes import a_daemon, until
from tests.http.servers import connected, exchanged, status_of
from tests.metrics.servers import metrics_server, scraped, value
from tests.passed_socket import passed_server

_GET = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_scrapes_are_current(socket_path: Path, tmp_path: Path, kind: str) -> None:
    """Each scrape has current counts. A Unix socket is open to owner and group only, and is removed at the end."""
    path = tmp_path / "m.sock"
    with metrics_server(socket_path, "127.0.0.1:0" if kind == "tcp" else f"unix:{path}") as url:
        if kind == "unix":
            assert path.stat().st_mode & 0o777 == 0o660
        before = value(scraped(url), "runs_total", engine="quickjs", outcome="ok")
        with Client(socket_path) as client:
            for _ in range(3):
                client.run_source("return 1")
        until(lambda: value(scraped(url), "runs_total", engine="quickjs", outcome="ok") == before + 3)
    assert not path.exists()


def test_promptlog_up(tmp_path: Path) -> None:
    """promptlog_up is 0, without other metrics, while the daemon is stopped or hangs, and 1 when it is back."""
    with metrics_server(tmp_path / "s") as url:
        assert {name: value for (name, _), value in scraped(url).items()} == {"promptlog_up": 0}
        with a_daemon(tmp_path) as daemon:
            until(lambda: value(scraped(url), "up") == 1)
            daemon.process.send_signal(signal.SIGSTOP)
            try:
                time.sleep(server.FRESH_S)
                began = time.monotonic()
                assert {name: value for (name, _), value in scraped(url).items()} == {"promptlog_up": 0}
                assert time.monotonic() - began < server.DAEMON_S + 3
            finally:
                daemon.process.send_signal(signal.SIGCONT)
            until(lambda: value(scraped(url), "up") == 1)
        until(lambda: value(scraped(url), "up") == 0)


@pytest.mark.parametrize(
    ("right", "wrong", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics?a=b HTTP/1.0\r\n\r\n", b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"GET /metrics\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\xff\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"GET /metrics SPDY/3\r\n\r\n", 400),
        (
            b"GET /metrics HTTP/1.1\r\nhost: [::1]:9464\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            421,
        ),
        (
            b"GET /metrics HTTP/1.1\r\nA: " + b"a" * 7000 + b"\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nA: " + b"a" * 9000,
            431,
        ),
    ],
)
def test_invalid_requests(url: str, right: bytes, wrong: bytes, status: int) -> None:
    """An invalid request gets its status and one line with the reason, and a similar valid request is served."""
    assert status_of(exchanged(url, right)) == 200
    response = exchanged(url, wrong)
    assert status_of(response) == status
    assert response.partition(b"\r\n\r\n")[2].count(b"\n") == 1
    assert "promptlog_up" not in response.decode()


@pytest.fixture(scope="module")
def url(socket_path: Path) -> object:
    """The URL of a server for the shared daemon."""
    with metrics_server(socket_path) as url:
        yield url


def test_clients_that_disconnect(url: str) -> None:
    """Clients that disconnect early, or without reading, do not disturb the next client."""
    for sent in (b"", b"GET /met", _GET, _GET * 50):
        with connected(url) as sock:
            sock.sendall(sent)
    assert value(scraped(url), "up") == 1


def test_a_slow_request(url: str) -> None:
    """A client that sends its request too slowly is disconnected, and others are served meanwhile."""
    with connected(url) as sock:
        sock.settimeout(0.2)
        began = time.monotonic()
        while True:
            try:
                sock.sendall(b"a")
                if sock.recv(1) == b"":
                    break
            except TimeoutError:
                assert time.monotonic() - began < server.HEAD_S + 5
            except ConnectionError:
                break
            if 1 < time.monotonic() - began < 1.5:
                assert value(scraped(url), "up") == 1
    assert time.monotonic() - began > server.HEAD_S - 1


def test_idle_connections_are_closed_for_new_ones(url: str) -> None:
    """With twice as many idle connections as the limit, the oldest are closed and a scrape is served at once."""
    with ExitStack() as stack:
        idle = [stack.enter_context(connected(url)) for _ in range(2 * server.CONNECTIONS)]
        began = time.monotonic()
        assert value(scraped(url), "up") == 1
        assert time.monotonic() - began < server.HEAD_S
        assert idle[0].recv(1) == b""


def test_scrapes_share_a_reply_of_the_daemon(tmp_path: Path) -> None:
    """Many scrapes cause at most one request to the daemon in FRESH_S."""
    with a_daemon(tmp_path) as daemon, metrics_server(daemon.socket) as url:
        turns = value(scraped(url), "turn_seconds_count")
        began = time.monotonic()
        for _ in range(300):
            scraped(url)
        asked = (time.monotonic() - began) / server.FRESH_S + 2
        time.sleep(server.FRESH_S)
        # The daemon's loop also wakes up a few times a second without requests, for upkeep and the watchdog.
        idle = (time.monotonic() - began) * 30
        assert value(scraped(url), "turn_seconds_count") - turns < asked * 10 + idle


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_socket_that_systemd_passes_is_served(socket_path: Path, tmp_path: Path, kind: str) -> None:
    """Without --listen, the metrics are served on the socket of a socket unit; its file stays when the server ends."""
    path = tmp_path / "m.sock"
    with socket.socket(socket.AF_INET if kind == "tcp" else socket.AF_UNIX) as sock:
        sock.bind(("127.0.0.1", 0) if kind == "tcp" else str(path))
        sock.listen()
        with passed_server(tmp_path / "log", sock, "--socket", str(socket_path), "metrics") as process:
            url = f"http://127.0.0.1:{sock.getsockname()[1]}" if kind == "tcp" else f"unix:{path}"
            assert value(scraped(url), "up") == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    assert path.exists() == (kind == "unix")


def test_a_passed_socket_that_other_hosts_reach_is_refused(tmp_path: Path) -> None:
    """With a socket unit that listens on all addresses, the server does not start, and one line says why."""
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        sock.listen()
        with passed_server(tmp_path / "log", sock, "--socket", str(tmp_path / "none"), "metrics") as process:
            assert process.wait(30) == 2
    assert "0.0.0.0 is reachable from other hosts" in (tmp_path / "log").read_text()
