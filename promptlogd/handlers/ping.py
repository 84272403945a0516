"""ping: the versions of the daemon and its engines."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from promptlogd.principal import Principal
from promptlogd.sink import Sink
from promptlogd.version import VERSION
from promptlogd.wire.messages import PROTOCOL_VERSION, Ping, Pong
from sandbox.engines.host.engine_host import EngineHost
from sandbox.program import Engine


class PingHandler:
    """Handles `ping`."""

    def __init__(self, hosts: Mapping[Engine, EngineHost], disabled: Sequence[Engine]) -> None:
        self._hosts = hosts
        self._disabled = list(disabled)

    def start(self, principal: Principal, request: Ping, sink: Sink) -> None:
        """Reply with the versions."""
        sink.reply(
            Pong(
                id=request.id,
                version=VERSION,
                protocol=PROTOCOL_VERSION,
                pid=os.getpid(),
                engines={name: host.version for name, host in self._hosts.items() if host.version},
                disabled=self._disabled,
            )
        )
