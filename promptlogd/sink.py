"""The interface through which a handler replies to one request. Independent of the transport."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence

from promptlogd.refusal import RequestError
from promptlogd.room import Room
from promptlogd.wire import Encoding
from promptlogd.wire.messages import Id, Log, Reply


class Sink(Room, ABC):
    """Receives the replies to one request. `reply` or `refuse` gives the last one; later replies are dropped."""

    cancelled = False
    """Whether the client cancelled the request before its start."""

    @property
    @abstractmethod
    def encoding(self) -> Encoding:
        """Encoding of replies to this client, for a handler that encodes a large text in advance."""

    @abstractmethod
    def reply(self, reply: Reply) -> None:
        """Send the reply that ends the request."""

    @abstractmethod
    def refuse(self, error: RequestError) -> None:
        """End the request with an error."""

    @abstractmethod
    def log(self, lines: Sequence[Log]) -> None:
        """Send console lines. The request continues."""

    @abstractmethod
    def spawn(self, work: Callable[[], Awaitable[Reply | None]]) -> None:
        """Run `work` in a task that ends with the connection, and send the reply that it returns, if any.

        If it raises RequestError, the request is refused.
        """

    @abstractmethod
    def when_cancelled(self, callback: Callable[[], None]) -> None:
        """Call back when the client cancels the request or disconnects. A second callback replaces the first."""

    @abstractmethod
    def cancel_other(self, target: Id) -> bool:
        """Cancel the run of another request of the same connection. Return whether there is one."""
