"""The HTTP server: uvicorn's protocol class, with limits in size and time outside of the application.

uvicorn has no limits for a head, for data after a request, for trailers, or for a client that does not read. This class
passes bytes to its parser in small parts. While a request is being answered, later data is buffered, up to a limit. The
socket is still read, because this is how a disconnect is detected, which cancels the run.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from promptlogctl.http.backend import WATCH
from promptlogctl.http.descriptors import most_connections
from promptlogctl.http.guard import HEAD_BYTES
from promptlogctl.http.json_body import BODY_BYTES
from promptlogctl.http.problems import Problem
from promptlogctl.http.unread import count_unread
from promptlogctl.http.whole_response import ResponseSender

HEAD_S = 10.0
"""Time limit for a complete head, also for the first one of a connection."""

REST_S = 30.0
"""Time limit for the rest of a body, if its request was answered before."""

STALL_S, STALL_BYTES = 30.0, 64 * 1024
"""In each STALL_S, a client must read this many bytes of a waiting response, or all of it."""

HELD_BYTES = 64 * 1024
"""Maximum size of buffered data after a request that is being answered. Beyond it, the socket is not read."""

_PART_BYTES = 4096
"""Bytes passed to the parser at once: at most 160 requests, which wait in uvicorn's pipeline."""

_MESSAGE_BYTES = 2 * BODY_BYTES
"""Maximum size of a body with its chunk framing and trailers."""

_numbers = count(1)
_Base = HttpToolsProtocol
"""Methods that are called for each request use this name. Each `super()` takes 0.2 us more."""


class Protocol(HttpToolsProtocol):
    """One HTTP connection."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._held = bytearray()
        """Received data that was not passed to the parser yet."""
        self._in_head = True
        """Whether the next byte belongs to a head, as far as known."""
        self._is_complete = True
        """Whether the last request was received completely."""
        self._message_bytes = 0
        """Size of the current head or body so far."""
        self._unread_bytes = 0
        """Unread bytes at the last check of the client."""
        self._in_application: RequestResponseCycle | None = None
        """The request that the application is handling. Others may follow it in the pipeline."""
        self._on_disconnect: Callable[[], None] | None = None
        """What the application wants to be called when the client of that request disconnects."""
        self._idle_since_s = math.inf
        """Time of the event loop of the last response. Infinite if data has arrived since: it is not idle."""
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # --- the connection -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first request."""
        super().connection_made(transport)
        if self.client is None:  # clients of a Unix socket have no address, so each connection gets a number
            self.client = (f"unix-{os.getpid()}", next(_numbers))
        if len(self.connections) > most_connections():
            transport.abort()
        else:
            self._start("head", HEAD_S, self._refuse_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the disconnect to the application. uvicorn reports it only to the last request in the pipeline."""
        super().connection_lost(exc)
        self.pipeline.clear()
        self._held.clear()
        self._disconnect(self._in_application)
        for timer in self._timers.values():
            timer.cancel()

    def _disconnect(self, cycle: RequestResponseCycle | None) -> None:
        """Report to the application that the client of a request has disconnected, unless it has its response."""
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle is self._in_application and self._on_disconnect is not None:
                self._on_disconnect()

    def _watch(self, on_disconnect: Callable[[], None]) -> bool:
        """Call a function when the client disconnects. Return False if the request is not received completely: then the
        application must receive the rest, so that the socket is read.

        Beyond HELD_BYTES the socket is not read. Then a disconnection shows only when the response is sent.
        """
        cycle = self._in_application
        if cycle is None or cycle.more_body:
            return False
        self._on_disconnect = on_disconnect
        if len(self._held) <= HELD_BYTES:
            self.flow.resume_reading()  # a request in the pipeline has paused it
        if cycle.disconnected:
            on_disconnect()
        return True

    def _start(self, name: str, seconds: float, callback: Any) -> None:
        """Start a timer of this name, unless it is already running."""
        if name not in self._timers:
            self._timers[name] = self.loop.call_later(seconds, callback)

    def _stop(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    # --- receiving ----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Pass data to the parser, or buffer it."""
        if not self._held and len(data) <= _PART_BYTES and self._can_parse():
            self._parse(data)
        else:
            self._held += data
            self._feed()

    def _feed(self) -> None:
        """Pass buffered data to the parser, until a complete request waits for its response."""
        while self._held and self._can_parse():
            part = bytes(self._held[:_PART_BYTES])
            del self._held[: len(part)]
            self._parse(part)
        if len(self._held) > HELD_BYTES:
            self.flow.pause_reading()

    def _parse(self, part: bytes) -> None:
        """Pass at most _PART_BYTES to the parser."""
        if self._is_complete:
            part = part.lstrip(b"\r\n")  # some clients send a line break after a body
        if not part:
            return
        self._message_bytes += len(part)
        _Base.data_received(self, part)
        if not self._is_complete:
            self._limit_head()
            self._check_size()

    def _limit_head(self) -> None:
        """Start the time limit of an incomplete head, unless an earlier request is still being answered."""
        if self._in_head and not self._is_complete and (self.cycle is None or self.cycle.response_complete):
            self._start("head", HEAD_S, self._refuse_late)

    def _can_parse(self) -> bool:
        """Whether no complete request waits for its response, and the connection is open."""
        if self._is_complete and self.cycle is not None and not self.cycle.response_complete:
            return False
        return self.parser is not None and not self.transport.is_closing()

    def _check_size(self) -> None:
        if self._in_head and self._message_bytes > HEAD_BYTES:
            self._refuse(431, "head_too_large", f"target and headers may have {HEAD_BYTES} bytes")
        elif not self._in_head and self._message_bytes > _MESSAGE_BYTES:
            self._refuse(413, "too_large", f"the body has more than {BODY_BYTES} bytes")

    # --- uvicorn's parser calls these ---------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Handle the start of a request."""
        _Base.on_message_begin(self)
        self._in_head, self._is_complete = True, False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Handle a header. Drop a trailer, which uvicorn would add to the headers."""
        if self._in_head:
            _Base.on_header(self, name, value)

    def on_headers_complete(self) -> None:
        """Handle the end of the head."""
        if self.parser.should_upgrade() and any(
            name in (b"content-length", b"transfer-encoding") for name, _ in self.headers
        ):
            # The parser would treat the body as the next request.
            self._refuse(400, "bad_request", "a request with a body can't be upgraded; send it without Upgrade")
            raise ValueError("Upgrade with a body")
        _Base.on_headers_complete(self)  # raises if the target is malformed or too long for uvicorn
        self._in_head, self._message_bytes = False, 0
        self._stop("head")

    def on_message_complete(self) -> None:
        """Handle the end of a request."""
        _Base.on_message_complete(self)
        self._in_head, self._is_complete, self._message_bytes = True, True, 0
        self._stop("rest")

    def send_400_response(self, msg: str) -> None:
        """Respond to data that is not HTTP."""
        if self._in_head and self._message_bytes > HEAD_BYTES:
            self._check_size()
        else:
            self._refuse(400, "bad_request", "this is not a valid HTTP request")

    # --- sending ------------------------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._in_application = cycle

        def serve(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            scope[WATCH] = self._watch
            return app(scope, receive, ResponseSender(cycle).send)  # type: ignore[no-any-return]

        _Base._start_asgi_task(self, cycle, serve)  # type: ignore[arg-type]

    def on_response_complete(self) -> None:
        """Continue with the next request. Replaces uvicorn's method, which starts a timer for each request."""
        self._on_disconnect = None
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._abort_later()
            return
        if len(self._held) > HELD_BYTES:
            self.flow.pause_reading()
        else:
            self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since_s = self.loop.time()
            self._start("idle", self.timeout_keep_alive, self._close_if_idle)
        if not self._is_complete and self._in_head:
            self._limit_head()
        elif not self._is_complete:
            self._start("rest", REST_S, self.transport.abort)
        elif self._held and not self.pipeline:
            self.loop.call_soon(self._feed)

    def _unset_keepalive_if_required(self) -> None:
        """Note that the connection is not idle. uvicorn calls this at each arrival of data, to stop its own timer."""
        self._idle_since_s = math.inf

    def _close_if_idle(self) -> None:
        """Close an idle connection, even if its client has not read the last responses."""
        del self._timers["idle"]
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s <= 0:
            self.timeout_keep_alive_handler()
            self._abort_later()
        elif left_s < math.inf:
            self._start("idle", left_s, self._close_if_idle)

    def pause_writing(self) -> None:
        """Start to check whether the client reads."""
        super().pause_writing()
        self._unread_bytes = count_unread(self.transport)
        self._start("stall", STALL_S, self._check_reading)

    def resume_writing(self) -> None:
        """Stop checking, because the client reads."""
        super().resume_writing()
        self._stop("stall")

    def _check_reading(self) -> None:
        del self._timers["stall"]
        unread_bytes = count_unread(self.transport)
        if self._unread_bytes - unread_bytes < STALL_BYTES:
            self.transport.abort()
        else:
            self._unread_bytes = unread_bytes
            self._start("stall", STALL_S, self._check_reading)

    def _abort_later(self) -> None:
        """Abort a closing connection if its client does not read the remaining data."""
        self._start("abort", STALL_S, self.transport.abort)

    def _refuse_late(self) -> None:
        self._refuse(408, "too_slow", f"the request did not arrive within {HEAD_S:g} s")

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Refuse a request that does not reach the application completely, and close the connection."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        # Otherwise another response is being sent, and this one would be mixed into it.
        can_answer = cycle is None or cycle.response_complete or not (cycle.response_started or self.pipeline)
        if can_answer:
            self._disconnect(cycle)  # the application may wait for the rest of a body
            self.transport.write(Problem(status, code, detail).last_response())
        self.transport.close()
        self._abort_later()
