"""Clients that send invalid, endless or slow requests, or disconnect; and a daemon that stops and comes back."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2 as httpx
import pytest
import uvicorn

from promptlogctl.client import Client
from promptlogctl.http import Application, Settings
from promptlogctl.http import backend as backend_module
from promptlogctl.http import json_body as body_module
from promptlogctl.http import server as server_module
from tests.daemon.processes import a_daemon, children, resident_bytes, until
from tests.daemons import configured_daemon
from tests.http.servers import connected, exchanged, http_server, status_of

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
        (GET + b"Host: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", 403),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400),
        (b"GET /healthz HTTP/9.9\r\nHost: localhost\r\n\r\n", 400),
        (GET + b"X: " + b"a" * 80_000 + b"\r\nConnection: close\r\n\r\n", 431),
        (GET + b"".join(b"X%d: y\r\n" % n for n in range(200)) + b"Connection: close\r\n\r\n", 431),
        (b"GET /run/" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 431),
        (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
    ],
)
def test_invalid_requests(url: str, sent: bytes, status: int) -> None:
    """Each invalid request gets its status, and the server closes the connection."""
    assert status_of(exchanged(url, sent)) == status


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
JSON = b"Content-Type: application/json\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 50\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: -1\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Content-Length : 5\r\n",
        b"Content-Length: 5\n",
        b" Content-Length: 5\r\n",
    ],
)
def test_request_smuggling(url: str, head: bytes) -> None:
    """A request with headers that are ambiguous about the end of its body is refused, and the rest is not parsed."""
    sent = b"POST /submit HTTP/1.1\r\nHost: localhost\r\n" + JSON + head + b"\r\n0\r\n\r\n" + SMUGGLED
    received = exchanged(url, sent)
    assert status_of(received) == 400, received
    assert b"/smuggled" not in received
    assert received.count(b"HTTP/1.1 ") == 1


def test_upgrade_with_a_body_is_refused(url: str) -> None:
    """The parser would read a body after an Upgrade header as the next request, so the request is refused."""
    head = b"POST /exec HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + JSON
    received = exchanged(url, head + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED)
    assert status_of(received) == 400
    assert received.count(b"HTTP/1.1 ") == 1


def test_trailers_are_limited_and_ignored(url: str) -> None:
    """Endless trailers close the connection, and trailers do not change the response."""
    head = b"POST /exec HTTP/1.1\r\nHost: localhost\r\n" + JSON + b"Transfer-Encoding: chunked\r\n"
    body = b'{"code":"return 1"}'
    chunk = b"%x\r\n%s\r\n0\r\n" % (len(body), body)
    trailer = b"Accept: application/vnd.promptlog+json\r\n"
    received = exchanged(url, head + b"Connection: close\r\n\r\n" + chunk + trailer + b"\r\n")
    assert received.endswith(b"\r\n\r\n1"), received
    with connected(url) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        sent = 0
        with suppress(BrokenPipeError, ConnectionResetError):
            while sent < 64 << 20:
                sock.sendall(b"a: b\r\n" * 4096)
                sent += 6 * 4096
        assert sent < 40 << 20


def test_trailers_take_no_memory(socket_path: Path) -> None:
    """The server keeps no trailers: 12 MiB of them, in the smallest form, hardly change its resident memory."""
    others = children(os.getpid())
    with http_server(daemon=socket_path) as url, connected(url) as sock:
        (server,) = set(children(os.getpid())) - {*others}
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        sock.recv(65536)
        before = resident_bytes(server)
        for _ in range(12 << 20 >> 14):
            sock.sendall(b"a:\r\n" * (1 << 12))
        assert resident_bytes(server) - before < 16 << 20


@pytest.mark.timed
def test_endless_pipelined_requests(socket_path: Path) -> None:
    """The server stops reading from a client that reads no response, and serves other clients meanwhile."""
    with http_server(daemon=socket_path) as url, connected(url) as sock, httpx.Client(base_url=url, timeout=20) as web:
        web.get("/healthz")
        sock.settimeout(1)
        sent, request = 0, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100
        with suppress(TimeoutError):
            while sent < 64 << 20:
                sock.sendall(request)
                sent += len(request)
        assert web.get("/healthz").status_code == 200
        assert sent < 64 << 20


@pytest.mark.timed
def test_data_behind_pipelined_runs_is_bounded(socket_path: Path, client: Client) -> None:
    """While pipelined runs are executed one after the other, the server does not read what follows without a limit."""
    client.submit("await new Promise((done) => setTimeout(done, 20)); return 1", name="wait")
    with http_server(daemon=socket_path) as url, connected(url) as sock:
        sock.settimeout(1)
        requests, sent = b"GET /run/@wait HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1500, 0
        with suppress(TimeoutError):
            while sent < 40 << 20:
                sock.sendall(requests)
                sent += len(requests)
    assert sent < 14 << 20


def test_a_line_break_after_a_body_is_ignored(url: str) -> None:
    """A line break after a body, which some clients send, is not read as a request."""
    received = exchanged(url, (GET + b"\r\n\r\n") * 2 + GET + b"Connection: close\r\n\r\n")
    assert received.count(b"HTTP/1.1 200") == 3


def test_pipelined_requests_are_answered_in_order(url: str) -> None:
    """Pipelined requests are answered in order, and each once."""
    paths = [b"/healthz", b"/nothing", b"/readyz", b"/healthz"] * 20
    sent = b"".join(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path for path in paths)
    last = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    received = exchanged(url, sent + last)
    statuses = [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [404 if path == b"/nothing" else 200 for path in paths] + [200]


def test_endless_headers(url: str) -> None:
    """A client that sends endless headers is disconnected before it has sent 16 MiB."""
    with connected(url) as sock:
        sock.sendall(GET)
        sent = 0
        with suppress(BrokenPipeError, ConnectionResetError):
            while sent < 64 << 20:
                sock.sendall(b"X-Long: " + b"a" * 8000 + b"\r\n")
                sent += 8010
        assert sent < 16 << 20


@contextmanager
def _served(settings: Settings, *, keep_alive_s: int = 5) -> Iterator[tuple[str, uvicorn.Server]]:
    """Run a server in a thread of this process, so that a test can shorten its deadlines."""
    config = uvicorn.Config(
        Application(settings),
        http=server_module.Protocol,
        loop="uvloop",
        ws="none",
        log_config=None,
        timeout_keep_alive=keep_alive_s,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            until(lambda: server.started)
            yield f"http://127.0.0.1:{sock.getsockname()[1]}/", server
        finally:
            server.should_exit = True
            thread.join()


@pytest.mark.timed
def test_an_idle_connection(socket_path: Path) -> None:
    """A connection is closed after the keep-alive time, counted from its last response and not from earlier ones."""
    with _served(Settings(socket=socket_path), keep_alive_s=1) as (url, _), connected(url) as sock:
        for _ in range(2):
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert status_of(sock.recv(65536)) == 200
            answered_at = time.monotonic()
            sock.settimeout(0.6)
            with pytest.raises(TimeoutError):
                sock.recv(1)
        sock.settimeout(5)
        assert sock.recv(1) == b""
        assert 0.9 < time.monotonic() - answered_at < 1.5


@pytest.mark.timed
def test_a_slow_run_is_not_idle(socket_path: Path) -> None:
    """A run that is not done at the keep-alive time after an earlier response is answered."""
    source = b'{"code": "await new Promise((done) => setTimeout(done, 900)); return 1", "engine": "deno"}'
    head = b"POST /exec HTTP/1.1\r\nHost: localhost\r\n" + JSON + b"Content-Length: %d\r\n\r\n" % len(source)
    with _served(Settings(socket=socket_path), keep_alive_s=1) as (url, _), connected(url) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status_of(sock.recv(65536)) == 200
        sock.settimeout(0.4)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(5)
        sock.sendall(head + source)
        assert status_of(sock.recv(65536)) == 200


@pytest.mark.parametrize("sent", [b"", b"GET /heal", GET, GET + b"X: y\r\n"])
def test_an_incomplete_request(monkeypatch: pytest.MonkeyPatch, socket_path: Path, sent: bytes) -> None:
    """A request whose head does not arrive in time is answered with 408, and the connection is closed."""
    monkeypatch.setattr(server_module, "HEAD_S", 0.3)
    with _served(Settings(socket=socket_path)) as (url, _):
        assert status_of(exchanged(url, sent)) == 408


@pytest.mark.timed
@pytest.mark.parametrize("pipelined", [True, False])
def test_an_incomplete_request_after_another(
    monkeypatch: pytest.MonkeyPatch, socket_path: Path, pipelined: bool
) -> None:
    """A slow run is answered, although half a head follows it; then the head's time limit ends the connection."""
    monkeypatch.setattr(server_module, "HEAD_S", 0.3)
    source = b'{"code": "await new Promise((done) => setTimeout(done, 900)); return 1", "engine": "deno"}'
    head = b"POST /exec HTTP/1.1\r\nHost: localhost\r\n" + JSON + b"Content-Length: %d\r\n\r\n" % len(source)
    with _served(Settings(socket=socket_path)) as (url, _), connected(url) as sock:
        sock.sendall(head + source + (b"GET /heal" if pipelined else b""))
        received = sock.recv(65536)
        assert status_of(received) == 200
        if not pipelined:
            sock.sendall(b"GET /heal")
        while part := sock.recv(65536):
            received += part
    assert received.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 408 " in received


def test_a_slow_body(monkeypatch: pytest.MonkeyPatch, socket_path: Path) -> None:
    """A body that does not arrive completely in time is answered with 408."""
    monkeypatch.setattr(body_module, "BODY_S", 0.3)
    with _served(Settings(socket=socket_path)) as (url, _):
        head = b"POST /exec HTTP/1.1\r\nHost: localhost\r\n" + JSON + b"Content-Length: 100\r\n\r\n{"
        assert status_of(exchanged(url, head)) == 408


@pytest.mark.timed
def test_a_client_that_reads_nothing(monkeypatch: pytest.MonkeyPatch, socket_path: Path) -> None:
    """A connection is closed if the client stops reading its response."""
    monkeypatch.setattr(server_module, "STALL_S", 0.3)
    with _served(Settings(socket=socket_path)) as (url, server), connected(url) as sock:
        code = b'{"code":"return \'x\'.repeat(1000000)","limits":{"cpu_ms":2000}}'
        head = b"POST /exec HTTP/1.1\r\nHost: localhost\r\n" + JSON + b"Content-Length: %d\r\n\r\n" % len(code)
        sock.sendall((head + code) * 20)
        until(lambda: bool(server.server_state.total_requests))
        until(lambda: not server.server_state.connections)
        with suppress(ConnectionResetError):
            received = 0
            while part := sock.recv(1 << 20):
                received += len(part)
            assert received < 19_000_000


@pytest.mark.timed
def test_a_client_that_reads_slowly(monkeypatch: pytest.MonkeyPatch, socket_path: Path) -> None:
    """A client that reads slowly but steadily gets all of its responses."""
    monkeypatch.setattr(server_module, "STALL_S", 0.3)
    with _served(Settings(socket=socket_path)) as (url, _), connected(url, receive_bytes=65536) as sock:
        code = b'{"code":"return \'x\'.repeat(4000000)","limits":{"cpu_ms":2000,"result_bytes":4194304}}'
        head = b"POST /exec HTTP/1.1\r\nHost: localhost\r\n" + JSON + b"Content-Length: %d\r\n\r\n" % len(code)
        sock.sendall((head + code) * 4)
        received, ends = 0, time.monotonic() + 60
        while received < 16_000_000 and time.monotonic() < ends:
            until_next = received + 400_000
            while received < min(until_next, 16_000_000):
                part = sock.recv(65536)
                assert part, "the server closed the connection"
                received += len(part)
            time.sleep(0.1)
        assert received >= 16_000_000


@pytest.mark.timed
def test_a_last_response_that_is_not_read(monkeypatch: pytest.MonkeyPatch, socket_path: Path) -> None:
    """A connection that is about to close does not wait forever for the client to read the last response."""
    monkeypatch.setattr(server_module, "STALL_S", 0.3)
    # Without pause_writing the deadline for stalled writes never starts, so that only the last deadline applies.
    monkeypatch.setattr(server_module.Protocol, "pause_writing", lambda protocol: None)
    with _served(Settings(socket=socket_path)) as (url, server), connected(url, receive_bytes=4096) as sock:
        code = b'{"code":"return \'x\'.repeat(4000000)","limits":{"cpu_ms":2000,"result_bytes":4194304}}'
        head = b"POST /exec HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + JSON
        sock.sendall(head + b"Content-Length: %d\r\n\r\n" % len(code) + code)
        until(lambda: bool(server.server_state.total_requests))
        until(lambda: not server.server_state.connections)


@pytest.mark.timed
def test_a_daemon_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """While the daemon hangs, a request is answered with 504, and the next request is served when it continues."""
    monkeypatch.setattr(backend_module, "_ANSWER_S", 0.5)
    with a_daemon(tmp_path) as daemon, _served(Settings(socket=daemon.socket)) as (url, _):
        for method, path in (("POST", "exec"), ("GET", "programs"), ("POST", "submit")):
            body = None if method == "GET" else {"code": "return 1"}
            assert httpx.request(method, f"{url}{path}", json=body, timeout=20).status_code == 200
            daemon.process.send_signal(signal.SIGSTOP)
            try:
                response = httpx.request(method, f"{url}{path}", json=body, timeout=20)
            finally:
                daemon.process.send_signal(signal.SIGCONT)
            assert (response.status_code, response.json()["code"]) == (504, "no_answer")
            assert httpx.request(method, f"{url}{path}", json=body, timeout=20).status_code == 200


@pytest.mark.timed
def test_a_disconnect_cancels_the_run(url: str, client: Client) -> None:
    """When the HTTP client disconnects, its run is cancelled."""
    before = client.stats().runs.get("cancelled", 0)
    body = b'{"code":"for (;;);","limits":{"cpu_ms":9000}}'
    with connected(url) as sock:
        sock.sendall(b"POST /exec HTTP/1.1\r\nHost: localhost\r\n" + JSON + b"Content-Length: %d\r\n\r\n" % len(body))
        sock.sendall(body)
        until(lambda: client.stats().running > 0)
    until(lambda: client.stats().runs.get("cancelled", 0) > before)


@pytest.mark.timed
@pytest.mark.parametrize("rest", [b"", b"Content-Length: 9\r\n"], ids=["complete", "without its body"])
def test_a_disconnect_during_a_run(tmp_path: Path, rest: bytes) -> None:
    """When the HTTP client disconnects, the server no longer waits for its run, also if the request is incomplete."""
    with a_daemon(tmp_path) as daemon, _served(Settings(socket=daemon.socket)) as (url, server):
        hash = httpx.post(f"{url}submit", json={"code": "return 1"}).json()["hash"].encode()
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            with connected(url) as sock:
                sock.sendall(b"GET /run/%b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (hash, rest))
                until(lambda: len(server.server_state.tasks) > 0)
                time.sleep(0.1)
                assert server.server_state.tasks
            until(lambda: not server.server_state.tasks)
        finally:
            daemon.process.send_signal(signal.SIGCONT)


@pytest.mark.timed
@pytest.mark.parametrize("at_once", [1, 3])
def test_a_disconnect_cancels_pipelined_runs(url: str, client: Client, at_once: int) -> None:
    """When a client with several pipelined requests disconnects, its current run is cancelled."""
    before = client.stats().runs.get("cancelled", 0)
    body = b'{"code":"for (;;);","limits":{"cpu_ms":9000}}'
    head = b"POST /exec HTTP/1.1\r\nHost: localhost\r\n" + JSON + b"Content-Length: %d\r\n\r\n" % len(body)
    with connected(url) as sock:
        sock.sendall((head + body) * at_once)
        until(lambda: client.stats().running > 0)
        sock.sendall((head + body) * 2)
    until(lambda: client.stats().runs.get("cancelled", 0) > before)


def test_a_body_that_is_not_needed(monkeypatch: pytest.MonkeyPatch, socket_path: Path) -> None:
    """If a request was answered before its body arrived, the connection is closed unless the body arrives in time."""
    monkeypatch.setattr(server_module, "REST_S", 0.3)
    with _served(Settings(socket=socket_path)) as (url, _):
        received = exchanged(url, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nx")
        assert status_of(received) == 200


def test_no_free_connection_to_the_daemon(monkeypatch: pytest.MonkeyPatch, socket_path: Path) -> None:
    """If no connection to the daemon has room for a request, the answer is 429 at once."""
    monkeypatch.setattr(backend_module, "DAEMON_CONNECTIONS", 0)
    with _served(Settings(socket=socket_path)) as (url, _):
        response = httpx.post(f"{url}exec", json={"code": "return 1"}, timeout=20)
        assert (response.status_code, response.headers["retry-after"]) == (429, "1")


@pytest.mark.timed
def test_readiness_checks_are_combined(url: str, client: Client) -> None:
    """Many readiness checks at once use few connections to the daemon."""
    before = client.stats().clients
    socks = [connected(url) for _ in range(100)]
    try:
        for sock in socks:
            sock.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for sock in socks:
            assert status_of(sock.recv(65536)) == 200
        assert client.stats().clients <= before + 2
    finally:
        for sock in socks:
            sock.close()


@pytest.mark.timed
def test_long_runs_do_not_delay_short_runs(url: str, web: httpx.Client) -> None:
    """A client with short runs is served while thirty other connections run loops."""
    assert web.post("/exec", json={"code": "return 1"}).json() == 1
    body = b'{"code":"for (;;);","limits":{"cpu_ms":200}}'
    head = b"POST /exec HTTP/1.1\r\nHost: localhost\r\n" + JSON + b"Content-Length: %d\r\n\r\n" % len(body)
    socks = [connected(url) for _ in range(30)]
    try:
        for sock in socks:
            sock.sendall((head + body) * 2)
        for _ in range(20):
            assert web.post("/exec", json={"code": "return 1"}).json() == 1
    finally:
        for sock in socks:
            sock.close()


@pytest.mark.timed
def test_5000_connections(socket_path: Path) -> None:
    """Another client is served while 5,000 connections are open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= 6000, "RLIMIT_NOFILE is too low for this test"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with http_server(daemon=socket_path) as url:
        socks = [connected(url) for _ in range(5000)]
        try:
            with httpx.Client(base_url=url, timeout=20) as web:
                assert web.post("/exec", json={"code": "return 1"}).json() == 1
        finally:
            for sock in socks:
                sock.close()


def test_a_daemon_that_stops_and_comes_back(tmp_path: Path) -> None:
    """Without a daemon the answer is 503 with Retry-After; when a daemon starts, the same connections are served."""
    path = tmp_path / "socket"
    with http_server(daemon=path) as url, httpx.Client(base_url=url, timeout=20) as web:
        response = web.post("/exec", json={"code": "return 1"})
        assert (response.status_code, response.json()["code"]) == (503, "no_daemon")
        assert response.headers["retry-after"] == "1"
        assert web.get("/healthz").status_code == 200
        assert web.get("/readyz").status_code == 503
        for _ in range(2):
            with configured_daemon("") as socket:
                path.unlink(missing_ok=True)
                path.symlink_to(socket)
                assert web.post("/exec", json={"code": "return 1"}).json() == 1
                until(lambda: web.get("/readyz").status_code == 200, 5)  # an answer is cached for a second
            assert web.post("/exec", json={"code": "return 1"}).status_code == 503


def test_a_unix_socket(socket_path: Path, tmp_path: Path) -> None:
    """The server's Unix socket is open only to the user and the group, and is removed when the server ends."""
    path = tmp_path / "http.sock"
    with http_server(daemon=socket_path, listen=f"unix:{path}") as url:
        assert path.stat().st_mode & 0o777 == 0o660
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://any.example") as web:
            assert web.post("/exec", json={"code": "return 1"}).json() == 1
        assert url == f"unix:{path}"
    assert not path.exists()


def test_a_unix_socket_for_a_group(socket_path: Path, tmp_path: Path) -> None:
    """--listen-group and --listen-mode decide who may connect, for example a reverse proxy of another user."""
    path, group = tmp_path / "http.sock", 4242 if os.geteuid() == 0 else os.getegid()
    arguments = ("--listen-group", str(group), "--listen-mode", "0620")
    with http_server(*arguments, daemon=socket_path, listen=f"unix:{path}"):
        status = path.stat()
        assert (status.st_gid, status.st_mode & 0o777) == (group, 0o620)


def test_a_public_server_warns_about_hosts(tmp_path: Path) -> None:
    """A server that is reachable from other machines warns without --host which Host headers it accepts."""
    tokens = tmp_path / "tokens"
    tokens.write_text("a exec aaaaaaaaaaaaaaaaaaaaaaaa\n")
    tokens.chmod(0o600)
    for more, tells in (((), True), (("--host", "code.example"), False)):
        listen = ["--listen", "0.0.0.0:0", "--tokens", str(tokens)]
        process = subprocess.Popen(
            [sys.executable, "-m", "promptlogctl", "http", *listen, *more], stderr=subprocess.PIPE, text=True
        )
        assert process.stderr
        told = process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert ("127.0.0.1, [::1], 0.0.0.0 are refused; give --host NAME" in told) is tells
        assert ("listening on" in told) is not tells


@pytest.mark.parametrize("workers", ["1", "2"])
def test_tokens_are_in_force(socket_path: Path, tmp_path: Path, workers: str) -> None:
    """With --tokens, one and several worker processes refuse requests without a token."""
    tokens = tmp_path / "tokens"
    tokens.write_text("a exec aaaaaaaaaaaaaaaaaaaaaaaa\n")
    tokens.chmod(0o600)
    with (
        http_server("--tokens", str(tokens), "--workers", workers, daemon=socket_path) as url,
        httpx.Client(base_url=url, timeout=20) as web,
    ):
        until(lambda: _serves(web))
        for headers, status in (({}, 401), ({"authorization": "Bearer " + "a" * 24}, 200)):
            assert web.post("/exec", json={"code": "return 1"}, headers=headers).status_code == status


def _serves(web: httpx.Client) -> bool:
    with suppress(httpx.TransportError):
        return web.get("/healthz").status_code == 200
    return False


def test_workers(socket_path: Path) -> None:
    """A server with two worker processes answers requests."""
    with http_server("--workers", "2", daemon=socket_path) as url, httpx.Client(base_url=url, timeout=20) as web:
        until(lambda: _serves(web))
        assert web.post("/exec", json={"code": "return 1"}).json() == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--listen", "0.0.0.0:0"], "--tokens"),
        (["--listen", "nonsense"], "neither HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "neither HOST:PORT"),
        (["--listen", "unix:"], "the path is empty"),
        (["--listen", "192.0.2.1:80", "--tokens", "TOKENS"], "can't listen on 192.0.2.1:80"),
        (["--tokens", "/nonexistent/tokens"], "can't read"),
        (["--workers", "0"], "--workers"),
        (["--listen-group", "0"], "go with --listen unix:PATH"),
        (["--listen", "unix:/proc/none/s", "--listen-group", "no such group"], "there is no group"),
        (["--listen", "unix:/proc/none/s", "--listen-mode", "0060"], "is no mode"),
        (["--listen", "unix:/proc/none/s", "--listen-mode", "666"], "--tokens"),
        (["--listen", "unix:/proc/none/s", "--listen-mode", "0660"], "can't listen on"),
    ],
)
def test_usage_errors(tmp_path: Path, arguments: list[str], why: str) -> None:
    """An address, file or option that can't be used is a usage error that says why."""
    tokens = tmp_path / "tokens"
    tokens.write_text("a run aaaaaaaaaaaaaaaaaaaaaaaa\n")
    tokens.chmod(0o600)
    given = [str(tokens) if argument == "TOKENS" else argument for argument in arguments]
    command = [sys.executable, "-m", "promptlogctl", "http", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2, done.stderr
    assert why in done.stderr


def test_ctrl_c_ends_the_server_and_its_daemon() -> None:
    """SIGINT ends a server with --spawn without a traceback. A check after all tests finds processes that were left."""
    command = [sys.executable, "-m", "promptlogctl", "http", "--spawn", "--listen", "127.0.0.1:0"]
    environment = {**os.environ, "PROMPTLOG_SOCKET": "/nonexistent/promptlog.sock"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "listening on" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert "Traceback" not in said
    assert process.returncode in (0, 3)
