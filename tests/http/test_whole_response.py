"""The server's protocol class sends any response of an application as uvicorn would, complete or in parts."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from promptlogctl.http import server as server_module
from tests.daemon.processes import until
from tests.http.servers import exchanged

LONG = b"x" * 100_000


def _length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % len(body)


def _start(*headers: tuple[bytes, bytes], status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def _body(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


RESPONSES: dict[str, list[Message]] = {
    "/complete": [_start(_length(b"body"), (b"x-one", b"1")), _body(b"body")],
    "/long": [_start(_length(LONG)), _body(LONG)],
    "/parts": [_start(_length(b"body")), _body(b"bo", more=True), _body(b"dy")],
    "/without-length": [_start(), _body(b"body")],
    "/empty": [_start(status=204), _body(b"")],
    "/closed": [_start(_length(b"body"), (b"connection", b"close")), _body(b"body")],
    "/tab": [_start(_length(b"body"), (b"x-one", b"1\t\xe9")), _body(b"body")],
    "/control": [_start(_length(b"body"), (b"x-one", b"1\x01")), _body(b"body")],
    "/two-lengths": [_start(_length(b"bo"), _length(b"body")), _body(b"body")],
    "/chunked": [_start(_length(b"body"), (b"transfer-encoding", b"chunked")), _body(b"body")],
    "/line-break": [_start(_length(b"body"), (b"x-one", b"1\r\nx-two: 2")), _body(b"body")],
    "/too-short": [_start(_length(b"a longer body")), _body(b"body")],
    "/without-body": [_start(_length(b"body"))],
}


async def _application(scope: Scope, receive: Receive, send: Send) -> None:
    for message in RESPONSES[scope["path"]]:
        await send(message)


@contextlib.contextmanager
def _serving(protocol: Any) -> Iterator[str]:
    config = uvicorn.Config(_application, http=protocol, port=0, loop="uvloop", ws="none", log_config=None)
    config.date_header, config.timeout_keep_alive = False, 60
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        until(lambda: server.started, 20)
        host, port = server.servers[0].sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[str, str]]:
    """The URLs of a server with uvicorn's protocol class, and of one with ours."""
    with _serving("httptools") as theirs, _serving(server_module.Protocol) as ours:
        yield theirs, ours


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", sorted(RESPONSES))
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_bytes_are_uvicorns(both: tuple[str, str], path: str, method: str, version: str) -> None:
    """Each response has the same bytes as from uvicorn's class; an invalid one may also be the error 500."""
    close = "Connection: close\r\n" if version == "1.1" else ""
    request = f"{method} {path} HTTP/{version}\r\nHost: localhost\r\n{close}\r\n".encode()
    theirs, ours = (exchanged(url, request) for url in both)
    invalid = path == "/without-body" or (path == "/too-short" and method == "GET")
    assert ours == theirs or (invalid and ours.startswith(b"HTTP/1.1 500 "))
    assert b"\r\nx-two" not in ours


def test_several_requests_on_one_connection(both: tuple[str, str]) -> None:
    """Several responses on one connection, complete and in parts, have the same bytes as from uvicorn's class."""
    request = b"".join(
        b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path for path in (b"/complete", b"/parts", b"/long", b"/empty")
    )
    theirs, ours = (exchanged(url, request + b"GET /closed HTTP/1.1\r\nHost: localhost\r\n\r\n") for url in both)
    assert ours == theirs


def test_a_wrong_length_closes_the_connection(both: tuple[str, str]) -> None:
    """If a body is shorter than its Content-Length, the client gets an error, or the connection ends."""
    for url in both:
        response = exchanged(url, b"GET /too-short HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 500 ") or response.endswith(b"\r\n\r\nbody")
