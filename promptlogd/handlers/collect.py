"""gc: remove unused programs that have no name. It requires the right `manage`."""

from __future__ import annotations

from promptlogd.collector import Collector, Who
from promptlogd.handlers.rights import Rights
from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.principal import Principal
from promptlogd.refusal import RequestError
from promptlogd.sink import Sink
from promptlogd.wire.messages import Collect, Collected, CollectedProgram


class CollectHandler:
    """Handles `gc`."""

    def __init__(self, collector: Collector, threads: StoreThreads, rights: Rights) -> None:
        self._rights = rights
        self._collector = collector
        self._threads = threads

    def start(self, principal: Principal, request: Collect, sink: Sink) -> None:
        """Remove a page of programs. Raises RequestError."""
        self._rights.require(principal, "manage")
        if request.unused_s is None and request.over_bytes is None:
            raise RequestError("bad_request", "`gc` needs `unused_s` or `over_bytes`, or it would remove everything")
        sink.spawn(lambda: self._threads.write(principal, lambda: self._collected(principal, request)))

    def _collected(self, principal: Principal, request: Collect) -> Collected:
        page = self._collector.page(
            Who(uid=principal.uid, tenant=principal.tenant),
            unused_s=request.unused_s or 0.0,
            over_bytes=request.over_bytes,
            dry_run=request.dry_run,
            limit=request.limit,
            after=request.after,
        )
        return Collected(
            id=request.id,
            programs=[CollectedProgram(hash=one.hash, size=one.size, used_at=one.used_at) for one in page.programs],
            store_bytes=page.store_bytes,
            next=page.next,
        )
