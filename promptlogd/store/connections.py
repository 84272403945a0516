"""Connections to `facts.sqlite3`: one writer, one that checkpoints the write-ahead log, and several readers.

Readers never wait for a writer: in WAL mode, a reader sees the last commit before its first lookup, even while a writer
commits or the log is checkpointed. All connections belong to this process. So SQLite's VFS `unix-excl` can keep the
index of the log on the heap, and exclude other processes. The default VFS maps that index from a file, and on a full
disk a write to such a mapping raises SIGBUS.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from promptlogd.store.lookups import Lookups

_BUSY_S = 5.0
"""At the start, time limit for waiting for another process that has the database open."""
_READERS = 6
"""Readers that stay open, so that a lookup needs no new descriptor. Four reader threads use them, and writers too."""
_READER_CACHE_KB = 256
"""Pages that each reader caches. The kernel caches the file too."""


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection that one thread at a time may use. Raises sqlite3.Error."""
    uri = f"file:{quote(os.fsencode(path))}?vfs=unix-excl"
    db = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None, timeout=_BUSY_S)
    try:
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA wal_autocheckpoint = 0")  # otherwise a commit waits for the disk
        db.execute("PRAGMA journal_size_limit = 0")  # so that the size of the file is the length of the log
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Context manager: commit the statements of the block, or roll them back if it raises. Raises sqlite3.Error."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def statements(script: str) -> Iterator[str]:
    """Yield the statements of a script, because `executescript` would end the transaction in progress."""
    statement = ""
    for part in script.split(";"):
        statement += part + ";"
        if sqlite3.complete_statement(statement):  # a trigger contains semicolons
            yield statement
            statement = ""


def copy_database(path: Path, copy: Path) -> None:
    """Write a copy of the last commit of a database that this process has open. Raises OSError, sqlite3.Error.

    In WAL mode nobody waits for it.
    """
    os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    with closing(connect(path)) as source, closing(connect(copy)) as target:
        source.backup(target)


class Readers:
    """A pool of reader connections. Any thread may use it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: deque[sqlite3.Connection] = deque()

    def open(self) -> None:
        """Open the permanent connections. Raises sqlite3.Error."""
        while len(self._idle) < _READERS:
            self._idle.append(self._open())

    @contextmanager
    def use(self) -> Iterator[Lookups]:
        """Provide lookups in one snapshot, from the first lookup to the end of the block. Raises sqlite3.Error."""
        try:
            db = self._idle.pop()
        except IndexError:
            db = self._open()
        try:
            db.execute("BEGIN")
            yield Lookups(db)
            db.execute("ROLLBACK")
        except BaseException:
            self._end(db)
            raise
        self._keep(db)

    def _open(self) -> sqlite3.Connection:
        db = connect(self._path)
        db.execute("PRAGMA query_only = ON")
        db.execute(f"PRAGMA cache_size = -{_READER_CACHE_KB}")
        db.execute("SELECT hash FROM names LIMIT 1").fetchone()  # this opens the log
        return db

    def _end(self, db: sqlite3.Connection) -> None:
        """End the transaction of a block that raised. After NotFound, for example, the connection is still usable."""
        try:
            if db.in_transaction:
                db.execute("ROLLBACK")
        except sqlite3.Error:
            db.close()
        else:
            self._keep(db)

    def _keep(self, db: sqlite3.Connection) -> None:
        if len(self._idle) < _READERS:
            self._idle.append(db)
        else:
            db.close()

    def close(self) -> None:
        """Close the connections that nobody uses."""
        while self._idle:
            self._idle.pop().close()
