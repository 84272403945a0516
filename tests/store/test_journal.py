"""names.jsonl has every acknowledged move and no other, and damage to it is logged and repaired."""

from __future__ import annotations

import hashlib
import itertools
import random
import shutil
import time
from pathlib import Path

import msgspec
import pytest

from promptlogd.store import NotFound, Store, StoreFailed
from promptlogd.store.journal import Move, merge
from promptlogd.store.seal import seal
from tests.store.limits import largest_file
from tests.store.programs import submit
from tests.store.reopened import reopened

_MOST_BYTES = 64 << 20


class _Filled(msgspec.Struct, frozen=True, kw_only=True):
    """A state folder with three programs, and where its names have been."""

    state: Path
    hashes: list[str]
    history: dict[str, list[Move]]

    @property
    def journal(self) -> Path:
        return self.state / "names.jsonl"

    def drop_sqlite(self) -> None:
        for path in self.state.glob("facts.sqlite3*"):
            path.unlink()


def _submit(store: Store, source: bytes, name: str | None = None) -> str:
    return submit(store, source, name=name, uid=7)[0]


def _histories(store: Store) -> dict[str, list[Move]]:
    found: dict[str, list[Move]] = {}
    for fact in (row.fact for row in store.list(100, None).rows):
        found |= store.show(fact.hash).history
    return found


@pytest.fixture
def filled(tmp_path: Path) -> _Filled:
    """Seven moves of three names, one of them back."""
    store = Store.open(tmp_path / "state")
    hashes = [_submit(store, b"%d" % number, name="x") for number in range(3)]
    store.label("y", hashes[0])
    store.label("y", hashes[1])
    store.label("z", hashes[2])
    store.label("x", None)
    history = _histories(store)
    store.close()
    assert [len(history[name]) for name in "xyz"] == [4, 2, 1]
    return _Filled(state=tmp_path / "state", hashes=hashes, history=history)


def _spoil(journal: Path, *numbers: int) -> int:
    """Flip a bit in these moves; return the number of the first one's line."""
    lines = journal.read_bytes().split(b"\n")
    at = [index for index, line in enumerate(lines) if line]
    for number in numbers:
        line = lines[at[number]]
        lines[at[number]] = line[:5] + bytes([line[5] ^ 1]) + line[6:]
    journal.write_bytes(b"\n".join(lines))
    return at[numbers[0]] + 1


@pytest.mark.parametrize("bad", [(0,), (3,), (6,), (2, 3), (0, 5), (0, 1, 2, 3, 4, 5, 6)])
def test_a_bad_line_is_logged_and_repaired(
    filled: _Filled, bad: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """A bad line anywhere is an error in the log with its number; the file is kept, and repaired from SQLite."""
    whole = filled.journal.read_bytes()
    line = _spoil(filled.journal, *bad)
    spoilt = filled.journal.read_bytes()
    with reopened(filled.state) as store:
        assert _histories(store) == filled.history
    (logged,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert f"line {line}" in logged
    (kept,) = (filled.state / "damaged").iterdir()
    assert kept.read_bytes() == spoilt
    assert filled.journal.read_bytes() == whole
    caplog.clear()
    Store.open(filled.state).close()
    assert not caplog.records  # repaired for good


def test_a_bad_line_that_nobody_else_knows(filled: _Filled, caplog: pytest.LogCaptureFixture) -> None:
    """With SQLite gone as well, a bad line costs only its own move, and is logged."""
    line = _spoil(filled.journal, 1)
    filled.drop_sqlite()
    with reopened(filled.state) as store:
        histories = _histories(store)
    assert f"line {line}" in caplog.text
    assert histories["x"] == [move for number, move in enumerate(filled.history["x"]) if number != 1]
    assert (histories["y"], histories["z"]) == (filled.history["y"], filled.history["z"])


def test_each_knows_what_the_other_has_lost(filled: _Filled) -> None:
    """Moves that SQLite has lost with its log and a move that the journal has lost are all there, in order."""
    shutil.copy(filled.state / "facts.sqlite3", filled.state.parent / "older")
    with reopened(filled.state) as store:
        for hash in filled.hashes[:2]:
            store.label("z", hash)
        history = _histories(store)
    (filled.state.parent / "older").rename(filled.state / "facts.sqlite3")
    _spoil(filled.journal, 3)
    with reopened(filled.state) as store:
        assert _histories(store) == history


@pytest.mark.parametrize("left", [0.0, 0.5])
def test_a_journal_that_has_lost_lines_without_a_trace(
    filled: _Filled, left: float, caplog: pytest.LogCaptureFixture
) -> None:
    """A journal that is cut between two lines, or is gone, is rebuilt from SQLite, and that is logged."""
    lines = filled.journal.read_bytes().splitlines(keepends=True)
    filled.journal.write_bytes(b"".join(lines[: int(len(lines) * left)]))
    if not left:
        filled.journal.unlink()
    with reopened(filled.state) as store:
        assert _histories(store) == filled.history
    assert "lines are missing" in caplog.text
    filled.drop_sqlite()
    with reopened(filled.state) as store:
        assert _histories(store) == filled.history


@pytest.mark.parametrize("torn", [b"\n", b'\n{"name":"torn","ha', b"\n" + bytes(200)])
def test_a_torn_last_line_is_cut_off(filled: _Filled, torn: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """What a kill left of a move is cut off at the next start, and is neither reported as damage nor kept."""
    whole = filled.journal.read_bytes()
    filled.journal.write_bytes(whole + torn)
    with reopened(filled.state) as store:
        assert filled.journal.read_bytes().rstrip(b"\n") == whole.rstrip(b"\n")
        assert _histories(store) == filled.history
        store.label("new", filled.hashes[0])
    filled.drop_sqlite()
    with reopened(filled.state) as store:
        assert store.resolve("@new") == filled.hashes[0]
    assert "ERROR" not in [record.levelname for record in caplog.records]
    assert not list((filled.state / "damaged").iterdir())


@pytest.mark.parametrize("taken", [0, 1, 20, 100])
def test_a_failed_append_leaves_nothing(filled: _Filled, taken: int) -> None:
    """A move of which the disk took a part only is refused, and no byte of it stays."""
    whole = filled.journal.read_bytes()
    with reopened(filled.state) as store:
        with largest_file(len(whole) + taken), pytest.raises(StoreFailed):
            store.label("new", filled.hashes[0])
        assert filled.journal.read_bytes() == whole
        with pytest.raises(NotFound):
            store.resolve("@new")
        store.label("later", filled.hashes[0])
    filled.drop_sqlite()
    with reopened(filled.state) as store:
        with pytest.raises(NotFound):
            store.resolve("@new")
        assert store.resolve("@later") == filled.hashes[0]


def test_a_move_that_sqlite_refuses_is_no_move(filled: _Filled) -> None:
    """A move that is refused after it was in the journal is not there after the next start either."""
    store = Store.open(filled.state)
    size = filled.journal.stat().st_size + 1000
    number = 0
    while (filled.state / "facts.sqlite3-wal").stat().st_size <= size:
        _submit(store, b"fill %d" % number)
        number += 1
    refused = hashlib.sha256(b"refused").hexdigest()
    with largest_file(size):  # room for the journal's line, and none behind SQLite's log
        for _ in range(2):
            with pytest.raises(StoreFailed):
                store.label("x", filled.hashes[2])
        with pytest.raises(StoreFailed):
            _submit(store, b"refused", name="new")
    assert store.resolve("@x") == filled.hashes[1]
    store.close()
    for _ in range(2):
        with reopened(filled.state) as store:
            assert _histories(store) == filled.history
            with pytest.raises(NotFound):
                store.load(refused)
        filled.drop_sqlite()


def test_a_journal_over_its_bound(filled: _Filled) -> None:
    """A journal that is larger than a start would read is refused with its size and what to do, and left alone."""
    with filled.journal.open("ab") as file:
        file.truncate(_MOST_BYTES + 1)
    with pytest.raises(StoreFailed, match=rf"{_MOST_BYTES + 1} bytes, the maximum is {_MOST_BYTES}: stop promptlogd"):
        Store.open(filled.state)
    assert filled.journal.stat().st_size == _MOST_BYTES + 1


@pytest.mark.long
def test_no_move_takes_the_journal_over_its_bound(filled: _Filled) -> None:
    """A journal near its bound takes no more moves, but the last MiB lets programs be removed; it opens again."""
    filled.drop_sqlite()
    size = filled.journal.stat().st_size
    with filled.journal.open("ab") as file:
        while size < _MOST_BYTES - (1 << 20):
            # Each line is the only one of its name, so that a compaction can forget none.
            line = b"\n" + seal(Move(name=f"{size}-".ljust(1 << 20, "n"), hash="0" * 64, at=1.0)) + b"\n"
            line = line if size + len(line) < _MOST_BYTES - 10_000 else b"\n" * (_MOST_BYTES - (1 << 20) - size)
            size += file.write(line)
    with reopened(filled.state) as store:
        with pytest.raises(StoreFailed, match="the maximum is"):
            store.label("z", filled.hashes[0])
        with pytest.raises(StoreFailed, match="the maximum is"):
            _submit(store, b"new", name="new")
        assert store.remove(filled.hashes[2]) == ["z"]
    with reopened(filled.state) as store:
        with pytest.raises(NotFound):
            store.resolve("@z")
        assert store.resolve("@x") == filled.hashes[1]


_MOVES = 100_000
_MERGE_CPU_S = 5.0
"""The merge takes 0.5 s of CPU time. A merge in quadratic time takes 17 s for these lines."""


def test_many_bad_lines_are_repaired_in_time() -> None:
    """A long journal with a bad line in every hundred is merged with SQLite's rows within seconds, and is whole."""
    moves = [Move(name=f"name-{number % 1000}", hash=f"{number:064x}", at=float(number)) for number in range(_MOVES)]
    lines = [None if number % 100 == 0 else move for number, move in enumerate(moves)]
    began = time.process_time()
    merged = merge(moves, lines)
    assert time.process_time() - began < _MERGE_CPU_S
    assert merged == moves


@pytest.mark.parametrize("clock_stands", [False, True])
def test_a_merge_loses_no_move(*, clock_stands: bool) -> None:
    """Whichever lines are bad, and however many last moves SQLite has lost, all moves are there and in order."""
    for seed in range(500):
        chance = random.Random(seed)
        history = [
            Move(name=chance.choice("xyz"), hash=chance.choice("ab"), at=0.0 if clock_stands else float(number))
            for number in range(chance.randrange(1, 40))
        ]
        known = len(history) if clock_stands else chance.randrange(len(history) + 1)
        bad = chance.random()
        lines = [None if number < known and chance.random() < bad else move for number, move in enumerate(history)]
        assert merge(history[:known], lines) == history


@pytest.mark.parametrize("left", [[], [None]])
def test_a_merge_with_several_moves_lost_in_one_bad_line(left: list[None]) -> None:
    """Where one bad line is all that is left of several moves, or none is, the moves come from SQLite, in order."""
    moves = [Move(name="x", hash=f"{number}", at=float(number)) for number in range(12)]
    for first, first_end, second, second_end in itertools.combinations(range(13), 4):
        lines = [*moves[:first], *left, *moves[first_end:second], *left, *moves[second_end:]]
        assert merge(moves, lines) == moves


@pytest.mark.parametrize("left", [[], [None]])
def test_a_merge_with_lost_moves_that_look_alike(left: list[None]) -> None:
    """The same holds for one loss among moves that are equal, as they are while a clock stands still."""
    for seed in range(300):
        chance = random.Random(seed)
        count = chance.randrange(2, 30)
        moves = [Move(name=chance.choice("xy"), hash=chance.choice("ab"), at=0.0) for _ in range(count)]
        start, end = sorted(chance.sample(range(count + 1), 2))
        assert merge(moves, [*moves[:start], *left, *moves[end:]]) == moves
