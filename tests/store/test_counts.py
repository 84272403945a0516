"""Counts of runs are exact, although threads count, flush and remove programs at once, and although writes fail."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from promptlogd.store import NotFound, Store
from promptlogd.store.facts import Facts
from promptlogd.store.repeats import RepeatedSubmits
from tests.store.limits import largest_file
from tests.store.programs import submit
from tests.store.reopened import reopened

_RUNS = 10_000
_FLUSHES = 100


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An open store."""
    with reopened(tmp_path / "state") as store:
        yield store


@pytest.fixture
def _switching() -> Iterator[None]:
    """Make the interpreter switch threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def _submit(store: Store, source: bytes, name: str | None = None) -> str:
    return submit(store, source, name=name, uid=7)[0]


@pytest.mark.usefixtures("_switching")
@pytest.mark.parametrize("failing", [False, True])
def test_counting_while_flushing(store: Store, *, failing: bool) -> None:
    """One thread's counts stay exact while another thread flushes them, also if every second flush fails."""
    hashes = [_submit(store, b"%d" % number) for number in range(3)]
    stop = threading.Event()
    flushes = 0

    def flush() -> None:
        nonlocal flushes
        while not stop.is_set():
            if failing:
                with largest_file(0):
                    store.flush()
            store.flush()
            flushes += 1

    thread = threading.Thread(target=flush)
    thread.start()
    runs = 0
    while runs < _RUNS or flushes < _FLUSHES:
        for hash in hashes:
            store.record_run(hash)
        runs += 1
    stop.set()
    thread.join()
    store.flush()
    assert [store.show(hash).fact.runs for hash in hashes] == [runs] * 3


def test_a_failed_flush_keeps_the_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Counts survive failed flushes: they are reported at once, and written by a later flush."""
    store = Store.open(tmp_path / "state")
    hash = _submit(store, b"1")
    store.record_run(hash)
    with largest_file(0):
        store.flush()
        store.record_run(hash)
        store.flush()
    assert [record.levelname for record in caplog.records] == ["ERROR"]  # one message for both failures
    assert store.show(hash).fact.runs == 2
    store.record_run(hash)
    assert [row.fact.runs for row in store.list(10, None).rows] == [3]
    store.close()
    with reopened(tmp_path / "state") as store:
        assert store.show(hash).fact.runs == 3


def test_closing_without_a_writable_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the last counts can't be written on closing, the loss is logged and the folder is unlocked."""
    store = Store.open(tmp_path / "state")
    hash = _submit(store, b"1")
    store.record_run(hash)
    store.record_run(hash)
    with largest_file(0):
        store.close()
    assert "2 finished runs were not counted: the counts could not be written" in caplog.text
    with reopened(tmp_path / "state") as store:
        assert store.show(hash).fact.runs == 0


@pytest.mark.parametrize("flush_fails", [False, True])
def test_a_removal_drops_pending_counts(store: Store, *, flush_fails: bool) -> None:
    """Runs that were pending at a removal, or end after it, do not count when the program is submitted again."""
    hash, other = _submit(store, b"1"), _submit(store, b"2")
    for _ in range(3):
        store.record_run(hash)
        store.record_run(other)
    if flush_fails:
        with largest_file(0):
            store.flush()
    store.remove(hash)
    store.record_run(hash)
    assert _submit(store, b"1") == hash
    assert store.show(hash).fact.runs == 0
    store.record_run(hash)
    store.flush()
    assert (store.show(hash).fact.runs, store.show(other).fact.runs) == (1, 3)


@pytest.mark.usefixtures("_switching")
def test_removing_while_counting_and_flushing(store: Store) -> None:
    """Counts of a program stay exact while other threads count, flush, and remove another program."""
    stays = _submit(store, b"stays")
    stop = threading.Event()

    def flush() -> None:
        while not stop.is_set():
            store.flush()

    def remove() -> None:
        while not stop.is_set():
            store.remove(_submit(store, b"goes", name="x"))

    threads = [threading.Thread(target=target) for target in (flush, remove)]
    for thread in threads:
        thread.start()
    goes = hashlib.sha256(b"goes").hexdigest()
    for _ in range(_RUNS):
        store.record_run(stays)
        store.record_run(goes)
    stop.set()
    for thread in threads:
        thread.join()
    assert store.show(stays).fact.runs == _RUNS
    assert _submit(store, b"goes") == goes
    assert store.show(goes).fact.runs == 0


def test_a_repeated_submit_survives_a_failed_write(store: Store) -> None:
    """If the disk refuses the time of a repeated submit, it is written later, and meanwhile the program stays."""
    hash = _submit(store, b"1")
    (before,) = store.unused(2e9, 10, None)
    _submit(store, b"1")
    with largest_file(0):
        store.flush()
    assert store.remove_unused(before) is None
    store.flush()
    (after,) = store.unused(2e9, 10, None)
    assert after.used_at > before.used_at
    assert after.runs == 0
    assert store.remove_unused(after) is not None
    with pytest.raises(NotFound):
        store.show(hash)


def test_no_program_is_removed_while_uses_are_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeated submit that a flush has taken, but not written yet, still protects its program."""
    _submit(store, b"1")
    (before,) = store.unused(2e9, 10, None)
    _submit(store, b"1")
    writing, go_on = threading.Event(), threading.Event()
    note_uses = Facts.note_uses

    def wait(self: Facts, *arguments: Any) -> None:
        writing.set()
        assert go_on.wait(10)
        note_uses(self, *arguments)

    monkeypatch.setattr(Facts, "note_uses", wait)
    thread = threading.Thread(target=store.flush)
    thread.start()
    try:
        assert writing.wait(10)
        assert store.remove_unused(before) is None
    finally:
        go_on.set()
        thread.join()
    assert store.remove_unused(before) is None


def test_repeated_submits_are_bounded() -> None:
    """Beyond the maximum, the oldest are forgotten. Times that are put back do not replace later ones."""
    repeats = RepeatedSubmits()
    for number in range(10_001):
        repeats.add(str(number), float(number))
    assert not repeats.has("0")
    taken = repeats.take()
    assert len(taken) == 10_000
    repeats.add("5", 1e9)
    repeats.put_back(taken)
    assert repeats.take()["5"] == 1e9
