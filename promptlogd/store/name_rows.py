"""The tables of `facts.sqlite3` for names: the current hash of each name, and its moves."""

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
    back INTEGER NOT NULL DEFAULT 0, number INTEGER PRIMARY KEY,
    uid INTEGER, tenant TEXT, gid INTEGER, visibility TEXT);
{_INDEX};
CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY, hash TEXT NOT NULL,
    uid INTEGER, tenant TEXT, gid INTEGER, visibility TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS labels ON names (hash);
"""
ADDED_COLUMNS = ("uid INTEGER", "tenant TEXT", "gid INTEGER", "visibility TEXT")
"""Columns of both tables that databases before format version 3 lack: a name's owner, and who sees the name."""
_OWNER = "uid, tenant, gid, visibility"
MOVE_COLUMNS = f"name, hash, at, back, {_OWNER}"
"""The fields of a Move."""
_MOVES_KEPT = (64, 16, 4, 1)
"""Numbers of newest moves of each name that a compaction may keep. It uses the first that makes the total small
enough."""


class NameRows:
    """The rows of names, in a database that `Facts` owns. One thread at a time."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add_missing_index(self) -> None:
        """Add the index that older databases lack. If the disk is full, a later start adds it."""
        try:
            self._db.execute(_INDEX)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
                raise
            _log.warning("lookups of names' moves are slow until a start finds disk space for an index")

    def places(self) -> dict[str, str]:
        """Return the current hash of each name."""
        return dict(self._db.execute("SELECT name, hash FROM names"))

    def moves(self) -> list[Move]:
        """Return all moves, oldest first. Raises ValueError if a row is invalid."""
        return [
            msgspec.convert(dict(zip(Move.__struct_fields__, row, strict=True)), Move)
            for row in self._db.execute(f"SELECT {MOVE_COLUMNS} FROM moves ORDER BY number")
        ]

    def apply(self, moves: Sequence[Move]) -> None:
        """Add moves, and update the current hashes of the names."""
        self._db.executemany(
            f"INSERT INTO moves ({MOVE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            ((one.name, one.hash, one.at, one.back, one.uid, one.tenant, one.gid, one.visibility) for one in moves),
        )
        last = {move.name: move for move in moves}.values()
        self._db.executemany("DELETE FROM names WHERE name = ?", ((one.name,) for one in last if one.hash is None))
        self._db.executemany(
            f"INSERT INTO names (name, hash, {_OWNER}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
            "hash = excluded.hash, uid = excluded.uid, tenant = excluded.tenant, gid = excluded.gid, "
            "visibility = excluded.visibility",
            (
                (one.name, one.hash, one.uid, one.tenant, one.gid, one.visibility)
                for one in last
                if one.hash is not None
            ),
        )

    def keep_newest(self, most: int) -> None:
        """Delete all but the newest moves, so that at most `most` are left, or one for each name.

        Each name keeps its current hash. Names that were removed with their programs are deleted. SQLite does all of
        this without the interpreter's lock: 0.2 s for 100,000 moves.
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

    def count_again(self) -> None:
        """Write all names again, so that the triggers of new totals count them."""
        rows = self._db.execute(f"SELECT name, hash, {_OWNER} FROM names").fetchall()
        self._db.execute("DELETE FROM names")
        self._db.execute("UPDATE totals SET names = 0")
        self._db.executemany(f"INSERT INTO names (name, hash, {_OWNER}) VALUES (?, ?, ?, ?, ?, ?)", rows)

    def replace(self, moves: Sequence[Move]) -> None:
        """Replace all rows by these moves."""
        self._db.execute("DELETE FROM moves")
        self._db.execute("DELETE FROM names")
        self.apply(moves)
