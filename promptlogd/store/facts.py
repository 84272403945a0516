"""Small facts about programs in SQLite, and the journal of names from which those are rebuilt. No program bytes.

Everything here can be made again: programs from their folders, names from `names.jsonl`, to which each move of a
name is appended, and synced, before SQLite hears of it. Run counts alone are lost with the database.

SQLite may lose its last transactions with the power, or to a damaged log, and not know of it. So at each start it
is compared with the folders and with the journal, and mended; and the journal from it, should that have lost lines.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from promptlogd.store.objects import Meta
from promptlogd.store.seal import seal, unseal
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


_NOT_DAMAGE = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}
"""Errors (primary codes) that are the disk's or the system's of the moment, and say nothing about the file."""


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

    def open(self, hashes: set[str], meta: Callable[[str], Meta]) -> None:
        """Open the database, and make it agree with these folders and with the journal; if it is damaged, a new one.

        Raises OSError and sqlite3.Error for the disk.
        """
        if os.path.lexists(self._path):
            try:
                if self._path.is_symlink() or not self._path.is_file():
                    raise ValueError("it is no file")
                if self._open_good():
                    self._reconcile(hashes, meta)
                    return
            except (sqlite3.DatabaseError, ValueError) as error:
                code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
                if code & 0xFF in _NOT_DAMAGE:
                    self._db.close()
                    raise
                _log.warning("%s is damaged and made again: %s", self._path, error)
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
        self._reconcile(hashes, meta)

    def _open_good(self) -> bool:
        """Open what is there; return whether it is whole, and of this version."""
        self._connect()
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        return bool(version == _SCHEMA_VERSION and self._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok")

    def _connect(self) -> None:
        self._db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=5)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")

    def close(self) -> None:
        """Close the database."""
        self._db.close()

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

    def _reconcile(self, hashes: set[str], meta: Callable[[str], Meta]) -> None:
        """Mend the database after the folders and the journal. Raises ValueError if its rows are no good."""
        known = {row[0] for row in self._db.execute("SELECT hash FROM programs")}
        noted = [
            msgspec.convert(dict(zip(Move.__struct_fields__, row, strict=True)), Move)
            for row in self._db.execute("SELECT name, hash, at, back FROM moves ORDER BY number")
        ]
        names = dict(self._db.execute("SELECT name, hash FROM names"))
        moves = self._read_journal()
        if len(noted) > len(moves):
            # Each move is in the journal first: it has lost some.
            _log.warning("%s has lost %d moves and is made again", self._journal, len(noted) - len(moves))
            moves = noted
            self._write_journal(moves)
        last = {move.name: move.hash for move in moves}
        with_names = {name: hash for name, hash in last.items() if hash is not None}
        if (known, noted, names) == (hashes, moves, with_names):
            return
        with self._transaction():
            for hash in known - hashes:
                self.remove(hash)
            for hash in hashes - known:
                self.add(hash, meta(hash))
            self._db.execute("DELETE FROM moves")
            self._db.execute("DELETE FROM names")
            for move in moves:
                self.apply(move)

    def _read_journal(self) -> list[Move]:
        try:
            data = self._journal.read_bytes()
        except FileNotFoundError:
            return []
        moves: list[Move] = []
        for line in data.split(b"\n"):
            with suppress(ValueError):  # a torn last line was never acknowledged
                if line:
                    moves.append(unseal(line, Move))
        return moves

    def _write_journal(self, moves: list[Move]) -> None:
        new = self._journal.with_suffix(".new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.writelines(b"\n" + seal(move) + b"\n" for move in moves)
            file.flush()
            os.fsync(descriptor)
        new.rename(self._journal)

    def add(self, hash: str, meta: Meta) -> None:
        """Note a program; of one that is known already, what it is for."""
        self._db.execute(
            "INSERT INTO programs (hash, size, created_at, created_by, engine, language) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (hash) DO UPDATE SET engine = excluded.engine, language = excluded.language",
            (hash, meta.size, meta.created_at, meta.created_by, meta.engine, meta.language),
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

    def write_down(self, move: Move) -> None:
        """Append a move to the journal, and wait until it is on the disk. Raises OSError. Does not touch SQLite."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._journal, flags, 0o600)
        try:
            # The line break before it ends a torn line of an earlier process.
            line = b"\n" + seal(move) + b"\n"
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # how a disk that fills up in mid-write says so
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def apply(self, move: Move) -> None:
        """Let a move that is written down take effect."""
        # Not one transaction with what follows: after a failure in between the next start makes them agree.
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
