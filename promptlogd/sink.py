"""Where a handler sends the replies to one request, and its other means with that client. Knows no transport."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence

from promptlogd.refusal import RequestError
from promptlogd.room import Room
from promptlogd.wire import Encoding
from promptlogd.wire.messages import Id, Log, Reply


class Sink(Room, ABC):
    """Takes the replies to one request. The last one is given by `reply` or `refuse`, once; later ones are dropped."""

    cancelled = False
    """Whether the client cancelled the request before it began."""

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
        """Send console lines. The request goes on."""

    @abstractmethod
    def spawn(self, work: Callable[[], Awaitable[Reply | None]]) -> None:
        """Work on the request in a task of its own, which ends with the client. A reply that it returns is sent.

        RequestError refuses the request.
        """

    @abstractmethod
    def when_cancelled(self, callback: Callable[[], None]) -> None:
        """Call back when the client cancels the request or leaves. A second callback replaces the first."""

    @abstractmethod
    def cancel_other(self, target: Id) -> bool:
        """Cancel the run that another request of the same client began; return whether there is one."""
