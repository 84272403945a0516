"""Counts of runs are exact, although threads count, flush and remove programs at once, and although writes fail."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptlogd.store import Store
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
