"""Keeps programs: all of it or nothing. Replaces one that is damaged or can't be read."""

from __future__ import annotations

import logging

from msgspec.structs import replace

from promptlogd.store.errors import Damaged, KeptForAnother, NotFound, StoreFailed, Unreadable
from promptlogd.store.files import Meta
from promptlogd.store.names import Names
from promptlogd.store.records import Staged
from promptlogd.store.state import State
from promptlogd.wire.messages import Engine, Language

_log = logging.getLogger(__name__)


class Submissions:
    """Keeps programs. The caller of `keep` holds the writers' lock."""

    def __init__(self, state: State, names: Names) -> None:
        self._state = state
        self._objects = state.objects
        self._names = names

    def refuse_another(self, hash: str, engine: Engine | None, language: Language | None) -> None:
        """Raise KeptForAnother if this program is kept for another engine, or as another language."""
        with self._state.use_facts():
            fact = self._state.facts.get(hash)
        if fact is not None and (fact.engine, fact.language) != (engine or fact.engine, language or fact.language):
            raise KeptForAnother(hash, fact.engine, fact.language)

    def keep(
        self,
        staged: Staged,
        wrapped: bytes,
        *,
        wrapper: int,
        name: str | None,
        engine: Engine | None,
        language: Language | None,
    ) -> tuple[str, bool]:
        """Make a program of what was staged; return (hash, whether it is new). Raises StoreFailed, KeptForAnother."""
        hash = staged.hash
        try:
            self._objects.read(hash)
            meta = self._objects.meta(hash)
        except NotFound:
            self._keep_new(staged, wrapped, wrapper, name)
        except (Damaged, Unreadable) as error:
            _log.error("%s", error)
            self._replace(staged, wrapped, wrapper, name)
        else:
            self.discard(staged)
            self.refuse_another(hash, engine, language)
            self._note(hash, meta, name)
            return hash, False
        return hash, True

    def discard(self, staged: Staged) -> None:
        """Take back what was staged and has not been kept."""
        if staged.folder is not None:
            self._objects.discard(staged.folder)

    def _keep_new(self, staged: Staged, wrapped: bytes, wrapper: int, name: str | None) -> None:
        folder = staged.folder or self._objects.stage(staged.source, staged.meta)
        self._objects.publish(staged.hash, folder, wrapped, wrapper)
        try:
            self._forget(staged.hash)  # rows and counts of an earlier program with this hash, which was removed
            self._note(staged.hash, staged.meta, name)
        except StoreFailed:
            self._undo(staged.hash)
            raise

    def _replace(self, staged: Staged, wrapped: bytes, wrapper: int, name: str | None) -> None:
        """Replace the program that is there; its time and its user stay those that the facts have."""
        meta = staged.meta
        self.refuse_another(staged.hash, meta.engine, meta.language)
        with self._state.use_facts():
            fact = self._state.facts.get(staged.hash)
        if fact is not None:
            meta = replace(meta, created_at=fact.created_at, created_by=fact.created_by)
        self.discard(staged)
        folder = self._objects.stage(staged.source, meta)
        self._objects.publish(staged.hash, folder, wrapped, wrapper, replaces=True)
        self._note(staged.hash, meta, name)

    def _note(self, hash: str, meta: Meta, name: str | None) -> None:
        with self._state.use_facts():
            self._state.facts.add(hash, meta)
            moves = name is not None and self._state.facts.named(name) != hash
        if moves:
            assert name is not None
            self._names.move(name, hash)

    def _undo(self, hash: str) -> None:
        try:
            self._objects.erase(self._objects.take_out(hash))
            self._forget(hash)
        except StoreFailed as error:
            _log.error("program %s was refused, but could not be removed again: %s", hash, error)

    def _forget(self, hash: str) -> None:
        with self._state.use_facts():
            self._state.counts.drop(hash)
            self._state.facts.apply([], gone=hash)
