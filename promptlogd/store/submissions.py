"""Publishes programs atomically. Replaces damaged and unreadable programs."""

from __future__ import annotations

import logging

from msgspec.structs import replace

from promptlogd.store.artifacts import Place, check_place, seal_artifact
from promptlogd.store.errors import (
    Damaged,
    KeptForAnother,
    NameTaken,
    NotFound,
    ProgramUnreadable,
    StoreFailed,
    store_error,
)
from promptlogd.store.meta import Meta, Owner
from promptlogd.store.names import Names
from promptlogd.store.records import Kept, Staged, Submission
from promptlogd.store.state_folder import StateFolder
from promptlogd.store.usage import blocks, program_bytes
from sandbox.program import Engine, Language

_log = logging.getLogger(__name__)


class Submissions:
    """Publishes programs. The caller of `keep` holds the writers' lock."""

    def __init__(self, state: StateFolder, names: Names) -> None:
        self._state = state
        self._objects = state.objects
        self._names = names

    def refuse_another(self, hash: str, engine: Engine | None, language: Language | None) -> None:
        """Raise KeptForAnother if this program is already stored for another engine or language."""
        with self._state.read_facts() as facts:
            fact = facts.get(hash)
        if fact is not None and (fact.engine, fact.language) != (engine or fact.engine, language or fact.language):
            raise KeptForAnother(hash, fact.engine, fact.language)

    def keep(self, submission: Submission) -> Kept:
        """Publish a staged program.

        Raises StoreFailed, StoreOverQuota, KeptForAnother, NameTaken, TooManyNames, Unstorable.
        """
        staged, name = submission.staged, submission.name
        hash = staged.program.hash
        place = Place(hash=hash, engine=staged.meta.engine, build=submission.build)
        check_place(place)
        moved_from = None
        if name is not None:
            moved_from = self._names.moved_from(name, hash)
            if moved_from is not None and not submission.moves:
                raise NameTaken(name, moved_from)
            self._names.check_room(name, hash)
        artifact = seal_artifact(self._state.key.value, place, submission.artifact, staged.meta.language)
        try:
            meta = self._objects.meta(hash)
            self._objects.read(hash, language=meta.language, engine=meta.engine)
        except NotFound:
            self._keep_new(staged, place, artifact, name)
        except (Damaged, ProgramUnreadable) as error:
            _log.error("%s", error)
            self._replace(submission, place, artifact)
        else:
            self.discard(staged)
            if submission.replace:
                self._change(staged.meta, meta, place, artifact)
                meta = self._objects.meta(hash)
            else:
                self.refuse_another(hash, submission.engine, submission.language)
                meta = self._as_listed(hash, meta)
            self._add_facts_and_name(hash, meta, name)
            return Kept(hash, False, meta.engine, moved_from)
        return Kept(hash, True, staged.meta.engine, moved_from)

    def discard(self, staged: Staged) -> None:
        """Remove a staged program that was not published."""
        if staged.claim is not None:
            self._state.usage.release(staged.claim)
        if staged.folder is not None:
            self._objects.discard(staged.folder)

    def _keep_new(self, staged: Staged, place: Place, artifact: bytes, name: str | None) -> None:
        usage = self._state.usage
        size = blocks(len(artifact)) + (0 if staged.claim is not None else program_bytes(staged.meta))
        claim = usage.claim(size, staged.claim)
        try:
            folder = staged.folder or self._objects.stage(staged.program, staged.meta)
            self._objects.publish(place, folder, artifact)
        except BaseException:
            usage.release(claim)
            raise
        usage.settle(claim)
        try:
            with self._state.use_facts():
                # An earlier program with this hash, which was removed, may have left a row and counts.
                self._state.counts.discard(place.hash)
                self._state.facts.add_new(place.hash, staged.meta)
            self._put_name(place.hash, name)
        except StoreFailed:
            self._undo(place.hash)
            raise

    def _replace(self, submission: Submission, place: Place, artifact: bytes) -> None:
        """Replace a damaged or unreadable program. Its time and user stay if SQLite has them, and so does its
        tenant."""
        staged = submission.staged
        meta = staged.meta
        if not submission.replace:
            self.refuse_another(place.hash, meta.engine, meta.language)
        with self._state.read_facts() as facts:
            fact = facts.get(place.hash)
        if fact is not None:
            owner = self._objects.owner(place.hash)
            if owner is None or owner.uid != fact.created_by:
                owner = Owner(uid=fact.created_by)
            meta = replace(meta, created_at=fact.created_at, owner=owner)
        self.discard(staged)
        folder = self._objects.stage(staged.program, meta)
        self._objects.publish(place, folder, artifact, replaces=True)
        self._state.usage.add(program_bytes(meta) + blocks(len(artifact)))
        self._add_facts_and_name(place.hash, meta, submission.name)

    def _change(self, wanted: Meta, present: Meta, place: Place, artifact: bytes) -> None:
        """Change the engine and the language of a stored program. Its owner and its time stay."""
        meta = replace(wanted, created_at=present.created_at, owner=present.owner)
        self._objects.put_artifact(place, artifact)
        self._objects.replace_meta(place.hash, meta)
        with self._state.use_facts():
            self._state.facts.add(place.hash, meta)
        # After the row, because a reader of the old row caches it under the old stamp.
        self._objects.renew_stamp(place.hash)
        try:
            # Otherwise a power cut could leave a row that contradicts meta.json, and no start would notice.
            self._state.facts.sync_log()
        except OSError as error:
            raise store_error(f"can't change the engine and language of program {place.hash}", error) from error

    def _as_listed(self, hash: str, meta: Meta) -> Meta:
        """Return the metadata with the engine and language of the row, if there is one.

        They differ if the daemon was killed during a change. That change was not acknowledged.
        """
        with self._state.read_facts() as facts:
            fact = facts.get(hash)
        return meta if fact is None else replace(meta, engine=fact.engine, language=fact.language)

    def _add_facts_and_name(self, hash: str, meta: Meta, name: str | None) -> None:
        with self._state.use_facts():
            self._state.facts.add(hash, meta)
        self._put_name(hash, name)

    def _put_name(self, hash: str, name: str | None) -> None:
        if name is None:
            return
        with self._state.read_facts() as facts:
            moves = facts.named(name) != hash
        if moves:
            self._names.move(name, hash)

    def _undo(self, hash: str) -> None:
        try:
            self._state.usage.add(-self._objects.erase(self._objects.take_out(hash)))
            self._state.counts.discard(hash)
            self._state.apply([], gone=hash)
        except StoreFailed as error:
            _log.error("program %s was refused, but could not be removed again: %s", hash, error)
