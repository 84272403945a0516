"""remove: delete a program and its names. Running runs of the program continue."""

from __future__ import annotations

import logging
import time

from promptlogd.handlers.rights import Rights
from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.journal import Entry, Journal
from promptlogd.log_fields import about
from promptlogd.log_rate import HASH_SHOWN
from promptlogd.principal import Principal
from promptlogd.sink import Sink
from promptlogd.store import MOST_NAMES_SHOWN, Store
from promptlogd.wire.messages import Remove, Removed

_log = logging.getLogger(__name__)


class RemoveHandler:
    """Handles `remove`."""

    def __init__(self, store: Store, journal: Journal, threads: StoreThreads, rights: Rights) -> None:
        self._rights = rights
        self._store = store
        self._journal = journal
        self._threads = threads

    def start(self, principal: Principal, request: Remove, sink: Sink) -> None:
        """Remove a program. Raises RequestError."""
        self._rights.require(principal, "submit")
        sink.spawn(lambda: self._threads.write(principal, lambda: self._removed(principal, request)))

    def _removed(self, principal: Principal, request: Remove) -> Removed:
        viewer = self._rights.viewer(principal)
        hash = self._store.resolve(request.hash, viewer)
        names = self._store.remove(hash, viewer)
        uid, tenant = principal.uid, principal.tenant
        fields = about("remove", uid=uid, tenant=tenant, connection=principal.connection, hash=hash)
        _log.info("uid %d removed program %s, with %d names", uid, hash[:HASH_SHOWN], len(names), extra=fields)
        now = time.time()
        self._journal.note(Entry(at=now, kind="remove", uid=uid, tenant=tenant, hash=hash, outcome="removed"))
        for name in names:
            self._journal.note(
                Entry(at=now, kind="name", uid=uid, tenant=tenant, hash=hash, name=name, outcome="removed")
            )
        more = max(0, len(names) - MOST_NAMES_SHOWN)
        return Removed(id=request.id, hash=hash, names=list(names[:MOST_NAMES_SHOWN]), more_names=more)
