"""Starts and stops the daemon: opens the state folder, starts the cells, listens, serves, and stops in reverse order.

More than 300 lines, because the order of start and stop is in one place.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import trio

from promptlogd import allocator, listener
from promptlogd.admission import Admission
from promptlogd.budget import NoPlace
from promptlogd.checks import Checks
from promptlogd.clients import Clients
from promptlogd.collector import Collector
from promptlogd.config import Config, ConfigError
from promptlogd.config_files import Loaded
from promptlogd.connection import Connection
from promptlogd.decoder import Decoder
from promptlogd.handlers.table import make_handlers
from promptlogd.jails_folder import JailsFolder, folder_id
from promptlogd.journal import Journal
from promptlogd.listener import Listening
from promptlogd.quotas import Quotas
from promptlogd.runs import Runs
from promptlogd.service_manager import Notifier
from promptlogd.settings import Settings
from promptlogd.store import Store
from promptlogd.turns import Turns
from promptlogd.upkeep import Upkeep
from sandbox.cells.cell import Cell
from sandbox.cells.policy import ByDemand, Steady
from sandbox.cells.pool import Pool
from sandbox.cells.reactor import Reactor
from sandbox.cells.watch import Watchdog
from sandbox.engines import ENGINES
from sandbox.engines.host.engine_host import EngineHost, Setting, host_of
from sandbox.errors import CellStartError
from sandbox.jail.cgroup import PREFIX, Cgroup
from sandbox.jail.cgroup import make as make_cgroup
from sandbox.jail.identities import Identities, IdentityError, choose
from sandbox.limits import MIB

_log = logging.getLogger(__name__)
_SWITCH_S = 0.0005
"""The loop waits this long for the interpreter's lock while a thread computes. Python's default is ten times longer."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


async def serve(
    *,
    settings: Settings,
    socket_path: Path,
    state_dir: Path,
    ready: Callable[[], None] = lambda: None,
    notifier: Notifier | None = None,
    inherited: socket.socket | None = None,
) -> None:
    """Run the daemon until SIGTERM or SIGINT, then drain and return.

    `inherited`: a socket that already listens. It is used instead of one at `socket_path`.
    Raises StoreError, ListenError, RootError, CellStartError or ConfigError if the daemon cannot start.
    """
    config = settings.config
    _raise_descriptor_limit()
    sys.setswitchinterval(_SWITCH_S)
    for number in _SIGNALS:
        # trio restores these handlers when the receiver closes. A second signal must not interrupt the clean-up.
        signal.signal(number, lambda *_: None)
    with ExitStack() as stack:
        # Opened first, because a signal during the start must still run the clean-up.
        signals = stack.enter_context(trio.open_signal_receiver(*_SIGNALS))
        store = Store.open(state_dir, max_bytes=config.store.max_bytes)
        stack.callback(store.close)
        journal = Journal(state_dir, config.journal, store.derive_key("prompts in the journal"))
        stack.callback(journal.close)
        journal.open()
        jails = JailsFolder.claim(state_dir)
        stack.callback(jails.remove)
        identities = _choose_identities(config, folder_id(state_dir))
        stack.callback(identities.close)
        parent = _make_cgroup(config, f"{PREFIX}{folder_id(state_dir)}")
        if parent is not None:
            stack.callback(parent.remove)
        hosts = _make_hosts(config, jails.path, parent, identities)
        if inherited is None:
            listening = listener.bind(socket_path, config.server.effective_socket_mode, config.server.socket_group)
        else:
            listening = Listening(inherited, Path(os.fsdecode(inherited.getsockname())), owns_file=False)
        stack.callback(listening.close)
        allocator.settle()
        daemon = _Daemon(
            settings, store, journal, hosts, identities, _describe_cgroup(config, parent), notifier or Notifier({})
        )
        await daemon.serve(listening, ready, signals)


def _make_cgroup(config: Config, name: str) -> Cgroup | None:
    """Create the parent cgroup of the cells' cgroups, if configured and possible."""
    if config.pool.cgroup == "never":
        return None
    beside_bytes = max(spec.beside_run_bytes for spec in ENGINES.values())
    return make_cgroup(name, config.limits.max.limits().memory_bytes + beside_bytes)


def _describe_cgroup(config: Config, parent: Cgroup | None) -> str:
    if parent is not None:
        return parent.describe()
    if config.pool.cgroup == "never":
        return "none: pool.cgroup is never"
    return "none: the daemon can create no cgroup with a memory or pids controller"


def _make_hosts(config: Config, folder: Path, parent: Cgroup | None, identities: Identities) -> dict[str, EngineHost]:
    """Return the daemon's side of each engine. Nothing is created or started yet."""
    return {
        name: host_of(spec)(
            Setting(
                folder=folder / name,
                default=config.default_limits(name),
                most_memory_bytes=config.limits.max.limits().memory_bytes,
                cgroup=parent,
                identities=identities,
                options=config.engine_options(name),
            )
        )
        for name, spec in ENGINES.items()
        if name not in config.engines.disabled
    }


class _Daemon:
    """The parts of a running daemon."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        journal: Journal,
        hosts: dict[str, EngineHost],
        identities: Identities,
        cgroup: str,
        notifier: Notifier,
    ) -> None:
        config = settings.config
        self._notifier = notifier
        self._reloading = trio.Lock()
        self._settings = settings
        self._config = config
        """As it was at the start."""
        self._store = store
        self._hosts = hosts
        self._turns = Turns()
        self._clients = Clients(most=config.server.max_clients, turns=self._turns, on_refusal=journal.note_refusal)
        self._watchdog = Watchdog(config.max_jails)
        self._reactor = Reactor(self._watchdog)
        self._starts = trio.CapacityLimiter(len(os.sched_getaffinity(0)))
        """Limits the cells of all pools that start at the same time, because a start is all CPU time."""
        self._pools = {name: self._make_pool(name, host) for name, host in hosts.items()}
        self._admission = Admission(
            concurrent=config.concurrent,
            queue=config.scheduler.queue,
            queue_bytes=config.scheduler.queue_mb * MIB,
            cells=self._pools,
        )
        self._quotas = Quotas(settings.access)
        self._runs = Runs(
            self._pools,
            self._admission,
            default_limits={name: config.default_limits(name) for name in hosts},
            quotas=self._quotas,
        )
        self._decoder = Decoder(config.text_bounds)
        collector = Collector(store, journal, config.store, own_uid=os.geteuid())
        self._upkeep = Upkeep(store, journal, self._clients, self._admission, notifier, collector)
        self._handlers = make_handlers(
            settings=settings,
            store=store,
            journal=journal,
            runs=self._runs,
            checks=Checks(self._runs, hosts, settings),
            hosts=hosts,
            clients=self._clients,
            held_by=_held_by(hosts, config.engines.disabled),
            jail_uids=identities.describe(),
            cgroup=cgroup,
            turns=self._turns,
            decoder=self._decoder,
            on_kept=self._upkeep.on_kept,
            collector=collector,
        )
        settings.on_change(self._on_change)
        settings.on_adopted(lambda: self._quotas.adopt(settings.access))  # groups may have others as members

    def _on_change(self, config: Config) -> None:
        """Apply new settings, except those that handlers and connections read themselves."""
        scheduler = config.scheduler
        self._admission.set_bounds(queue=scheduler.queue, queue_bytes=scheduler.queue_mb * MIB, wait_s=scheduler.wait_s)
        self._decoder.bounds = config.text_bounds
        self._runs.default_limits = {name: config.default_limits(name) for name in self._hosts}
        for name, host in self._hosts.items():
            if host.set_default(config.default_limits(name)):
                self._pools[name].renew()

    async def _reload(self) -> None:
        """Read the configuration again. If anything is wrong with it, log that, and keep what is in force."""
        if self._reloading.statistics().tasks_waiting or self._clients.draining:
            return  # the one that waits reads what is there then
        async with self._reloading:
            self._notifier.reloading()
            try:
                # A disk or a name service that hangs must not keep the daemon from stopping.
                loaded = await trio.to_thread.run_sync(self._settings.read_again, abandon_on_cancel=True)
            except ConfigError as error:
                _log.error("SIGHUP: %s; the settings stay as they are", error)
            except Exception:  # such as no thread that can be started
                _log.exception("SIGHUP: can't read the settings; they stay as they are")
            else:
                self._adopt(loaded)
            self._notifier.ready()

    def _adopt(self, loaded: Loaded | None) -> None:
        if loaded is None:
            _log.info("SIGHUP: nothing to do; the daemon was started without --config")
        else:
            done = self._settings.adopt(loaded)
            _log.info("SIGHUP: settings changed: %s", ", ".join(done.changed) or "none")
            if done.pending:
                _log.warning("settings that take a restart: %s", ", ".join(done.pending))

    def _make_pool(self, name: str, host: EngineHost) -> Pool:
        spec, config = ENGINES[name], self._config

        async def start(memory_bytes: int | None) -> Cell:
            try:
                plan = await host.plan(memory_bytes)
                async with self._starts:
                    return await host.start(plan, self._reactor)
            # An overloaded host must not end the daemon. Python raises RuntimeError if no thread can start.
            except (OSError, RuntimeError) as error:
                raise CellStartError(name, str(error)) from error

        options = config.engine_options(name)
        settings = config.pool if spec.forks else options
        return Pool(
            name,
            start,
            Steady(config.pool_size) if spec.forks else ByDemand(config.most_blank(name), options.idle_s),
            runs_per_cell=settings.runs_per_cell,
            max_age_s=settings.max_age_s,
            forks=spec.forks,
        )

    async def serve(self, listening: Listening, ready: Callable[[], None], signals: AsyncIterator[int]) -> None:
        """Serve clients until a signal arrives. Parts are opened in this order and closed in reverse, the cells
        last."""
        config = self._config
        trio.lowlevel.add_instrument(self._turns)
        async with trio.open_nursery() as reactor:
            await reactor.start(self._watchdog.serve)
            await reactor.start(self._reactor.serve)
            async with trio.open_nursery() as cells:
                async with trio.open_nursery() as starting:
                    starting.start_soon(_give_up_on_signal, signals, cells)
                    for pool in self._pools.values():
                        await cells.start(pool.serve)
                    starting.cancel_scope.cancel()
                cells.start_soon(self._decoder.serve)
                cells.start_soon(self._clients.arrivals.serve)
                cells.start_soon(self._upkeep.serve)
                cells.start_soon(self._admission.serve, config.scheduler.wait_s)
                self._warn_of_missing()
                _log.info("listening on %s, %d cells, programs in %s", listening.path, config.cells, self._store.folder)
                async with trio.open_nursery() as connections:
                    accepting = trio.CancelScope()
                    connections.start_soon(self._stop_on_signal, signals, accepting, connections)
                    ready()
                    self._notifier.ready()
                    with accepting:
                        await self._accept(listening.sock, connections)
                cells.cancel_scope.cancel()
            reactor.cancel_scope.cancel()

    def _warn_of_missing(self) -> None:
        for name in self._config.engines.disabled:
            _log.warning("the engine %s is disabled, by engines.disabled in the configuration", name)
        for name, host in self._hosts.items():
            named = name == self._config.engines.default or host.is_demanded()
            if named and (why := host.missing()) is not None:
                _log.warning("the configuration names the engine %s: %s", name, why)

    async def _accept(self, sock: socket.socket, connections: trio.Nursery) -> None:
        number = 0
        async for client in listener.accept(sock):
            number += 1
            try:
                connection = Connection(
                    client,
                    number,
                    clients=self._clients,
                    handlers=self._handlers,
                    runs=self._runs,
                    settings=self._settings.config.server,
                    fronts=self._settings.fronts,
                    decoder=self._decoder,
                )
            except NoPlace as error:
                _log.warning("a connection was refused: %s", error)
                client.close()
                continue
            connections.start_soon(_guard, connection)

    async def _stop_on_signal(
        self, signals: AsyncIterator[int], accepting: trio.CancelScope, connections: trio.Nursery
    ) -> None:
        await _wait_for_signal(signals, lambda: connections.start_soon(self._reload))
        admission, clients = self._admission, self._clients
        _log.info("stopping: %d runs in progress, %d waiting", admission.running, admission.queued)
        self._notifier.stopping()
        accepting.cancel()
        clients.draining = True
        drain_s = self._settings.config.server.drain_s
        with trio.move_on_after(drain_s) as drain:
            await clients.wait_idle()
        if drain.cancelled_caught:
            counts = (admission.running, admission.queued, clients.unanswered, len(clients.unsent))
            message = "%d runs running, %d queued, %d requests unanswered, %d clients with unsent replies"
            _log.warning("stopped after %g s: " + message, drain_s, *counts)
        connections.cancel_scope.cancel()


def _held_by(hosts: dict[str, EngineHost], disabled: Sequence[str]) -> dict[str, str]:
    """Describe what enforces each limit. For engines other than the first, the key is limit and engine."""
    held: dict[str, str] = {}
    for name in ENGINES:
        suffix = f" ({name})" if held else ""
        of_engine = {"memory": "it is disabled: see engines.disabled"} if name in disabled else hosts[name].held_by()
        held |= {limit + suffix: what for limit, what in of_engine.items()}
    return held


async def _guard(connection: Connection) -> None:
    # A failure with one client must not end the daemon.
    try:
        await connection.serve()
    except Exception:
        _log.exception("a connection failed")


async def _wait_for_signal(signals: AsyncIterator[int], reload: Callable[[], None]) -> None:
    """Wait for a signal to stop. On SIGHUP call `reload`."""
    async for received in signals:
        if received != signal.SIGHUP:
            return
        reload()


def _ignore_reload() -> None:
    _log.info("SIGHUP is ignored during the start")


async def _give_up_on_signal(signals: AsyncIterator[int], cells: trio.Nursery) -> None:
    await _wait_for_signal(signals, _ignore_reload)
    _log.info("stopping before the start was complete")
    cells.cancel_scope.cancel()


def _choose_identities(config: Config, id: str) -> Identities:
    try:
        return choose(config.pool.id_range, needed=config.max_jails, seed=int(id, 16))
    except IdentityError as error:
        raise ConfigError(error.why) from error


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
