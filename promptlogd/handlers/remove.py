"""remove: forget a program and the names on it. Runs of it that go on are not disturbed."""

from __future__ import annotations

import trio

from promptlogd.handlers.references import StoreErrors, resolve
from promptlogd.principal import Principal
from promptlogd.sink import Sink
from promptlogd.store import Store
from promptlogd.wire.messages import Remove, Removed


class RemoveHandler:
    """Handles `remove`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def start(self, principal: Principal, request: Remove, sink: Sink) -> None:
        """Remove a program. Raises RequestError."""
        hash = resolve(self._store, request.hash)

        async def remove() -> Removed:
            with StoreErrors():
                names = await trio.to_thread.run_sync(self._store.remove, hash)
            return Removed(id=request.id, hash=hash, names=list(names))

        sink.spawn(remove)
