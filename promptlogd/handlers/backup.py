"""backup: copy the state folder while the daemon serves clients. Only root and the daemon's user may do this."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import trio

from promptlogd.handlers.rights import refuse_others
from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.journal import Journal
from promptlogd.log_fields import about
from promptlogd.principal import Principal
from promptlogd.refusal import RequestError, busy
from promptlogd.sink import Sink
from promptlogd.store import BackedUp as Done
from promptlogd.store import Store
from promptlogd.wire.messages import BackedUp, Backup

_log = logging.getLogger(__name__)


class BackupHandler:
    """Handles `backup`."""

    def __init__(self, store: Store, journal: Journal, threads: StoreThreads) -> None:
        self._store = store
        self._journal = journal
        self._threads = threads
        self._is_running = False

    def start(self, principal: Principal, request: Backup, sink: Sink) -> None:
        """Write a backup. Raises RequestError."""
        refuse_others(principal, "`backup`")
        if self._is_running:
            raise busy("another backup is being written; try again when it is complete")
        self._is_running = True
        sink.spawn(lambda: self._back_up(principal, request))

    async def _back_up(self, principal: Principal, request: Backup) -> BackedUp:
        stopped = threading.Event()
        done: Done | RequestError
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_set_when_cancelled, stopped)
                try:
                    done = await self._threads.write(
                        principal,
                        lambda: self._store.back_up(Path(request.folder), self._journal.copy_to, stopped.is_set),
                    )
                except RequestError as error:  # a nursery would wrap it in a group
                    done = error
                nursery.cancel_scope.cancel()
        finally:
            self._is_running = False
        if isinstance(done, RequestError):
            raise done
        said, fields = (principal.uid, done.programs, request.folder), about("backup", uid=principal.uid)
        _log.info("uid %d wrote a backup of %d programs to %s", *said, extra=fields)
        return BackedUp(id=request.id, programs=done.programs, linked=done.linked, copied=done.copied)


async def _set_when_cancelled(stopped: threading.Event) -> None:
    """Set an event when this task is cancelled, because a thread cannot be cancelled."""
    try:
        await trio.sleep_forever()
    finally:
        stopped.set()
