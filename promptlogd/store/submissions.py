"""Keeps programs, completely or not at all. Replaces a program that is damaged or can't be read."""

from __future__ import annotations

import logging

from msgspec.structs import replace

from promptlogd.store.errors import Damaged, KeptForAnother, NotFound, ProgramUnreadable, StoreFailed
from promptlogd.store.files import Meta
from promptlogd.store.names import Names
from promptlogd.store.records import Staged, Submission
from promptlogd.store.state_folder import StateFolder
from promptlogd.wire.messages import Engine, Language

_log = logging.getLogger(__name__)


class Submissions:
    """Keeps programs. The caller of `keep` holds the writers' lock."""

    def __init__(self, state: StateFolder, names: Names) -> None:
        self._state = state
        self._objects = state.objects
        self._names = names

    def refuse_another(self, hash: str, engine: Engine | None, language: Language | None) -> None:
        """Raise KeptForAnother if this program is kept for another engine, or as another language."""
        with self._state.use_facts():
            fact = self._state.facts.get(hash)
        if fact is not None and (fact.engine, fact.language) != (engine or fact.engine, language or fact.language):
            raise KeptForAnother(hash, fact.engine, fact.language)

    def keep(self, submission: Submission) -> tuple[str, bool]:
        """Keep a staged program; return (hash, whether it is new). Raises StoreFailed, KeptForAnother."""
        staged, name = submission.staged, submission.name
        hash = staged.hash
        try:
            self._objects.read(hash)
            meta = self._objects.meta(hash)
        except NotFound:
            self._keep_new(submission)
        except (Damaged, ProgramUnreadable) as error:
            _log.error("%s", error)
            self._replace(submission)
        else:
            self.discard(staged)
            self.refuse_another(hash, submission.engine, submission.language)
            self._add_facts_and_name(hash, meta, name)
            return hash, False
        return hash, True

    def discard(self, staged: Staged) -> None:
        """Remove what was staged and has not been kept."""
        if staged.folder is not None:
            self._objects.discard(staged.folder)

    def _keep_new(self, submission: Submission) -> None:
        staged = submission.staged
        folder = staged.folder or self._objects.stage(staged.source, staged.meta)
        self._objects.publish(staged.hash, folder, submission.wrapped, submission.wrapper)
        try:
            # An earlier program with this hash, which was removed, may have left a row and counts.
            self._remove_facts_and_counts(staged.hash)
            self._add_facts_and_name(staged.hash, staged.meta, submission.name)
        except StoreFailed:
            self._undo(staged.hash)
            raise

    def _replace(self, submission: Submission) -> None:
        """Replace a damaged or unreadable program. If SQLite has its time and its user, these stay."""
        staged = submission.staged
        meta = staged.meta
        self.refuse_another(staged.hash, meta.engine, meta.language)
        with self._state.use_facts():
            fact = self._state.facts.get(staged.hash)
        if fact is not None:
            meta = replace(meta, created_at=fact.created_at, created_by=fact.created_by)
        self.discard(staged)
        folder = self._objects.stage(staged.source, meta)
        self._objects.publish(staged.hash, folder, submission.wrapped, submission.wrapper, replaces=True)
        self._add_facts_and_name(staged.hash, meta, submission.name)

    def _add_facts_and_name(self, hash: str, meta: Meta, name: str | None) -> None:
        with self._state.use_facts():
            self._state.facts.add(hash, meta)
            moves = name is not None and self._state.facts.named(name) != hash
        if moves:
            assert name is not None
            self._names.move(name, hash)

    def _undo(self, hash: str) -> None:
        try:
            self._objects.erase(self._objects.take_out(hash))
            self._remove_facts_and_counts(hash)
        except StoreFailed as error:
            _log.error("program %s was refused, but could not be removed again: %s", hash, error)

    def _remove_facts_and_counts(self, hash: str) -> None:
        with self._state.use_facts():
            self._state.counts.discard(hash)
            self._state.facts.apply([], gone=hash)
