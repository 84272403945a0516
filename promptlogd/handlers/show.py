"""show: all that is known of one program."""

from __future__ import annotations

from promptlogd.handlers.references import StoreErrors, resolve
from promptlogd.principal import Principal
from promptlogd.sink import Sink
from promptlogd.store import Store
from promptlogd.wire.messages import NameChange, Show, Shown


class ShowHandler:
    """Handles `show`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def start(self, principal: Principal, request: Show, sink: Sink) -> None:
        """Reply with what is known of a program. Raises RequestError."""
        hash = resolve(self._store, request.hash)
        with StoreErrors():
            fact, names, history = self._store.show(hash)
            source = self._store.load(hash).source.decode("utf-8") if request.source else None
        sink.reply(
            Shown(
                id=request.id,
                hash=fact.hash,
                size=fact.size,
                created_at=fact.created_at,
                created_by=fact.created_by,
                engine=fact.engine,
                language=fact.language,
                runs=fact.runs,
                last_run_at=fact.last_run_at,
                names=names,
                history={
                    name: [NameChange(hash=move.hash, at=move.at) for move in moves if move.hash is not None]
                    for name, moves in history.items()
                },
                source=source,
            )
        )
