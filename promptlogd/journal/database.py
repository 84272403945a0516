"""The journal's SQLite file: its table, its rows, its queries. Its methods block: they are called in threads."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from promptlogd.store.connections import copy_database, transaction
from promptlogd.wire.messages import JournalEntry, JournalSum

FILE = "journal.sqlite3"
FILES = (FILE, f"{FILE}-wal", f"{FILE}-shm")
"""Names of the files in the state folder."""

_VERSION = 1
"""Of the table. A file of another version is put aside."""

_COLUMNS = (
    "at", "kind", "uid", "tenant", "hash", "name", "engine", "outcome", "line", "column", "cpu_ms", "wall_ms",
    "memory_bytes", "prompt_bytes", "result_bytes", "console_lines", "prompt_digest", "count", "content",
)  # fmt: skip
_QUOTED = [f'"{name}"' for name in _COLUMNS]
_INSERT = (
    f"INSERT INTO entries ({', '.join(_QUOTED)}) "
    f"SELECT {', '.join(f'json_extract(value, ?{number + 2})' for number in range(len(_COLUMNS)))} FROM json_each(?1)"
)
"""Adds the rows of a JSON list: one statement, during which SQLite does not hold the interpreter's lock. With one for
each row the thread would wait for the lock after each of them, and the loop for the thread."""
_PATHS = tuple(f"$[{number}]" for number in range(len(_COLUMNS)))
_WITHOUT_CONTENT = ", ".join(_QUOTED[:-1])
_INDEXES = {"of_uid": "uid, id", "of_program": "hash, id", "of_time": "at"}
"""One for each way in which entries are looked up or removed. Each ends with the id, which SQLite adds."""
_FAILED = "((kind = 'run' AND outcome <> 'ok') OR kind = 'refused')"
_BATCH = 200
"""Rows that are written, or removed, at once. Between batches other threads get the interpreter's lock."""
_QUERY_S = 5.0
"""Longest time of a query."""
_STEPS = 20_000
"""Steps of SQLite's machine between two looks at the clock."""
_BUSY_S = 5.0
_SUMS = 1000
"""Rows of a summary."""

Row = tuple[Any, ...]


class TooSlow(Exception):
    """A query took too long."""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries are asked for."""

    uid: int | None
    """Whose; None: everybody's."""
    hash: str | None = None
    """Hash of the program, or how it begins."""
    failed: bool = False
    since: float | None = None

    def where(self) -> tuple[str, list[Any]]:
        """Return the SQL condition and its values."""
        parts, values = ["1"], list[Any]()
        if self.uid is not None:
            parts.append("uid = ?")
            values.append(self.uid)
        if self.hash is not None:
            parts.append("hash >= ? AND hash < ?")
            values += [self.hash, self.hash + "g"]  # above each hexadecimal digit
        if self.failed:
            parts.append(_FAILED)
        if self.since is not None:
            parts.append("at >= ?")
            values.append(self.since)
        return " AND ".join(parts), values


class Database:
    """The open file. One thread writes at a time; any thread reads."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it. Raises sqlite3.Error, also for a file that is damaged or of another version."""
        self._path = path
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
        self._db.execute("PRAGMA journal_mode = WAL")
        columns = f"id INTEGER PRIMARY KEY AUTOINCREMENT, {', '.join(_QUOTED)}"
        self._db.execute(f"CREATE TABLE IF NOT EXISTS entries ({columns})")
        for name, of in _INDEXES.items():
            self._db.execute(f"CREATE INDEX IF NOT EXISTS {name} ON entries ({of})")
        if version == 0:  # else nothing is written, so that a full disk does not matter
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
        self._rows: Counter[int] | None = None

    @property
    def rows(self) -> Counter[int]:
        """Entries of each uid. The first look reads the whole file. Raises sqlite3.Error."""
        if self._rows is None:
            query = "SELECT uid, COUNT(*) FROM entries GROUP BY uid"
            self._rows = Counter(dict(self._db.execute(query).fetchall()))
        return self._rows

    def copy_to(self, folder: Path) -> None:
        """Write a copy into this folder. Raises OSError, sqlite3.Error."""
        copy_database(self._path, folder / FILE)

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows: all or none. Raises sqlite3.Error."""
        with transaction(self._db):
            for at in range(0, len(rows), _BATCH):
                batch = msgspec.json.encode(rows[at : at + _BATCH]).decode()
                self._db.execute(_INSERT, (batch, *_PATHS))
        if self._rows is not None:
            self._rows.update(row[_COLUMNS.index("uid")] for row in rows)

    @property
    def bytes(self) -> int:
        """Size of all entries, in pages of SQLite's."""
        names = ("page_count", "freelist_count", "page_size")
        pages, free, page_bytes = (int(self._db.execute(f"PRAGMA {name}").fetchone()[0]) for name in names)
        return (pages - free) * page_bytes

    def remove_before(self, at: float) -> bool:
        """Remove a batch of entries that are older than this. Return whether there were any."""
        gone = self._db.execute("SELECT id, uid FROM entries WHERE at < ? ORDER BY at LIMIT ?", (at, _BATCH)).fetchall()
        self._remove(gone)
        return bool(gone)

    def remove_oldest(self, uid: int, most: int) -> None:
        """Remove the oldest entries of a uid: at most so many, and at most a batch."""
        query = "SELECT id, uid FROM entries WHERE uid = ? ORDER BY id LIMIT ?"
        self._remove(self._db.execute(query, (uid, min(most, _BATCH))).fetchall())

    def _remove(self, gone: Sequence[tuple[int, int]]) -> None:
        with transaction(self._db):
            self._db.executemany("DELETE FROM entries WHERE id = ?", [(id,) for id, _ in gone])
        if self._rows is not None:
            self._rows.subtract(uid for _, uid in gone)
            self._rows += Counter()  # drops uids that have none

    def page(
        self, wanted: Filter, limit: int, *, before: int | None = None, after: int | None = None
    ) -> list[JournalEntry]:
        """Return entries, newest first; with `after`, later ones, oldest first. Raises TooSlow, sqlite3.Error."""
        condition, values = wanted.where()
        if before is not None:
            condition, values = f"{condition} AND id < ?", [*values, before]
        if after is not None:
            condition, values = f"{condition} AND id > ?", [*values, after]
        order = "DESC" if after is None else "ASC"
        query = f"SELECT id, {_WITHOUT_CONTENT} FROM entries WHERE {condition} ORDER BY id {order} LIMIT ?"
        with self._reading() as db:
            return [_entry(row) for row in db.execute(query, [*values, limit])]

    def entry(self, wanted: Filter, id: int) -> JournalEntry | None:
        """Return one entry with its content; None if it is not there. Raises TooSlow, sqlite3.Error."""
        condition, values = wanted.where()
        query = f"SELECT id, {_WITHOUT_CONTENT}, content FROM entries WHERE {condition} AND id = ?"
        with self._reading() as db:
            row = db.execute(query, [*values, id]).fetchone()
        if row is None:
            return None
        content = None if row[-1] is None else msgspec.json.decode(row[-1], type=dict[str, str])
        return msgspec.structs.replace(_entry(row[:-1]), content=content)

    def sums(self, wanted: Filter) -> list[JournalSum]:
        """Return runs by program and engine: those with the most CPU time first. Raises TooSlow, sqlite3.Error."""
        condition, values = wanted.where()
        query = (
            "SELECT ifnull(hash, ''), ifnull(engine, ''), COUNT(*), SUM(outcome <> 'ok'), SUM(cpu_ms), MAX(cpu_ms), "
            "AVG(wall_ms), MAX(memory_bytes), MAX(at) "
            f"FROM entries WHERE kind = 'run' AND {condition} "
            "GROUP BY hash, engine ORDER BY SUM(cpu_ms) DESC LIMIT ?"
        )
        with self._reading() as db:
            return [JournalSum(*row) for row in db.execute(query, [*values, _SUMS])]

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Give a connection that reads, for a bounded time."""
        ends = time.monotonic() + _QUERY_S
        with closing(_connect(self._path)) as db:
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


def _connect(path: Path) -> sqlite3.Connection:
    uri = f"file:{quote(str(path))}?vfs=unix-excl"  # see store/connections.py
    db = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None, timeout=_BUSY_S)
    try:
        db.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        db.close()
        raise
    return db


def _entry(row: Sequence[Any]) -> JournalEntry:
    id, *values = row
    return JournalEntry(id=id, **dict(zip(_COLUMNS[:-1], values, strict=True)))
