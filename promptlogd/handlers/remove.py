"""remove: forget a program and the names on it. Runs of it that go on are not disturbed."""

from __future__ import annotations

import trio

from promptlogd.client import Client
from promptlogd.handlers.references import StoreErrors, resolve
from promptlogd.services import Services
from promptlogd.wire.messages import Remove, Removed


async def handle(request: Remove, services: Services, client: Client) -> Removed:
    """Remove a program. Raises RequestError."""
    hash = resolve(services, request.hash)
    with StoreErrors():
        names = await trio.to_thread.run_sync(services.store.remove, hash)
    return Removed(id=request.id, hash=hash, names=list(names))
