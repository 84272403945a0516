"""The store as a whole: programs by hash, prefix or name. The only writer of the state folder.

The daemon's loop calls `recall`, `recall_artifact` and `record_run`: these answer from memory. All other methods wait
for the disk, and the daemon calls them from worker threads. No reader waits for a writer: writers have a lock among
themselves, and SQLite's readers have connections of their own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from promptlogd.store.artifacts import Place, check_place, seal_artifact
from promptlogd.store.errors import Damaged, ProgramUnreadable, StoreFailed, StoreFull, Unstorable
from promptlogd.store.hashes import is_hash
from promptlogd.store.lookups import Fact
from promptlogd.store.meta import Meta, Owner, meta_of
from promptlogd.store.names import Names
from promptlogd.store.overview import Overview
from promptlogd.store.recent import Recent
from promptlogd.store.records import Kept, Page, Shown, Staged, Submission
from promptlogd.store.references import meant
from promptlogd.store.removals import Removals
from promptlogd.store.state_folder import StateFolder
from promptlogd.store.submissions import Submissions
from sandbox.program import Artifact, Engine, Language, Program

_log = logging.getLogger(__name__)

_RECENT_BYTES = 8 << 20
"""Bound of the programs in memory, and of the artifacts in memory."""
_ENTRY_BYTES = 512
"""Approximate memory of an entry without its text."""


class Store:
    """All that the daemon keeps. Made by `Store.open`."""

    def __init__(self, state: StateFolder) -> None:
        self._state = state
        self._objects = state.objects
        self._read_facts = state.read_facts
        self._names = Names(state)
        self._submissions = Submissions(state, self._names)
        self._removals = Removals(state)
        self._recent: Recent[Program] = Recent(_RECENT_BYTES)
        self._recent_artifacts: Recent[Artifact] = Recent(_RECENT_BYTES)
        self._overview = Overview(state)

    @classmethod
    def open(cls, state_dir: Path) -> Store:
        """Open the store in this folder, which is made if it is missing (mode 0700), and remove leftovers.

        A folder of an older format version is migrated. Raises StoreLocked if another process has it, StoreUnsafe if
        another user can change it, StoreTooNew if a newer promptlog wrote it, StoreFailed for the disk.
        """
        return cls(StateFolder.open(state_dir))

    def close(self) -> None:
        """Write the counted runs, and unlock the folder."""
        self.flush()
        if lost := sum(count for count, _ in self._state.counts.take().values()):
            _log.error("%d finished runs were not counted: the counts could not be written", lost)
        self._state.close()

    @property
    def folder(self) -> Path:
        """The state folder."""
        return self._state.path

    def make_spares(self) -> None:
        """Create folders for the next programs in advance. Optional: it makes `stage` faster."""
        with suppress(StoreFull), self._state.reserve.guard_writes():
            self._objects.spares.make()

    def stage(self, program: Program, *, uid: int, tenant: str | None = None) -> Staged:
        """Put a program on the disk before it is known to parse; `keep` or `discard` comes next.

        Raises Unstorable for files that the store does not take, StoreFailed.
        """
        if not is_hash(program.hash):
            raise Unstorable(f"{program.hash!r} is no hash: it must be 64 lowercase hexadecimal digits")
        meta = meta_of(program, owner=Owner(uid=uid, tenant=tenant), created_at=time.time())
        folder = None
        with self._state.reserve.guard_writes(), suppress(ProgramUnreadable):  # unreadable: `keep` replaces it
            if not self._objects.has(program.hash):
                folder = self._objects.stage(program, meta)
        return Staged(program=program, meta=meta, folder=folder)

    def refuse_another(self, hash: str, engine: Engine | None, language: Language | None) -> None:
        """Raise KeptForAnother if this program is kept for another engine, or as another language, than is asked for.

        Who else runs it would not know of a change.
        """
        self._submissions.refuse_another(hash, engine, language)

    def keep(self, submission: Submission) -> Kept:
        """Keep a staged program, and return once it is on the disk.

        Raises StoreFailed; KeptForAnother if the program is kept for another engine or language than was asked for, and
        `replace` is false;
        NameTaken if the name is on another program, and `moves` is false;
        Unstorable for an artifact that the store does not take; TooManyNames.
        """
        with self._state.writing:
            kept = self._submissions.keep(submission)
        if submission.replace:  # `recall` trusts an entry for 20 ms without a look at the files
            self._recent.forget(kept.hash)
            place = Place(hash=kept.hash, engine=submission.staged.meta.engine, build=submission.build)
            self._recent_artifacts.forget(f"{kept.hash} {place.file_name}")
        return kept

    def discard(self, staged: Staged) -> None:
        """Remove a staged program that was not kept."""
        self._submissions.discard(staged)

    def resolve(self, reference: str) -> str:
        """Return the hash that a hash, a prefix or @NAME means. Raises BadReference, NotFound, Ambiguous."""
        if is_hash(reference):
            return reference  # needs no lookup
        moves = self._state.recent_names.moves
        with self._read_facts() as facts:
            hash = meant(reference, facts)
        if reference.startswith("@"):
            self._state.recent_names.put(reference[1:], hash, moves)
        return hash

    def recall(self, reference: str) -> Program | None:
        """Return the program that a hash or @NAME means, if it was used recently and its files did not change.

        Never waits. None does not mean that there is no program: call `resolve` and `load`.
        """
        hash = self._state.recent_names.get(reference[1:]) if reference.startswith("@") else reference
        return None if hash is None else self._recent.recall(hash, lambda: self._objects.stamp(hash))

    def recall_artifact(self, hash: str, engine: Engine, build: str) -> Artifact | None:
        """Return an artifact, as `recall` returns a program. After None call `artifact`."""
        place = Place(hash=hash, engine=engine, build=build)
        key = f"{hash} {place.file_name}"
        return self._recent_artifacts.recall(key, lambda: self._objects.artifact_stamp(place))

    def load(self, hash: str) -> Program:
        """Return a program, read and verified, now or since its files last changed.

        Raises NotFound, Damaged (set aside now), StoreFailed.
        """
        stamp = self._objects.stamp(hash)
        program = self._recent.get(hash, stamp)
        if program is not None:
            return program
        try:
            program = self._read(hash)
        except Damaged:
            with self._state.writing:
                try:
                    program = self._read(hash)
                except Damaged as error:
                    self._set_aside(error)
                    raise
        if stamp is not None and stamp == self._objects.stamp(hash):
            size = sum(len(data) + _ENTRY_BYTES for data in program.files.values())
            self._recent.put(hash, stamp, size, program)
        return program

    def artifact(self, hash: str, engine: Engine, build: str) -> Artifact | None:
        """Return the artifact of a program for this build of an engine, verified now or since its file last changed.

        None if it must be made, or made again: then comes `put_artifact`. Raises Unstorable for a bad engine or build.
        """
        place = Place(hash=hash, engine=engine, build=build)
        check_place(place)
        stamp = self._objects.artifact_stamp(place)
        if stamp is None:
            return None
        key = f"{hash} {place.file_name}"
        artifact = self._recent_artifacts.get(key, stamp)
        if artifact is None:
            artifact = self._objects.artifact(place)
            if artifact is not None and stamp == self._objects.artifact_stamp(place):
                self._recent_artifacts.put(key, stamp, len(artifact.code or b"") + _ENTRY_BYTES, artifact)
        return artifact

    def put_artifact(self, hash: str, engine: Engine, build: str, artifact: Artifact) -> None:
        """Keep an artifact in place of the engine's earlier ones. Raises Unstorable, StoreFailed."""
        place = Place(hash=hash, engine=engine, build=build)
        check_place(place)
        fact = self.fact(hash)
        with self._state.writing:
            if self._objects.has(hash):  # it may have been removed meanwhile
                language = fact.language if fact is not None else self._objects.meta(hash).language
                data = seal_artifact(self._state.key.value, place, artifact, language)
                self._objects.put_artifact(place, data)
        self._recent_artifacts.forget(f"{hash} {place.file_name}")

    def _read(self, hash: str) -> Program:
        with self._read_facts() as facts:
            known = facts.get(hash)
        meta = known or self._list_again(hash)
        return self._objects.read(hash, language=meta.language, engine=meta.engine)

    def _set_aside(self, damage: Damaged) -> None:
        """Move a damaged program to `damaged/`; remove its names and facts. Raises StoreFailed if the move fails."""
        self._recent.forget(damage.hash)
        try:
            self._objects.set_aside(damage.hash)
        except StoreFailed as error:
            _log.error("program %s is damaged (%s): %s", damage.hash, damage.why, error)
            raise StoreFailed(f"program {damage.hash} is damaged ({damage.why}): {error}") from error
        _log.error("%s", damage)
        try:
            self._removals.remove_names_and_facts(damage.hash)
        except StoreFailed as error:
            _log.error("names stay on program %s, which is set aside: %s", damage.hash, error)

    def _list_again(self, hash: str) -> Meta:
        """Return the metadata of a program that no row lists, and add the row.

        If a writer is busy, a later read adds it.
        """
        meta = self._objects.meta(hash)
        if self._state.writing.acquire(blocking=False):
            try:
                with suppress(StoreFailed):
                    if self._objects.has(hash):
                        with self._state.use_facts():
                            self._state.facts.add(hash, meta)
            finally:
                self._state.writing.release()
        return meta

    def fact(self, hash: str) -> Fact | None:
        """Return the facts of a program; None if there is no row. `runs` is SQLite's count, without runs in memory."""
        with self._read_facts() as facts:
            return facts.get(hash)

    def show(self, hash: str) -> Shown:
        """Return the facts of a program, its names, and their moves. Raises NotFound."""
        return self._overview.show(hash)

    def list(self, limit: int, after: str | None) -> Page:
        """Return a page of programs, newest first. Raises BadReference for a cursor that no page gave.

        A page has `limit` programs, or fewer if they have many names.
        """
        return self._overview.list(limit, after)

    def remove(self, hash: str) -> Sequence[str]:
        """Remove a program; return the names that were on it. On a full disk this uses the reserve.

        Raises NotFound, StoreFailed.
        """
        with self._state.writing:
            try:
                return self._removals.remove(hash)
            finally:
                if self._objects.stamp(hash) is None:
                    self._recent.forget(hash)

    def label(self, name: str, hash: str | None) -> tuple[str, str | None]:
        """Move a name to a program, or back to where it was last; return (where it is, where it was).

        Raises NotFound if the program, or a place to go back to, is not there; TooManyNames, StoreFailed.
        """
        with self._state.writing:
            return self._names.label(name, hash)

    def record_run(self, hash: str) -> None:
        """Count a finished run. In memory until `flush`."""
        self._state.counts.add(hash, 1, time.time())

    def flush(self) -> None:
        """Write the counted runs, and shorten SQLite's log. If the disk refuses, the next call retries."""
        self._overview.flush()

    def count(self) -> int:
        """Return the number of programs."""
        with self._read_facts() as facts:
            return facts.count()
