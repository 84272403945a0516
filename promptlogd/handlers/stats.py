"""stats: counters since the daemon's start, and its current state."""

from __future__ import annotations

from collections import Counter

import trio

from promptlogd.clients import Clients
from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.principal import Principal
from promptlogd.runs import Runs
from promptlogd.sink import Sink
from promptlogd.store import Store
from promptlogd.turns import Turns
from promptlogd.wire.messages import PoolStats, Stats, StatsReply


class StatsHandler:
    """Handles `stats`."""

    def __init__(
        self,
        store: Store,
        threads: StoreThreads,
        runs: Runs,
        clients: Clients,
        outcomes: Counter[str],
        held_by: dict[str, str],
        jail_uids: str,
        turns: Turns,
    ) -> None:
        """`outcomes`: counts of finished runs by outcome."""
        self._store = store
        self._threads = threads
        self._runs = runs
        self._clients = clients
        self._outcomes = outcomes
        self._held_by = held_by
        self._jail_uids = jail_uids
        self._turns = turns
        self._started_at = trio.current_time()

    def start(self, principal: Principal, request: Stats, sink: Sink) -> None:
        """Reply with the counters."""
        sink.spawn(lambda: self._stats(principal, request))

    async def _stats(self, principal: Principal, request: Stats) -> StatsReply:
        programs = await self._threads.read(principal, self._store.count)
        counts = {engine: pool.counts() for engine, pool in self._runs.pools.items()}
        return StatsReply(
            id=request.id,
            uptime_s=round(trio.current_time() - self._started_at, 3),
            clients=self._clients.connected,
            running=self._runs.admission.running,
            queued=self._runs.admission.queued,
            runs=dict(self._outcomes),
            errors=dict(self._clients.errors),
            programs=programs,
            pools=[
                PoolStats(
                    engine=engine,
                    size=pool.size,
                    blank=pool.blank,
                    busy=pool.busy,
                    started=pool.started,
                    retired=pool.retired,
                )
                for engine, pool in counts.items()
            ],
            held_by=self._held_by,
            jail_uids=self._jail_uids,
            turn_p99_ms=round(self._turns.p99_s() * 1000, 3),
            turn_max_ms=round(self._turns.longest_s * 1000, 3),
            turn_cpu_max_ms=round(self._turns.longest_cpu_s * 1000, 3),
        )
