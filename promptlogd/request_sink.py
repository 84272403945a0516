"""The sink of one request: sends replies over the request's connection."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

import trio

from promptlogd.refusal import Detail, RequestError
from promptlogd.sink import Sink
from promptlogd.wire import Encoding
from promptlogd.wire.messages import ErrorCode, Id, Log, Reply, Request, Run, Submit

_log = logging.getLogger(__name__)

_HASH = re.compile("[0-9a-f]{8,64}")

_REQUEST_BYTES = 1024
"""Memory of a request and its objects, without its texts."""

_TASK_BYTES = 7 * 1024
"""Memory of the task of a request. Most runs have none."""


class Replies(Protocol):
    """The interface of the connection that a sink uses."""

    @property
    def encoding(self) -> Encoding:
        """Encoding of replies."""

    def send(self, reply: Reply) -> None:
        """Send a reply."""

    def send_together(self, replies: Sequence[Reply]) -> None:
        """Send several replies at once."""

    def send_error(
        self,
        id: Id | None,
        code: ErrorCode,
        message: str,
        detail: Detail | None = None,
        *,
        tenant: str | None = None,
        hash: str | None = None,
    ) -> None:
        """Send an error, count it, and log it. `tenant`: that of the request. `hash`: of the program, or a prefix."""

    def done(self, id: Id) -> None:
        """Note that the last reply to a request was sent."""

    async def work(self, work: Callable[[], Awaitable[Reply | None]], sink: RequestSink) -> None:
        """Run `work`, and send the reply that it returns, if any."""

    def cancel(self, target: Id, tasks: trio.Nursery) -> bool:
        """Cancel the run of another request, started or waiting. Return whether there is one."""

    def has_room(self) -> bool:
        """Whether the client has room for replies: see `Room`."""

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once the client has room."""


class RequestSink(Sink):
    """Receives the replies to one request of a connection."""

    def __init__(self, client: Replies, request: Request, tasks: trio.Nursery, *, cancelled: bool = False) -> None:
        """`cancelled`: the request was cancelled before its start."""
        self.held_bytes = bytes_of(request) + (0 if isinstance(request, Run) else _TASK_BYTES)
        """Memory that counts for the request until it is answered."""
        self.cancelled = cancelled
        self._client: Replies | None = client
        self._encoding = client.encoding
        self._tasks = tasks
        self._id = request.id
        self._tenant = request.tenant
        self._name = type(request).__name__
        self._reference: str | None = getattr(request, "hash", None)
        self._on_cancel: Callable[[], None] | None = None

    @property
    def encoding(self) -> Encoding:
        return self._encoding

    def reply(self, reply: Reply) -> None:
        client = self._client
        if client is None:
            return
        client.send(reply)  # before `_end`: if the reply can't be encoded, `fail` answers
        self._end()
        client.done(self._id)

    def refuse(self, error: RequestError) -> None:
        if error.delay_s:
            delay_s, error.delay_s = error.delay_s, 0.0
            self._on_cancel = None
            self.spawn(lambda: _raise_later(error, delay_s))
            return
        client = self._end()
        if client is not None:
            hash = (error.detail or {}).get("hash", self._reference)
            hash = hash if isinstance(hash, str) and _HASH.fullmatch(hash) else None  # log no names or other texts
            client.send_error(self._id, error.code, error.message, error.detail, tenant=self._tenant, hash=hash)
            client.done(self._id)

    def _end(self) -> Replies | None:
        """Release all references, because a request may hold large objects and is part of a reference cycle."""
        client, self._client, self._on_cancel = self._client, None, None
        return client

    def fail(self) -> None:
        """End the request after an error of the daemon. Call this in the exception handler."""
        _log.exception("request %r failed", self._name)
        self.refuse(RequestError("internal", "the daemon failed to handle this request; its log has the details"))

    def log(self, lines: Sequence[Log]) -> None:
        if self._client is not None:
            self._client.send_together(lines)

    def spawn(self, work: Callable[[], Awaitable[Reply | None]]) -> None:
        if self._client is not None:
            # The nursery is closed: the client has disconnected or the daemon is stopping. The connection ends all
            # requests.
            with suppress(RuntimeError):
                self._tasks.start_soon(self._client.work, work, self)

    def when_cancelled(self, callback: Callable[[], None]) -> None:
        if self._client is not None:
            self._on_cancel = callback

    def cancel(self) -> bool:
        """Cancel the request. Return whether it can be cancelled."""
        if self._on_cancel is None:
            return False
        self._on_cancel()
        return True

    def cancel_other(self, target: Id) -> bool:
        return self._client is not None and self._client.cancel(target, self._tasks)

    def has_room(self) -> bool:
        return self._client is None or self._client.has_room()

    def when_room(self, callback: Callable[[], None]) -> None:
        if self._client is not None:
            self._client.when_room(callback)

    def abandon(self) -> None:
        """End the request of a disconnected client: replies are dropped from now on."""
        on_cancel, client = self._on_cancel, self._end()
        if on_cancel is not None:
            on_cancel()
        if client is not None:
            client.done(self._id)


async def _raise_later(error: RequestError, delay_s: float) -> None:
    await trio.sleep(delay_s)
    try:
        raise error
    finally:
        del error  # a reference cycle would keep the error until the next garbage collection


def bytes_of(request: Request) -> int:
    """Return the memory that a request holds. A source counts twice: as text and as bytes."""
    if isinstance(request, Run):
        texts = sys.getsizeof(request.prompt) + memoryview(request.env).nbytes
        if request.source is not None:
            texts += 2 * sys.getsizeof(request.source)
        if request.host_functions is not None:
            texts += _REQUEST_BYTES * len(request.host_functions)
        return _REQUEST_BYTES + texts
    return _REQUEST_BYTES + (2 * sys.getsizeof(request.source) if isinstance(request, Submit) else 0)
