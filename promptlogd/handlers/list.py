"""list: programs, newest first, in pages."""

from __future__ import annotations

from promptlogd.handlers.rights import Rights
from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.principal import Principal
from promptlogd.sink import Sink
from promptlogd.store import Store
from promptlogd.wire.messages import List, Listed, Listing


class ListHandler:
    """Handles `list`."""

    def __init__(self, store: Store, threads: StoreThreads, rights: Rights) -> None:
        self._rights = rights
        self._store = store
        self._threads = threads

    def start(self, principal: Principal, request: List, sink: Sink) -> None:
        """Reply with a page of programs. Raises RequestError."""
        self._rights.require(principal, "submit")
        sink.spawn(lambda: self._threads.read(principal, lambda: self._listed(principal, request), sink))

    def _listed(self, principal: Principal, request: List) -> Listed:
        page = self._store.list(request.limit, request.after, self._rights.viewer(principal))
        rows = [
            Listing(
                hash=row.fact.hash,
                size=row.fact.size,
                created_at=row.fact.created_at,
                engine=row.fact.engine,
                runs=row.fact.runs,
                last_run_at=row.fact.last_run_at,
                names=row.names,
                more_names=row.more_names,
                visibility=row.visibility,
            )
            for row in page.rows
        ]
        return Listed(id=request.id, programs=rows, next=page.next)
