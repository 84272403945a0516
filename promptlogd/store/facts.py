"""Small facts about programs in SQLite. No program bytes.

Everything here can be rebuilt, programs from their folders and names from the journal, except run counts.

A power cut or a damaged log can silently drop SQLite's most recent transactions. So each start compares SQLite with the
folders and the journal and repairs it.
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
from promptlogd.store.disk import open_folder
from promptlogd.store.errors import StoreError
from promptlogd.store.journal import Journal, Move
from promptlogd.store.meta import Meta
from promptlogd.store.name_rows import NAME_SCHEMA, NameRows
from promptlogd.store.objects import ProgramFolders
from sandbox.program import Engine, Language

_log = logging.getLogger(__name__)

_SCHEMA_VERSION = 3
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS programs (
    hash TEXT PRIMARY KEY, size INTEGER NOT NULL, created_at REAL NOT NULL, created_by INTEGER NOT NULL,
    engine TEXT NOT NULL, language TEXT NOT NULL, runs INTEGER NOT NULL DEFAULT 0, last_run_at REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS newest ON programs (created_at DESC, hash);
{NAME_SCHEMA}PRAGMA user_version = {_SCHEMA_VERSION};
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
"""SQLite error codes that mean the file is damaged. All others are transient or come from the disk."""

FACTS_FILES = ("facts.sqlite3", "facts.sqlite3-wal", "facts.sqlite3-shm")
"""Names of the database's files in the state folder: the database, its write-ahead log, its shared memory."""


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
        self._path = state_dir / FACTS_FILES[0]
        self._damaged = damaged
        self._db: sqlite3.Connection
        self.names: NameRows
        """Where names are and have been. Its methods do not begin a transaction."""

    def open(self, folders: ProgramFolders, meta: Callable[[str], Meta], journal: Journal) -> None:
        """Open the database, or a new one if it is damaged, and repair it from these folders and the journal.

        Raises OSError, sqlite3.Error and StoreFailed for the disk.
        """
        if self._path.exists() and self._open_old(folders, meta, journal):
            return
        # Created here, since SQLite gives its other files the mode of this one.
        os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            self._connect()
            self._db.executescript(_SCHEMA)
        except BaseException:
            self.close()
            self._path.unlink()  # else the next start treats it as damaged
            raise
        self._reconcile(folders, meta, journal)

    def _open_old(self, folders: ProgramFolders, meta: Callable[[str], Meta], journal: Journal) -> bool:
        """Open the existing database; return whether it was good. Sets a damaged one aside."""
        try:
            self._open_good()
            self.names.add_missing_index()
            self._reconcile(folders, meta, journal)
        except (sqlite3.DatabaseError, ValueError) as error:
            self.close()
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in _DAMAGE:
                raise
            _log.error("%s is damaged and is rebuilt, without the counts of runs: %s", self._path, error)
            self._set_aside()
            return False
        return True

    def _set_aside(self) -> None:
        with open_folder(self._path.parent) as folder:
            for name in FACTS_FILES:
                with suppress(FileNotFoundError):
                    self._damaged.move_in(name, folder=folder, label=name)

    def _open_good(self) -> None:
        """Open the existing database. Raises ValueError and sqlite3.DatabaseError for damage, OSError for the disk."""
        with self._path.open("rb") as file:
            while file.read(1 << 20):
                pass  # a read error must show here: the check below would treat it as damage
        self._connect()
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version != _SCHEMA_VERSION:
            raise ValueError(f"it is of version {version}, not {_SCHEMA_VERSION}")
        found = self._db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise ValueError(found)

    def _connect(self) -> None:
        self._db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=5)
        self.names = NameRows(self._db)
        # Avoids SQLite's shared-memory file: on a full disk a write to that mapping raises SIGBUS.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")

    def close(self) -> None:
        """Close the database, if it is open."""
        if hasattr(self, "_db"):
            self._db.close()

    def empty_log(self) -> None:
        """Truncate the WAL. Waits for the disk."""
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

    def _reconcile(self, folders: ProgramFolders, meta: Callable[[str], Meta], journal: Journal) -> None:
        """Repair the database from the folders and the journal.

        A program on a shelf that could not be listed keeps its row. Raises ValueError if a row is invalid.
        """
        known = {row[0] for row in self._db.execute("SELECT hash FROM programs")}
        rows = self.names.moves()
        names = self.names.places()
        moves = journal.load(rows)
        last = {move.name: move.hash for move in moves}
        with_names = {name: hash for name, hash in last.items() if hash is not None}
        if (known, rows, names) == (folders.hashes, moves, with_names):
            return
        with self._transaction():
            for hash in known - folders.hashes:
                if hash[:2] not in folders.unread_shelves:
                    self._db.execute("DELETE FROM programs WHERE hash = ?", (hash,))
            for hash in folders.hashes - known:
                try:
                    self.add(hash, meta(hash))
                except StoreError as error:
                    _log.error("a program is not listed, since its metadata can't be read: %s", error)
            if (rows, names) != (moves, with_names):
                self.names.replace(moves)

    def add(self, hash: str, meta: Meta) -> None:
        """Add a program. If it has a row already, update only its engine and language."""
        self._db.execute(
            "INSERT INTO programs (hash, size, created_at, created_by, engine, language) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (hash) DO UPDATE SET engine = excluded.engine, language = excluded.language",
            (hash, meta.size, meta.created_at, meta.owner.uid, meta.engine, meta.language),
        )

    def add_new(self, hash: str, meta: Meta) -> None:
        """Add a program that was not there. It replaces the row that an earlier one with this hash may have left."""
        self._db.execute(
            "INSERT OR REPLACE INTO programs (hash, size, created_at, created_by, engine, language) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (hash, meta.size, meta.created_at, meta.owner.uid, meta.engine, meta.language),
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

    def forget_moves(self, most: int) -> list[Move]:
        """Forget moves until about `most` are left; return these, oldest first. `sync_log` makes that durable."""
        with self._transaction():
            return self.names.keep_newest(most)

    def sync_log(self) -> None:
        """Wait until the finished transactions are on the disk. Needs no lock. Raises OSError."""
        with (self._path.parent / FACTS_FILES[1]).open("rb") as log:
            os.fsync(log.fileno())

    def apply(self, moves: Sequence[Move], *, gone: str | None = None) -> None:
        """Apply moves that are in the journal, all or none, and delete the row of a removed program (`gone`)."""
        with self._transaction():
            for move in moves:
                self.names.apply(move)
            if gone is not None:
                self._db.execute("DELETE FROM programs WHERE hash = ?", (gone,))


_SELECT = "SELECT hash, size, created_at, created_by, engine, language, runs, last_run_at FROM programs"


def _fact(row: tuple[str, int, float, int, str, str, int, float | None]) -> Fact:
    hash, size, created_at, created_by, engine, language, runs, last_run_at = row
    return Fact(
        hash=hash,
        size=size,
        created_at=created_at,
        created_by=created_by,
        engine=engine,
        language="typescript" if language == "typescript" else "javascript",
        runs=runs,
        last_run_at=last_run_at,
    )
