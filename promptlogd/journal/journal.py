"""The journal: a queue in memory that a thread writes to disk, and the removal of old entries."""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from promptlogd.config import JournalSettings
from promptlogd.journal.database import FILE, FILES, Database, Row
from promptlogd.journal.entry import Entry
from promptlogd.journal.filter import Filter
from promptlogd.journal.row import row_of
from promptlogd.steady_clock import SteadyClock
from promptlogd.store.damaged import DamagedFolder
from promptlogd.store.ownership import check_file
from promptlogd.wire.messages import JournalCounts, JournalEntry, JournalSum

_log = logging.getLogger(__name__)
_R = TypeVar("_R")
_T = TypeVar("_T")

_QUEUE_ENTRIES, _QUEUE_BYTES = 20_000, 16 << 20
"""Limits of the queue. Above them, entries are dropped, or lose their texts."""
BATCH_ENTRIES = 50
"""Entries that are handled between two pauses: 0.3 ms, in which the event loop waits for the interpreter's lock. As
many as one statement of the database takes."""
_RETAIN_S = 60.0
"""Interval between removals of old entries."""
_RETAIN_BATCHES = 100
"""Maximum number of batches that one flush removes, so that the queue does not fill meanwhile."""
_DAY_S = 86400.0
_LOG_AGAIN_S = 60.0


class Journal:
    """The journal of one state folder. Any thread may call `note`. All other methods block, so threads call them."""

    def __init__(self, state_dir: Path, settings: JournalSettings, key: bytes) -> None:
        """`key`: the secret key of the digests of prompts. Without it, nobody can test a guessed prompt."""
        self._folder = state_dir
        self._settings = settings
        self._key = key
        self._queue: deque[Entry] = deque()
        self._queued_bytes = 0
        self._refused: Counter[tuple[int, str | None, str]] = Counter()
        """Number of refused requests since the last flush, by uid, tenant and code."""
        self._dropped = 0
        """Number of entries since the last flush that were dropped because the queue was full."""
        self._lost = 0
        self._rows = self._bytes = 0
        """Size of the file after the last flush. `stats` must not wait for the thread that writes."""
        self._writing = threading.Lock()
        self._database: Database | None = None
        self._damage: tuple[Database, sqlite3.DatabaseError] | None = None
        """A file in which a query found damage. The next flush replaces it."""
        self._retained_at = 0.0
        self._clock = SteadyClock()
        self._closed = False
        self._logged_at, self._logged_lost = -_LOG_AGAIN_S, 0
        """Time and number of the last log line about lost entries."""
        self._why_lost = ""

    @property
    def keeps(self) -> frozenset[str]:
        """The texts of a run that the journal stores."""
        return frozenset(self._settings.keep)

    def open(self) -> None:
        """Open the file. If this fails, there is no journal. Raises StoreUnsafe for another type of file."""
        if not self._settings.enabled:
            return
        try:
            for name in FILES:
                check_file(self._folder / name)
            self._database = self._opened()
        except (OSError, sqlite3.Error) as error:
            self._why_lost = f"the journal {self._folder / FILE} can't be opened ({error})"
            self._log_lost()

    def _opened(self) -> Database:
        """Open the file. If SQLite can't read it, or it has another version, move it to `damaged/` first."""
        try:
            return Database(self._folder / FILE)
        except sqlite3.OperationalError:  # an error of the disk: the file itself may be good
            raise
        except sqlite3.DatabaseError as error:
            self._put_aside(error)
            return Database(self._folder / FILE)

    def _put_aside(self, error: sqlite3.DatabaseError) -> None:
        _log.error("the journal %s can't be read (%s): it is moved to damaged/", self._folder / FILE, error)
        damaged = DamagedFolder(self._folder)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in reversed(FILES):  # the log first: without its database, the next start would delete it
                if (self._folder / name).exists():
                    damaged.move_in(name, folder=folder, label=name)
        finally:
            os.close(folder)

    def note(self, entry: Entry) -> None:
        """Add an entry to the queue. The next `flush` writes it to disk."""
        if not self._settings.enabled:
            return
        if len(self._queue) >= _QUEUE_ENTRIES:
            self._dropped += 1
            return
        size = entry.held_bytes
        if self._queued_bytes + size > _QUEUE_BYTES:
            entry.prompt = entry.result = entry.console = entry.error = None
            size = 0
        self._queued_bytes += size
        self._queue.append(entry)

    def note_refusal(self, uid: int, tenant: str | None, code: str) -> None:
        """Count a refused request. All refused requests of one kind between two flushes become one entry."""
        if not self._settings.enabled:
            return
        if len(self._refused) < _QUEUE_ENTRIES or (uid, tenant, code) in self._refused:
            self._refused[uid, tenant, code] += 1
        else:
            self._dropped += 1

    def flush(self, pause: Callable[[], None] = lambda: None) -> None:
        """Write the queue, and remove entries above the limits. Blocks. Errors of the disk are logged.

        `pause`: called after every BATCH_ENTRIES, so that the event loop gets the interpreter's lock in between.
        """
        with self._writing:
            if self._database is None and self._settings.enabled and not self._closed:
                self.open()  # the disk may be better now
            if self._damage is not None:
                (database, error), self._damage = self._damage, None
                if database is self._database:
                    self._begin_anew(error)
            entries = self._taken()
            if self._dropped:
                self._lost, self._dropped = self._lost + self._dropped, 0
                self._why_lost = "the queue of the journal was full"
            if self._database is None:
                self._lost += len(entries)
            else:
                self._write(self._database, entries, pause)
            if self._lost > self._logged_lost:
                self._log_lost()

    def _write(self, database: Database, entries: list[Entry], pause: Callable[[], None]) -> None:
        unwritten = len(entries)
        try:
            rows: list[Row] = []
            for batch in _batches(entries):
                rows += [row_of(entry, self._key, self._settings) for entry in batch]
                pause()
            size = sum(len(row[-1] or "") for row in rows)
            self._make_room(database, len(rows), size)  # before the write, so that the file does not grow
            for written in _batches(rows):
                database.append(written)
                unwritten -= len(written)
                pause()
            if time.monotonic() - self._retained_at > _RETAIN_S:
                self._retained_at = time.monotonic()
                self._remove_old(database)
            self._make_room(database)
            database.shrink(self._settings.max_mb << 20)
            self._rows, self._bytes = database.rows.total(), database.bytes
        except sqlite3.Error as error:
            self._lost += unwritten
            self._why_lost = f"the journal can't be written ({error})"
            if not isinstance(error, sqlite3.OperationalError):
                self._begin_anew(error)
        except Exception:
            self._lost += unwritten
            raise

    def _begin_anew(self, error: sqlite3.Error) -> None:
        """Replace a file in which damage was found."""
        assert self._database is not None
        database, self._database = self._database, None
        try:
            database.close()
            if isinstance(error, sqlite3.DatabaseError):
                self._put_aside(error)
            self._database = Database(self._folder / FILE)
        except (OSError, sqlite3.Error) as failure:
            self._why_lost = f"the journal {self._folder / FILE} can't be created again ({failure})"
            _log.error("%s: nothing is recorded", self._why_lost)

    def _taken(self) -> list[Entry]:
        """Remove all entries from the queue, and return them with the entries of refused requests."""
        refused, self._refused = self._refused, Counter()
        entries = [self._queue.popleft() for _ in range(len(self._queue))]
        self._queued_bytes = 0  # an entry that another thread adds now may not count: the bound need not be exact
        now = time.time()
        for (uid, tenant, code), count in refused.items():
            entries.append(Entry(at=now, kind="refused", uid=uid, tenant=tenant, outcome=code, count=count))
        return entries

    def _remove_old(self, database: Database) -> None:
        """Remove entries that are too old. In the first hour, the clock may be wrong, and no entry is removed."""
        now = self._clock.read(time.time(), time.monotonic())
        for _ in range(_RETAIN_BATCHES):
            if now is None or not database.remove_before(now - self._settings.max_age_days * _DAY_S):
                return
        self._retained_at = -math.inf  # the next flush continues

    def _make_room(self, database: Database, coming: int = 0, coming_bytes: int = 0) -> None:
        """If the new entries exceed a limit, remove the oldest entries of the uid that has the most.

        So a client that fills the journal displaces its own entries, and not those of others.
        """
        most_bytes = self._settings.max_mb << 20
        for _ in range(_RETAIN_BATCHES):
            rows = database.rows.total()
            excess = rows + coming - self._settings.max_rows
            if (excess_bytes := database.bytes + coming_bytes - most_bytes) > 0:
                excess = max(excess, math.ceil(rows * excess_bytes / database.bytes))  # number of rows with this size
            if excess <= 0 or rows == 0:
                return
            database.remove_oldest(database.rows.most_common(1)[0][0], excess)

    def _log_lost(self, *, at_once: bool = False) -> None:
        """Log how many entries are lost, and why. This is done at most once a minute, unless `at_once` is set."""
        if at_once or time.monotonic() - self._logged_at > _LOG_AGAIN_S:
            self._logged_at, self._logged_lost = time.monotonic(), self._lost
            _log.error("%s: %d entries were lost since the start", self._why_lost, self._lost)

    def counts(self) -> JournalCounts | None:
        """Return the number of entries, as of the last flush. None if the journal is off. Does not block."""
        if not self._settings.enabled:
            return None
        return JournalCounts(
            rows=self._rows, bytes=self._bytes, waiting=len(self._queue), lost=self._lost + self._dropped
        )

    def page(self, wanted: Filter, limit: int, *, before: int | None, after: int | None) -> list[JournalEntry]:
        """See Database.page. Without a journal there are no entries."""
        return self._read(lambda database: database.page(wanted, limit, before=before, after=after)) or []

    def entry(self, wanted: Filter, id: int) -> JournalEntry | None:
        """See Database.entry."""
        return self._read(lambda database: database.entry(wanted, id))

    def sums(self, wanted: Filter) -> list[JournalSum]:
        """See Database.sums."""
        return self._read(lambda database: database.sums(wanted)) or []

    def _read(self, query: Callable[[Database], _R]) -> _R | None:
        """Return the result of a query, or None if the journal is off. Raises TooSlow, sqlite3.Error."""
        database = self._database
        if database is None and self._settings.enabled:
            raise sqlite3.OperationalError(self._why_lost)
        if database is None:
            return None
        try:
            return query(database)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            self._damage = database, error
            raise

    def copy_to(self, folder: Path) -> None:
        """Write a copy with all entries so far to this folder. Raises OSError, sqlite3.Error."""
        self.flush()
        with self._writing:
            if self._database is not None:
                self._database.copy_to(folder)

    def close(self) -> None:
        """Write the queue, and close the file."""
        self.flush()
        with self._writing:
            self._closed = True
            database, self._database = self._database, None
            if database is not None:
                database.close()
            if self._lost > self._logged_lost:
                self._log_lost(at_once=True)


def _batches(items: list[_T]) -> Iterator[list[_T]]:
    for at in range(0, len(items), BATCH_ENTRIES):
        yield items[at : at + BATCH_ENTRIES]
