"""Killed Deno processes and clients that disconnect affect only their own runs and leave nothing behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from promptlogctl.client import Client
from promptlogd.wire.messages import LimitsAsked
from sandbox.outcome import Crashed
from tests.daemon.processes import a_daemon, cpu_s, is_alive, jailed_denos, until
from tests.daemons import cgroups

pytestmark = pytest.mark.timed

WHICH = "return typeof Intl === 'undefined' ? 'quickjs' : 'deno'"


def test_killed_with_sigkill(tmp_path: Path) -> None:
    """After SIGKILL of the daemon, each busy or blank Deno and its nsjail are gone within a second."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        limits = LimitsAsked(cpu_ms=9000, wall_ms=9000)
        for source in ("for(;;){}", "await new Promise((r) => setTimeout(r, 60000))"):
            client.start(None, source=source, engine="deno", limits=limits)
        with Client(daemon.socket) as other:
            until(lambda: other.stats().running == 2)
        until(lambda: len(jailed_denos(daemon)) >= 2)
        pids = [pid for pair in jailed_denos(daemon) for pid in pair]
        daemon.stop(signal.SIGKILL)
        until(lambda: not any(map(is_alive, pids)), 1)
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:  # and remove what the first one left
        assert client.run_source(WHICH, engine="deno").value == "deno"


_STARTS_S = 0.3
"""CPU time above which a Deno has a run: ten times the CPU time of its start."""


@pytest.mark.parametrize("which", [0, 1], ids=["nsjail", "deno"])
def test_a_kill_affects_only_its_own_run(tmp_path: Path, which: int) -> None:
    """If nsjail or Deno is killed during a run, that run is reported as crashed, and the others succeed."""
    config = "[pool]\ncells = 4\nspare = 4\n"
    with a_daemon(tmp_path, config=config) as daemon, Client(daemon.socket) as client:
        source = "const began = Date.now(); while (Date.now() - began < 2500); return 1"
        limits = LimitsAsked(cpu_ms=9000, wall_ms=30_000)
        runs = [client.start(None, source=source, engine="deno", limits=limits) for _ in range(2)]

        def busy() -> list[tuple[int, int]]:
            return [pair for pair in jailed_denos(daemon) if cpu_s(pair[1]) > _STARTS_S]

        until(lambda: len(busy()) == 2, 20)
        os.kill(busy()[0][which], signal.SIGKILL)
        outcomes = [run.result().outcome for run in runs]
        assert sorted(str(outcome.__struct_config__.tag) for outcome in outcomes) == ["crashed", "ok"], outcomes
        assert [outcome.signal for outcome in outcomes if isinstance(outcome, Crashed)] == ["SIGKILL"], outcomes
        assert client.run_source(WHICH, engine="deno").value == "deno"


def _has(group: Path, pid: int) -> bool:
    try:
        return str(pid) in (group / "cgroup.procs").read_text().split()
    except OSError:  # the cgroup is being removed
        return False


def test_cells_started_for_one_run_leave_no_cgroup(tmp_path: Path) -> None:
    """Clients that disconnect while a cell starts for them leave no cgroup behind."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        assert "cgroup" in client.stats().held_by["memory (deno)"], "no memory cgroup can be made here"
        limits = LimitsAsked(memory_bytes=256 << 20, wall_ms=9000)
        waits = "await new Promise((r) => setTimeout(r, 60000))"
        running = client.start(None, source=waits, engine="deno", limits=limits)
        until(lambda: jailed_denos(daemon) != [])
        deno = jailed_denos(daemon)[0][1]
        parents = {group.parent for group in cgroups("cell-") if _has(group, deno)}
        assert parents

        def left() -> set[str]:
            return {group.name for parent in parents for group in parent.glob("cell-*")}

        assert left()
        for number in range(20):
            with Client(daemon.socket) as gone:
                gone.start(None, source="return 1", engine="deno", limits=limits)
                time.sleep(number / 700)  # clients disconnect at different moments of a start, which takes 25 ms
        assert client.run_source(WHICH, engine="deno", limits=limits).value == "deno"
        assert running.cancel()
        client.run_source(WHICH, engine="deno", limits=limits)  # this start removes what an earlier one could not
        # The remaining cgroups belong to cells that wait for a run.
        until(lambda: len(left()) == len(jailed_denos(daemon)))
