"""Serves the metrics over HTTP: `GET /metrics`, nothing else.

Each connection has one request. Everything that a client controls is bounded: the size of the head, the time to send
it, the time to read the response, and the number of connections. At the maximum, a new connection replaces the oldest
one, so idle connections cannot keep Prometheus out. All clients together cause at most five `stats` requests a second.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from http import HTTPStatus

from promptlogctl.client import AsyncClient, PromptlogError
from promptlogctl.metrics.exposition import CONTENT_TYPE, exposition

_log = logging.getLogger(__name__)

HEAD_BYTES = 8 * 1024
"""Maximum size of a request."""

HEAD_S = 5.0
"""Time limit for a complete request."""

SEND_S = 5.0
"""Time limit for the client to read the response."""

DAEMON_S = 4.0
"""Time limit for the daemon's reply. Prometheus waits for 10 s by default."""

FRESH_S = 0.2
"""A reply of the daemon is used again for this time."""

CONNECTIONS = 64
"""Maximum number of connections."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class MetricsServer:
    """Answers HTTP requests with the metrics of one daemon."""

    def __init__(self, client: AsyncClient, hosts: frozenset[str] | None) -> None:
        """`hosts`: accepted names in the Host header, so that no web page can read the metrics through a DNS name of
        its own. None: any, for a Unix socket."""
        self._client = client
        self._hosts = hosts
        self._open: dict[asyncio.StreamWriter, None] = {}
        """Open connections, oldest first."""
        self._asking = asyncio.Lock()
        self._text = b""
        self._asked_at = -FRESH_S
        self._answers = True
        """Whether the daemon answered the last time."""

    async def serve(self, sock: socket.socket) -> None:
        """Serve on a listening socket until SIGTERM or SIGINT."""
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        # start_unix_server would remove the file of a socket that systemd has passed (Python 3.13 and newer).
        server = await asyncio.start_server(self._handle, sock=sock, limit=HEAD_BYTES)
        await stopped.wait()
        server.close()
        for writer in list(self._open):
            writer.transport.abort()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
        self._open[writer] = None
        try:
            async with asyncio.timeout(HEAD_S):
                response = await self._read(reader)
            if response is None:
                response = _response(HTTPStatus.OK, await self._metrics())
            writer.write(response)
            writer.close()
            async with asyncio.timeout(SEND_S):
                await writer.wait_closed()
        except (TimeoutError, EOFError, OSError):
            pass  # the client is too slow, or has disconnected
        finally:
            self._open.pop(writer, None)
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> bytes | None:
        """Read a request. Return the response to an invalid request, or None if the request is valid."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, b"the request is too large\n")
        first, *headers = head.decode("latin-1").split("\r\n")
        parts = first.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST, b"this is not a valid HTTP/1 request\n")
        if parts[0] != "GET":
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET is supported\n", "allow: GET\r\n")
        if parts[1].partition("?")[0] != "/metrics":
            return _response(HTTPStatus.NOT_FOUND, b"the metrics are at /metrics\n")
        for header in headers:
            name, _, value = header.partition(":")
            if name.lower() == "host" and self._hosts is not None and _name(value) not in self._hosts:
                return _response(HTTPStatus.MISDIRECTED_REQUEST, b"unknown host; use 127.0.0.1 or localhost\n")
        return None

    async def _metrics(self) -> bytes:
        """Return the metrics, of a reply that is at most FRESH_S old."""
        loop = asyncio.get_running_loop()
        async with self._asking:
            if loop.time() - self._asked_at > FRESH_S:
                self._text = await self._ask()
                self._asked_at = loop.time()
            return self._text

    async def _ask(self) -> bytes:
        try:
            async with asyncio.timeout(DAEMON_S):
                stats = await self._client.stats()
        except (TimeoutError, PromptlogError) as error:
            if self._answers:
                _log.warning("promptlog_up is 0: %s", str(error) or f"the daemon did not answer within {DAEMON_S:g} s")
            self._answers = False
            return exposition(None)
        if not self._answers:
            _log.warning("promptlog_up is 1: the daemon answers again")
        self._answers = True
        return exposition(stats)


def _name(host: str) -> str:
    """Return the host name of a Host header, without the port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _response(status: HTTPStatus, body: bytes, header: str = "") -> bytes:
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {CONTENT_TYPE}\r\n{header}"
    return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body
