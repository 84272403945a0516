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

from promptlogd.collector import Collector
from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.handlers.submit import _Storing
from promptlogd.principal import Principal
from promptlogd.refusal import RequestError
from promptlogd.store import Store, StoreFailed
from sandbox.program import Artifact, Form

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
        return _KEPT

    def discard(self, staged: object) -> None:
        self._note("discard")

    def _note(self, call: str) -> None:
        self.calls.append((call, threading.get_ident()))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


def _storing(disk: _Disk, threads: StoreThreads | None = None) -> _Storing:
    collector = SimpleNamespace(store=lambda who, step: step())
    threads = threads or StoreThreads()
    return _Storing(
        cast(Store, disk),
        threads,
        cast(Collector, collector),
        _PRINCIPAL,
        disk.stage,
        disk.publish,
    )


@pytest.fixture(autouse=True)
async def _in_time() -> AsyncIterator[None]:
    with trio.fail_after(_WAIT_S):
        yield


async def _until(condition: Callable[[], object]) -> None:
    while not condition():
        await trio.sleep(0.001)


async def test_one_thread_writes_and_publishes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that writes the program waits for the end of the check, and publishes."""
    monkeypatch.setattr("promptlogd.handlers.submit._CHECK_WAIT_S", _WAIT_S)
    disk = _Disk()
    storing = _storing(disk)
    await storing.begin()
    assert await trio.to_thread.run_sync(disk.staged.wait, _WAIT_S)
    assert disk.names == ["stage"]
    assert await storing.finish(_ARTIFACT) == _KEPT
    await storing.end()
    assert disk.names == ["stage", "publish"]
    assert len({thread for _, thread in disk.calls}) == 1


async def test_a_slow_check_does_not_hold_a_thread() -> None:
    """If the check takes long, the thread ends, and another call publishes the program."""
    disk, threads = _Disk(), StoreThreads()
    storings = [_storing(disk, threads) for _ in range(40)]
    for storing in storings:
        await storing.begin()
        await threads.write(_PRINCIPAL, lambda: None)  # gets a thread although no check ends
    for storing in storings:
        assert await storing.finish(_ARTIFACT) == _KEPT
    assert disk.names.count("stage") == disk.names.count("publish") == len(storings)


async def test_without_a_free_thread() -> None:
    """If no thread is free while the program is checked, it is written after the check."""
    disk, threads, go_on = _Disk(), StoreThreads(), threading.Event()
    storing = _storing(disk, threads)
    started = []
    while (one := threads.start_write(_PRINCIPAL, lambda: cast(None, go_on.wait(_WAIT_S)))) is not None:
        started.append(one)
    await storing.begin()
    go_on.set()
    for one in started:
        await one.wait()
    assert disk.names == []
    assert await storing.finish(_ARTIFACT) == _KEPT
    assert disk.names == ["stage", "publish"]


async def test_a_check_that_ends_first() -> None:
    """If the check ends before the program's thread has started, the program is written and published once."""
    disk = _Disk()
    storing = _storing(disk)
    assert await storing.finish(_ARTIFACT) == _KEPT
    await storing.begin()
    await storing.end()
    assert disk.names == ["stage", "publish"]


@pytest.mark.parametrize("how", ["refused", "cancelled"])
async def test_a_program_that_is_not_stored_is_discarded(how: str) -> None:
    """If the check finds an error, or the client disconnects, the files are removed, and nothing is published."""
    disk = _Disk()
    storing = _storing(disk)
    await storing.begin()
    with trio.CancelScope() as scope:
        if how == "cancelled":
            scope.cancel()
        await storing.end()
    assert disk.names == ["stage", "discard"]


async def test_an_error_of_the_disk_while_the_check_runs() -> None:
    """The client gets an error that occurs in the thread before the check has ended."""
    disk = _Disk()
    disk.fails = True
    storing = _storing(disk)
    await storing.begin()
    with pytest.raises(RequestError, match="the disk is broken") as refused:
        await storing.finish(_ARTIFACT)
    assert refused.value.code == "internal"
    await storing.end()
    assert disk.names == ["stage"]


async def test_an_error_of_the_thread_does_not_hide_that_of_the_check() -> None:
    """If the thread fails because of a defect, `end` only logs it, so that the client gets the check's error."""
    disk = _Disk()
    disk.has_bug = True
    storing = _storing(disk)
    await storing.begin()
    await storing.end()
    assert disk.names == ["stage"]


@pytest.mark.parametrize("fails", [False, True], ids=["by its check", "by the disk"])
async def test_a_refused_program_is_freed_without_garbage_collection(fails: bool) -> None:
    """The program's text is freed as soon as the client has got the error."""
    gc.disable()
    try:
        disk = _Disk()
        disk.fails = fails
        storing = _storing(disk)
        await storing.begin()
        if fails:
            with pytest.raises(RequestError):
                await storing.finish(_ARTIFACT)
        await storing.end()
        left = weakref.ref(storing)
        del storing
        await _until(lambda: left() is None)  # the thread drops its reference after it has reported
    finally:
        gc.enable()
