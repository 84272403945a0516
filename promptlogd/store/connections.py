"""Connections to `facts.sqlite3`: one that writes, one that copies the write-ahead log, and several that read.

Readers wait for nobody: in WAL mode a reader sees the last commit before its first lookup, also while a writer commits
or the log is copied into the database. All connections belong to this process. So SQLite's file system layer
`unix-excl` can keep the index of the log on the heap, and keep other processes out. The usual layer maps that index
from a file, and on a full disk a write to such a mapping raises SIGBUS.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from promptlogd.store.lookups import Lookups

_BUSY_S = 5.0
"""Longest wait for another process that has the database open, at the start."""
_READERS = 6
"""Readers that stay open, so that a lookup needs no descriptor. Four threads of the daemon read, and so do writers."""
_READER_CACHE_KB = 256
"""Pages that each reader caches. The kernel caches the file too."""


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection that any one thread at a time may use. Raises sqlite3.Error."""
    uri = f"file:{quote(str(path))}?vfs=unix-excl"
    db = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None, timeout=_BUSY_S)
    try:
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA wal_autocheckpoint = 0")  # else a commit waits for the disk
        db.execute("PRAGMA journal_size_limit = 0")  # so that the size of the log's file tells its length
    except BaseException:
        db.close()
        raise
    return db


class Readers:
    """A pool of connections that read. Any thread may use it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: deque[sqlite3.Connection] = deque()

    def open(self) -> None:
        """Open the connections that stay. Raises sqlite3.Error."""
        while len(self._idle) < _READERS:
            self._idle.append(self._open())

    @contextmanager
    def use(self) -> Iterator[Lookups]:
        """Give lookups in one snapshot, from the first lookup to the end of the block. Raises sqlite3.Error."""
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
        db.execute("SELECT hash FROM names LIMIT 1").fetchone()  # opens the log
        return db

    def _end(self, db: sqlite3.Connection) -> None:
        """End the transaction of a block that raised. That may be NotFound, and then the connection stays good."""
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
