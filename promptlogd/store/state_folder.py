"""The state folder and its parts, opened and closed in order."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from promptlogd.store.counts import RunCounts
from promptlogd.store.damaged import DamagedFolder
from promptlogd.store.errors import StoreFailed, StoreUnsafe, store_error
from promptlogd.store.facts import FACTS_FILES, Facts
from promptlogd.store.format_version import (
    FORMAT,
    FORMAT_FILE,
    FORMAT_OF_METADATA,
    is_fresh,
    read_format,
    refuse_strange,
    write_format,
)
from promptlogd.store.journal import JOURNAL_FILE, Journal, Move
from promptlogd.store.key import KEY_FILE, Key
from promptlogd.store.lock import take_lock
from promptlogd.store.lookups import Lookups
from promptlogd.store.migration import migrate
from promptlogd.store.objects import Objects
from promptlogd.store.ownership import check_file
from promptlogd.store.recent import RecentNames
from promptlogd.store.repeats import RepeatedSubmits
from promptlogd.store.reserve import RESERVE_FILE, Reserve
from promptlogd.store.usage import Usage
from sandbox.trusted_path import UntrustedPath, make_folders

_log = logging.getLogger(__name__)


class StateFolder:
    """The open state folder and its parts. Created by `StateFolder.open`."""

    def __init__(self, path: Path, lock: int, max_bytes: int | None) -> None:
        self.path = path
        self.usage = Usage(path, max_bytes)
        self._lock = lock
        self._damaged = DamagedFolder(path)
        self.key = Key(path)
        self.objects = Objects(path, self._damaged, self.key)
        self.journal = Journal(path, self._damaged)
        self.facts = Facts(path, self._damaged)
        self.reserve = Reserve(path)
        self.counts = RunCounts()
        self.repeats = RepeatedSubmits()
        self.recent_names = RecentNames()
        self.writing = threading.Lock()
        """The writers' lock, held during fsync. Neither the parts nor readers take it."""
        self._mutex = threading.Lock()

    @classmethod
    def open(cls, path: Path, max_bytes: int | None) -> StateFolder:
        """Lock the folder, check it, migrate it, and repair its parts. `max_bytes`: quota of the store.

        Raises StoreLocked, StoreUnsafe, StoreTooNew, StoreFailed.
        """
        try:
            refuse_strange(path)
            make_folders(path.parent, 0o755 if os.geteuid() == 0 else 0o700)
            lock = take_lock(path)
        except UntrustedPath as error:
            raise StoreUnsafe(f"can't use the state folder {path}: {error.why}; or give --state-dir") from error
        except OSError as error:
            raise store_error(f"can't use the state folder {path}", error) from error
        opened = cls(path, lock, max_bytes)
        try:
            opened._prepare()
        except BaseException:
            opened.close()
            raise
        return opened

    def _prepare(self) -> None:
        try:
            self._load()
        except StoreFailed:
            # The disk may be full, which SQLite does not always report.
            self.facts.close()
            self.reserve.release()
            self._load()
        self.reserve.restore()
        if self.usage.max_bytes is not None:
            self.usage.count()

    def _load(self) -> None:
        try:
            for name in (FORMAT_FILE, KEY_FILE, JOURNAL_FILE, *FACTS_FILES, RESERVE_FILE):
                check_file(self.path / name)
            if is_fresh(self.path):
                write_format(self.path)  # first, so that the folder is recognised from now on
            version = read_format(self.path)  # before anything in a newer folder is changed
            self._damaged.prepare()
            self.key.prepare()
            self.objects.prepare()
            if version < FORMAT:
                if version < FORMAT_OF_METADATA:
                    migrate(self.path)
                write_format(self.path)
            self.facts.open(self.objects.list_folders(), self.objects.meta, self.journal)
        except (OSError, sqlite3.Error) as error:
            raise store_error(f"can't use the state folder {self.path}", error) from error

    def drop_damaged(self, size: int) -> None:
        """Remove the oldest entries of `damaged/` until this frees `size` bytes. Blocks."""
        if self._damaged.drop_oldest(size):
            self.usage.count()

    @contextmanager
    def use_facts(self) -> Iterator[None]:
        """Context manager: locks the facts for writing. Translates SQLite's errors."""
        with self._mutex, self._translated():
            yield

    @contextmanager
    def read_facts(self) -> Iterator[Lookups]:
        """Context manager: lookups as of the last commit. May wait for the disk, not for writers. Translates errors."""
        with self._translated(), self.facts.readers.use() as facts:
            yield facts

    def apply(self, moves: Sequence[Move], *, gone: str | None = None) -> None:
        """Atomically write moves that are in the journal to SQLite, and remove a program (`gone`). Raises
        StoreFailed."""
        try:
            with self.use_facts():
                self.facts.apply(moves, gone=gone)
        finally:
            self.recent_names.moved(move.name for move in moves)

    def shorten_log(self) -> None:
        """Checkpoint SQLite's log if it is long. Writers wait only if it exceeds its maximum length."""
        with self._translated():
            if not self.facts.log_is_long:
                return
            self.facts.copy_log()
            if self.facts.log_is_too_long:
                with self._mutex:
                    self.facts.empty_log()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise store_error(f"can't use facts.sqlite3 in {self.path}", error) from error

    def close(self) -> None:
        """Close the parts, and unlock the folder."""
        try:
            self.objects.spares.remove()
            self.facts.close()
        except sqlite3.Error as error:
            _log.error("can't close facts.sqlite3 in %s: %s", self.path, error)
        finally:
            os.close(self._lock)
