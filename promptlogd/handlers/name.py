"""name: move a name to a program, or undo its last move."""

from __future__ import annotations

from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.principal import Principal
from promptlogd.sink import Sink
from promptlogd.store import Store
from promptlogd.wire.messages import Label, Named


class NameHandler:
    """Handles `name`."""

    def __init__(self, store: Store, threads: StoreThreads) -> None:
        self._store = store
        self._threads = threads

    def start(self, principal: Principal, request: Label, sink: Sink) -> None:
        """Move a name."""
        sink.spawn(lambda: self._threads.write(principal, lambda: self._moved(request)))

    def _moved(self, request: Label) -> Named:
        hash = None if request.hash is None else self._store.resolve(request.hash)
        placed, previous = self._store.label(request.name, hash)
        return Named(id=request.id, name=request.name, hash=placed, previous=previous)
