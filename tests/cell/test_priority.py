"""CPU priorities: a cell starts at a low priority, and runs at that of the daemon."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import trio

from sandbox.cells import priority
from sandbox.cells.job import Job
from sandbox.cells.plan import Plan
from sandbox.engines.quickjs.host import start as cells
from sandbox.limits import Limits
from sandbox.protocol.frames import Task
from tests.cell.cells import a_cell, a_reactor, run_on, until_blank
from tests.daemon.processes import children, until


def _niceness(pid: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, pid)


async def test_a_started_cell_has_the_daemons_priority(plan: Plan) -> None:
    """The zygote, its first child and the next one have the daemon's priority, whatever nsjail has."""
    own = _niceness(os.getpid())
    async with a_cell(plan) as cell:
        (zygote,) = children(cell.process.pid)
        assert [_niceness(zygote), *map(_niceness, children(zygote))] == [own, own]
        await run_on(cell, "return 1")
        await until_blank(cell)
        until(lambda: children(zygote) != [])  # the cell is blank shortly before its next child exists
        assert [_niceness(zygote), *map(_niceness, children(zygote))] == [own, own]


async def test_a_cell_starts_at_a_low_priority(plan: Plan) -> None:
    """nsjail gets and keeps a low priority, if the daemon has the right to raise those of zygote and child again."""
    async with a_reactor() as reactor:
        cell = await cells.start(plan, reactor)
        try:
            expected = priority.low() if priority.can_restore() else _niceness(os.getpid())
            assert _niceness(cell.process.pid) == expected
        finally:
            with trio.CancelScope(shield=True):
                await cell.close()


async def test_a_cell_whose_zygote_is_unknown(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the kernel lists no children, the zygote's priority can't be raised again, so the cell starts at the
    daemon's."""
    monkeypatch.setattr("sandbox.cells.process._CHILDREN", "/proc/{0}/task/{0}/nowhere")
    async with a_cell(plan) as cell:
        (zygote,) = children(cell.process.pid)
        pids = (cell.process.pid, zygote, *children(zygote))
        assert list(map(_niceness, pids)) == [_niceness(os.getpid())] * 3


async def test_the_next_child_keeps_its_priority(plan: Plan) -> None:
    """If a run ends just before its priority would be lowered, the next child does not get the low priority."""
    async with a_cell(plan) as cell:
        (zygote,) = children(cell.process.pid)
        (first,) = children(zygote)
        ended = trio.Event()
        job = Job(task=Task.CHECK_AND_RUN, source=b"return 1", limits=Limits(wall_ms=60_000))
        cell.begin(job, lambda result: ended.set())
        until(lambda: children(zygote) not in ([], [first]))  # the event loop does not run
        (second,) = children(zygote)
        cell.on_due()
        assert _niceness(second) == _niceness(os.getpid())
        await ended.wait()


@pytest.mark.parametrize(("own", "low"), [(0, 10), (5, 15), (12, 19)])
def test_a_low_priority_is_lower_than_the_daemons(own: int, low: int) -> None:
    """If the service manager gives the daemon a niceness, that of a longer run is greater, not 10."""
    script = f"""if True:
        import os, subprocess
        from sandbox.cells import priority
        os.setpriority(os.PRIO_PROCESS, 0, {own})
        with subprocess.Popen(["sleep", "60"]) as process:
            priority.lower(process.pid)
            print(os.getpriority(os.PRIO_PROCESS, process.pid))
            process.kill()
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{low}\n", "")


@pytest.mark.parametrize("prefix", [[], ["unshare", "--user", "--map-root-user"]], ids=["here", "user namespace"])
def test_the_right_to_raise_a_priority(prefix: list[str]) -> None:
    """`can_restore` tells what `restore` does. In a user namespace, root has CAP_SYS_NICE and may not raise a
    priority."""
    script = """if True:
        import os, subprocess
        from sandbox.cells import priority
        own = os.getpriority(os.PRIO_PROCESS, 0)
        with subprocess.Popen(["sleep", "60"]) as process:
            os.setpriority(os.PRIO_PROCESS, process.pid, 19)
            priority.restore(process.pid)
            is_restored = os.getpriority(os.PRIO_PROCESS, process.pid) == own
            process.kill()
        print(priority.can_restore() == is_restored, os.getpriority(os.PRIO_PROCESS, 0) == own)
    """
    done = subprocess.run([*prefix, sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("True True\n", "")
