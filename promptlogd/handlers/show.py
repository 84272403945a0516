"""show: all that is known of one program."""

from __future__ import annotations

from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.principal import Principal
from promptlogd.sink import Sink
from promptlogd.store import Store
from promptlogd.wire.messages import NameChange, Show, Shown


class ShowHandler:
    """Handles `show`."""

    def __init__(self, store: Store, threads: StoreThreads) -> None:
        self._store = store
        self._threads = threads

    def start(self, principal: Principal, request: Show, sink: Sink) -> None:
        """Reply with what is known of a program."""
        sink.spawn(lambda: self._threads.read(principal, lambda: self._shown(request)))

    def _shown(self, request: Show) -> Shown:
        hash = self._store.resolve(request.hash)
        shown = self._store.show(hash)
        fact = shown.fact
        return Shown(
            id=request.id,
            hash=fact.hash,
            size=fact.size,
            created_at=fact.created_at,
            created_by=fact.created_by,
            engine=fact.engine,
            language=fact.language,
            runs=fact.runs,
            last_run_at=fact.last_run_at,
            names=shown.names,
            more_names=shown.more_names,
            history={
                name: [NameChange(hash=move.hash, at=move.at) for move in moves if move.hash is not None]
                for name, moves in shown.history.items()
            },
            source=self._store.load(hash).source.decode("utf-8") if request.source else None,
        )
