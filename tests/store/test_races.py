"""The store with several threads: readers do not wait, and do not take a write in progress for damage."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from promptlogd.store import NotFound, Store, Submission, Viewer
from tests.store.programs import ARTIFACT, BUILD, submit, text

_ROUNDS = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state folder that does not exist yet."""
    return tmp_path / "state"


def _submit(store: Store, source: bytes, name: str | None = None) -> str:
    return submit(store, source, name=name, uid=7)[0]


def test_readers_do_not_wait_for_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names resolve and programs load while a submit waits for fsync."""
    store = Store.open(folder)
    hash = _submit(store, b"x", name="x")
    syncing, go_on = threading.Event(), threading.Event()

    def slow_fsync(descriptor: int) -> None:
        syncing.set()
        assert go_on.wait(10)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    writer = threading.Thread(target=_submit, args=(store, b"y", "y"))
    writer.start()
    assert syncing.wait(10)
    assert store.resolve("@x") == hash
    assert store.load(hash).source == b"x"
    assert store.count() == 1
    go_on.set()
    writer.join()
    assert store.count() == 2
    store.close()


def test_reading_while_removing_and_submitting(folder: Path) -> None:
    """Concurrent submits, removals and reads of one program never set an intact program aside."""
    store = Store.open(folder)
    source = b"return 'race'"
    hash = hashlib.sha256(source).hexdigest()
    writing = threading.Barrier(3)
    stop = threading.Event()
    wrong: list[BaseException] = []

    def write() -> None:
        for _ in range(_ROUNDS):
            submit(store, source, uid=0)
            try:
                store.remove(hash)
            except NotFound:
                pass
        writing.wait()

    def read() -> None:
        while not stop.is_set():
            try:
                assert store.load(hash).source == source
            except NotFound:
                pass
            except BaseException as error:
                wrong.append(error)
                return

    threads = [threading.Thread(target=target) for target in (write, write, read, read, read)]
    for thread in threads:
        thread.start()
    writing.wait()
    stop.set()
    for thread in threads:
        thread.join()
    store.close()
    assert wrong == []
    assert list((folder / "damaged").iterdir()) == []


@pytest.mark.parametrize("full", [False, True])
def test_the_same_program_staged_twice(folder: Path, full: bool) -> None:
    """If two users submit the same new program at the same time, it is published once, and both hold it, even if the
    store is full by then."""
    store = Store.open(folder)
    store.usage.count()
    program = text(b"return 'both'")
    staged = [store.stage(program, uid=uid, visibility="own") for uid in (7, 8)]
    assert None not in [one.folder for one in staged]
    kept = [store.keep(Submission(staged=staged[0], artifact=ARTIFACT, build=BUILD))]
    if full:
        store.usage.max_bytes = 1
    kept.append(store.keep(Submission(staged=staged[1], artifact=ARTIFACT, build=BUILD)))
    assert [one.stored for one in kept] == [True, False]
    used = store.usage.bytes
    assert used == store.usage.count()
    for uid in (7, 8):
        viewer = Viewer(uid=uid)
        recalled = store.recall(program.hash, lambda: viewer)  # noqa: B023  # called at once
        assert recalled in (program, None)
        assert store.load(program.hash, viewer) == program
        assert store.show(program.hash, viewer).fact.created_by == uid
    with pytest.raises(NotFound):
        store.load(program.hash, Viewer(uid=9))
    assert not [path for path in (folder / "programs").iterdir() if path.name.startswith(".")]
    store.close()
