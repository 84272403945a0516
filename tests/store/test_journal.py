"""The journal of names has exactly the acknowledged moves, and damage to it is logged and repaired."""

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
    """A state folder with three programs, and the history of its names."""

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
    """A state folder with seven moves of three names, of which one is a move back."""
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
    """Flip a bit in each of these moves, and return the line number of the first."""
    lines = journal.read_bytes().split(b"\n")
    at = [index for index, line in enumerate(lines) if line]
    for number in numbers:
        line = lines[at[number]]
        lines[at[number]] = line[:5] + bytes([line[5] ^ 1]) + line[6:]
    journal.write_bytes(b"\n".join(lines))
    return at[numbers[0]] + 1


@pytest.mark.parametrize("bad", [(0,), (3,), (6,), (2, 3), (0, 5), (0, 1, 2, 3, 4, 5, 6)])
def test_a_damaged_line_is_logged_and_repaired(
    filled: _Filled, bad: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged line is logged with its number, the damaged file is kept, and the journal is repaired from SQLite."""
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
    assert not caplog.records  # the repair is permanent


def test_a_damaged_line_without_sqlite(filled: _Filled, caplog: pytest.LogCaptureFixture) -> None:
    """If SQLite is lost too, a damaged line loses only its own move, and is logged."""
    line = _spoil(filled.journal, 1)
    filled.drop_sqlite()
    with reopened(filled.state) as store:
        histories = _histories(store)
    assert f"line {line}" in caplog.text
    assert histories["x"] == [move for number, move in enumerate(filled.history["x"]) if number != 1]
    assert (histories["y"], histories["z"]) == (filled.history["y"], filled.history["z"])


def test_journal_and_sqlite_repair_each_other(filled: _Filled) -> None:
    """Moves that only the journal or only SQLite still has are all restored, in order."""
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
def test_a_journal_that_lost_whole_lines(filled: _Filled, left: float, caplog: pytest.LogCaptureFixture) -> None:
    """A journal that was cut between two lines or deleted is rebuilt from SQLite, and the loss is logged."""
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
def test_an_incomplete_last_line_is_removed(filled: _Filled, torn: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """An incomplete last line, as a kill leaves it, is removed at the next start and is not reported as damage."""
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
    """If a move can be written only in part, the move is refused, and none of its bytes stay in the journal."""
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


def test_a_move_that_sqlite_refuses(filled: _Filled) -> None:
    """A move that fails in SQLite after it was written to the journal is refused, and not there after a restart."""
    store = Store.open(filled.state)
    size = filled.journal.stat().st_size + 1000
    number = 0
    while (filled.state / "facts.sqlite3-wal").stat().st_size <= size:
        _submit(store, b"fill %d" % number)
        number += 1
    refused = hashlib.sha256(b"refused").hexdigest()
    with largest_file(size):  # room for a line of the journal, but not for SQLite's log
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


def test_a_journal_that_is_too_large(filled: _Filled) -> None:
    """A journal above the maximum size is refused with its size and a remedy, and stays unchanged."""
    with filled.journal.open("ab") as file:
        file.truncate(_MOST_BYTES + 1)
    with pytest.raises(StoreFailed, match=rf"{_MOST_BYTES + 1} bytes, the maximum is {_MOST_BYTES}: stop promptlogd"):
        Store.open(filled.state)
    assert filled.journal.stat().st_size == _MOST_BYTES + 1


@pytest.mark.long
def test_moves_are_refused_near_the_maximum_size(filled: _Filled) -> None:
    """Near its maximum size the journal accepts no moves; its last MiB is left for removals, and it opens again."""
    filled.drop_sqlite()
    size = filled.journal.stat().st_size
    with filled.journal.open("ab") as file:
        while size < _MOST_BYTES - (1 << 20):
            # Each line has a name of its own, so that a compaction can drop none.
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
"""The merge takes 0.5 s of CPU time. A merge in quadratic time would take 17 s for this input."""


def test_a_merge_takes_linear_time() -> None:
    """A long journal in which every hundredth line is damaged is merged with SQLite's rows within seconds."""
    moves = [Move(name=f"name-{number % 1000}", hash=f"{number:064x}", at=float(number)) for number in range(_MOVES)]
    lines = [None if number % 100 == 0 else move for number, move in enumerate(moves)]
    began = time.process_time()
    merged = merge(moves, lines)
    assert time.process_time() - began < _MERGE_CPU_S
    assert merged == moves


@pytest.mark.parametrize("clock_stands", [False, True])
def test_a_merge_loses_no_move(*, clock_stands: bool) -> None:
    """A merge restores all moves in order, whichever lines are damaged and however many last moves SQLite lost."""
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
def test_a_merge_with_several_lost_moves(left: list[None]) -> None:
    """Moves are restored from SQLite, even if only one damaged line, or none, is left of several moves."""
    moves = [Move(name="x", hash=f"{number}", at=float(number)) for number in range(12)]
    for first, first_end, second, second_end in itertools.combinations(range(13), 4):
        lines = [*moves[:first], *left, *moves[first_end:second], *left, *moves[second_end:]]
        assert merge(moves, lines) == moves


@pytest.mark.parametrize("left", [[], [None]])
def test_a_merge_with_equal_moves(left: list[None]) -> None:
    """A gap in the journal is filled in order, also if all moves have the same time because the clock stood still."""
    for seed in range(300):
        chance = random.Random(seed)
        count = chance.randrange(2, 30)
        moves = [Move(name=chance.choice("xy"), hash=chance.choice("ab"), at=0.0) for _ in range(count)]
        start, end = sorted(chance.sample(range(count + 1), 2))
        assert merge(moves, [*moves[:start], *left, *moves[end:]]) == moves
