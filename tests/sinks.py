"""A sink for requests that a test passes to a handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from promptlogd.refusal import RequestError
from promptlogd.sink import Sink
from promptlogd.wire import Encoding
from promptlogd.wire.messages import Id, Log, Reply


class NotingSink(Sink):
    """Records replies and callbacks; the test cancels requests and runs their work."""

    def __init__(self, encoding: Encoding = "msgpack") -> None:
        self._encoding: Encoding = encoding
        self.replies: list[Reply | RequestError] = []
        self.on_cancel: Callable[[], None] = lambda: None
        self.works: list[Callable[[], Awaitable[Reply | None]]] = []

    @property
    def encoding(self) -> Encoding:
        return self._encoding

    def reply(self, reply: Reply) -> None:
        self.replies.append(reply)

    def refuse(self, error: RequestError) -> None:
        self.replies.append(error)

    def log(self, lines: Sequence[Log]) -> None:
        raise AssertionError("nothing runs")

    def spawn(self, work: Callable[[], Awaitable[Reply | None]]) -> None:
        self.works.append(work)

    def when_cancelled(self, callback: Callable[[], None]) -> None:
        self.on_cancel = callback

    def cancel_other(self, target: Id) -> bool:
        return False

    def has_room(self) -> bool:
        return True

    def when_room(self, callback: Callable[[], None]) -> None:
        raise AssertionError("there is room")
