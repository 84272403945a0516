"""The daemon's life: take the state folder, start the cells, listen, serve, and stop in the reverse order."""

from __future__ import annotations

import logging
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path

import trio

from promptlogd import allocator, listener
from promptlogd.config import Config, ConfigError
from promptlogd.connection import Connection
from promptlogd.jails_folder import JailsFolder, folder_id
from promptlogd.plans import DenoPlans, deno_missing, held_by, make_cgroup, quickjs_plan
from promptlogd.services import Services
from promptlogd.store import Store
from sandbox import cgroup, root
from sandbox.demand import DemandPool
from sandbox.identities import Identities, IdentityError, choose
from sandbox.pool import Pool

_log = logging.getLogger(__name__)
_FLUSH_S = 1.0
_TRIM_S = 10.0
_SPARES_WAIT_S = 0.005
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


async def serve(
    *, config: Config, socket_path: Path, state_dir: Path, ready: Callable[[], None] = lambda: None
) -> None:
    """Run the daemon until SIGTERM or SIGINT, then drain and return.

    Raises StoreError, ListenError, RootError, CellStartError, ConfigError if it can't start.
    """
    _raise_descriptor_limit()
    for number in _SIGNALS:
        # trio restores these handlers when the receiver closes. A second signal must not interrupt the clean-up.
        signal.signal(number, lambda *_: None)
    with ExitStack() as stack:
        # Opened first: a signal during the start must still run the clean-up.
        signals = stack.enter_context(trio.open_signal_receiver(*_SIGNALS))
        store = Store.open(state_dir)
        stack.callback(store.close)
        jails = JailsFolder.claim(state_dir)
        stack.callback(jails.remove)
        identities = _choose_identities(config, folder_id(state_dir))
        stack.callback(identities.close)
        parent = make_cgroup(config, f"{cgroup.PREFIX}{folder_id(state_dir)}")
        if parent is not None:
            stack.callback(parent.remove)
        plan = quickjs_plan(config, root.build_root(jails.path / "quickjs"), parent, identities)
        settings = config.pool
        pool = Pool(
            plan,
            size=config.pool_size,
            in_use=config.cells,
            runs_per_cell=settings.runs_per_cell,
            max_age_s=settings.max_age_s,
        )
        deno = DenoPlans(config, jails.path / "deno", parent, identities)
        deno_pool = DemandPool(
            deno.plan,
            blank=config.deno_blank,
            idle_s=config.deno.idle_s,
            max_age_s=config.deno.max_age_s,
            runs_per_cell=config.deno.runs_per_cell,
        )
        listening = listener.bind(socket_path, int(config.server.socket_mode, 8))
        stack.callback(listening.close)
        await _serve(config, store, pool, deno_pool, identities, listening.sock, socket_path, ready, signals)


async def _serve(
    config: Config,
    store: Store,
    pool: Pool,
    deno: DemandPool,
    identities: Identities,
    sock: socket.socket,
    path: Path,
    ready: Callable[[], None],
    signals: AsyncIterator[int],
) -> None:
    services = Services(
        config=config,
        store=store,
        pool=pool,
        deno=deno,
        held_by=held_by(config, pool.plan.cgroup),
        jail_uids=identities.describe(),
    )
    # Opened in this order, left in the reverse: clients go first, the cells last.
    async with trio.open_nursery() as cells:
        async with trio.open_nursery() as starting:
            starting.start_soon(_give_up_on_signal, signals, cells)
            await cells.start(pool.serve)
            await cells.start(deno.serve)
            starting.cancel_scope.cancel()
        cells.start_soon(_flush, store)
        cells.start_soon(_make_spares, services)
        cells.start_soon(_trim, services)
        cells.start_soon(services.scheduler.give_up, config.scheduler.wait_s)
        async with trio.open_nursery() as clients:
            accepting = trio.CancelScope()
            clients.start_soon(_stop_on_signal, signals, services, accepting, clients)
            if (config.engines.default == "deno" or config.deno.jit == "always") and (why := deno_missing()):
                _log.warning("the configuration names the engine deno: %s", why)
            _log.info("listening on %s, %d cells, programs in %s", path, config.cells, store.folder)
            ready()
            with accepting:
                number = 0
                async for client in listener.accept(sock):
                    number += 1
                    if services.clients >= config.server.max_clients:
                        _log.warning("%d clients are connected: one more was sent away", services.clients)
                        client.close()
                    else:
                        clients.start_soon(_guard, Connection(client, services, number))
        cells.cancel_scope.cancel()


async def _guard(connection: Connection) -> None:
    # Nothing that goes wrong with one client may end the daemon.
    try:
        await connection.serve()
    except Exception:
        _log.exception("a connection failed")


async def _wait_for_signal(signals: AsyncIterator[int]) -> None:
    """Wait for a signal to stop."""
    async for received in signals:
        if received != signal.SIGHUP:
            return
        _log.info("SIGHUP: nothing to do; settings are read at the start")


async def _give_up_on_signal(signals: AsyncIterator[int], cells: trio.Nursery) -> None:
    await _wait_for_signal(signals)
    _log.info("stopping: nothing was served yet")
    cells.cancel_scope.cancel()


async def _stop_on_signal(
    signals: AsyncIterator[int], services: Services, accepting: trio.CancelScope, clients: trio.Nursery
) -> None:
    await _wait_for_signal(signals)
    _log.info("stopping: %d runs go on, %d wait", services.scheduler.running, services.scheduler.queued)
    accepting.cancel()
    services.draining = True
    drain_s = services.config.server.drain_s
    with trio.move_on_after(drain_s) as drain:
        await services.wait_idle()
    if drain.cancelled_caught:
        counts = (services.scheduler.running, services.scheduler.queued, services.unanswered, len(services.unsent))
        message = "%d runs running, %d queued, %d requests unanswered, %d clients with unsent replies"
        _log.warning("stopped after %g s: " + message, drain_s, *counts)
    clients.cancel_scope.cancel()


async def _flush(store: Store) -> None:
    while True:
        await trio.sleep(_FLUSH_S)
        await trio.to_thread.run_sync(store.flush)


async def _trim(services: Services) -> None:
    seen = 0
    while True:
        await trio.sleep(_TRIM_S)
        if (runs := services.runs.total()) != seen:
            seen = runs
            await trio.to_thread.run_sync(allocator.trim)


async def _make_spares(services: Services) -> None:
    while True:
        await trio.to_thread.run_sync(services.store.make_spares)
        await services.kept.wait()
        services.kept = trio.Event()
        await trio.sleep(_SPARES_WAIT_S)  # the program's first run goes first


def _choose_identities(config: Config, id: str) -> Identities:
    try:
        return choose(config.pool.id_range, needed=config.max_jails, seed=int(id, 16))
    except IdentityError as error:
        raise ConfigError(error.why) from error


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
