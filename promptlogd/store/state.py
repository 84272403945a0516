"""The state folder and its parts: opened in order, closed in order."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from promptlogd.store.counts import RunCounts
from promptlogd.store.damaged import DamagedFolder
from promptlogd.store.errors import StoreFailed, StoreUnsafe, failed
from promptlogd.store.facts import Facts
from promptlogd.store.journal import Journal
from promptlogd.store.lock import take_lock
from promptlogd.store.objects import Objects
from promptlogd.store.reserve import Reserve
from sandbox.trusted_path import UntrustedPath, make_folders

_log = logging.getLogger(__name__)


class State:
    """The parts of the state folder. Made by `State.open`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._damaged = DamagedFolder(path)
        self.objects = Objects(path, self._damaged)
        self.journal = Journal(path, self._damaged)
        self.facts = Facts(path, self._damaged)
        self.reserve = Reserve(path)
        self.counts = RunCounts()
        self.writing = threading.Lock()
        """Held by one writer at a time, while the disk syncs as well. The parts do not take it."""
        self._mutex = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> State:
        """Lock the folder, check it, and make its parts agree. Raises StoreLocked, StoreUnsafe, StoreFailed."""
        try:
            make_folders(path.parent, 0o755 if os.geteuid() == 0 else 0o700)
            lock = take_lock(path)
        except UntrustedPath as error:
            raise StoreUnsafe(f"can't use the state folder {path}: {error.why}, or give --state-dir") from error
        except OSError as error:
            raise failed(f"can't use the state folder {path}", error) from error
        state = cls(path, lock)
        try:
            state._prepare()
        except BaseException:
            state.close()
            raise
        return state

    def _prepare(self) -> None:
        try:
            self._load()
        except StoreFailed:
            # The disk may be full. SQLite does not always say so.
            self.facts.close()
            self.reserve.release()
            self._load()
        self.reserve.make()

    def _load(self) -> None:
        try:
            self._damaged.prepare()
            self.objects.prepare()
            for part in (self.journal, self.facts, self.reserve):
                part.check()
            self.facts.open(self.objects.find(), self.objects.meta, self.journal)
        except (OSError, sqlite3.Error) as error:
            raise failed(f"can't use the state folder {self.path}", error) from error

    @contextmanager
    def use_facts(self) -> Iterator[None]:
        """Hold the lock on the facts; readers need it, so nobody syncs with it. Translates SQLite's errors."""
        with self._mutex:
            try:
                yield
            except sqlite3.Error as error:
                raise failed(f"can't use facts.sqlite3 in {self.path}", error) from error

    def close(self) -> None:
        """Let go of the folder."""
        try:
            self.objects.spares.remove()
            self.facts.close()
        except sqlite3.Error as error:
            _log.error("can't close facts.sqlite3 in %s: %s", self.path, error)
        finally:
            os.close(self._lock)
