"""journal, journal_stats: what happened. A client sees entries of its own uid; root and the daemon's user see all."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from promptlogd.handlers.rights import Rights
from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.journal import Journal
from promptlogd.journal.database import TooSlow
from promptlogd.journal.filter import Filter
from promptlogd.principal import Principal
from promptlogd.refusal import RequestError, busy
from promptlogd.sink import Sink
from promptlogd.store import NotFound, Store, Viewer
from promptlogd.wire.messages import Entries, JournalStats, JournalSums, ReadJournal

_R = TypeVar("_R")
_ROOT = 0
_DIGITS = re.compile("[0-9a-f]{8,64}")


class JournalHandler:
    """Handles `journal`."""

    def __init__(self, journal: Journal, store: Store, threads: StoreThreads, rights: Rights) -> None:
        self._rights = rights
        self._journal = journal
        self._store = store
        self._threads = threads

    def start(self, principal: Principal, request: ReadJournal, sink: Sink) -> None:
        """Reply with a page of entries, or with one entry."""

        def read() -> Entries:
            return _translated(lambda: self._read(principal, request))

        sink.spawn(lambda: self._threads.read_journal(principal, read, sink))

    def _read(self, principal: Principal, request: ReadJournal) -> Entries:
        wanted = Filter(
            uid=seen_by(principal),
            hash=_hash(self._store, request.hash, self._rights.viewer(principal)),
            failed=request.failed,
            since=request.since,
        )
        if request.entry is not None:
            entry = self._journal.entry(wanted, request.entry)
            if entry is None:
                raise RequestError("not_found", f"there is no entry {request.entry} in the journal that you may read")
            return Entries(id=request.id, entries=[entry])
        if request.before is not None and request.after is not None:
            raise RequestError("bad_request", "give either `before` or `after`")
        found = self._journal.page(wanted, request.limit + 1, before=request.before, after=request.after)
        page = found[: request.limit]
        return Entries(id=request.id, entries=page, next=page[-1].id if len(found) > request.limit else None)


class JournalStatsHandler:
    """Handles `journal_stats`."""

    def __init__(self, journal: Journal, store: Store, threads: StoreThreads, rights: Rights) -> None:
        self._rights = rights
        self._journal = journal
        self._store = store
        self._threads = threads

    def start(self, principal: Principal, request: JournalStats, sink: Sink) -> None:
        """Reply with the sums."""

        def read() -> JournalSums:
            return _translated(lambda: self._sum(principal, request))

        sink.spawn(lambda: self._threads.read_journal(principal, read, sink))

    def _sum(self, principal: Principal, request: JournalStats) -> JournalSums:
        wanted = Filter(
            uid=seen_by(principal),
            hash=_hash(self._store, request.hash, self._rights.viewer(principal)),
            since=request.since,
        )
        return JournalSums(id=request.id, programs=self._journal.sums(wanted))


def seen_by(principal: Principal) -> int | None:
    """Return the uid whose entries a client sees; None: everybody's. Raises RequestError for a tenant."""
    if principal.tenant is not None and not principal.manages:
        raise RequestError("forbidden", "a front's journal is for the front itself, not for one of its tenants")
    return None if principal.uid in (_ROOT, os.geteuid()) else principal.uid


def _hash(store: Store, reference: str | None, viewer: Viewer) -> str | None:
    """Return the hash that a reference means, or its digits if there is no such program: it may have been removed."""
    if reference is None:
        return None
    with suppress(NotFound):
        return store.resolve(reference, viewer)
    if _DIGITS.fullmatch(reference):
        return reference
    raise NotFound(reference)


def _translated(read: Callable[[], _R]) -> _R:
    """Call this. Turns the journal's errors into a RequestError."""
    try:
        return read()
    except TooSlow as error:
        raise busy(str(error)) from None
    except sqlite3.Error as error:
        raise RequestError("internal", f"the journal can't be read: {error}") from None
