"""A request in flight of the asynchronous client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from promptlogctl.client.errors import ConnectionLost
from promptlogctl.client.request import OnLog
from promptlogctl.client.result import expect
from promptlogd.wire.messages import Id, Log, Reply
from sandbox.outcome import LogLine

if TYPE_CHECKING:
    from promptlogctl.client.async_link import Link

_R = TypeVar("_R")


class PendingReply:
    """A request in flight. `AsyncClient.send` creates it."""

    __slots__ = ("_closed", "_link", "_on_log", "answer", "failure", "id", "is_abandoned", "wake")

    def __init__(self, link: Link, id: Id, on_log: OnLog | None, closed: Callable[[PendingReply], None]) -> None:
        """`closed`: called by `close`."""
        self._link = link
        self._closed = closed
        self.id = id
        self._on_log = on_log
        self.answer: Reply | None = None
        """The last reply, once received."""
        self.failure: BaseException | None = None
        """The exception that `on_log` raised."""
        self.is_abandoned = False
        """Whether `abandon` was called."""
        self.wake: Callable[[], None] | None = None
        """Wakes the task that waits for the reply, if another task receives."""

    @property
    def is_settled(self) -> bool:
        """Whether the wait is over: a last reply, a failure, or a lost connection."""
        return self.answer is not None or self.failure is not None or self._link.is_lost

    async def reply(self, kind: type[_R]) -> _R:
        """Wait for the last reply, which is of this kind. One task at a time. A cancelled wait can be repeated.

        Raises RequestRefused, ConnectionLost, and the exception of `on_log`.
        """
        await self._link.wait(self)
        return self._result(kind)

    async def reply_within(self, seconds: float, kind: type[_R]) -> _R | None:
        """Wait for the last reply, as `reply` does, but return None after this time, or when `abandon` is called."""
        return self._result(kind) if await self._link.wait_within(seconds, self) else None

    async def reply_unless(self, gone: Callable[[], Awaitable[None]], kind: type[_R]) -> _R | None:
        """Wait for the last reply, as `reply` does, but return None if `gone` returns first."""
        return self._result(kind) if await self._link.wait_unless(gone, self) else None

    def abandon(self) -> None:
        """Make `reply_within` return None now. The request continues until `close`. Only for asyncio."""
        self.is_abandoned = True
        if self.wake is not None:
            self.wake()

    def _result(self, kind: type[_R]) -> _R:
        if self.failure is not None:
            raise self.failure
        if self.answer is None:
            raise ConnectionLost(f"{self._link.loss_message} before it answered")
        return expect(self.answer, kind)

    def take(self, reply: Reply) -> None:
        """Handle a reply to this request."""
        if not isinstance(reply, Log):
            self.answer = reply
            if self.wake is not None:
                self.wake()
        elif self._on_log is not None and self.failure is None:
            try:
                self._on_log(LogLine(level=reply.level, text=reply.text))
            except Exception as error:  # it belongs to the task that waits for this request
                self.failure = error
                if self.wake is not None:
                    self.wake()

    def close(self) -> None:
        """Stop waiting. If there is no reply yet, ask the daemon to cancel the request. Call this once."""
        self._link.waiting.pop(self.id, None)
        self._closed(self)
