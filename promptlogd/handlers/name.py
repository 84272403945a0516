"""name: move a label to a program, or back to where it was."""

from __future__ import annotations

import trio

from promptlogd.client import Client
from promptlogd.handlers.references import StoreErrors, resolve
from promptlogd.services import Services
from promptlogd.wire.messages import Label, Named


async def handle(request: Label, services: Services, client: Client) -> Named:
    """Move a name. Raises RequestError."""
    hash = None if request.hash is None else resolve(services, request.hash)
    with StoreErrors():
        placed, previous = await trio.to_thread.run_sync(services.store.label, request.name, hash)
    return Named(id=request.id, name=request.name, hash=placed, previous=previous)
