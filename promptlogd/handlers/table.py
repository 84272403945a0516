"""The table of handlers: message type to handler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from promptlogd.checks import Checks
from promptlogd.clients import Clients
from promptlogd.collector import Collector
from promptlogd.decoder import Decoder
from promptlogd.handlers.backup import BackupHandler
from promptlogd.handlers.cancel import CancelHandler
from promptlogd.handlers.collect import CollectHandler
from promptlogd.handlers.config import ConfigHandler
from promptlogd.handlers.journal import JournalHandler, JournalStatsHandler
from promptlogd.handlers.list import ListHandler
from promptlogd.handlers.name import NameHandler
from promptlogd.handlers.ping import PingHandler
from promptlogd.handlers.remove import RemoveHandler
from promptlogd.handlers.rights import Rights
from promptlogd.handlers.run import RunHandler
from promptlogd.handlers.show import ShowHandler
from promptlogd.handlers.stats import StatsHandler
from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.handlers.submit import SubmitHandler
from promptlogd.handlers.verify import VerifyHandler
from promptlogd.journal import Journal
from promptlogd.principal import Principal
from promptlogd.run_totals import RunTotals
from promptlogd.runs import Runs
from promptlogd.settings import Settings
from promptlogd.sink import Sink
from promptlogd.store import Store
from promptlogd.turns import Turns
from promptlogd.wire import messages
from sandbox.engines.host.engine_host import EngineHost
from sandbox.program import Engine


class Handler(Protocol):
    """Handles one type of request."""

    def start(self, principal: Principal, request: Any, sink: Sink) -> None:
        """Start, and return at once. Raises RequestError if the request is invalid."""


Handlers = Mapping[type, Handler]


def make_handlers(
    *,
    settings: Settings,
    store: Store,
    journal: Journal,
    runs: Runs,
    checks: Checks,
    hosts: Mapping[Engine, EngineHost],
    clients: Clients,
    held_by: dict[str, str],
    jail_uids: str,
    cgroup: str,
    turns: Turns,
    decoder: Decoder,
    on_kept: Callable[[], None],
    collector: Collector,
) -> Handlers:
    """Return the handler of each request. `on_kept`: called when a program was stored."""
    totals = RunTotals()
    threads = StoreThreads()
    rights = Rights(settings)
    return {
        messages.Submit: SubmitHandler(store, journal, threads, checks, settings, on_kept, collector, runs.quotas),
        messages.Run: RunHandler(store, journal, threads, runs, checks, hosts, settings, totals, decoder),
        messages.Cancel: CancelHandler(),
        messages.Show: ShowHandler(store, threads, rights),
        messages.List: ListHandler(store, threads, rights),
        messages.Remove: RemoveHandler(store, journal, threads, rights),
        messages.Label: NameHandler(store, journal, threads, rights, runs.quotas),
        messages.Stats: StatsHandler(
            store, journal, threads, runs, clients, totals, settings, held_by, jail_uids, cgroup, turns
        ),
        messages.ReadJournal: JournalHandler(journal, store, threads, rights),
        messages.JournalStats: JournalStatsHandler(journal, store, threads, rights),
        messages.Collect: CollectHandler(collector, threads, rights),
        messages.Verify: VerifyHandler(store, threads, rights),
        messages.Backup: BackupHandler(store, journal, threads),
        messages.Config: ConfigHandler(settings),
        messages.Ping: PingHandler(hosts, settings.config.engines.disabled),
    }
