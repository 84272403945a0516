"""Publishes programs atomically. Replaces damaged and unreadable programs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from promptlogd.store.artifacts import Place, check_place, seal_artifact
from promptlogd.store.errors import (
    AlreadyThere,
    Damaged,
    KeptForAnother,
    NotFound,
    NotYours,
    ProgramUnreadable,
    StoreFailed,
    StoreOverQuota,
    store_error,
)
from promptlogd.store.holders import Holder, Owner, with_holder, without_holders
from promptlogd.store.meta import Meta
from promptlogd.store.names import Labeller, Names, Placing
from promptlogd.store.records import HolderQuota, Kept, Staged, Submission
from promptlogd.store.state_folder import StateFolder
from promptlogd.store.usage import blocks, program_bytes
from sandbox.program import Engine, Language

_log = logging.getLogger(__name__)


class Submissions:
    """Publishes programs. The caller of `keep` holds the writers' lock."""

    def __init__(self, state: StateFolder, names: Names, forget: Callable[[str], None]) -> None:
        """`forget`: drops a program from memory, because its holders have changed."""
        self._forget = forget
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

        Raises StoreFailed, StoreOverQuota, OverQuota, NotYours, KeptForAnother, NameTaken, TooManyNames,
        TooManyHolders, Unstorable.
        """
        staged = submission.staged
        hash = staged.program.hash
        place = Place(hash=hash, engine=staged.meta.engine, build=submission.build)
        check_place(place)
        placing = self._place_name(submission)
        self.check_quotas(staged.meta, hash, submission.quotas)
        artifact = seal_artifact(self._state.key.value, place, submission.artifact, staged.meta.language)
        if staged.folder is not None:
            # There was no such program when this one was staged. In most cases there is still none.
            try:
                self._keep_new(staged, place, artifact, submission.name, placing)
            except AlreadyThere:
                staged = replace(staged, folder=None, claim=None)
                submission = replace(submission, staged=staged)
            except StoreOverQuota:
                if not self._objects.has(hash):
                    raise
                # A program that is stored already takes no more room.
            else:
                return _kept_new(staged.meta, hash, placing)
        try:
            meta = self._objects.meta(hash)
            self._objects.read(hash, language=meta.language, engine=meta.engine)
        except NotFound:
            self._keep_new(staged, place, artifact, submission.name, placing)
        except (Damaged, ProgramUnreadable) as error:
            _log.error("%s", error)
            return _kept_new(self._replace(submission, place, artifact, placing), hash, placing)
        else:
            self.discard(staged)
            return self._keep_present(submission, meta, place, artifact, placing)
        return _kept_new(staged.meta, hash, placing)

    def _place_name(self, submission: Submission) -> Placing:
        if submission.name is None:
            return Placing(owner=None, moved_from=None)
        labeller = Labeller(
            viewer=submission.viewer,
            new_owner=submission.staged.meta.held_by[0],
            visibility=submission.visibility,
            quotas=submission.quotas,
        )
        return self._names.place(submission.name, submission.staged.program.hash, labeller, moves=submission.moves)

    def check_quotas(self, meta: Meta, hash: str, quotas: Sequence[HolderQuota]) -> None:
        """Raise OverQuota if the holder of this metadata may not hold another program. `hash`: of its program."""
        if not quotas:
            return
        (holder,) = meta.held_by
        with self._state.read_facts() as facts:
            if any(one.owner == holder.owner for one in facts.holders.of(hash)):
                return
            for quota in quotas:
                quota.check(facts.totals.of(quota.uid, quota.tenant), programs=1, bytes=program_bytes(meta))

    def _keep_present(
        self, submission: Submission, meta: Meta, place: Place, artifact: bytes, placing: Placing
    ) -> Kept:
        """Keep a program that is stored already."""
        hash, staged = place.hash, submission.staged
        before = self.holders(hash) or meta.held_by
        if submission.replace:
            _refuse_replace(before, submission)
            self._change(staged.meta, meta, place, artifact)
            meta = self._objects.meta(hash)
        else:
            self.refuse_another(hash, submission.engine, submission.language)
            meta = self._as_listed(hash, meta)
        after = _holders_after(before, submission)
        if after != before:
            meta = replace(meta, holders=after)
            self._objects.replace_meta(hash, meta)
        self._add_facts_and_name(hash, meta, submission.name, placing)
        if after != before:
            self.set_holders(hash, after)
        created = not submission.viewer.sees_any(before)
        return Kept(hash, created, meta.engine, placing.moved_from, stored=False, holders=after)

    def holders(self, hash: str) -> list[Holder]:
        """Return the holders of a program that are in force; none if it has no row."""
        with self._state.read_facts() as facts:
            return facts.holders.of(hash)

    def change_holders(self, hash: str, holders: Sequence[Holder]) -> None:
        """Replace the holders of a program, durably. Raises NotFound, StoreFailed."""
        meta = self._as_listed(hash, self._objects.meta(hash))
        self._objects.replace_meta(hash, replace(meta, holders=list(holders)))
        self.set_holders(hash, holders)

    def set_holders(self, hash: str, holders: Sequence[Holder]) -> None:
        """Replace the holders in SQLite, after those in the metadata. Raises StoreFailed."""
        with self._state.use_facts():
            self._state.facts.set_holders(hash, holders)
        # After the row, because a reader of the old row caches it under the old stamp.
        self._objects.renew_stamp(hash)
        self._forget(hash)
        self._sync_row(f"can't change who holds program {hash}")

    def discard(self, staged: Staged) -> None:
        """Remove a staged program that was not published."""
        if staged.claim is not None:
            self._state.usage.release(staged.claim)
        if staged.folder is not None:
            self._objects.discard(staged.folder)

    def _keep_new(self, staged: Staged, place: Place, artifact: bytes, name: str | None, placing: Placing) -> None:
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
            self._put_name(place.hash, name, placing)
        except StoreFailed:
            self._undo(place.hash)
            raise

    def _replace(self, submission: Submission, place: Place, artifact: bytes, placing: Placing) -> Meta:
        """Replace a damaged or unreadable program, and return its metadata. Its time and user stay if SQLite has them,
        and so does its tenant."""
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
            before = self.holders(place.hash) or [Holder(uid=owner.uid, tenant=owner.tenant, at=fact.created_at)]
            if submission.replace:
                _refuse_replace(before, submission)
            after = _holders_after(before, submission)
            meta = replace(meta, created_at=fact.created_at, owner=owner, holders=after)
        self.discard(staged)
        folder = self._objects.stage(staged.program, meta)
        self._objects.publish(place, folder, artifact, replaces=True)
        self._state.usage.add(program_bytes(meta) + blocks(len(artifact)))
        self._add_facts_and_name(place.hash, meta, submission.name, placing)
        self.set_holders(place.hash, meta.held_by)
        return meta

    def _change(self, wanted: Meta, present: Meta, place: Place, artifact: bytes) -> None:
        """Change the engine and the language of a stored program. Its owner, its time and its holders stay."""
        meta = replace(wanted, created_at=present.created_at, owner=present.owner, holders=present.holders)
        self._objects.put_artifact(place, artifact)
        self._objects.replace_meta(place.hash, meta)
        with self._state.use_facts():
            self._state.facts.add(place.hash, meta)
        # After the row, because a reader of the old row caches it under the old stamp.
        self._objects.renew_stamp(place.hash)
        self._sync_row(f"can't change the engine and language of program {place.hash}")

    def _sync_row(self, what: str) -> None:
        """Wait until a changed row is on disk. Raises StoreFailed, which begins with `what`."""
        try:
            # Otherwise a power cut could leave a row that contradicts meta.json, and no start would notice.
            self._state.facts.sync_log()
        except OSError as error:
            raise store_error(what, error) from error

    def _as_listed(self, hash: str, meta: Meta) -> Meta:
        """Return the metadata with the engine and language of the row, if there is one.

        They differ if the daemon was killed during a change. That change was not acknowledged.
        """
        with self._state.read_facts() as facts:
            fact = facts.get(hash)
        return meta if fact is None else replace(meta, engine=fact.engine, language=fact.language)

    def _add_facts_and_name(self, hash: str, meta: Meta, name: str | None, placing: Placing) -> None:
        with self._state.use_facts():
            self._state.facts.add(hash, meta)
        self._put_name(hash, name, placing)

    def _put_name(self, hash: str, name: str | None, placing: Placing) -> None:
        if name is not None and placing.owner is not None:
            self._names.move(name, hash, placing.owner)

    def _undo(self, hash: str) -> None:
        try:
            self._state.usage.add(-self._objects.erase(self._objects.take_out(hash)))
            self._state.counts.discard(hash)
            self._state.apply([], gone=hash)
        except StoreFailed as error:
            _log.error("program %s was refused, but could not be removed again: %s", hash, error)


def _kept_new(meta: Meta, hash: str, placing: Placing) -> Kept:
    return Kept(hash, True, meta.engine, placing.moved_from, stored=True, holders=meta.held_by)


def _refuse_replace(before: Sequence[Holder], submission: Submission) -> None:
    """Raise NotYours if others hold a program whose engine or language is to be changed."""
    if without_holders(before, submission.viewer):
        hash = submission.staged.program.hash
        raise NotYours(f"others have also stored program {hash}: changing its engine requires the right `manage`")


def _holders_after(before: Sequence[Holder], submission: Submission) -> list[Holder]:
    """Return the holders of a program once it is submitted again. Raises TooManyHolders."""
    (new,) = submission.staged.meta.held_by
    known = next((holder for holder in before if holder.owner == new.owner), None)
    if known is not None and submission.visibility is None:
        return list(before)
    return with_holder(before, new)
