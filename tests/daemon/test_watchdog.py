"""The watchdog enforces limits while a signal has stopped the daemon."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from promptlogctl.client import Client
from promptlogd.wire.messages import LimitsAsked
from sandbox.outcome import CpuLimit, Ok, WallLimit
from tests.daemon.processes import Daemon, a_daemon, at_work, cpu_s, is_alive, jailed_denos, until, watchdogs

pytestmark = pytest.mark.timed

_BUSY_S = 0.1
"""CPU time after which a run is certainly in progress."""


@contextmanager
def _held(daemon: Daemon) -> Iterator[None]:
    """Stop the daemon with SIGSTOP within a `with` block."""
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, daemon.process.pid, os.WSTOPPED)
        yield
    finally:
        daemon.process.send_signal(signal.SIGCONT)


def _busy_child(daemon: Daemon) -> int:
    until(lambda: any(cpu_s(child) > _BUSY_S for _, _, child in at_work(daemon)), 20)
    return next(child for _, _, child in at_work(daemon) if cpu_s(child) > _BUSY_S)


def _denos(daemon: Daemon) -> set[int]:
    return {deno for _, deno in jailed_denos(daemon)}


def test_the_wall_limit_of_quickjs(tmp_path: Path) -> None:
    """An endless loop is killed while the daemon is stopped; its usage is reported, and other cells continue."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        run = client.start(None, source="for(;;){}", limits=LimitsAsked(cpu_ms=9000, wall_ms=1500))
        child = _busy_child(daemon)
        with _held(daemon):
            until(lambda: not is_alive(child), 10)
        result = run.result()
        assert isinstance(result.outcome, WallLimit)
        assert result.usage.cpu_ms > _BUSY_S * 1000
        assert client.run_source("return 1").value == 1


@pytest.mark.parametrize("waits", [True, False], ids=["wall", "cpu"])
def test_the_limits_of_deno(tmp_path: Path, *, waits: bool) -> None:
    """A waiting program and an endless loop are killed while the daemon is stopped."""
    source = "console.log(1); " + ("await new Promise((done) => setTimeout(done, 20000))" if waits else "for(;;){}")
    limits = LimitsAsked(cpu_ms=9000, wall_ms=3000) if waits else LimitsAsked(cpu_ms=800, wall_ms=25_000)
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        begun = threading.Event()
        run = client.start(None, source=source, engine="deno", limits=limits, on_log=lambda _: begun.set())
        with ThreadPoolExecutor() as others:
            future = others.submit(run.result)
            assert begun.wait(20)
            with _held(daemon):
                denos = _denos(daemon)
                until(lambda: not all(map(is_alive, denos)), 20)
            outcome = future.result(20).outcome
        if waits:
            assert isinstance(outcome, WallLimit)
        else:
            assert isinstance(outcome, CpuLimit)
            assert 800 <= outcome.used < 1200
        assert client.run_source("return 1", engine="deno").value == 1


def test_a_killed_watchdog_is_replaced(tmp_path: Path) -> None:
    """SIGTERM, SIGINT and SIGHUP do not end the watchdog.

    After SIGKILL, the daemon starts another, which enforces limits.
    """
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        run = client.start(None, source="for(;;){}", limits=LimitsAsked(cpu_ms=9000, wall_ms=4000))
        child = _busy_child(daemon)
        (first,) = watchdogs(daemon)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(first, number)
        os.kill(first, signal.SIGKILL)
        until(lambda: watchdogs(daemon) not in ([], [first]), 20)
        with _held(daemon):
            until(lambda: not is_alive(child), 20)
        assert isinstance(run.result().outcome, WallLimit)
        until(lambda: "the watchdog ended" in daemon.log.read_text())


def _is_gone(pid: int) -> bool:
    return not is_alive(pid)


def test_the_watchdog_ends_with_the_daemon(tmp_path: Path) -> None:
    """The watchdog ends after SIGKILL of the daemon, and after its normal exit."""
    for number in (signal.SIGKILL, signal.SIGTERM):
        with a_daemon(tmp_path) as daemon:
            (watchdog,) = watchdogs(daemon)
            daemon.stop(number)
            until(partial(_is_gone, watchdog), 5)


def _wake_ups(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("voluntary_ctxt_switches")).split()[1])


def test_runs_do_not_wake_the_watchdog(tmp_path: Path) -> None:
    """Hundreds of QuickJS runs cost the watchdog only a few wake-ups per second, and Deno runs leave no entry in it."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        (watchdog,) = watchdogs(daemon)
        before = _wake_ups(watchdog)
        for _ in range(300):
            assert isinstance(client.run_source("return 1", limits=LimitsAsked(wall_ms=9000)).outcome, Ok)
        assert _wake_ups(watchdog) - before < 100
        client.run_source("return 1", engine="deno")
        descriptors = len(os.listdir(f"/proc/{watchdog}/fd"))
        for _ in range(12):
            client.run_source("return 1", engine="deno")
        assert len(os.listdir(f"/proc/{watchdog}/fd")) <= descriptors + 4
