"""The HTTP server: uvicorn's protocol class, with bounds in size and time for what the application does not see.

uvicorn has no bound for a head, for what is sent behind a request, for trailers, or for a client that does not read.
Here bytes are given to its parser in small parts. While a request is being answered, what comes behind it is held, up
to a bound, and the socket is still read: that is how the client's end is noticed, which cancels its run.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import termios
from contextlib import suppress
from itertools import count
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from promptlogctl.http.guard import HEAD_BYTES
from promptlogctl.http.json_body import BODY_BYTES
from promptlogctl.http.problems import Problem

HEAD_S = 10.0
"""Time for a complete head, and for the first one of a connection."""

REST_S = 30.0
"""Time for the rest of a body, once its request was answered without it."""

STALL_S, STALL_BYTES = 30.0, 64 * 1024
"""In each STALL_S a client must read so many bytes of what waits for it, or all of it."""

HELD_BYTES = 64 * 1024
"""Bytes that are held behind a request that is being answered. With more, the socket is not read."""

HTTP_CONNECTIONS = 10_000
"""Connections of this process at once. Further ones are closed."""

_PART_BYTES = 4096
"""Bytes given to the parser at once: at most 160 requests, which wait in uvicorn's pipeline."""

_MESSAGE_BYTES = 2 * BODY_BYTES
"""A body with the framing of its chunks, and its trailers."""

_SPARE_DESCRIPTORS = 100
_numbers = count(1)


class Protocol(HttpToolsProtocol):
    """One HTTP connection."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._held = bytearray()
        """What was received and not given to the parser yet."""
        self._in_head = True
        """Whether the next byte belongs to a head, as far as is known."""
        self._is_complete = True
        """Whether the last request that began has come as a whole."""
        self._message_bytes = 0
        """Bytes of the present head, or of the body behind it."""
        self._unread_bytes = 0
        """What waited for the client at the last look."""
        self._in_application: RequestResponseCycle | None = None
        """The request that the application has. Others may be behind it in the pipeline."""
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # --- the connection -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        if self.client is None:  # a Unix socket: its clients have no address, so that each connection gets a number
            self.client = (f"unix-{os.getpid()}", next(_numbers))
        if len(self.connections) > most_connections():
            transport.abort()
        else:
            self._start("head", HEAD_S, self._refuse_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application that the client is gone. uvicorn tells only the last request in the pipeline."""
        super().connection_lost(exc)
        self.pipeline.clear()
        self._held.clear()
        cycle = self._in_application
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        for timer in self._timers.values():
            timer.cancel()

    def _start(self, name: str, seconds: float, callback: Any) -> None:
        """Start a timer of this name, unless it runs already."""
        if name not in self._timers:
            self._timers[name] = self.loop.call_later(seconds, callback)

    def _stop(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    # --- what comes ---------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Give it to the parser, or hold it."""
        self._held += data
        self._feed()

    def _feed(self) -> None:
        """Give the parser what is held, as long as no request is complete and not answered."""
        while self._held and not self._is_answering() and self.parser is not None and not self.transport.is_closing():
            part = bytes(self._held[:_PART_BYTES])
            del self._held[: len(part)]
            if self._is_complete:
                part = part.lstrip(b"\r\n")  # some clients send a line break behind a body
            if not part:
                continue
            self._message_bytes += len(part)
            if self._in_head:
                self._start("head", HEAD_S, self._refuse_late)
            super().data_received(part)
            self._check_size()
        if len(self._held) > HELD_BYTES:
            self.flow.pause_reading()

    def _is_answering(self) -> bool:
        """Whether a request has come as a whole, and its answer has not gone out."""
        return self._is_complete and self.cycle is not None and not self.cycle.response_complete

    def _check_size(self) -> None:
        if self._in_head and self._message_bytes > HEAD_BYTES:
            self._refuse(431, "head_too_large", f"target and headers may have {HEAD_BYTES} bytes")
        elif not self._in_head and self._message_bytes > _MESSAGE_BYTES:
            self._refuse(413, "too_large", f"the body has more than {BODY_BYTES} bytes")

    # --- uvicorn's parser calls these ---------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._is_complete = True, False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; drop a trailer, which uvicorn would add to the headers."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        if self.parser.should_upgrade() and any(
            name in (b"content-length", b"transfer-encoding") for name, _ in self.headers
        ):
            # The parser would take the body for the next request.
            self._refuse(400, "bad_request", "a request with a body can't be upgraded; send it without Upgrade")
            raise ValueError("Upgrade with a body")
        super().on_headers_complete()  # raises if uvicorn can't read the target, also since it is too long
        self._in_head, self._message_bytes = False, 0
        self._stop("head")

    def on_message_complete(self) -> None:
        """The request has come as a whole."""
        super().on_message_complete()
        self._in_head, self._is_complete, self._message_bytes = True, True, 0
        self._stop("rest")

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        if self._in_head and self._message_bytes > HEAD_BYTES:
            self._check_size()
        else:
            self._refuse(400, "bad_request", "this is no HTTP request that can be followed")

    # --- what goes ----------------------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._in_application = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Go on with the next request."""
        super().on_response_complete()  # reads on, also if much is held
        if len(self._held) > HELD_BYTES:
            self.flow.pause_reading()
        if self.transport.is_closing():
            self._abort_later()
        elif not self._is_complete:
            self._start("rest", REST_S, self.transport.abort)
        elif self._held and not self.pipeline:
            self.loop.call_soon(self._feed)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, also one whose client does not read its last answers."""
        super().timeout_keep_alive_handler()
        self._abort_later()

    def pause_writing(self) -> None:
        """Look from now on whether the client reads."""
        super().pause_writing()
        self._unread_bytes = self._count_unread()
        self._start("stall", STALL_S, self._check_reading)

    def resume_writing(self) -> None:
        """The client reads."""
        super().resume_writing()
        self._stop("stall")

    def _check_reading(self) -> None:
        del self._timers["stall"]
        unread_bytes = self._count_unread()
        if self._unread_bytes - unread_bytes < STALL_BYTES:
            self.transport.abort()
        else:
            self._unread_bytes = unread_bytes
            self._start("stall", STALL_S, self._check_reading)

    def _count_unread(self) -> int:
        """Return the bytes that the client has not read: the event loop's buffer and the kernel's (tcp(7), unix(7))."""
        # The kernel takes more only once a third of its buffer is free: by the loop's buffer alone nothing would move.
        unread_bytes = self.transport.get_write_buffer_size()
        with suppress(OSError):
            answer = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
            unread_bytes += int.from_bytes(answer, "little")
        return unread_bytes

    def _abort_later(self) -> None:
        """End a connection that is closing, if its client does not read what is still to be sent."""
        self._start("abort", STALL_S, self.transport.abort)

    def _refuse_late(self) -> None:
        self._refuse(408, "too_slow", f"the request did not come within {HEAD_S:g} s")

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Answer a request that the application does not see, or not as a whole, and close the connection."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        # Else a response is on its way, and this one would land within it, or before it.
        can_answer = cycle is None or cycle.response_complete or not (cycle.response_started or self.pipeline)
        if can_answer:
            if cycle is not None:  # the application waits for the rest of a body
                cycle.disconnected = True
                cycle.message_event.set()
            body = Problem(status, code, detail).body()
            head = f"HTTP/1.1 {status} {code}\r\ncontent-type: application/problem+json\r\n"
            head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode() + body)
        self.transport.close()
        self._abort_later()


def most_connections() -> int:
    """Return how many connections there may be, by the limit of file descriptors too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(HTTP_CONNECTIONS, max(16, soft - _SPARE_DESCRIPTORS))


def raise_descriptor_limit() -> None:
    """Let this process have as many file descriptors as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
