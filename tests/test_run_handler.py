"""The run handler: programs in memory, programs on a slow disk, and checks before a run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from promptlogd.checks import Checks
from promptlogd.config import Config, JournalSettings
from promptlogd.decoder import Decoder
from promptlogd.handlers.run import RunHandler, _Run
from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.journal import Entry, Journal
from promptlogd.principal import Principal
from promptlogd.quotas import Quotas
from promptlogd.run_totals import RunTotals
from promptlogd.runs import Runs
from promptlogd.settings import Settings
from promptlogd.store import Store, Viewer
from promptlogd.wire.messages import Finished, Run
from sandbox.cells.job import Job
from sandbox.engines.host.engine_host import EngineHost
from sandbox.limits import Limits
from sandbox.outcome import Cancelled
from sandbox.program import Program
from sandbox.protocol.frames import Task
from tests.sinks import NotingSink
from tests.store.programs import ARTIFACT, BUILD, submit
from tests.store.reopened import reopened


async def test_a_cancel_right_after_the_check_is_not_lost() -> None:
    """A cancel after the check's result and before the start of the run ends it as `cancelled`, and it never starts."""
    started: list[Job] = []
    runs = SimpleNamespace(start=lambda job, *rest, **options: started.append(job))
    noted: list[Entry] = []
    handler = SimpleNamespace(
        runs=runs, isolation="cell", totals=RunTotals(), record_run=None,
        journal=SimpleNamespace(note=noted.append), kept_texts=frozenset(), kept_text_bytes=0,
    )  # fmt: skip
    sink = NotingSink()
    request = Run(id=1, source="return 1")
    principal = Principal(connection=1, uid=0, process=None)
    run = _Run(cast(RunHandler, cast(Any, handler)), principal, request, sink, "0" * 64, stored=False)
    job = Job(task=Task.CHECK_AND_RUN, source=b"return 1", limits=Limits())

    async def check() -> Job:
        sink.on_cancel()
        return job

    run.begin_later(check)
    await sink.works[0]()
    await trio.lowlevel.checkpoint()
    assert started == []
    (reply,) = sink.replies
    assert isinstance(reply, Finished)
    assert reply.outcome == Cancelled()
    assert [(entry.kind, entry.outcome, entry.hash) for entry in noted] == [("run", "cancelled", "0" * 64)]


class _Handled:
    """A handler with a store of one program, which records runs and does not start them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.started: list[Job] = []
        self.hash, _ = submit(store, b"return 1", name="x", artifact=ARTIFACT, build=BUILD)
        nobody: Any = None
        settings = Settings(Config())
        self._handler = RunHandler(
            store,
            Journal(store.folder, JournalSettings(enabled=False), b""),
            StoreThreads(),
            cast(Runs, SimpleNamespace(start=self._start, pools={}, quotas=Quotas())),
            Checks(nobody, {}, settings),
            {"quickjs": cast(EngineHost, SimpleNamespace(artifact_build=BUILD))},
            settings,
            RunTotals(),
            cast(Decoder, None),
        )

    def _start(self, job: Job, *rest: object, **options: object) -> object:
        self.started.append(job)
        return SimpleNamespace(cancel=lambda: None)

    def start(self, reference: str) -> NotingSink:
        """Start a run of the stored program."""
        sink = NotingSink()
        self._handler.start(Principal(connection=1, uid=0, process=None), Run(id=1, hash=reference), sink)
        return sink


@pytest.fixture
def handled(tmp_path: Path) -> Iterator[_Handled]:
    """A handler with a store of one program that nobody has run yet."""
    with reopened(tmp_path / "state") as store:
        yield _Handled(store)


async def test_a_program_in_memory_starts_at_once(handled: _Handled, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run reads the program in a thread; the next ones start before `start` returns, without the disk."""
    for reference in ("@x", handled.hash[:10]):
        (work,) = handled.start(reference).works
        assert handled.started == []
        await work()
        (job,) = handled.started
        assert (job.task, job.source, job.artifact) == (Task.RUN, b"return 1", ARTIFACT)
        handled.started.clear()
    for name in ("load", "resolve", "artifact"):
        monkeypatch.setattr(handled.store, name, None)
    for reference in ("@x", handled.hash):
        assert handled.start(reference).works == []
        assert handled.started.pop() == job
    handled.store.remove(handled.hash)
    for reference in ("@x", handled.hash):
        assert len(handled.start(reference).works) == 1


async def test_a_run_is_cancelled_while_the_disk_hangs(handled: _Handled, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that waits for the disk is cancelled at once, with the client's hash, and never started or counted."""
    reading, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()
    load = handled.store.load

    def hang(hash: str, viewer: Viewer) -> Program:
        token.run_sync_soon(reading.set)
        assert go_on.wait(20)
        return load(hash, viewer)

    monkeypatch.setattr(handled.store, "load", hang)
    sink = handled.start("@x")
    (work,) = sink.works
    try:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work)
                await reading.wait()
                sink.on_cancel()
    finally:
        go_on.set()
    (reply,) = sink.replies
    assert isinstance(reply, Finished)
    assert (reply.outcome, reply.hash) == (Cancelled(), "@x")
    assert handled.started == []
    assert handled.store.show(handled.hash).fact.runs == 0
