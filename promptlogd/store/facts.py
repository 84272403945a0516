"""Facts about programs in SQLite, without their contents.

All facts except run counts and times of repeated submits can be rebuilt: programs from their folders, names from the
journal.

A power cut or a damaged log can silently drop SQLite's most recent transactions. So each start compares SQLite with the
folders and the journal and repairs it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from promptlogd.store.connections import Readers, connect, copy_database, statements, transaction
from promptlogd.store.counts import Counts, total_runs
from promptlogd.store.damaged import DamagedFolder
from promptlogd.store.disk import open_folder
from promptlogd.store.errors import StoreError
from promptlogd.store.holder_rows import HOLDER_SCHEMA, HolderRows
from promptlogd.store.holders import Holder
from promptlogd.store.journal import Journal, Move
from promptlogd.store.meta import Meta
from promptlogd.store.name_rows import ADDED_COLUMNS, NAME_SCHEMA, NameRows
from promptlogd.store.newest import NEWEST_SCHEMA
from promptlogd.store.objects import ProgramFolders
from promptlogd.store.totals import TOTALS_SCHEMA

_log = logging.getLogger(__name__)

_SCHEMA_VERSION, _WITHOUT_REPEATS, _WITHOUT_TOTALS, _WITHOUT_HOLDERS = 6, 5, 4, 3
"""Values of `user_version`: current; before the column `submitted_at`; before the table `totals`; before holders
(format version 2 of the folder)."""
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS programs (
    hash TEXT PRIMARY KEY, size INTEGER NOT NULL, created_at REAL NOT NULL, created_by INTEGER NOT NULL,
    engine TEXT NOT NULL, language TEXT NOT NULL, runs INTEGER NOT NULL DEFAULT 0, last_run_at REAL,
    submitted_at REAL
) WITHOUT ROWID;
{NAME_SCHEMA}{HOLDER_SCHEMA}{NEWEST_SCHEMA}{TOTALS_SCHEMA}PRAGMA user_version = {_SCHEMA_VERSION};
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

_LONG_LOG_BYTES = 4 << 20
"""Length of the write-ahead log at which it is checkpointed: about 1,000 pages, which is SQLite's default."""
_MOST_LOG_BYTES = 16 << 20
"""Length at which writers wait for the checkpoint. Otherwise the log could grow without bound under continuous writes.

It can be exceeded by the writes of one second between two flushes, or by one transaction that rewrites a table.
"""


class Facts:
    """Owns `facts.sqlite3`. One thread at a time, except `readers` and `copy_log`."""

    def __init__(self, state_dir: Path, damaged: DamagedFolder) -> None:
        self._path = state_dir / FACTS_FILES[0]
        self._log_path = state_dir / FACTS_FILES[1]
        self._damaged = damaged
        self._db: sqlite3.Connection
        self._copier: sqlite3.Connection
        self.readers = Readers(self._path)
        self._names: NameRows
        self._holders: HolderRows

    def open(self, folders: ProgramFolders, meta: Callable[[str], Meta], journal: Journal) -> None:
        """Open the database, or a new one if it is damaged, and repair it from these folders and the journal.

        Raises OSError, sqlite3.Error and StoreFailed for errors of the disk.
        """
        if not self._path.exists() or not self._open_old(folders, meta, journal):
            self._open_new(folders, meta, journal)
        self.readers.open()

    def _open_new(self, folders: ProgramFolders, meta: Callable[[str], Meta], journal: Journal) -> None:
        # Created here, because SQLite gives its other files the mode of this one.
        os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            self._connect()
            self._db.executescript(_SCHEMA)
        except BaseException:
            self.close()
            self._path.unlink()  # otherwise the next start treats it as damaged
            raise
        self._reconcile(folders, meta, journal)

    def _open_old(self, folders: ProgramFolders, meta: Callable[[str], Meta], journal: Journal) -> bool:
        """Open the existing database. Return whether it was good. A damaged one is moved to `damaged/`."""
        try:
            self._open_good(meta)
            self._names.add_missing_index()
            self._reconcile(folders, meta, journal)
        except (sqlite3.DatabaseError, ValueError) as error:
            self.close()
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in _DAMAGE:
                raise
            _log.error("%s is damaged and is rebuilt, without run counts: %s", self._path, error)
            self._set_aside()
            return False
        return True

    def _set_aside(self) -> None:
        with open_folder(self._path.parent) as folder:
            # The log first: without its database, the next start would delete it. The database is then the newest
            # entry of `damaged/`, which stays whatever its size.
            for name in reversed(FACTS_FILES):
                with suppress(FileNotFoundError):
                    self._damaged.move_in(name, folder=folder, label=name)

    def _open_good(self, meta: Callable[[str], Meta]) -> None:
        """Open the existing database. Raises ValueError or sqlite3.DatabaseError for damage, OSError for disk
        errors."""
        with self._path.open("rb") as file:
            while file.read(1 << 20):
                pass  # a read error must be raised here, because the check below would treat it as damage
        self._connect()
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version in (_WITHOUT_HOLDERS, _WITHOUT_TOTALS, _WITHOUT_REPEATS):
            self._upgrade(version, meta)
        elif version != _SCHEMA_VERSION:
            raise ValueError(f"it has version {version}, not {_SCHEMA_VERSION}")
        found = self._db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise ValueError(found)

    def _upgrade(self, version: int, meta: Callable[[str], Meta]) -> None:
        """Add what a database of an older version lacks, in one transaction."""

        def holders_of(hash: str, uid: int) -> list[Holder]:
            try:
                return meta(hash).held_by
            except StoreError:  # it may be readable again later, or it is removed below
                return [Holder(uid=uid)]

        with self._transaction():
            self._db.execute("ALTER TABLE programs ADD COLUMN submitted_at REAL")
            self._db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            if version == _WITHOUT_REPEATS:
                return
            for table in ("moves", "names") if version == _WITHOUT_HOLDERS else ():
                for column in ADDED_COLUMNS:
                    self._db.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
            self._db.execute("DROP TABLE IF EXISTS holders")
            for statement in statements(HOLDER_SCHEMA + NEWEST_SCHEMA + TOTALS_SCHEMA):
                self._db.execute(statement)
            self._names.count_again()
            self._holders.fill(holders_of)

    def _connect(self) -> None:
        self._db = connect(self._path)
        self._holders = HolderRows(self._db)
        self._names = NameRows(self._db)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._copier = connect(self._path)

    def close(self) -> None:
        """Close the database, if it is open."""
        self.readers.close()
        for name in ("_copier", "_db"):  # closing the last one checkpoints the log
            if hasattr(self, name):
                getattr(self, name).close()

    @property
    def log_bytes(self) -> int:
        """Length of the write-ahead log."""
        with suppress(FileNotFoundError):
            return self._log_path.stat().st_size
        return 0

    @property
    def log_is_long(self) -> bool:
        """Whether to call `copy_log`."""
        return self.log_bytes > _LONG_LOG_BYTES

    @property
    def log_is_too_long(self) -> bool:
        """Whether `copy_log` could not keep up with the writers, so that `empty_log` must be called."""
        return self.log_bytes > _MOST_LOG_BYTES

    def copy_log(self) -> None:
        """Checkpoint the write-ahead log, as far as no reader needs it. Only the caller waits for the disk.

        If all of it is copied, the next transaction starts a new log. One thread at a time.
        """
        self._copier.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def empty_log(self) -> None:
        """Checkpoint and truncate the write-ahead log. Waits for the disk and, up to 5 s, for readers."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """A transaction, or a part of the one in progress."""
        if self._db.in_transaction:
            yield
        else:
            with transaction(self._db):
                yield

    def _reconcile(self, folders: ProgramFolders, meta: Callable[[str], Meta], journal: Journal) -> None:
        """Repair the database from the folders and the journal.

        A program on a shelf that could not be listed keeps its row. Raises ValueError if a row is invalid.
        """
        known = {row[0] for row in self._db.execute("SELECT hash FROM programs")}
        rows = self._names.moves()
        names = self._names.places()
        moves = journal.load(rows)
        last = {move.name: move.hash for move in moves}
        with_names = {name: hash for name, hash in last.items() if hash is not None}
        if (known, rows, names) == (folders.hashes, moves, with_names):
            return
        with self._transaction():
            for hash in known - folders.hashes:
                if hash[:2] not in folders.unread_shelves:
                    self._delete(hash)
            for hash in folders.hashes - known:
                try:
                    self.add(hash, meta(hash))
                except StoreError as error:
                    _log.error("a program is not listed, because its metadata can't be read: %s", error)
            if (rows, names) != (moves, with_names):
                self._names.replace(moves)

    def add(self, hash: str, meta: Meta) -> None:
        """Add a program. If it already has a row, update only its engine and language."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO programs (hash, size, created_at, created_by, engine, language) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (hash) DO UPDATE SET engine = excluded.engine, language = excluded.language",
                (hash, meta.size, meta.created_at, meta.owner.uid, meta.engine, meta.language),
            )
            if not self._holders.of(hash):
                self._holders.put(hash, meta.held_by)

    def add_new(self, hash: str, meta: Meta) -> None:
        """Add a new program. This replaces a row that an earlier program with this hash may have left."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO programs (hash, size, created_at, created_by, engine, language) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (hash, meta.size, meta.created_at, meta.owner.uid, meta.engine, meta.language),
            )
            self._holders.replace(hash, meta.size, meta.held_by)

    def set_holders(self, hash: str, holders: Sequence[Holder]) -> None:
        """Replace the holders of a program."""
        with self._transaction():
            self._holders.put(hash, holders)

    def _delete(self, hash: str) -> None:
        self._db.execute("DELETE FROM programs WHERE hash = ?", (hash,))
        self._db.execute("DELETE FROM holders WHERE hash = ?", (hash,))

    def note_uses(self, runs: Mapping[str, Counts], submits: Mapping[str, float]) -> None:
        """Add finished runs by hash, and the times of repeated submits by hash."""
        with self._transaction():
            self._db.executemany(
                "UPDATE programs SET submitted_at = ? WHERE hash = ?", [(at, hash) for hash, at in submits.items()]
            )
            for hash, counts in runs.items():
                count, at = total_runs(counts)
                self._db.execute(
                    "UPDATE programs SET runs = runs + ?, last_run_at = ? WHERE hash = ?", (count, at, hash)
                )
                self._holders.count_runs(hash, counts)

    def forget_moves(self, most: int) -> None:
        """Delete moves until about `most` are left. `sync_log` makes this durable."""
        with self._transaction():
            self._names.keep_newest(most)

    def sync_log(self) -> None:
        """Wait until the finished transactions are on disk. Needs no lock. Raises OSError."""
        with self._log_path.open("rb") as log:
            os.fsync(log.fileno())

    def copy_to(self, folder: Path) -> None:
        """Write a copy of the last commit into this folder. Raises OSError, sqlite3.Error."""
        copy_database(self._path, folder / self._path.name)

    def apply(self, moves: Sequence[Move], *, gone: str | None = None) -> None:
        """Atomically apply moves that are in the journal, and delete the row of a removed program (`gone`)."""
        with self._transaction():
            self._names.apply(moves)
            if gone is not None:
                self._delete(gone)
