"""Small facts about programs in SQLite, and the journal of names from which those are rebuilt. No program bytes.

Everything here can be made again: programs from their folders, names from `names.jsonl`, to which each move of a
name is appended, and synced, before SQLite hears of it. Run counts alone are lost with the database.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from promptlogd.store.objects import Meta

_SCHEMA_VERSION = 2
_SCHEMA = f"""
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS programs (
    hash TEXT PRIMARY KEY, size INTEGER NOT NULL, created_at REAL NOT NULL, created_by INTEGER NOT NULL,
    runs INTEGER NOT NULL DEFAULT 0, last_run_at REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS newest ON programs (created_at DESC, hash);
CREATE TABLE IF NOT EXISTS moves (name TEXT NOT NULL, hash TEXT, at REAL NOT NULL,
    back INTEGER NOT NULL DEFAULT 0, number INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY, hash TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS labels ON names (hash);
PRAGMA user_version = {_SCHEMA_VERSION};
"""


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one program. Times in seconds since the epoch."""

    hash: str
    size: int
    created_at: float
    created_by: int
    runs: int
    last_run_at: float | None


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """A name was put on this hash at this time; on None: it was taken off with its program.

    `back`: how many earlier moves this one undoes; 0 for a move to somewhere new.
    """

    name: str
    hash: str | None
    at: float
    back: int = 0


class Facts:
    """Owner of `facts.sqlite3` and `names.jsonl`. One thread at a time."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "facts.sqlite3"
        self._journal = state_dir / "names.jsonl"
        self._damaged = state_dir / "damaged"
        self._db: sqlite3.Connection

    def open(self) -> bool:
        """Open the database; return False if it had to be made new, so that it wants filling."""
        if os.path.lexists(self._path):
            try:
                if self._path.is_symlink() or not self._path.is_file():
                    raise sqlite3.DatabaseError(f"{self._path} is no file")
                self._connect()
                good = self._db.execute("PRAGMA quick_check").fetchone()[0] == "ok"
                version = self._db.execute("PRAGMA user_version").fetchone()[0]
                if good and version == _SCHEMA_VERSION:
                    self._db.executescript(_SCHEMA)
                    return True
                self._db.close()
            except sqlite3.DatabaseError:
                if hasattr(self, "_db"):
                    self._db.close()
            stamp = time.time_ns()
            for suffix in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    Path(f"{self._path}{suffix}").rename(self._damaged / f"facts.sqlite3{suffix}-{stamp}")
        # Made here, since SQLite gives its other files the mode of this one.
        os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._connect()
        self._db.executescript(_SCHEMA)
        return False

    def _connect(self) -> None:
        self._db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=5)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def rebuild(self, programs: Iterable[tuple[str, Meta]]) -> None:
        """Bring the database up to the folders' facts and the journal of names. Counts of runs stay."""
        self._db.execute("BEGIN")
        self._db.execute("CREATE TEMP TABLE kept (hash TEXT PRIMARY KEY)")
        for hash, meta in programs:
            self.add(hash, meta)
            self._db.execute("INSERT INTO kept VALUES (?)", (hash,))
        self._db.execute("DELETE FROM programs WHERE hash NOT IN (SELECT hash FROM kept)")
        self._db.execute("DROP TABLE kept")
        self._db.execute("DELETE FROM moves")
        self._db.execute("DELETE FROM names")
        for move in self._read_journal():
            self.apply(move)
        self._db.execute("COMMIT")

    def _read_journal(self) -> list[Move]:
        try:
            data = self._journal.read_bytes()
        except FileNotFoundError:
            return []
        moves: list[Move] = []
        for line in data.splitlines():
            with suppress(msgspec.MsgspecError, UnicodeDecodeError):  # a torn last line was never acknowledged
                moves.append(msgspec.json.decode(line, type=Move))
        return moves

    def add(self, hash: str, meta: Meta) -> None:
        """Note a program; one that is known already stays as it is."""
        self._db.execute(
            "INSERT OR IGNORE INTO programs (hash, size, created_at, created_by) VALUES (?, ?, ?, ?)",
            (hash, meta.size, meta.created_at, meta.created_by),
        )

    def remove(self, hash: str) -> None:
        """Forget a program that no name is on any more."""
        self._db.execute("DELETE FROM programs WHERE hash = ?", (hash,))

    def get(self, hash: str) -> Fact | None:
        """Return what is known of one program."""
        row = self._db.execute(f"{_SELECT} WHERE hash = ?", (hash,)).fetchone()
        return None if row is None else _fact(row)

    def newest(self, limit: int, after: tuple[float, str] | None) -> list[Fact]:
        """Return programs, newest first, that come after this (created_at, hash)."""
        where, arguments = "", ()
        if after is not None:
            where = "WHERE created_at < ? OR (created_at = ? AND hash > ?)"
            arguments = (after[0], after[0], after[1])  # type: ignore[assignment]  # of another length
        rows = self._db.execute(f"{_SELECT} {where} ORDER BY created_at DESC, hash LIMIT ?", (*arguments, limit))
        return [_fact(row) for row in rows]

    def count(self) -> int:
        """Return how many programs are known."""
        return int(self._db.execute("SELECT count(*) FROM programs").fetchone()[0])

    def with_prefix(self, prefix: str, limit: int) -> list[str]:
        """Return hashes that begin so."""
        rows = self._db.execute(
            "SELECT hash FROM programs WHERE hash >= ? AND hash < ? ORDER BY hash LIMIT ?",
            (prefix, prefix + "g", limit),
        )
        return [row[0] for row in rows]

    def count_runs(self, runs: dict[str, tuple[int, float]]) -> None:
        """Add finished runs: hash -> (how many, when the last one ended)."""
        self._db.execute("BEGIN")
        self._db.executemany(
            "UPDATE programs SET runs = runs + ?, last_run_at = ? WHERE hash = ?",
            [(count, at, hash) for hash, (count, at) in runs.items()],
        )
        self._db.execute("COMMIT")

    def named(self, name: str) -> str | None:
        """Return the hash that a name is on."""
        row = self._db.execute("SELECT hash FROM names WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def names(self, hash: str) -> list[str]:
        """Return the names that are on a hash."""
        return [row[0] for row in self._db.execute("SELECT name FROM names WHERE hash = ? ORDER BY name", (hash,))]

    def history(self, name: str) -> list[Move]:
        """Return where a name has been, oldest first."""
        rows = self._db.execute("SELECT name, hash, at, back FROM moves WHERE name = ? ORDER BY number", (name,))
        return [Move(name=row[0], hash=row[1], at=row[2], back=row[3]) for row in rows]

    def write_down(self, move: Move) -> None:
        """Append a move to the journal, and wait until it is on the disk. Raises OSError. Does not touch SQLite."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._journal, flags, 0o600)
        try:
            # The line break before it ends a torn line of an earlier process.
            os.write(descriptor, b"\n" + msgspec.json.encode(move) + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def apply(self, move: Move) -> None:
        """Let a move that is written down take effect."""
        self._db.execute(
            "INSERT INTO moves (name, hash, at, back) VALUES (?, ?, ?, ?)", (move.name, move.hash, move.at, move.back)
        )
        if move.hash is None:
            self._db.execute("DELETE FROM names WHERE name = ?", (move.name,))
        else:
            self._db.execute("INSERT OR REPLACE INTO names (name, hash) VALUES (?, ?)", (move.name, move.hash))


_SELECT = "SELECT hash, size, created_at, created_by, runs, last_run_at FROM programs"


def _fact(row: tuple[str, int, float, int, int, float | None]) -> Fact:
    return Fact(hash=row[0], size=row[1], created_at=row[2], created_by=row[3], runs=row[4], last_run_at=row[5])
