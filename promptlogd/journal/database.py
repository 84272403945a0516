"""The journal's SQLite file: its table, rows and queries. The methods block, so threads call them."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from promptlogd.journal.filter import Filter
from promptlogd.store.connections import copy_database, transaction
from promptlogd.wire.messages import JournalEntry, JournalSum

_log = logging.getLogger(__name__)

FILE = "journal.sqlite3"
FILES = (FILE, f"{FILE}-wal", f"{FILE}-shm")
"""Names of the files in the state folder."""

_VERSION = 1
"""Version of the table. A file with another version is moved to `damaged/`."""

_COLUMNS = (
    "at", "kind", "uid", "tenant", "hash", "name", "engine", "outcome", "line", "column", "cpu_ms", "wall_ms",
    "memory_bytes", "prompt_bytes", "result_bytes", "console_lines", "prompt_digest", "count", "content",
)  # fmt: skip
_QUOTED = [f'"{name}"' for name in _COLUMNS]
_TOGETHER = 50
"""Rows of one statement, during which SQLite does not hold the interpreter's lock. With one statement for each row, the
thread would wait for the lock after each of them, and the event loop for the thread. More rows would save nothing,
and SQLite before 3.32 accepts 999 parameters: here are 950. The remaining rows, fewer than 50, have one statement
each."""
_VALUES = f"({', '.join('?' * len(_COLUMNS))})"
_INSERT = {
    rows: f"INSERT INTO entries ({', '.join(_QUOTED)}) VALUES {', '.join([_VALUES] * rows)}" for rows in (_TOGETHER, 1)
}
"""The statement that adds this number of rows."""
_WITHOUT_CONTENT = ", ".join(_QUOTED[:-1])
_INDEXES = {"of_uid": "uid, id", "of_program": "hash, id", "of_time": "at"}
"""One index for each way to look up or remove entries. SQLite adds the id as the last column of each."""
_BATCH = 200
"""Rows that are removed at once. Between batches, other threads can get the interpreter's lock."""
_SHRINK_PAGES = 4096
"""Maximum number of pages (4 KiB) by which `shrink` shrinks the file. SQLite moves them, which takes tens of ms."""
_REBUILD_BYTES = 1 << 30
"""Size of all entries up to which a file of an earlier version is rewritten. A larger one would take too long."""
_LOG_BYTES = 4 << 20
"""Size to which SQLite shrinks its write-ahead log."""
_QUERY_S = 5.0
"""Time limit of a query."""
_STEPS = 20_000
"""Steps of SQLite's virtual machine between two checks of the time limit."""
_BUSY_S = 5.0
_SUMS = 1000
"""Maximum number of rows of a summary."""

_MOST_ID = 2**63 - 1

Row = tuple[Any, ...]
_R = TypeVar("_R")


class TooSlow(Exception):
    """A query took too long."""


class Database:
    """The open file. One thread writes at a time; any thread reads."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises sqlite3.Error, also if the file is damaged or has another version."""
        self._path = path
        _make(path)
        self._db = _connect(path)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"it has version {version}, and this promptlogd knows version {_VERSION}")
        self._check_tables(version)
        self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # so that `shrink` can shrink a new or rebuilt file
        self._db.execute("PRAGMA journal_mode = WAL")
        columns = f"id INTEGER PRIMARY KEY AUTOINCREMENT, {', '.join(_QUOTED)}"
        self._db.execute(f"CREATE TABLE IF NOT EXISTS entries ({columns})")
        for name, of in _INDEXES.items():
            self._db.execute(f"CREATE INDEX IF NOT EXISTS {name} ON entries ({of})")
        if version == 0:  # else nothing is written, so that a full disk does not matter
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
        self._rows: Counter[int] | None = None
        self._rebuilt = False

    def _check_tables(self, version: int) -> None:
        """Raise sqlite3.DatabaseError for a file of another program, before anything is written to it."""
        tables = {
            name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        }
        columns = [row[1] for row in self._db.execute("PRAGMA table_info(entries)")]
        if version == 0 and tables - {"entries", "sqlite_sequence"}:
            raise sqlite3.DatabaseError("another program has made it")
        if "entries" in tables and columns != ["id", *_COLUMNS]:
            raise sqlite3.DatabaseError("its table has other columns")

    @property
    def rows(self) -> Counter[int]:
        """Number of entries of each uid. The first access reads the whole file. Raises sqlite3.Error."""
        if self._rows is None:
            query = "SELECT uid, COUNT(*) FROM entries GROUP BY uid"
            self._rows = Counter(dict(self._db.execute(query).fetchall()))
        return self._rows

    def copy_to(self, folder: Path) -> None:
        """Write a copy to this folder. Raises OSError, sqlite3.Error."""
        copy_database(self._path, folder / FILE)

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows: all or none. Raises sqlite3.Error."""
        with transaction(self._db):
            whole = len(rows) - len(rows) % _TOGETHER
            for at in range(0, whole, _TOGETHER):
                self._db.execute(_INSERT[_TOGETHER], list(chain.from_iterable(rows[at : at + _TOGETHER])))
            for row in rows[whole:]:
                self._db.execute(_INSERT[1], row)
        if self._rows is not None:
            self._rows.update(row[_COLUMNS.index("uid")] for row in rows)

    @property
    def bytes(self) -> int:
        """Size of all entries in bytes, in whole pages of SQLite."""
        return (self._number("page_count") - self._number("freelist_count")) * self._number("page_size")

    def shrink(self, most_bytes: int) -> None:
        """Return free pages to the file system, if the file is larger than this. Does only a part of this at a time."""
        excess = self._number("page_count") - most_bytes // self._number("page_size")
        pages = min(excess, self._number("freelist_count"), _SHRINK_PAGES)
        if pages > 0 and not self._number("auto_vacuum"):
            self._rebuild()
        elif pages > 0:
            # The statement takes a step for each page. `execute` would take only the first.
            self._db.executescript(f"PRAGMA incremental_vacuum({pages})")

    def _rebuild(self) -> None:
        """Rewrite a file of an earlier version, so that it can shrink. This is tried once.

        It needs disk space for two copies, and takes 4 s for 256 MiB. Meanwhile new entries wait in the queue. Readers
        do not wait.
        """
        if self._rebuilt or self.bytes > _REBUILD_BYTES:
            return
        self._rebuilt = True
        try:
            self._db.execute("VACUUM")  # with the auto_vacuum of `_prepare`
        except sqlite3.OperationalError as error:
            _log.warning("the journal %s can't be made smaller: %s", self._path, error)

    def _number(self, pragma: str) -> int:
        return int(self._db.execute(f"PRAGMA {pragma}").fetchone()[0])

    def remove_before(self, at: float) -> bool:
        """Remove a batch of entries that are older than this. Return whether there were any."""
        gone = self._db.execute("SELECT id, uid FROM entries WHERE at < ? ORDER BY at LIMIT ?", (at, _BATCH)).fetchall()
        with transaction(self._db):
            self._db.executemany("DELETE FROM entries WHERE id = ?", [(id,) for id, _ in gone])
        self._subtract(Counter(uid for _, uid in gone))
        return bool(gone)

    def remove_oldest(self, uid: int, most: int) -> None:
        """Remove the oldest entries of a uid: at most this number, and at most one batch."""
        oldest = "SELECT id FROM entries WHERE uid = ? ORDER BY id LIMIT ?"
        gone = self._db.execute(f"DELETE FROM entries WHERE id IN ({oldest})", (uid, min(most, _BATCH))).rowcount
        self._subtract(Counter({uid: gone}))

    def _subtract(self, gone: Counter[int]) -> None:
        if self._rows is not None:
            self._rows.subtract(gone)
            self._rows += Counter()  # drops uids that have none

    def page(
        self, wanted: Filter, limit: int, *, before: int | None = None, after: int | None = None
    ) -> list[JournalEntry]:
        """Return entries, newest first; with `after`, later ones, oldest first. Raises TooSlow, sqlite3.Error."""
        condition, values = wanted.where()
        order, beyond = ("DESC", "<") if after is None else ("ASC", ">")
        query = f"SELECT id, {_WITHOUT_CONTENT} FROM entries WHERE {condition} AND id {beyond} ? ORDER BY id {order}"
        last = after if after is not None else before if before is not None else _MOST_ID
        found: list[JournalEntry] = []
        with self._reading() as db:
            while True:
                asked = limit - len(found)
                rows = db.execute(f"{query} LIMIT ?", [*values, last, asked]).fetchall()
                found += [entry for row in rows if (entry := _entry(row)) is not None]
                if len(rows) < asked or len(found) == limit:
                    return found
                last = rows[-1][0]  # some rows are damaged

    def entry(self, wanted: Filter, id: int) -> JournalEntry | None:
        """Return one entry with its content, or None if it does not exist. Raises TooSlow, sqlite3.Error."""
        condition, values = wanted.where()
        query = f"SELECT id, {_WITHOUT_CONTENT}, content FROM entries WHERE {condition} AND id = ?"
        with self._reading() as db:
            row = db.execute(query, [*values, id]).fetchone()
        return None if row is None else _entry(row[:-1], content=row[-1])

    def sums(self, wanted: Filter) -> list[JournalSum]:
        """Return sums by program and engine, in descending order of CPU time. Raises TooSlow, sqlite3.Error."""
        condition, values = wanted.where()
        query = (
            "SELECT ifnull(hash, ''), ifnull(engine, ''), COUNT(*), SUM(outcome <> 'ok'), TOTAL(cpu_ms), "
            "ifnull(MAX(cpu_ms), 0), ifnull(AVG(wall_ms), 0), ifnull(MAX(memory_bytes), 0), MAX(at) "
            f"FROM entries WHERE kind = 'run' AND {condition} "
            "GROUP BY +hash, engine ORDER BY TOTAL(cpu_ms) DESC LIMIT ?"  # `+`: read rows in their order on disk
        )
        with self._reading() as db:
            rows = db.execute(query, [*values, _SUMS]).fetchall()
        return [found for row in rows if (found := _valid(JournalSum.__struct_fields__, row, JournalSum)) is not None]

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection for reading. Its queries have a time limit."""
        ends = time.monotonic() + _QUERY_S
        with closing(_connect(self._path)) as db:
            db.text_factory = lambda data: data.decode("utf-8", "replace")  # a damaged text must not end the query
            db.execute("PRAGMA query_only = ON")
            db.set_progress_handler(lambda: time.monotonic() > ends, _STEPS)
            try:
                yield db
            except sqlite3.OperationalError as error:
                if "interrupted" in str(error):
                    raise TooSlow(f"this takes more than {_QUERY_S:g} s: ask for less, with `since`") from None
                raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _make(path: Path) -> None:
    """Create the file, if there is none, and let only its owner read it. Raises sqlite3.Error."""
    # SQLite would use the umask. It gives its other files the permissions of this one.
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        with suppress(PermissionError):  # a file of another user
            path.chmod(0o600)  # an earlier version has created it
    except OSError as error:
        raise sqlite3.OperationalError(f"{path}: {error.strerror}") from None


def _connect(path: Path) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(path))}?vfs=unix-excl"  # see store/connections.py
    db = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None, timeout=_BUSY_S)
    try:
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    except BaseException:
        db.close()
        raise
    return db


def _entry(row: Sequence[Any], *, content: str | None = None) -> JournalEntry | None:
    """Return the entry of a row, or None if the row is damaged. SQLite itself does not notice such damage."""
    try:
        texts = None if content is None else msgspec.json.decode(content, type=dict[str, str])
    except (msgspec.MsgspecError, RecursionError):
        texts = None
    return _valid(("id", *_COLUMNS[:-1], "content"), (*row, texts), JournalEntry)


def _valid(names: Sequence[str], values: Sequence[Any], kind: type[_R]) -> _R | None:
    try:
        return msgspec.convert(dict(zip(names, values, strict=True)), kind)
    except msgspec.ValidationError as error:
        _log.warning("a row of the journal is damaged, and left out: %s", error)
        return None
