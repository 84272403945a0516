"""Sends a short response with one write. uvicorn checks and writes header by header, which takes twice the time."""

from __future__ import annotations

import re

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_NEEDS_UVICORN = frozenset((b"connection", b"transfer-encoding"))
"""Headers that change how a response is framed."""

_JOINED_BYTES = 64 * 1024
"""Maximum size of a body that is joined with its head, so that both are one write."""


class ResponseSender:
    """Sends the response of one request."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._start: Message | None = None
        """The start of a response with Content-Length, which waits for its body."""

    async def send(self, message: Message) -> None:
        """Send a part of the response (ASGI)."""
        cycle, start = self._cycle, self._start
        if start is not None:
            self._start = None
            if self._send_if_complete(start, message):
                return
            await cycle.send(start)  # type: ignore[arg-type]
        elif message["type"] == "http.response.start" and not cycle.response_started and _has_length(message):
            self._start = message
            return
        await cycle.send(message)  # type: ignore[arg-type]

    def _send_if_complete(self, start: Message, message: Message) -> bool:
        """Send a complete response, and return True. If uvicorn must send it, send nothing, and return False."""
        cycle = self._cycle
        if message["type"] != "http.response.body" or message.get("more_body", False):
            return False
        if cycle.flow.write_paused or cycle.disconnected or cycle.scope["method"] == "HEAD":
            return False
        body = message.get("body", b"")
        headers = [*cycle.default_headers, *start["headers"]]
        lines = [b"%b: %b" % header for header in headers]
        if (
            (b"content-length", b"%d" % len(body)) not in headers
            or not _NEEDS_UVICORN.isdisjoint([name for name, _ in headers])
            or _CONTROL.search(b"".join(lines))
        ):
            return False
        if not cycle.keep_alive:
            lines.append(b"connection: close")
        head = b"%b%b\r\n\r\n" % (STATUS_LINE[start["status"]], b"\r\n".join(lines))
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        if len(body) <= _JOINED_BYTES:
            cycle.transport.write(head + body)
        else:
            cycle.transport.write(head)
            cycle.transport.write(body)
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True


def _has_length(start: Message) -> bool:
    return b"content-length" in [name for name, _ in start["headers"]]
