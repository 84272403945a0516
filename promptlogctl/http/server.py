"""The HTTP server: uvicorn, with bounds that uvicorn does not have."""

from __future__ import annotations

import asyncio
import resource
from itertools import count
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from promptlogctl.http.guard import HEAD_BYTES
from promptlogctl.http.problems import Problem

HEAD_S = 10.0
"""How long the target and headers of a request may take, and the first request of a connection."""

STALL_S = 30.0
"""How long a client may leave a response unread."""

CONNECTIONS = 10_000
"""Connections at once. Further ones are closed."""

_SPARE_DESCRIPTORS = 100
_numbers = count(1)


class Protocol(HttpToolsProtocol):
    """One HTTP connection. Counts, and times, what comes before uvicorn calls the application."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_bytes = 0
        self._in_head = True
        self._late: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._answered: RequestResponseCycle | None = None
        """The request that the application has. Others may be behind it in the pipeline."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        if self.client is None:  # a Unix socket: its peers have no address, and are told apart by number
            self.client = ("unix", next(_numbers))
        if len(self.connections) > most_connections():
            transport.abort()
            return
        self._late = self.loop.call_later(HEAD_S, self._refuse, 408, "too_slow", "the request did not come in time")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application that the client is gone. uvicorn tells only the last request in the pipeline."""
        super().connection_lost(exc)
        self.pipeline.clear()
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()
        for timer in (self._late, self._stalled):
            if timer is not None:
                timer.cancel()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        """Bound what of a head is taken."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._late is None:
                self._late = self.loop.call_later(
                    HEAD_S, self._refuse, 408, "too_slow", "the request did not come in time"
                )
        super().data_received(data)
        # A head that was complete is bounded by the guard, whatever server it runs on.
        if self._in_head and self._head_bytes > HEAD_BYTES + len(data):
            self._refuse(431, "head_too_large", f"target and headers may have {HEAD_BYTES} bytes")

    def on_headers_complete(self) -> None:
        """Stop to count the bytes of a head."""
        super().on_headers_complete()  # raises if uvicorn can't read the target, also since it is too long
        self._in_head = False
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def on_message_complete(self) -> None:
        """Count the bytes of the next head."""
        super().on_message_complete()
        self._in_head = True
        self._head_bytes = 0

    def pause_writing(self) -> None:
        """Close the connection unless the client reads on."""
        super().pause_writing()
        self._stalled = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads on."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self._refuse(431, "head_too_large", f"target and headers may have {HEAD_BYTES} bytes")
        else:
            self._refuse(400, "bad_request", "this is no HTTP request that can be followed")

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Answer a request that the application does not see, and close the connection."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not (cycle.response_started or self.pipeline):
            if cycle is not None:  # the application waits for the rest of a body
                cycle.disconnected = True
                cycle.message_event.set()
            body = Problem(status, code, detail).body()
            head = f"HTTP/1.1 {status} {code}\r\ncontent-type: application/problem+json\r\n"
            head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode() + body)
        self.transport.close()


def most_connections() -> int:
    """Return how many connections there may be, by the limit of file descriptors too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(CONNECTIONS, max(16, soft - _SPARE_DESCRIPTORS))


def raise_descriptor_limit() -> None:
    """Let this process have as many file descriptors as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
