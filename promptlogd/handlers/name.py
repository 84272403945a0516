"""name: move a name to a program, or undo its last move."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from promptlogd.handlers.rights import Rights
from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.handlers.stored_quotas import stored_quotas
from promptlogd.journal import Entry, Journal
from promptlogd.log_fields import about
from promptlogd.log_rate import HASH_SHOWN
from promptlogd.principal import Principal
from promptlogd.quotas import Quotas
from promptlogd.refusal import RequestError
from promptlogd.sink import Sink
from promptlogd.store import HolderQuota, Labeller, Store
from promptlogd.wire.messages import Label, Named

_log = logging.getLogger(__name__)


class NameHandler:
    """Handles `name`."""

    def __init__(self, store: Store, journal: Journal, threads: StoreThreads, rights: Rights, quotas: Quotas) -> None:
        self._rights = rights
        self._quotas = quotas
        self._store = store
        self._journal = journal
        self._threads = threads

    def start(self, principal: Principal, request: Label, sink: Sink) -> None:
        """Move a name. Raises RequestError."""
        self._rights.require(principal, "submit")
        sink.spawn(lambda: self._move(principal, request))

    async def _move(self, principal: Principal, request: Label) -> Named:
        quotas = stored_quotas(self._quotas, principal)
        try:
            return await self._threads.write(principal, lambda: self._moved(principal, request, quotas))
        except RequestError as error:
            if error.code == "quota":
                self._quotas.refused((principal.uid, principal.tenant), error)
            raise

    def _moved(self, principal: Principal, request: Label, quotas: Sequence[HolderQuota]) -> Named:
        viewer = self._rights.viewer(principal)
        hash = None if request.hash is None else self._store.resolve(request.hash, viewer)
        labeller = Labeller(
            viewer=viewer,
            new_owner=self._rights.holder(principal, request.visibility),
            quotas=quotas,
            visibility=request.visibility,
        )
        placed, previous = self._store.label(request.name, hash, labeller)
        uid, tenant = principal.uid, principal.tenant
        fields = about("name", uid=uid, tenant=tenant, connection=principal.connection, hash=placed, name=request.name)
        _log.info("uid %d put the name %s on program %s", uid, request.name, placed[:HASH_SHOWN], extra=fields)
        entry = Entry(
            at=time.time(), kind="name", uid=uid, tenant=tenant, hash=placed, name=request.name,
            outcome="moved" if hash is not None else "moved back",
        )  # fmt: skip
        self._journal.note(entry)
        return Named(id=request.id, name=request.name, hash=placed, previous=previous)
