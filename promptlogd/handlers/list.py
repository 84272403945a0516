"""list: programs, newest first, a page at a time."""

from __future__ import annotations

from promptlogd.handlers.references import StoreErrors
from promptlogd.principal import Principal
from promptlogd.sink import Sink
from promptlogd.store import Store
from promptlogd.wire.messages import List, Listed, Listing


class ListHandler:
    """Handles `list`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def start(self, principal: Principal, request: List, sink: Sink) -> None:
        """Reply with a page of programs. Raises RequestError."""
        with StoreErrors():
            page = self._store.list(request.limit, request.after)
        rows = [
            Listing(
                hash=fact.hash,
                size=fact.size,
                created_at=fact.created_at,
                engine=fact.engine,
                runs=fact.runs,
                last_run_at=fact.last_run_at,
                names=names,
            )
            for fact, names in page.rows
        ]
        sink.reply(Listed(id=request.id, programs=rows, next=page.next))
