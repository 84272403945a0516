"""Small facts about programs in SQLite. No program bytes.

Everything here can be made again: programs from their folders, names from the journal. Run counts alone are lost with
the database.

SQLite may lose its last transactions with the power, or to a damaged log, and not know of it. So at each start it
is compared with the folders and with the journal, and mended.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from promptlogd.store.damaged import DamagedFolder
from promptlogd.store.disk import FOLDER
from promptlogd.store.errors import StoreError
from promptlogd.store.files import Meta
from promptlogd.store.journal import Journal, Move
from promptlogd.store.objects import Found
from promptlogd.store.ownership import check_file
from promptlogd.wire.messages import Engine, Language

_log = logging.getLogger(__name__)

_SCHEMA_VERSION = 3
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS programs (
    hash TEXT PRIMARY KEY, size INTEGER NOT NULL, created_at REAL NOT NULL, created_by INTEGER NOT NULL,
    engine TEXT NOT NULL, language TEXT NOT NULL, runs INTEGER NOT NULL DEFAULT 0, last_run_at REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS newest ON programs (created_at DESC, hash);
CREATE TABLE IF NOT EXISTS moves (name TEXT NOT NULL, hash TEXT, at REAL NOT NULL,
    back INTEGER NOT NULL DEFAULT 0, number INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY, hash TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS labels ON names (hash);
PRAGMA user_version = {_SCHEMA_VERSION};
"""


_DAMAGE = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_ERROR,  # such as: no such table
    sqlite3.SQLITE_SCHEMA,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_TOOBIG,
}
"""Errors (primary codes) that are the file's own. Any other is the disk's or the system's of the moment."""

_SUFFIXES = ("", "-wal", "-shm")
"""Of the database's files."""


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one program. Times in seconds since the epoch."""

    hash: str
    size: int
    created_at: float
    created_by: int
    engine: Engine
    language: Language
    runs: int
    last_run_at: float | None


class Facts:
    """Owner of `facts.sqlite3`. One thread at a time."""

    def __init__(self, state_dir: Path, damaged: DamagedFolder) -> None:
        self._path = state_dir / "facts.sqlite3"
        self._damaged = damaged
        self._db: sqlite3.Connection

    def check(self) -> None:
        """Raise StoreUnsafe if there is something else than a file. Raises OSError."""
        for suffix in _SUFFIXES:
            check_file(Path(f"{self._path}{suffix}"))

    def open(self, found: Found, meta: Callable[[str], Meta], journal: Journal) -> None:
        """Open the database, and make it agree with these folders and with the journal; if it is damaged, a new one.

        Raises OSError, sqlite3.Error and StoreFailed for the disk.
        """
        if self._path.exists() and self._open_old(found, meta, journal):
            return
        # Made here, since SQLite gives its other files the mode of this one.
        os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            self._connect()
            self._db.executescript(_SCHEMA)
        except BaseException:
            self.close()
            self._path.unlink()  # else the next start takes it for a damaged one
            raise
        self._reconcile(found, meta, journal)

    def _open_old(self, found: Found, meta: Callable[[str], Meta], journal: Journal) -> bool:
        """Open what is there; return whether it was whole. It is set aside if not."""
        try:
            self._open_good()
            self._reconcile(found, meta, journal)
        except (sqlite3.DatabaseError, ValueError) as error:
            self.close()
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in _DAMAGE:
                raise
            _log.error("%s is damaged and made again, counts of runs are lost: %s", self._path, error)
            self._set_aside()
            return False
        return True

    def _set_aside(self) -> None:
        folder = os.open(self._path.parent, FOLDER)
        try:
            for suffix in _SUFFIXES:
                with suppress(FileNotFoundError):
                    name = f"{self._path.name}{suffix}"
                    self._damaged.take(name, folder=folder, label=name)
        finally:
            os.close(folder)

    def _open_good(self) -> None:
        """Open what is there. Raises ValueError and sqlite3.DatabaseError for damage, OSError for the disk."""
        with self._path.open("rb") as file:
            while file.read(1 << 20):
                pass  # a read error is told here; the check below would take it for damage
        self._connect()
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version != _SCHEMA_VERSION:
            raise ValueError(f"it is of version {version}, not {_SCHEMA_VERSION}")
        found = self._db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise ValueError(found)

    def _connect(self) -> None:
        self._db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=5)
        # Otherwise SQLite shares a mapped file with other processes, and a write to it on a full disk is a SIGBUS.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")

    def close(self) -> None:
        """Close the database, if it is open."""
        if hasattr(self, "_db"):
            self._db.close()

    def empty_log(self) -> None:
        """Free the room of SQLite's log. Waits for the disk."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _reconcile(self, found: Found, meta: Callable[[str], Meta], journal: Journal) -> None:
        """Mend the database after the folders and the journal. Raises ValueError if its rows are no good.

        What can't be read is not taken for gone: its row stays, if it has one.
        """
        known = {row[0] for row in self._db.execute("SELECT hash FROM programs")}
        noted = [
            msgspec.convert(dict(zip(Move.__struct_fields__, row, strict=True)), Move)
            for row in self._db.execute("SELECT name, hash, at, back FROM moves ORDER BY number")
        ]
        names = dict(self._db.execute("SELECT name, hash FROM names"))
        moves = journal.load(noted)
        last = {move.name: move.hash for move in moves}
        with_names = {name: hash for name, hash in last.items() if hash is not None}
        if (known, noted, names) == (found.hashes, moves, with_names):
            return
        with self._transaction():
            for hash in known - found.hashes:
                if hash[:2] not in found.unread_shelves:
                    self._db.execute("DELETE FROM programs WHERE hash = ?", (hash,))
            for hash in found.hashes - known:
                try:
                    self.add(hash, meta(hash))
                except StoreError as error:
                    _log.error("a program is not listed, since its facts can't be read: %s", error)
            if (noted, names) != (moves, with_names):
                self._db.execute("DELETE FROM moves")
                self._db.execute("DELETE FROM names")
                for move in moves:
                    self._apply(move)

    def add(self, hash: str, meta: Meta) -> None:
        """Note a program; of one that is known already, what it is for."""
        self._db.execute(
            "INSERT INTO programs (hash, size, created_at, created_by, engine, language) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (hash) DO UPDATE SET engine = excluded.engine, language = excluded.language",
            (hash, meta.size, meta.created_at, meta.created_by, meta.engine, meta.language),
        )

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
        with self._transaction():
            self._db.executemany(
                "UPDATE programs SET runs = runs + ?, last_run_at = ? WHERE hash = ?",
                [(count, at, hash) for hash, (count, at) in runs.items()],
            )

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

    def apply(self, moves: Sequence[Move], *, gone: str | None = None) -> None:
        """Let moves that are in the journal take effect, all or none; forget a program that went with them."""
        with self._transaction():
            for move in moves:
                self._apply(move)
            if gone is not None:
                self._db.execute("DELETE FROM programs WHERE hash = ?", (gone,))

    def _apply(self, move: Move) -> None:
        self._db.execute(
            "INSERT INTO moves (name, hash, at, back) VALUES (?, ?, ?, ?)", (move.name, move.hash, move.at, move.back)
        )
        if move.hash is None:
            self._db.execute("DELETE FROM names WHERE name = ?", (move.name,))
        else:
            self._db.execute("INSERT OR REPLACE INTO names (name, hash) VALUES (?, ?)", (move.name, move.hash))


_SELECT = "SELECT hash, size, created_at, created_by, engine, language, runs, last_run_at FROM programs"


def _fact(row: tuple[str, int, float, int, str, str, int, float | None]) -> Fact:
    hash, size, created_at, created_by, engine, language, runs, last_run_at = row
    return Fact(
        hash=hash,
        size=size,
        created_at=created_at,
        created_by=created_by,
        engine="deno" if engine == "deno" else "quickjs",
        language="typescript" if language == "typescript" else "javascript",
        runs=runs,
        last_run_at=last_run_at,
    )
