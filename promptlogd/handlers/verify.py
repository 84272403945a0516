"""verify: read programs and their artifacts from disk, and say which do not verify."""

from __future__ import annotations

from promptlogd.handlers.rights import Rights
from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.principal import Principal
from promptlogd.sink import Sink
from promptlogd.store import Store
from promptlogd.wire.messages import DamagedPart, Verified, Verify


class VerifyHandler:
    """Handles `verify`."""

    def __init__(self, store: Store, threads: StoreThreads, rights: Rights) -> None:
        self._rights = rights
        self._store = store
        self._threads = threads

    def start(self, principal: Principal, request: Verify, sink: Sink) -> None:
        """Verify a page of programs. Raises RequestError."""
        self._rights.require(principal, "manage")
        sink.spawn(lambda: self._threads.read(principal, lambda: self._verified(request), sink))

    def _verified(self, request: Verify) -> Verified:
        page = self._store.verify(request.limit, request.after)
        return Verified(
            id=request.id,
            programs=page.programs,
            artifacts=page.artifacts,
            bytes=page.bytes,
            damaged=[DamagedPart(hash=one.hash, part=one.part, why=one.why) for one in page.damaged],
            next=page.next,
        )
