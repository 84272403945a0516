"""The daemon's life: take the state folder, start the cells, listen, serve, and stop in the reverse order."""

from __future__ import annotations

import hashlib
import logging
import os
import resource
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import trio

from promptlogd import allocator, listener
from promptlogd.config import Config
from promptlogd.connection import Connection
from promptlogd.plans import DenoPlans, deno_missing, held_by, make_cgroup, quickjs_plan
from promptlogd.services import Services
from promptlogd.store import Store, StoreError
from sandbox import root
from sandbox.cgroup import Cgroup
from sandbox.demand import DemandPool
from sandbox.pool import Pool

_log = logging.getLogger(__name__)
_FLUSH_S = 1.0
_TRIM_S = 10.0
_SPARES_WAIT_S = 0.005


async def serve(
    *, config: Config, socket_path: Path, state_dir: Path, ready: Callable[[], None] = lambda: None
) -> None:
    """Run the daemon until SIGTERM or SIGINT, then drain and return.

    Raises StoreError, ListenError, RootError, CellStartError if it can't start.
    """
    _raise_descriptor_limit()
    store = Store.open(state_dir)
    group: Cgroup | None = None
    jail_root = _jail_root_folder(state_dir)
    try:
        shutil.rmtree(jail_root, ignore_errors=True)
        shutil.rmtree(jail_root.with_name(f"{jail_root.name}-deno"), ignore_errors=True)
        group = make_cgroup(config, f"promptlog-{_folder_id(state_dir)}")
        plan = quickjs_plan(config, root.build_root(jail_root), group)
        settings = config.pool
        pool = Pool(
            plan,
            size=config.pool_size,
            in_use=config.cells,
            runs_per_cell=settings.runs_per_cell,
            max_age_s=settings.max_age_s,
        )
        deno = DenoPlans(config, jail_root.with_name(f"{jail_root.name}-deno"), group)
        deno_pool = DemandPool(
            deno.plan,
            blank=config.deno_blank,
            idle_s=config.deno.idle_s,
            max_age_s=config.deno.max_age_s,
            runs_per_cell=config.deno.runs_per_cell,
        )
        listening = listener.bind(socket_path, int(config.server.socket_mode, 8))
        try:
            await _serve(config, store, pool, deno_pool, listening.sock, socket_path, ready)
        finally:
            listening.close()
    finally:
        store.close()
        shutil.rmtree(jail_root, ignore_errors=True)
        shutil.rmtree(jail_root.with_name(f"{jail_root.name}-deno"), ignore_errors=True)
        if group is not None:
            group.remove()


async def _serve(
    config: Config,
    store: Store,
    pool: Pool,
    deno: DemandPool,
    sock: socket.socket,
    path: Path,
    ready: Callable[[], None],
) -> None:
    services = Services(
        config=config,
        store=store,
        pool=pool,
        deno=deno,
        held_by=held_by(config, pool.plan.cgroup),
    )
    # Opened in this order, left in the reverse: clients go first, the cells last.
    async with trio.open_nursery() as cells:
        await cells.start(pool.serve)
        await cells.start(deno.serve)
        cells.start_soon(_flush, store)
        cells.start_soon(_make_spares, services)
        cells.start_soon(_trim, services)
        cells.start_soon(services.scheduler.give_up, config.scheduler.wait_s)
        async with trio.open_nursery() as clients:
            accepting = trio.CancelScope()
            await clients.start(_stop_on_signal, services, accepting, clients)
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


async def _stop_on_signal(
    services: Services,
    accepting: trio.CancelScope,
    clients: trio.Nursery,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number in wanted:
        # What is there again when the receiver is closed: a second signal must not cut the tidying up short.
        signal.signal(number, lambda *_: None)
    with trio.open_signal_receiver(*wanted) as signals:
        task_status.started()
        async for received in signals:
            if received == signal.SIGHUP:
                _log.info("SIGHUP: nothing to do; settings are read at the start")
                continue
            break
        _log.info("stopping: %d runs go on, %d wait", services.scheduler.running, services.scheduler.queued)
        accepting.cancel()
        services.draining = True
        with trio.move_on_after(services.config.server.drain_s):
            while services.scheduler.running or services.scheduler.queued or services.unsent:
                await trio.sleep(0.01)
            await trio.sleep(0.01)  # the run that ended last has its reply to send
            while services.unsent:
                await trio.sleep(0.01)
        if services.scheduler.running:
            drain_s = services.config.server.drain_s
            _log.warning("%d runs did not end within %g s and are stopped", services.scheduler.running, drain_s)
        clients.cancel_scope.cancel()


async def _flush(store: Store) -> None:
    while True:
        await trio.sleep(_FLUSH_S)
        try:
            await trio.to_thread.run_sync(store.flush)
        except StoreError as error:
            _log.error("%s", error)


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


def _jail_root_folder(state_dir: Path) -> Path:
    """Where the jails' root is made: the same for the same state folder, whose lock we hold, so leftovers go.

    As root the jail's mounts are made by a process that is nobody already, which the state folder keeps out.
    """
    if os.geteuid() != 0:
        return state_dir / "jail-root"
    return Path("/run") / f"promptlog-jail-{_folder_id(state_dir)}"


def _folder_id(state_dir: Path) -> str:
    return hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:16]


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
