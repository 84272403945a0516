"""The tables of `facts.sqlite3` with the places of names: where each is now, and where it has been."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Sequence

import msgspec

from promptlogd.store.journal import Move

_log = logging.getLogger(__name__)

_INDEX = "CREATE INDEX IF NOT EXISTS moves_of_name ON moves (name)"
NAME_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS moves (name TEXT NOT NULL, hash TEXT, at REAL NOT NULL,
    back INTEGER NOT NULL DEFAULT 0, number INTEGER PRIMARY KEY);
{_INDEX};
CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY, hash TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS labels ON names (hash);
"""
_MOVES_KEPT = (64, 16, 4, 1)
"""Newest moves of each name that a compaction keeps: the first number with which the moves are few enough."""


class NameRows:
    """The rows of names, in a database that `Facts` owns. One thread at a time."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add_missing_index(self) -> None:
        """Add the index that older databases lack. A full disk delays that to a later start."""
        try:
            self._db.execute(_INDEX)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
                raise
            _log.warning("moves of names are found slowly until a start finds room on the disk for an index")

    def named(self, name: str) -> str | None:
        """Return the hash that a name is on."""
        row = self._db.execute("SELECT hash FROM names WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def on(self, hash: str) -> list[str]:
        """Return the names that are on a hash."""
        return [row[0] for row in self._db.execute("SELECT name FROM names WHERE hash = ? ORDER BY name", (hash,))]

    def count_on(self, hash: str) -> int:
        """Return the number of names that are on a hash."""
        return int(self._db.execute("SELECT count(*) FROM names WHERE hash = ?", (hash,)).fetchone()[0])

    def count(self) -> int:
        """Return the number of names that are on any hash. Takes a few milliseconds for 100,000."""
        return int(self._db.execute("SELECT count(*) FROM names").fetchone()[0])

    def places(self) -> dict[str, str]:
        """Return the hash that each name is on."""
        return dict(self._db.execute("SELECT name, hash FROM names"))

    def history(self, name: str) -> list[Move]:
        """Return where a name has been, oldest first."""
        rows = self._db.execute("SELECT name, hash, at, back FROM moves WHERE name = ? ORDER BY number", (name,))
        return [Move(name=row[0], hash=row[1], at=row[2], back=row[3]) for row in rows]

    def moves(self) -> list[Move]:
        """Return all moves, oldest first. Raises ValueError if a row is invalid."""
        return [
            msgspec.convert(dict(zip(Move.__struct_fields__, row, strict=True)), Move)
            for row in self._db.execute("SELECT name, hash, at, back FROM moves ORDER BY number")
        ]

    def apply(self, move: Move) -> None:
        """Add a move, and put the name where it leads."""
        self._db.execute(
            "INSERT INTO moves (name, hash, at, back) VALUES (?, ?, ?, ?)", (move.name, move.hash, move.at, move.back)
        )
        if move.hash is None:
            self._db.execute("DELETE FROM names WHERE name = ?", (move.name,))
        else:
            self._db.execute("INSERT OR REPLACE INTO names (name, hash) VALUES (?, ?)", (move.name, move.hash))

    def keep_newest(self, most: int) -> list[Move]:
        """Forget moves until about `most` are left; return these, oldest first. No name changes its place."""
        kept = newest_moves(self.moves(), most)
        self._db.execute("DELETE FROM moves")
        self._db.executemany(
            "INSERT INTO moves (name, hash, at, back) VALUES (?, ?, ?, ?)",
            ((move.name, move.hash, move.at, move.back) for move in kept),
        )
        return kept

    def replace(self, moves: Sequence[Move]) -> None:
        """Replace all rows by those of these moves."""
        self._db.execute("DELETE FROM moves")
        self._db.execute("DELETE FROM names")
        for move in moves:
            self.apply(move)


def newest_moves(moves: Sequence[Move], most: int) -> list[Move]:
    """Return the newest moves of the names that are on a program, in order: at most `most`, or one of each name.

    Each name keeps its place. The names that were removed with their programs are forgotten.
    """
    last = {move.name: move.hash for move in moves}
    counts = Counter(move.name for move in moves if last[move.name] is not None)
    most_of_name = next(
        (number for number in _MOVES_KEPT if sum(min(number, count) for count in counts.values()) <= most),
        _MOVES_KEPT[-1],
    )
    kept: list[Move] = []
    for move in moves:
        left = counts.get(move.name, 0)  # moves of this name from here on
        if left:
            counts[move.name] = left - 1
            if left <= most_of_name:
                kept.append(move)
    return kept
