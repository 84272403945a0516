"""ping: the versions."""

from __future__ import annotations

import os
from importlib.metadata import version

from promptlogd.client import Client
from promptlogd.services import Services
from promptlogd.wire.messages import PROTOCOL_VERSION, Ping, Pong

VERSION = version("promptlog")


async def handle(request: Ping, services: Services, client: Client) -> Pong:
    """Say that the daemon is there."""
    return Pong(id=request.id, version=VERSION, protocol=PROTOCOL_VERSION, pid=os.getpid())
