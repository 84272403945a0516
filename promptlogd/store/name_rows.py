"""The tables of `facts.sqlite3` with the places of names: where each is now, and where it has been."""

from __future__ import annotations

import logging
import sqlite3
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

    def places(self) -> dict[str, str]:
        """Return the hash that each name is on."""
        return dict(self._db.execute("SELECT name, hash FROM names"))

    def moves(self) -> list[Move]:
        """Return all moves, oldest first. Raises ValueError if a row is invalid."""
        return [
            msgspec.convert(dict(zip(Move.__struct_fields__, row, strict=True)), Move)
            for row in self._db.execute("SELECT name, hash, at, back FROM moves ORDER BY number")
        ]

    def apply(self, moves: Sequence[Move]) -> None:
        """Add moves, and put the names where they lead."""
        self._db.executemany(
            "INSERT INTO moves (name, hash, at, back) VALUES (?, ?, ?, ?)",
            ((move.name, move.hash, move.at, move.back) for move in moves),
        )
        last = {move.name: move.hash for move in moves}
        self._db.executemany(
            "DELETE FROM names WHERE name = ?", ((name,) for name, hash in last.items() if hash is None)
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO names (name, hash) VALUES (?, ?)",
            ((name, hash) for name, hash in last.items() if hash is not None),
        )

    def keep_newest(self, most: int) -> None:
        """Forget all but the newest moves of the names that are on a program: at most `most`, or one of each name.

        Each name keeps its place. The names that were removed with their programs are forgotten. SQLite does all of
        it, without the interpreter's lock: 0.2 s for 100,000 moves.
        """
        counts = "SELECT count(*) AS count FROM moves WHERE name IN (SELECT name FROM names) GROUP BY name"
        for most_of_name in _MOVES_KEPT:
            left = self._db.execute(f"SELECT total(min(count, ?)) FROM ({counts})", (most_of_name,)).fetchone()[0]
            if left <= most:
                break
        ages = "SELECT number, row_number() OVER (PARTITION BY name ORDER BY number DESC) AS age FROM moves"
        self._db.execute(
            "DELETE FROM moves WHERE name NOT IN (SELECT name FROM names) "
            f"OR number IN (SELECT number FROM ({ages}) WHERE age > ?)",
            (most_of_name,),
        )

    def replace(self, moves: Sequence[Move]) -> None:
        """Replace all rows by those of these moves."""
        self._db.execute("DELETE FROM moves")
        self._db.execute("DELETE FROM names")
        self.apply(moves)
