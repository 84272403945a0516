"""cancel: end a run of the same connection. The run itself is answered with the outcome `cancelled`."""

from __future__ import annotations

from promptlogd.principal import Principal
from promptlogd.sink import Sink
from promptlogd.wire.messages import Cancel, Cancelling


class CancelHandler:
    """Handles `cancel`."""

    def start(self, principal: Principal, request: Cancel, sink: Sink) -> None:
        """Cancel the run, if it exists."""
        sink.reply(Cancelling(id=request.id, found=sink.cancel_other(request.target)))
