"""stats: what the daemon has done since its start, and what it holds."""

from __future__ import annotations

import trio

from promptlogd.client import Client
from promptlogd.handlers.references import StoreErrors
from promptlogd.services import Services
from promptlogd.wire.messages import PoolStats, Stats, StatsReply


async def handle(request: Stats, services: Services, client: Client) -> StatsReply:
    """Return the counts."""
    with StoreErrors():
        programs = services.store.count()
    return StatsReply(
        id=request.id,
        uptime_s=round(trio.current_time() - services.started_at, 3),
        clients=services.clients,
        running=services.scheduler.running,
        queued=services.scheduler.queued,
        runs=dict(services.runs),
        errors=dict(services.errors),
        programs=programs,
        pools=[
            PoolStats(
                engine=engine,
                size=counts.size,
                blank=counts.blank,
                busy=counts.busy,
                started=counts.started,
                retired=counts.retired,
            )
            for engine, counts in ((engine, pool.counts()) for engine, pool in services.pools.items())
        ],
        held_by=services.held_by,
        jail_uids=services.jail_uids,
    )
