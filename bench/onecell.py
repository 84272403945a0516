"""A QuickJS cell without the daemon, and the sample program on it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from caller import PROMPT, SAMPLE

from promptlogd.config import Config
from sandbox.cells.job import Job, Result
from sandbox.cells.reactor import Reactor
from sandbox.cells.watch import Watchdog
from sandbox.engines.host.engine_host import Setting
from sandbox.engines.quickjs.host.cell import QuickJSCell
from sandbox.engines.quickjs.host.host import Host
from sandbox.errors import CellLost
from sandbox.jail.identities import shared
from sandbox.outcome import Ok
from sandbox.program import Artifact, Form
from sandbox.protocol.events import Checked
from sandbox.protocol.frames import Task


@asynccontextmanager
async def one_cell() -> AsyncIterator[tuple[QuickJSCell, Job]]:
    """Context manager: a cell, and the stored sample program as a job."""
    config = Config()
    with tempfile.TemporaryDirectory(prefix="promptlog-", dir="/run" if os.geteuid() == 0 else None) as folder:
        os.chmod(folder, 0o755)
        setting = Setting(
            folder=Path(folder) / "root",
            default=config.default_limits("quickjs"),
            most_memory_bytes=config.limits.max.limits().memory_bytes,
            cgroup=None,
            identities=shared("a benchmark"),
        )
        host, watchdog = Host(setting), Watchdog(1)
        reactor = Reactor(watchdog)
        async with trio.open_nursery() as nursery:
            await nursery.start(watchdog.serve)
            await nursery.start(reactor.serve)
            cell = await host.start(await host.plan(None), reactor)
            source, limits = SAMPLE.encode(), setting.default
            try:
                check = Job(task=Task.CHECK, source=source, artifact_bytes=host.artifact_bytes(source), limits=limits)
                checked = (await _done(cell, check)).outcome
                assert isinstance(checked, Checked)
                assert checked.code is not None
                artifact = Artifact(form=Form.BODY, language="javascript", code=bytes(checked.code))
                yield cell, Job(task=Task.RUN, source=source, artifact=artifact, prompt=PROMPT, limits=limits)
            finally:
                await cell.close()
                nursery.cancel_scope.cancel()


async def run(cell: QuickJSCell, job: Job) -> None:
    """Run the job once. Raises if the run has no result."""
    outcome = (await _done(cell, job)).outcome
    assert isinstance(outcome, Ok), outcome


async def _done(cell: QuickJSCell, job: Job) -> Result:
    done = trio.Event()
    results: list[Result | CellLost] = []

    def note(result: Result | CellLost) -> None:
        results.append(result)
        done.set()

    cell.begin(job, note)
    await done.wait()
    (result,) = results
    assert isinstance(result, Result)
    return result
