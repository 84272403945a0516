"""The store as a whole: programs by hash, prefix or name. The only writer of the state folder.

Methods that read take microseconds; those that write wait for the disk, and the daemon calls them from a worker
thread. Two locks keep that safe and the readers unhindered: one among writers, held while the disk syncs, and one
around SQLite, never held while the disk syncs.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar, cast

from promptlogd.store.errors import Damaged, KeptForAnother, NotFound, StoreFailed
from promptlogd.store.facts import Fact, Facts, Move
from promptlogd.store.lock import take_lock
from promptlogd.store.objects import Meta, Objects
from promptlogd.store.recent import Recent
from promptlogd.store.records import Page, Program, Staged
from promptlogd.store.references import before, cursor, is_hash, meant, place
from promptlogd.wire.messages import Engine, Language

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_R = TypeVar("_R")

_RECENT_BYTES = 1024 * 1024
_ENTRY_BYTES = 1024
"""What an entry among the recent costs beside the program's text, about."""


def _locked(
    method: Callable[Concatenate[Store, _P], _R],
) -> Callable[Concatenate[Store, _P], _R]:
    def call(self: Store, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self._use_facts():
            return method(self, *args, **kwargs)

    return cast("Callable[Concatenate[Store, _P], _R]", wraps(method)(call))


class Store:
    """All that the daemon keeps. Made by `Store.open`."""

    def __init__(self, state_dir: Path, lock: int) -> None:
        self._state_dir = state_dir
        self._lock = lock
        self._writing = threading.Lock()
        self._mutex = threading.Lock()
        self._objects = Objects(state_dir)
        self._facts = Facts(state_dir)
        self._runs: dict[str, tuple[int, float]] = {}
        self._recent: Recent[Program] = Recent(_RECENT_BYTES)

    @classmethod
    def open(cls, state_dir: Path) -> Store:
        """Open the store in this folder, making it if need be (mode 0700), and sweep what was left over.

        Raises StoreLocked if another process has it, StoreUnsafe if it is not ours alone, StoreFailed for the disk.
        """
        try:
            state_dir.parent.mkdir(parents=True, exist_ok=True)
            lock = take_lock(state_dir)
        except OSError as error:
            raise StoreFailed(f"can't use the state folder {state_dir}: {error.strerror or error}") from error
        store = cls(state_dir, lock)
        try:
            store._objects.prepare()
            store._facts.open(set(store._objects.hashes()), store._objects.meta)
        except (OSError, sqlite3.Error) as error:
            os.close(lock)
            raise StoreFailed(f"can't use the state folder {state_dir}: {error}") from error
        return store

    @property
    def folder(self) -> Path:
        """The state folder."""
        return self._state_dir

    def close(self) -> None:
        """Write out what is buffered, and let go of the folder."""
        try:
            self.flush()
        except StoreFailed:
            pass  # counts of runs only
        self._objects.spares.remove()
        self._facts.close()
        os.close(self._lock)

    @contextmanager
    def _use_facts(self) -> Iterator[None]:
        with self._mutex:
            try:
                yield
            except sqlite3.Error as error:
                raise StoreFailed(f"the facts in {self._state_dir} can't be used: {error}") from error

    def make_spares(self) -> None:
        """Make ready what the next programs are written to. Not needed; it makes `stage` faster."""
        self._objects.spares.make()

    def stage(
        self, source: bytes, *, uid: int, engine: Engine = "quickjs", language: Language = "javascript"
    ) -> Staged:
        """Put a source on the disk before it is known to parse; `keep` or `discard` comes next. Raises StoreFailed."""
        hash = hashlib.sha256(source).hexdigest()
        meta = Meta(size=len(source), created_at=time.time(), created_by=uid, engine=engine, language=language)
        folder = None if self._objects.has(hash) else self._objects.stage(source, meta)
        return Staged(hash=hash, source=source, meta=meta, folder=folder)

    def refuse_another(self, hash: str, engine: Engine | None, language: Language | None) -> None:
        """Raise KeptForAnother if this program is kept for another engine, or as another language, than is asked for.

        Who else runs it would not know of a change.
        """
        fact = self.fact(hash)
        if fact is not None and (fact.engine, fact.language) != (engine or fact.engine, language or fact.language):
            raise KeptForAnother(hash, fact.engine, fact.language)

    def keep(
        self,
        staged: Staged,
        wrapped: bytes,
        *,
        wrapper: int,
        name: str | None,
        engine: Engine | None = None,
        language: Language | None = None,
    ) -> tuple[str, bool]:
        """Make a program of what was staged; return (hash, whether it is new), once it is safe.

        Raises StoreFailed; KeptForAnother if the program is there for another engine or language than these.
        """
        hash, folder, meta = staged.hash, staged.folder, staged.meta
        created = True
        with self._writing:
            try:
                self._objects.read(hash)
                created = False
                meta = self._objects.meta(hash)
                self.discard(staged)
                self.refuse_another(hash, engine, language)
            except (NotFound, Damaged) as error:
                if isinstance(error, Damaged):
                    self._objects.set_aside(hash)
                if folder is None:
                    folder = self._objects.stage(staged.source, staged.meta)
                self._objects.publish(hash, folder, wrapped, wrapper)
            with self._use_facts():
                self._facts.add(hash, meta)
                moves = name is not None and self._facts.named(name) != hash
            if moves:
                assert name is not None
                self._move(name, hash)
        return hash, created

    def discard(self, staged: Staged) -> None:
        """Take back what was staged and has not been kept."""
        if staged.folder is not None:
            self._objects.discard(staged.folder)

    def submit(self, source: bytes, wrapped: bytes, *, wrapper: int, name: str | None, uid: int) -> tuple[str, bool]:
        """Stage and keep a program in one go. Raises StoreFailed."""
        return self.keep(self.stage(source, uid=uid), wrapped, wrapper=wrapper, name=name)

    def resolve(self, reference: str) -> str:
        """Return the hash that a hash, a prefix or @NAME means. Raises BadReference, NotFound, Ambiguous."""
        if is_hash(reference):
            return reference  # needs no look at the facts, nor the lock on them
        with self._use_facts():
            return meant(reference, self._facts)

    def load(self, hash: str) -> Program:
        """Return a program, read and verified, now or since its files last changed.

        Raises NotFound, Damaged (set aside now), StoreFailed.
        """
        stamp = self._objects.stamp(hash)
        program = self._recent.get(hash, stamp)
        if program is not None:
            return program
        try:
            source, wrapped, wrapper = self._objects.read(hash)
        except Damaged:
            with self._writing:
                try:
                    source, wrapped, wrapper = self._objects.read(hash)
                except Damaged as error:
                    _log.error("%s", error)
                    self._objects.set_aside(hash)
                    self._forget(hash)
                    raise
        with self._use_facts():
            known = self._facts.get(hash)
        meta = known or self._objects.meta(hash)
        program = Program(
            hash=hash, source=source, engine=meta.engine, language=meta.language, wrapped=wrapped, wrapper=wrapper
        )
        if stamp is not None and stamp == self._objects.stamp(hash):
            self._recent.put(hash, stamp, len(source) + len(wrapped or b"") + _ENTRY_BYTES, program)
        return program

    def rewrap(self, hash: str, wrapped: bytes, *, wrapper: int) -> None:
        """Keep wrapped code that was made again. Raises StoreFailed."""
        with self._writing:
            if self._objects.has(hash):  # it may have been removed meanwhile
                self._objects.rewrap(hash, wrapped, wrapper)

    @_locked
    def fact(self, hash: str) -> Fact | None:
        """Return what is known of a program, if it is there."""
        return self._facts.get(hash)

    @_locked
    def show(self, hash: str) -> tuple[Fact, list[str], dict[str, list[Move]]]:
        """Return what is known of a program, its names, and where each of these has been. Raises NotFound."""
        fact = self._facts.get(hash)
        if fact is None:
            raise NotFound(hash)
        names = self._facts.names(hash)
        return fact, names, {name: self._facts.history(name) for name in names}

    @_locked
    def list(self, limit: int, after: str | None) -> Page:
        """Return a page of programs, newest first. Raises BadReference for a cursor that no page gave."""
        facts = self._facts.newest(limit + 1, None if after is None else place(after))
        more = len(facts) > limit
        facts = facts[:limit]
        return Page(
            rows=[(fact, self._facts.names(fact.hash)) for fact in facts],
            next=cursor(facts[-1]) if more else None,
        )

    def remove(self, hash: str) -> Sequence[str]:
        """Remove a program; return the names that were on it. Raises NotFound, StoreFailed."""
        with self._writing:
            if not self._objects.has(hash):
                self._forget(hash)  # a row without a program: the disk was full when that was removed
                raise NotFound(hash)
            names = self._take_names_off(hash)
            try:
                self._objects.remove(hash)
            except StoreFailed:
                for name in names:
                    self._move(name, hash)
                raise
            self._runs.pop(hash, None)
            try:
                self._forget(hash)
            except StoreFailed as error:
                _log.error("%s", error)  # it is gone; the next start drops what is still noted of it
            return names

    def label(self, name: str, hash: str | None) -> tuple[str, str | None]:
        """Move a name to a program, or back to where it was last; return (where it is, where it was).

        Raises NotFound if the program, or a place to go back to, is not there.
        """
        with self._writing:
            with self._use_facts():
                previous = self._facts.named(name)
                history = self._facts.history(name)
            if hash is None:
                hash, back = before(name, history, self._objects.has)
                self._move(name, hash, back=back)
            elif not self._objects.has(hash):
                raise NotFound(hash)
            elif previous != hash:
                self._move(name, hash)
            return hash, previous

    def _move(self, name: str, hash: str | None, *, back: int = 0) -> None:
        move = Move(name=name, hash=hash, at=time.time(), back=back)
        try:
            self._facts.write_down(move)
        except OSError as error:
            raise StoreFailed(f"can't move the name {name}: {error.strerror}") from error
        with self._use_facts():
            self._facts.apply(move)

    def _take_names_off(self, hash: str) -> Sequence[str]:
        with self._use_facts():
            names = self._facts.names(hash)
        for name in names:
            self._move(name, None)
        return names

    def _forget(self, hash: str) -> None:
        self._take_names_off(hash)
        with self._use_facts():
            self._facts.remove(hash)

    def record_run(self, hash: str) -> None:
        """Count a finished run. In memory until `flush`."""
        count, _ = self._runs.get(hash, (0, 0.0))
        self._runs[hash] = (count + 1, time.time())

    @_locked
    def flush(self) -> None:
        """Write the counted runs to the disk. Raises StoreFailed; the counts are kept for the next time."""
        runs, self._runs = self._runs, {}
        if runs:
            try:
                self._facts.count_runs(runs)
            except sqlite3.Error:
                for hash, (count, at) in runs.items():
                    later, last_at = self._runs.get(hash, (0, at))
                    self._runs[hash] = (count + later, last_at)
                raise

    @_locked
    def count(self) -> int:
        """Return how many programs there are."""
        return self._facts.count()
