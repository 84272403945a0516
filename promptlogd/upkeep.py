"""Periodic work.

Flushes counts and the journal, removes unused programs, makes spare folders, trims memory, collects garbage, and
reports to systemd.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio

from promptlogd import allocator
from promptlogd.admission import Admission
from promptlogd.clients import Clients
from promptlogd.collector import Collector
from promptlogd.journal import Journal
from promptlogd.service_manager import Notifier
from promptlogd.store import Store, StoreError

_log = logging.getLogger(__name__)
_R = TypeVar("_R")
_FLUSH_S = 1.0
_PAUSE_S = 0.001
"""Pause of the journal's thread after each few entries. Without it, the event loop of a busy daemon would get the
interpreter's lock only now and then for the 10 ms that a second's entries take."""
_TRIM_S = 10.0

_COLLECT_S, _COLLECT_AT_LATEST_S = 60.0, 3600.0
"""Interval of full garbage collections, and the maximum interval if they are deferred."""

_FEW_CONNECTIONS = 64
"""Up to this number of connections, a full collection takes 1 ms. With more it is deferred."""

_COLLECT_PROGRAMS_S, _PAGE_PAUSE_S = 600.0, 0.1
"""Interval of removing programs that nobody uses, and the pause after each hundred of them."""

_SPARES_WAIT_S = 0.005


class Upkeep:
    """Does the periodic work."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        clients: Clients,
        admission: Admission,
        notifier: Notifier,
        collector: Collector,
    ) -> None:
        self._collector = collector
        self._store = store
        self._journal = journal
        self._clients = clients
        self._admission = admission
        self._notifier = notifier
        self._kept = trio.Event()
        """Set when a program was stored, and few spare folders are left."""

    def on_kept(self) -> None:
        """Note that a program was stored, so that the store can prepare for the next one."""
        if self._store.lacks_spares:
            self._kept.set()

    async def serve(self) -> None:
        """Do the periodic work until cancelled."""
        async with trio.open_nursery() as nursery:
            for work in (self._flush, self._make_spares, self._trim, self._collect):
                nursery.start_soon(work)
            if self._collector.has_timer:
                nursery.start_soon(self._collect_programs)
            if self._notifier.is_wanted:
                nursery.start_soon(self._tell_systemd)

    async def _flush(self) -> None:
        while True:
            await trio.sleep(_FLUSH_S)
            await _try_in_thread(self._store.flush)
            try:
                await _try_in_thread(lambda: self._journal.flush(partial(time.sleep, _PAUSE_S)))
            except Exception:  # an entry that can't be written must not end the daemon
                _log.exception("the journal failed; entries are lost")

    async def _trim(self) -> None:
        seen = 0
        while True:
            await trio.sleep(_TRIM_S)
            if (runs := self._admission.finished) != seen:
                seen = runs
                await _try_in_thread(allocator.trim)

    async def _collect(self) -> None:
        """Run a full garbage collection once a minute while there are few connections, and once an hour with many.

        It has little to do, because connections and runs are freed without it when they end.
        """
        collected_at = trio.current_time()
        while True:
            await trio.sleep(_COLLECT_S)
            overdue = trio.current_time() - collected_at >= _COLLECT_AT_LATEST_S
            if overdue or self._clients.connected <= _FEW_CONNECTIONS:
                collected_at = trio.current_time()
                gc.collect()

    async def _collect_programs(self) -> None:
        """Remove programs that nobody uses, at the start and then every ten minutes, a page at a time."""
        while True:
            after: str | None = None
            while True:
                after = await _try_in_thread(partial(self._next_page, after))
                if after is None:
                    break
                await trio.sleep(_PAGE_PAUSE_S)
            await trio.sleep(_COLLECT_PROGRAMS_S)

    def _next_page(self, after: str | None) -> str | None:
        try:
            return self._collector.next_page(after)
        except StoreError as error:
            _log.error("programs that nobody uses can't be removed now: %s", error)
            return None

    async def _make_spares(self) -> None:
        while True:
            await _try_in_thread(self._store.make_spares)
            await self._kept.wait()
            self._kept = trio.Event()
            await trio.sleep(_SPARES_WAIT_S)  # let the program's first run go first

    async def _tell_systemd(self) -> None:
        """Report that the event loop runs. Without these reports, systemd restarts the daemon (WatchdogSec=)."""
        while True:
            clients, admission = self._clients, self._admission
            self._notifier.alive(f"{clients.connected} clients, {admission.running} runs, {admission.queued} waiting")
            await trio.sleep(self._notifier.interval_s)


async def _try_in_thread(work: Callable[[], _R]) -> _R | None:
    """Do periodic work in a thread. An error of the host, such as a lack of threads, must not end the daemon."""
    try:
        return await trio.to_thread.run_sync(work)
    except (OSError, RuntimeError) as error:
        _log.error("%s; it will be tried again", error)
        return None
