"""Readers do not wait for writers, and calls on the daemon's event loop are answered from memory or not at all."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import msgspec
import pytest

from promptlogd.store import MANAGER, Holder, Store, Viewer
from promptlogd.store.journal import Move
from promptlogd.store.lookups import Lookups
from promptlogd.store.recent import Recent, RecentNames
from promptlogd.store.seal import seal
from promptlogd.store.state_folder import StateFolder
from tests.store.programs import BUILD, submit
from tests.store.reopened import reopened

_WAIT_S = 20.0
_LONG = 60_000
"""Number of moves that makes SQLite's log long enough for a checkpoint."""
_FULL_SCANS = ("count", "moves", "source_bytes", "unused")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFolder]:
    """An open state folder with a program that is named x."""
    with reopened(tmp_path / "state") as store:
        submit(store, b"first", name="x")
    state = StateFolder.open(tmp_path / "state", max_bytes=None)
    yield state
    state.close()


def _in_time(*calls: Callable[[], object]) -> list[object]:
    """Return the results of calls that run in other threads."""
    with ThreadPoolExecutor() as threads:
        return [call.result(_WAIT_S) for call in [threads.submit(call) for call in calls]]


def test_reading_during_a_transaction(state: StateFolder) -> None:
    """Every lookup returns the last committed state while a transaction is written and committed."""
    store = Store(state)
    hash = store.resolve("@x")
    going_on, go_on = threading.Event(), threading.Event()

    def moves() -> Iterator[Move]:
        yield Move(name="y", hash=hash, at=1.0)
        going_on.set()
        assert go_on.wait(_WAIT_S)

    class Moves(list[Move]):
        def __iter__(self) -> Iterator[Move]:
            return moves()

    with ThreadPoolExecutor() as threads:
        writing = threads.submit(lambda: state.apply(Moves()))
        assert going_on.wait(_WAIT_S)
        try:
            calls = [
                lambda: store.resolve("@x"),
                lambda: store.resolve(hash[:10]),
                lambda: store.show(hash).names,
                lambda: len(store.list(10, None).rows),
                lambda: store.load(hash).source,
                store.count,
            ]
            assert _in_time(*calls) == [hash, hash, ["x"], 1, b"first", 1]
        finally:
            go_on.set()
        writing.result(_WAIT_S)


def test_reading_and_writing_during_checkpoints(state: StateFolder) -> None:
    """Transactions, lookups and checkpoints work at the same time, and a lookup sees only whole transactions."""
    store = Store(state)
    hash = store.resolve("@x")
    stop = threading.Event()

    def copy() -> int:
        copies = 0
        while not stop.is_set():
            state.facts.copy_log()
            copies += 1
        return copies

    def look() -> int:
        looks = 0
        while not stop.is_set():
            names = store.show(hash).names
            assert names in (["x"], ["a", "b", "x"]), names
            looks += 1
        return looks

    with ThreadPoolExecutor() as threads:
        others = [threads.submit(copy), threads.submit(look), threads.submit(look)]
        try:
            for number in range(200):
                place = None if number % 2 else hash
                state.apply([Move(name=name, hash=place, at=1.0) for name in "ab"])
                if number % 50 == 0:
                    with state.use_facts():
                        state.facts.empty_log()
        finally:
            stop.set()
        assert all(other.result(_WAIT_S) for other in others)


def test_the_log_is_limited(state: StateFolder) -> None:
    """A flush copies a long log, so that the next transaction starts a new one; a far too long log is emptied."""
    store = Store(state)
    hash = store.resolve("@x")
    log = state.path / "facts.sqlite3-wal"
    moves = [Move(name="y", hash=hash, at=1.0)] * _LONG
    state.apply(moves)
    assert 4 << 20 < log.stat().st_size < 16 << 20
    with state.read_facts() as facts:
        assert facts.named("y") == hash
        store.flush()  # a reader still needs a part of the log, and is not disturbed
        assert facts.named("y") == hash
    store.flush()
    state.apply(moves[:1])
    assert log.stat().st_size < 1 << 20
    state.apply(moves * 4)
    assert log.stat().st_size > 16 << 20
    store.flush()
    assert log.stat().st_size == 0


def test_recently_used_programs_come_from_memory(state: StateFolder) -> None:
    """A recently used program is in memory under each reference, until its name moves or its files change."""
    store = Store(state)
    first = store.resolve("@x")
    assert store.recall(first) is None
    assert store.recall("@x") is None
    program = store.load(first)
    artifact = store.artifact(first, "quickjs", BUILD)
    assert artifact is not None
    assert store.recall(first) == store.recall("@x") == program
    assert store.recall_artifact(first, "quickjs", BUILD) == artifact
    assert store.recall(first[:10]) is None
    assert store.recall("@y") is None
    second = submit(store, b"second", name="x")[0]
    assert store.recall("@x") is None
    assert store.load(store.resolve("@x")) == store.recall("@x") == store.load(second)
    (state.path / "programs" / first[:2] / first[2:] / "source").write_bytes(b"FIRST")
    time.sleep(0.05)  # until then the file may count as unchanged
    assert store.recall(first) is None
    assert store.recall(second) is not None
    store.remove(second)
    assert store.recall("@x") is None
    assert store.recall(second) is None


def test_programs_not_used_recently_are_not_recalled(state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that was not used recently is not recalled, because checking its files could wait for the disk."""
    store = Store(state)
    program = store.load(store.resolve("@x"))
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    recent: Recent[str, str] = Recent(1000)
    recent.put("a", 0, 1, "A")
    now = 9.0
    assert recent.recall("a", lambda: 0) == "A"
    assert recent.get("a", 0) == "A"
    now = 18.0
    assert recent.recall("a", lambda: 0) == "A"
    now = 28.0
    assert recent.recall("a", lambda: 0) is None
    now = 1e9
    assert store.recall("@x") is None
    assert store.load(program.hash) is program
    assert store.recall("@x") is program


def test_a_lookup_during_a_move_is_not_cached() -> None:
    """A lookup result is not cached if the name moved meanwhile, and the oldest names are dropped."""
    names = RecentNames()
    before = names.moves
    names.moved(["x"])
    names.put("x", "old", before)
    assert names.get("x") is None
    names.put("x", "new", names.moves)
    assert names.get("x") == "new"
    for number in range(999):
        names.put(f"{number}", "some", names.moves)
    assert names.get("x") == "new"
    names.put("more", "some", names.moves)
    assert (names.get("0"), names.get("1"), names.get("x")) == (None, "some", "new")


def test_each_lookup_uses_an_index(tmp_path: Path) -> None:
    """Only the query of `gc` sorts, and only the listed queries scan a table or an index."""
    statements: list[str] = []
    with reopened(tmp_path / "state") as store:
        hash = submit(store, b"first", name="x")[0]
    with closing(sqlite3.connect(tmp_path / "state/facts.sqlite3")) as database:
        database.set_trace_callback(statements.append)
        lookups = Lookups(database)
        viewer = Viewer(uid=7, tenant="tenant", gids=frozenset({7, 8}), owns_user=False)
        calls: dict[str, Callable[[], object]] = {
            "get": lambda: lookups.get(hash),
            "newest": lambda: (
                lookups.newest(10, None, MANAGER),
                lookups.newest(10, (1.0, hash), MANAGER),
                lookups.newest(10, None, viewer),
                lookups.newest(10, (1.0, hash), Viewer(uid=7)),
            ),
            "with_prefix": lambda: lookups.with_prefix(hash[:10], 10, viewer),
            "oldest_with_prefix": lambda: lookups.oldest_with_prefix(hash[:10], viewer),
            "named": lambda: lookups.named("x"),
            "name_owner": lambda: lookups.name_owner("x"),
            "names_on": lambda: lookups.names_on(hash, 10, viewer),
            "count_names_on": lambda: lookups.count_names_on(hash, viewer),
            "history": lambda: lookups.history("x", 10),
            "count": lookups.count,
            "unused": lambda: lookups.unused(2.0, 10, (1.0, "")),
            "source_bytes": lookups.source_bytes,
            "moves": lambda: list(lookups.moves()),
        }
        assert set(calls) == {name for name in vars(Lookups) if not name.startswith("_")}
        calls["holders"] = lambda: (
            lookups.holders.of(hash),
            lookups.holders.first_seen(hash, viewer),
            lookups.holders.runs_seen(hash, viewer),
            lookups.holders.own_visibility(hash, viewer),
            lookups.holders.own_visibility(hash, Viewer(uid=7)),
            lookups.holders.of_others(hash, Holder(uid=7)),
            lookups.totals.of(7, None),
            lookups.totals.of(7, "tenant"),
            lookups.totals.names(),
        )
        for name, call in calls.items():
            statements.clear()
            call()
            database.set_trace_callback(None)
            for statement in statements:
                plan = " ".join(row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}"))
                assert ("TEMP B-TREE" in plan) == (name == "unused"), (name, plan)
                assert ("SCAN" in plan) == (name in _FULL_SCANS), (name, plan)
            database.set_trace_callback(statements.append)


def test_pages_of_programs_with_many_names(tmp_path: Path) -> None:
    """A page ends at its maximum size in bytes, whatever `limit` is, and the pages together list all programs."""
    with reopened(tmp_path / "state") as store:
        hashes = [submit(store, b"%d" % number)[0] for number in range(80)]
    moves = [
        Move(name=f"{number}-{which}".ljust(64, "x"), hash=hash, at=1.0)
        for number, hash in enumerate(hashes)
        for which in range(70 if number == 20 else 64)
    ]
    with (tmp_path / "state/names.jsonl").open("ab") as journal:
        journal.write(b"".join(b"\n" + seal(move) + b"\n" for move in moves))
    with reopened(tmp_path / "state") as store:
        rows = store.list(1000, None).rows
        assert len(rows) > 1
        assert sum(len(name) for row in rows for name in row.names) < 270_000
    found = []
    after: str | None = None
    with reopened(tmp_path / "state") as store:
        while True:
            page = store.list(1000, after)
            found += page.rows
            after = page.next
            if after is None:
                break
    assert [row.fact.hash for row in found] == hashes[::-1]
    assert {len(row.names) for row in found} == {64}
    assert [row.more_names for row in found] == [6 if row.fact.hash == hashes[20] else 0 for row in found]


def test_files_are_checked_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """For 20 ms a value is recalled without a check of its file; after that a changed file drops it, like `forget`."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    recent: Recent[str, str] = Recent(1000)
    for key in "ab":
        recent.put(key, 0, 1, key)
    now = 0.01
    assert recent.recall("a", lambda: 1) == "a"
    recent.forget("b")
    assert recent.recall("b", lambda: 0) is None
    now = 0.03
    assert recent.recall("a", lambda: 1) is None


def test_a_replaced_artifact_is_not_recalled(state: StateFolder) -> None:
    """A run that starts right after an artifact was replaced does not get the old artifact."""
    store = Store(state)
    hash = store.resolve("@x")
    old = store.artifact(hash, "quickjs", BUILD)
    assert old is not None
    assert store.recall_artifact(hash, "quickjs", BUILD) == old
    with patch("time.monotonic", return_value=time.monotonic()):  # however long the disk takes
        assert store.artifact(hash, "quickjs", BUILD) == old
        store.put_artifact(hash, "quickjs", BUILD, msgspec.structs.replace(old, code=b"new"))
        assert store.recall_artifact(hash, "quickjs", BUILD) is None
