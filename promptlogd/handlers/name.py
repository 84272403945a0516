"""name: move a label to a program, or back to where it was."""

from __future__ import annotations

import trio

from promptlogd.handlers.references import StoreErrors, resolve
from promptlogd.principal import Principal
from promptlogd.sink import Sink
from promptlogd.store import Store
from promptlogd.wire.messages import Label, Named


class NameHandler:
    """Handles `name`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def start(self, principal: Principal, request: Label, sink: Sink) -> None:
        """Move a name. Raises RequestError."""
        hash = None if request.hash is None else resolve(self._store, request.hash)

        async def move() -> Named:
            with StoreErrors():
                placed, previous = await trio.to_thread.run_sync(self._store.label, request.name, hash)
            return Named(id=request.id, name=request.name, hash=placed, previous=previous)

        sink.spawn(move)
