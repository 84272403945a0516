"""Storing a submitted program in a thread while it is checked, and its memory if it is refused."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from promptlogd.checks import Checks, OnArtifact, StartedCheck
from promptlogd.collector import Collector
from promptlogd.config import Config
from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.handlers.submit import SubmitHandler, _Storing
from promptlogd.journal import Journal
from promptlogd.principal import Principal
from promptlogd.quotas import Quotas
from promptlogd.refusal import RequestError
from promptlogd.settings import Settings
from promptlogd.sink import Sink
from promptlogd.store import Kept, Store, StoreFailed
from promptlogd.wire.messages import Submit
from sandbox.program import Artifact, Form, Program

_WAIT_S = 20.0
_PRINCIPAL = Principal(connection=1, uid=0, process=None)
_KEPT: Any = "kept"
_ARTIFACT = Artifact(form=Form.BODY, language="javascript")


class _Disk:
    """Stands for the store. Records its calls, and the thread of each."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.staged = threading.Event()
        self.fails = self.has_bug = False
        self.kept = _KEPT

    def stage(self) -> Any:
        self._note("stage")
        if self.fails:
            raise StoreFailed("the disk is broken")
        if self.has_bug:
            raise ZeroDivisionError
        self.staged.set()
        return "staged"

    def publish(self, staged: object, artifact: Artifact) -> Any:
        self._note("publish")
        assert (staged, artifact) == ("staged", _ARTIFACT)
        return self.kept

    def discard(self, staged: object) -> None:
        self._note("discard")

    def _note(self, call: str) -> None:
        self.calls.append((call, threading.get_ident()))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


class _Check:
    """Stands for a check in a cell."""

    def __init__(self, *, is_quick: bool = True) -> None:
        """`is_quick`: whether the artifact is ready when the cell has answered."""
        self._is_quick = is_quick
        self._end = trio.Event()
        self._on_artifact: OnArtifact | None = None

    def start(self, on_artifact: OnArtifact) -> StartedCheck:
        self._on_artifact = on_artifact
        return cast(StartedCheck, self)

    def end(self) -> None:
        on_artifact, self._on_artifact = self._on_artifact, None
        self._end.set()
        if self._is_quick and on_artifact is not None:
            on_artifact(_ARTIFACT)

    @property
    def has_ended(self) -> bool:
        return self._end.is_set()

    async def artifact(self) -> Artifact:
        try:
            await self._end.wait()
        finally:
            self._on_artifact = None
        return _ARTIFACT


def _storing(
    disk: _Disk,
    check: _Check,
    threads: StoreThreads | None = None,
    on_kept: Callable[[Any], None] = lambda kept: None,
) -> _Storing:
    collector = SimpleNamespace(store=lambda who, step: step())
    return _Storing(
        cast(Store, disk),
        threads or StoreThreads(),
        cast(Collector, collector),
        _PRINCIPAL,
        check.start,
        disk.stage,
        disk.publish,
        on_kept,
    )


@pytest.fixture(autouse=True)
async def _in_time() -> AsyncIterator[None]:
    with trio.fail_after(_WAIT_S):
        yield


async def _until(condition: Callable[[], object]) -> None:
    while not condition():
        await trio.sleep(0.001)


async def test_one_thread_writes_and_publishes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that writes the program waits for the end of the check, and publishes. The reply waits for no task."""
    monkeypatch.setattr("promptlogd.handlers.submit._CHECK_WAIT_S", _WAIT_S)
    disk, check = _Disk(), _Check()
    replies: list[Any] = []
    storing = _storing(disk, check, on_kept=replies.append)
    storing.begin()
    assert await trio.to_thread.run_sync(disk.staged.wait, _WAIT_S)
    assert disk.names == ["stage"]
    check.end()
    await _until(lambda: replies)
    assert await storing.finish() == _KEPT
    await storing.end()
    assert replies == [_KEPT]
    assert disk.names == ["stage", "publish"]
    assert len({thread for _, thread in disk.calls}) == 1


async def test_an_artifact_that_takes_long() -> None:
    """If making the artifact takes longer than a thread waits, the program is published later, and replied once."""
    disk, check = _Disk(), _Check(is_quick=False)
    replies: list[Any] = []
    storing = _storing(disk, check, on_kept=replies.append)
    storing.begin()
    assert await trio.to_thread.run_sync(disk.staged.wait, _WAIT_S)
    check.end()
    assert await storing.finish() == _KEPT
    assert replies == [_KEPT]
    assert disk.names == ["stage", "publish"]


async def test_a_reply_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the reply can't be sent because of a defect, the request gets the error, and the event loop continues."""
    monkeypatch.setattr("promptlogd.handlers.submit._CHECK_WAIT_S", _WAIT_S)
    disk, check = _Disk(), _Check()

    def fail(kept: object) -> None:
        raise ZeroDivisionError

    storing = _storing(disk, check, on_kept=fail)
    storing.begin()
    check.end()
    with pytest.raises(ZeroDivisionError):
        await storing.finish()
    await storing.end()
    assert disk.names == ["stage", "publish"]


async def test_a_slow_check_does_not_hold_a_thread() -> None:
    """If the check takes long, the thread ends, and another call publishes the program."""
    disk, threads = _Disk(), StoreThreads()
    check = _Check(is_quick=False)
    storings = [_storing(disk, check, threads) for _ in range(40)]
    for storing in storings:
        storing.begin()
        await threads.write(_PRINCIPAL, lambda: None)  # gets a thread although no check ends
    check.end()
    for storing in storings:
        assert await storing.finish() == _KEPT
    assert disk.names.count("stage") == disk.names.count("publish") == len(storings)


async def test_without_a_free_thread() -> None:
    """If no thread is free while the program is checked, it is written after the check."""
    disk, check, threads, go_on = _Disk(), _Check(), StoreThreads(), threading.Event()
    storing = _storing(disk, check, threads)
    started = []
    while (one := threads.start_write(_PRINCIPAL, lambda: cast(None, go_on.wait(_WAIT_S)))) is not None:
        started.append(one)
    storing.begin()
    go_on.set()
    for one in started:
        await one.wait()
    assert disk.names == []
    check.end()
    assert await storing.finish() == _KEPT
    assert disk.names == ["stage", "publish"]


async def test_a_check_that_ends_at_once() -> None:
    """If the check has ended at its start, for example because it was refused, no thread starts to write."""
    disk, check = _Disk(), _Check()
    check.end()
    storing = _storing(disk, check)
    storing.begin()
    await storing.end()
    assert disk.names == []


async def test_a_client_that_disconnects_when_its_program_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the request is cancelled in the turn of the loop in which its check ends, the stored program is noted."""
    monkeypatch.setattr("promptlogd.handlers.submit._CHECK_WAIT_S", _WAIT_S)
    disk, check = _Disk(), _Check()
    noted: list[str] = []
    checks = SimpleNamespace(
        program=lambda source, engine, language: Program.of_text(
            source.encode(), language="javascript", engine="quickjs"
        ),
        start=lambda *arguments: check.start(arguments[-1]),
        artifact_build=lambda engine: "build",
    )
    store = SimpleNamespace(
        stage=lambda program, **options: disk.stage(),
        keep=lambda submission: disk.publish(submission.staged, submission.artifact),
    )
    handler = SubmitHandler(
        cast(Store, store),
        cast(Journal, SimpleNamespace(note=lambda entry: noted.append(entry.kind))),
        StoreThreads(),
        cast(Checks, checks),
        Settings(Config()),
        lambda: noted.append("kept"),
        cast(Collector, SimpleNamespace(store=lambda who, step: step())),
        Quotas(),
    )
    disk.kept = Kept(hash="0" * 64, created=True, engine="quickjs", moved_from=None, stored=True, holders=())
    async with trio.open_nursery() as tasks:
        sink = SimpleNamespace(reply=lambda reply: noted.append("reply"), spawn=tasks.start_soon)
        handler.start(_PRINCIPAL, Submit(id=1, source="return 1"), cast(Sink, sink))
        assert await trio.to_thread.run_sync(disk.staged.wait, _WAIT_S)
        tasks.cancel_scope.cancel()
        check.end()
    assert disk.names == ["stage", "publish"]
    assert noted == ["reply", "kept", "submit"]


@pytest.mark.parametrize("how", ["refused", "cancelled"])
async def test_a_program_that_is_not_stored_is_discarded(how: str) -> None:
    """If the check finds an error, or the client disconnects, the files are removed, and nothing is published."""
    disk = _Disk()
    storing = _storing(disk, _Check())
    storing.begin()
    with trio.CancelScope() as scope:
        if how == "cancelled":
            scope.cancel()
        await storing.end()
    assert disk.names == ["stage", "discard"]


async def test_an_error_of_the_disk_while_the_check_runs() -> None:
    """The client gets an error that occurs in the thread before the check has ended."""
    disk = _Disk()
    disk.fails = True
    check = _Check()
    storing = _storing(disk, check)
    storing.begin()
    check.end()
    with pytest.raises(RequestError, match="the disk is broken") as refused:
        await storing.finish()
    assert refused.value.code == "internal"
    await storing.end()
    assert disk.names == ["stage"]


async def test_an_error_of_the_thread_does_not_hide_that_of_the_check() -> None:
    """If the thread fails because of a defect, `end` only logs it, so that the client gets the check's error."""
    disk = _Disk()
    disk.has_bug = True
    storing = _storing(disk, _Check())
    storing.begin()
    await storing.end()
    assert disk.names == ["stage"]


@pytest.mark.parametrize("fails", [False, True], ids=["by its check", "by the disk"])
async def test_a_refused_program_is_freed_without_garbage_collection(fails: bool) -> None:
    """The program's text is freed as soon as the client has got the error."""
    gc.disable()
    try:
        disk = _Disk()
        disk.fails = fails
        check = _Check()
        storing = _storing(disk, check)
        storing.begin()
        if fails:
            check.end()
            with pytest.raises(RequestError):
                await storing.finish()
        check.end()
        await storing.end()
        left = weakref.ref(storing)
        del storing
        await _until(lambda: left() is None)  # the thread drops its reference after it has reported
    finally:
        gc.enable()
