"""stats: counters since the daemon's start, and its current state."""

from __future__ import annotations

import time

import trio

from promptlogd.clients import Clients
from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.journal import Journal
from promptlogd.principal import Principal
from promptlogd.run_totals import BOUNDS_MS, Durations, RunTotals
from promptlogd.runs import Runs
from promptlogd.settings import Settings
from promptlogd.sink import Sink
from promptlogd.store import Store
from promptlogd.turns import Turns
from promptlogd.wire.messages import EngineStats, Histogram, PoolStats, Stats, StatsReply

_REST = 20
"""The size of all sources is measured again after this many times the duration of the last measurement. With 100,000
programs, this is after 1.4 s."""


class StatsHandler:
    """Handles `stats`."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        threads: StoreThreads,
        runs: Runs,
        clients: Clients,
        totals: RunTotals,
        settings: Settings,
        held_by: dict[str, str],
        jail_uids: str,
        cgroup: str,
        turns: Turns,
    ) -> None:
        self._store = store
        self._journal = journal
        self._threads = threads
        self._runs = runs
        self._clients = clients
        self._totals = totals
        self._settings = settings
        self._held_by = held_by
        self._jail_uids = jail_uids
        self._cgroup = cgroup
        self._turns = turns
        self._source_bytes = 0
        self._measure_again_at = 0.0
        self._started_at = trio.current_time()

    def start(self, principal: Principal, request: Stats, sink: Sink) -> None:
        """Reply with the counters."""
        sink.spawn(lambda: self._stats(principal, request))

    def _count_programs(self) -> tuple[int, int]:
        """Return the number of programs and the size of their sources. Blocks."""
        began = time.monotonic()
        if began >= self._measure_again_at:
            self._source_bytes = self._store.source_bytes()
            ended = time.monotonic()
            self._measure_again_at = ended + _REST * (ended - began)
        return self._store.count(), self._source_bytes

    async def _stats(self, principal: Principal, request: Stats) -> StatsReply:
        programs, program_bytes = await self._threads.read(principal, self._count_programs)
        usage = self._store.usage
        counts = {engine: pool.counts() for engine, pool in self._runs.pools.items()}
        return StatsReply(
            id=request.id,
            uptime_s=round(trio.current_time() - self._started_at, 3),
            clients=self._clients.connected,
            running=self._runs.admission.running,
            queued=self._runs.admission.queued,
            runs=dict(self._totals.outcomes()),
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
            cgroup=self._cgroup,
            turn_p99_ms=round(self._turns.p99_s() * 1000, 3),
            turn_max_ms=round(self._turns.longest_s * 1000, 3),
            turn_cpu_max_ms=round(self._turns.longest_cpu_s * 1000, 3),
            turns=_turns(self._turns),
            engines=[
                EngineStats(
                    engine=engine, runs=dict(totals.outcomes), cpu=_durations(totals.cpu), wall=_durations(totals.wall)
                )
                for engine, totals in self._totals.engines.items()
            ],
            program_bytes=program_bytes,
            journal=self._journal.counts(),
            max_clients=self._settings.config.server.max_clients,
            max_running=self._settings.config.concurrent,
            max_queued=self._settings.config.scheduler.queue,
            quotas=dict(self._clients.quotas),
            store_bytes=None if usage.max_bytes is None else usage.bytes,
            max_store_bytes=usage.max_bytes,
        )


def _durations(durations: Durations) -> Histogram:
    return Histogram(bounds_ms=list(BOUNDS_MS), counts=list(durations.counts), sum_ms=round(durations.sum_ms, 3))


def _turns(turns: Turns) -> Histogram:
    bounds_s, counts = turns.histogram()
    return Histogram(
        bounds_ms=[round(bound * 1000, 4) for bound in bounds_s], counts=counts, sum_ms=round(turns.sum_s * 1000, 3)
    )
