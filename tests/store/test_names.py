"""Names are limited in number, and removals, `show` and the journal stay fast with many names."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from promptlogd.handlers.references import StoreErrors
from promptlogd.refusal import RequestError
from promptlogd.store import NameTaken, NotFound, Store, Submission, TooManyNames
from promptlogd.store.journal import Move
from promptlogd.store.name_rows import NAME_SCHEMA, NameRows
from promptlogd.store.names import MOST_NAMES, MOST_NAMES_OF_PROGRAM
from promptlogd.store.overview import MOST_NAMES_SHOWN
from promptlogd.store.records import Kept
from promptlogd.store.references import before
from promptlogd.store.seal import seal, unseal
from tests.store.programs import ARTIFACT, BUILD, submit, text
from tests.store.reopened import reopened

_MANY = 12_000
_SHOW_CPU_S = 2.0
"""`show` of 12,000 names takes 0.2 s of CPU time; without the index it would take 4 s."""
_LONG = 60_000
"""Number of moves that makes the journal long enough for a compaction."""
_NOWHERE = "0" * 64


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with two programs, the first of which is named x."""
    with reopened(tmp_path / "state") as store:
        submit(store, b"first", name="x")
        submit(store, b"second")
    return tmp_path / "state"


def _hashes(store: Store) -> tuple[str, str]:
    """Return the hashes of the two programs."""
    return submit(store, b"first")[0], submit(store, b"second")[0]


def _extend(state: Path, moves: Sequence[Move]) -> None:
    """Append moves to the journal of a closed store, and let the next start rebuild SQLite from it."""
    with (state / "names.jsonl").open("ab") as journal:
        journal.write(b"".join(b"\n" + seal(move) + b"\n" for move in moves))
    for path in state.glob("facts.sqlite3*"):
        path.unlink()


def _give_many_names(state: Path) -> str:
    """Give the second program more names than are allowed today, and return its hash."""
    with reopened(state) as store:
        hash = _hashes(store)[1]
    _extend(state, [Move(name=f"name-{number:05}", hash=hash, at=float(number)) for number in range(_MANY)])
    return hash


def test_a_submit_that_must_not_move_its_name(state: Path) -> None:
    """A submit whose name is taken stores nothing with `moves=False`, and otherwise returns the name's old program."""
    with reopened(state) as store:
        first, _ = _hashes(store)

        def keep(source: bytes, *, moves: bool) -> Kept:
            staged = store.stage(text(source), uid=7)
            try:
                submission = Submission(staged=staged, artifact=ARTIFACT, build=BUILD, name="x", moves=moves)
                return store.keep(submission)
            except NameTaken:
                store.discard(staged)
                raise

        with pytest.raises(NameTaken, match=first):
            keep(b"return 'taken'", moves=False)
        assert store.count() == 2
        moved = keep(b"return 'taken'", moves=True)
        assert (moved.created, moved.moved_from) == (True, first)
        again = keep(b"return 'taken'", moves=False)
        assert (again.created, again.moved_from) == (False, None)


def test_names_of_a_program_are_limited(state: Path) -> None:
    """A program accepts no name above its maximum, whichever request gives it, and nothing else changes."""
    with reopened(state) as store:
        first, second = _hashes(store)
        store.label("moves", second)
        store.label("moves", first)
        for number in range(MOST_NAMES_OF_PROGRAM):
            store.label(f"name-{number}", second)
        names = store.show(second).names
        assert len(names) == MOST_NAMES_OF_PROGRAM
        with pytest.raises(TooManyNames, match="64 names, the maximum; use one of them, or first move one"):
            store.label("more", second)
        with pytest.raises(TooManyNames, match="the maximum"):
            store.label("moves", None)
        with pytest.raises(TooManyNames, match="the maximum"):
            submit(store, b"second", name="more")
        with pytest.raises(RequestError) as refused, StoreErrors():
            store.label("more", second)
        assert (refused.value.code, refused.value.detail) == ("bad_request", {"limit": MOST_NAMES_OF_PROGRAM})
        assert store.show(second).names == names
        assert store.resolve("@moves") == first
        assert store.label("name-0", second) == (second, second)
        assert submit(store, b"second", name="name-0") == (second, False)
        store.label("name-0", first)
        assert store.label("more", second) == (second, None)


@pytest.mark.long
def test_names_of_a_store_are_limited(state: Path) -> None:
    """A new name above the store's maximum is refused with its new program, and existing names can still be moved."""
    _extend(state, [Move(name=f"{number}", hash=_NOWHERE, at=1.0) for number in range(MOST_NAMES - 1)])
    with reopened(state) as store:
        first, second = _hashes(store)
        with pytest.raises(TooManyNames, match="100000 names, the maximum; move an existing name, or remove"):
            store.label("more", second)
        with pytest.raises(TooManyNames, match="the maximum"):
            submit(store, b"third", name="more")
        assert store.count() == 2
        assert store.label("x", second) == (second, first)
        assert submit(store, b"third", name="7")[1]
        assert list(store.remove(second)) == ["x"]
        assert store.label("more", first) == (first, None)


def test_a_removal_needs_few_fsyncs(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removing a program with 12,000 names takes no more fsyncs than one with a single name, and removes all names."""
    many = _give_many_names(state)
    syncs = 0
    fsync = os.fsync

    def count(descriptor: int) -> None:
        nonlocal syncs
        syncs += 1
        fsync(descriptor)

    with reopened(state) as store:
        first, _ = _hashes(store)
        monkeypatch.setattr(os, "fsync", count)
        assert list(store.remove(first)) == ["x"]
        of_one, syncs = syncs, 0
        assert len(store.remove(many)) == _MANY
        assert 0 < syncs <= of_one
    for path in state.glob("facts.sqlite3*"):
        path.unlink()
    with reopened(state) as store, pytest.raises(NotFound):
        store.resolve("@name-00000")


@pytest.mark.parametrize("lines", [1, _MANY - 1, *(pytest.param(n, marks=pytest.mark.long) for n in (0, _MANY // 2))])
def test_an_interrupted_removal_affects_no_other_name(
    state: Path, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A removal that a kill interrupted after any number of names affects no other name, and can be completed."""
    many = _give_many_names(state)
    journal = state / "names.jsonl"
    end = journal.stat().st_size
    with reopened(state) as store:
        store.remove(many)
    removal = journal.read_bytes()[end:].splitlines(keepends=True)
    whole = sum(map(len, removal[: 2 * lines]))  # an empty line precedes each move
    os.truncate(journal, end + whole + 20)
    for path in state.glob("facts.sqlite3*"):
        path.unlink()
    caplog.clear()
    with reopened(state) as store:
        assert store.load(store.resolve("@x")).source == b"first"
        assert store.resolve(f"@name-{_MANY - 1}") == many
        with pytest.raises(NotFound):
            store.remove(many)  # reports that the program is gone, and removes the remaining names
        with pytest.raises(NotFound):
            store.resolve(f"@name-{_MANY - 1}")
        assert store.show(store.resolve("@x")).names == ["x"]
    assert "ERROR" not in [record.levelname for record in caplog.records]


@pytest.mark.parametrize("older", [False, True])
def test_show_of_many_names_is_fast(state: Path, *, older: bool) -> None:
    """`show` takes time in proportion to a program's names, also if an older version made the database."""
    many = _give_many_names(state)
    with reopened(state) as store:
        assert store.count() == 2
    if older:
        with closing(sqlite3.connect(state / "facts.sqlite3")) as database:
            database.execute("DROP INDEX moves_of_name")
    with reopened(state) as store:
        began = time.process_time()
        shown = store.show(many)
        assert time.process_time() - began < _SHOW_CPU_S
    assert shown.names == [f"name-{number:05}" for number in range(MOST_NAMES_SHOWN)]
    assert shown.more_names == _MANY - MOST_NAMES_SHOWN
    assert list(shown.history) == shown.names[:MOST_NAMES_OF_PROGRAM]
    assert [move.at for move in shown.history["name-00007"]] == [7.0]


@pytest.fixture
def long(state: Path) -> Iterator[Path]:
    """A state folder with a long journal: one name that moves back and forth, and names that were removed."""
    with reopened(state) as store:
        hashes = _hashes(store)
    moves: list[Move] = []
    for number in range(_LONG // 3):
        moves.append(Move(name="y", hash=hashes[number % 2], at=float(number)))
        moves.append(Move(name=f"gone-{number}", hash=_NOWHERE, at=float(number)))
        moves.append(Move(name=f"gone-{number}", hash=None, at=float(number)))
    _extend(state, moves)
    with reopened(state):
        pass
    yield state
    assert not list((state / "damaged").iterdir())


def _count_lines(state: Path) -> int:
    return len((state / "names.jsonl").read_bytes().split())


def test_a_long_journal_is_compacted(long: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A move shortens a long journal; each name keeps its program and its newest moves, also without SQLite."""
    old_size = (long / "names.jsonl").stat().st_size
    with reopened(long) as store:
        first, second = _hashes(store)
        x, y = store.show(first).history["x"], store.show(second).history["y"]
        store.label("z", second)
        assert (long / "names.jsonl").stat().st_size < old_size / 100
        assert store.label("y", None) == (first, second)
        assert store.label("y", None) == (second, first)
        newest = store.show(second).history["y"]
        assert newest[:-2] == y[-62:]  # `show` returns 64 moves
        size = (long / "names.jsonl").stat().st_size
        store.label("z", first)
        assert size < (long / "names.jsonl").stat().st_size < size + 500  # the journal is not compacted again
    for _ in range(2):
        with reopened(long) as store:
            assert store.show(first).history == {"x": x, "z": store.show(first).history["z"]}
            assert store.show(second).history == {"y": newest}
        for path in long.glob("facts.sqlite3*"):
            path.unlink()
    assert "ERROR" not in [record.levelname for record in caplog.records]


def test_sigkill_during_a_compaction(long: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A kill between the changes to SQLite and to the journal is not reported as damage, and loses nothing."""
    journal = long / "names.jsonl"
    old = journal.read_bytes()
    with reopened(long) as store:
        first, second = _hashes(store)
        history = store.show(second).history["y"]
        store.label("z", second)
    (last,) = journal.read_bytes().split(b"\n")[-2:-1]
    assert unseal(last, Move).name == "z"
    journal.write_bytes(old + b"\n" + last + b"\n")
    with reopened(long) as store:
        assert store.show(second).history["y"] == history
        assert store.resolve("@z") == second
        assert store.resolve("@x") == first
        store.label("z", first)
        assert journal.stat().st_size < len(old) / 100
    assert "ERROR" not in [record.levelname for record in caplog.records]


def test_a_compaction_that_fails(long: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the new journal can't be written, the move succeeds all the same, and the next start compacts."""
    (long / "names.new").mkdir()
    old_size = (long / "names.jsonl").stat().st_size
    with reopened(long) as store:
        first, second = _hashes(store)
        store.label("z", second)
        store.label("z", first)
    assert caplog.text.count("can't be compacted") == 1
    assert (long / "names.jsonl").stat().st_size > old_size
    (long / "names.new").rmdir()
    with reopened(long) as store:
        assert store.resolve("@z") == first
        assert store.resolve("@y") == second
        store.label("z", second)
        assert (long / "names.jsonl").stat().st_size < old_size / 100


def _kept(moves: Sequence[Move], most: int) -> list[Move]:
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(NAME_SCHEMA)
        rows = NameRows(database)
        rows.apply(moves)
        places = rows.places()
        rows.keep_newest(most)
        assert rows.places() == places
        return rows.moves()


def test_moves_that_a_compaction_keeps() -> None:
    """The more names there are, the fewer moves of each are kept; each name keeps its program, and the order stays."""
    moves = [Move(name=name, hash=f"{turn}", at=float(turn), back=turn % 2) for turn in range(100) for name in "abc"]
    for most, each in [(300, 64), (191, 16), (48, 16), (47, 4), (11, 1), (0, 1)]:
        kept = _kept(moves, most)
        assert len(kept) == 3 * each
        assert kept == moves[-3 * each :]
    assert _kept([*moves, Move(name="b", hash=None, at=100.0)], 0) == [
        Move(name=name, hash="99", at=99.0, back=1) for name in "ac"
    ]


def test_back_after_a_compaction() -> None:
    """A name can move back to its earlier program although a compaction dropped the moves in between."""
    history = [Move(name="x", hash="b", at=1.0, back=5), Move(name="x", hash="c", at=2.0)]
    assert before("x", history, lambda _: True) == ("b", 1)
    with pytest.raises(NotFound):
        before("x", history[:1], lambda _: True)
