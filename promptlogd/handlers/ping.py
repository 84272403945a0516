"""ping: the versions."""

from __future__ import annotations

import os
from importlib.metadata import version

from promptlogd.principal import Principal
from promptlogd.sink import Sink
from promptlogd.wire.messages import PROTOCOL_VERSION, Ping, Pong

VERSION = version("promptlog")


class PingHandler:
    """Handles `ping`."""

    def start(self, principal: Principal, request: Ping, sink: Sink) -> None:
        """Reply that the daemon is there."""
        sink.reply(Pong(id=request.id, version=VERSION, protocol=PROTOCOL_VERSION, pid=os.getpid()))
