"""submit: check a source in a cell, then store it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Lock

import trio

from promptlogd.checks import SMALL_BYTES, Checks, OnArtifact, StartedCheck
from promptlogd.collector import Collector, Who
from promptlogd.handlers.rights import Rights
from promptlogd.handlers.store_threads import StartedCall, StoreThreads
from promptlogd.handlers.stored_quotas import stored_quotas
from promptlogd.journal import Entry, Journal
from promptlogd.log_fields import about
from promptlogd.log_rate import HASH_SHOWN
from promptlogd.principal import Principal
from promptlogd.quotas import Quotas
from promptlogd.refusal import RequestError
from promptlogd.settings import Settings
from promptlogd.sink import Sink
from promptlogd.store import Kept, Staged, Store, Submission
from promptlogd.wire.messages import Submit, Submitted
from sandbox.program import Artifact, Program

_log = logging.getLogger(__name__)
_DISCARD_S = 5.0
"""Time limit for discarding a program that was not stored."""
_CHECK_WAIT_S = 0.005
"""Time that a thread waits for the end of the check. After it, other submits may use the thread, and another thread
publishes the program."""


class SubmitHandler:
    """Handles `submit`."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        threads: StoreThreads,
        checks: Checks,
        settings: Settings,
        on_kept: Callable[[], None],
        collector: Collector,
        quotas: Quotas,
    ) -> None:
        self._rights = Rights(settings)
        self._quotas = quotas
        self._collector = collector
        self._store = store
        self._journal = journal
        self._threads = threads
        self._checks = checks
        self._settings = settings
        self._on_kept = on_kept

    def start(self, principal: Principal, request: Submit, sink: Sink) -> None:
        """Store a program. Raises RequestError; for a syntax error, with the position in `detail`."""
        self._rights.require(principal, "submit")
        self._quotas.begin(principal)
        if len(request.source) > SMALL_BYTES:
            sink.spawn(lambda: self._keep_large(principal, request, sink))
            return
        program = self._checks.program(request.source, request.engine, request.language)
        if self._may_conflict(request):
            sink.spawn(lambda: self._keep_later(principal, request, program, sink))
        else:
            storing = self._start(principal, request, program, sink)
            sink.spawn(lambda: self._keep(principal, request, storing))

    async def _keep_large(self, principal: Principal, request: Submit, sink: Sink) -> None:
        """Hash a large program in a thread, and store it."""
        program = await trio.to_thread.run_sync(self._checks.program, request.source, request.engine, request.language)
        await self._keep_later(principal, request, program, sink)

    async def _keep_later(self, principal: Principal, request: Submit, program: Program, sink: Sink) -> None:
        """Store a program unless it is stored for another engine or language than requested."""
        if self._may_conflict(request):
            asked = (request.engine, request.language)
            await self._threads.read(principal, lambda: self._store.refuse_another(program.hash, *asked))
        await self._keep(principal, request, self._start(principal, request, program, sink))

    def _may_conflict(self, request: Submit) -> bool:
        return not request.replace and (request.engine is not None or request.language is not None)

    def _start(self, principal: Principal, request: Submit, program: Program, sink: Sink) -> _Storing:
        """Start to check the program, and to write it in a thread, because both take about the same time.

        When it is stored, reply, and note it.
        """

        def end(kept: Kept) -> None:
            try:
                sink.reply(  # first, because the client waits for it
                    Submitted(
                        id=request.id,
                        hash=kept.hash,
                        created=kept.created,
                        engine=kept.engine,
                        moved_from=kept.moved_from,
                    )
                )
            finally:  # not in the task of the request, which may be cancelled just when the program is stored
                self._on_kept()
                self._note(principal, request, kept)

        storing = self._storing(principal, request, program, end)
        storing.begin()
        return storing

    async def _keep(self, principal: Principal, request: Submit, storing: _Storing) -> None:
        """Wait until the program is stored and the client has the reply. Discard a program that is not stored."""
        try:
            await storing.finish()
        except RequestError as error:
            if error.code == "quota":
                self._quotas.refused((principal.uid, principal.tenant), error)
            raise
        finally:
            await storing.end()

    def _storing(
        self, principal: Principal, request: Submit, program: Program, on_kept: Callable[[Kept], None]
    ) -> _Storing:
        holder = self._rights.holder(principal, request.visibility)
        viewer = self._rights.viewer(principal)
        quotas = stored_quotas(self._quotas, principal)

        def stage() -> Staged:
            return self._store.stage(
                program,
                uid=holder.uid,
                tenant=holder.tenant,
                gid=holder.gid,
                visibility=holder.visibility,
                quotas=quotas,
            )

        def publish(staged: Staged, artifact: Artifact) -> Kept:
            submission = Submission(
                staged=staged,
                artifact=artifact,
                build=self._checks.artifact_build(program.engine),
                name=request.name,
                engine=request.engine,
                language=request.language,
                moves=request.move,
                replace=request.replace,
                visibility=request.visibility,
                viewer=viewer,
                quotas=quotas,
            )
            return self._store.keep(submission)

        def check(on_artifact: OnArtifact) -> StartedCheck:
            return self._checks.start(program.source, program.engine, program.language, principal, on_artifact)

        return _Storing(self._store, self._threads, self._collector, principal, check, stage, publish, on_kept)

    def _note(self, principal: Principal, request: Submit, kept: Kept) -> None:
        """Note a stored program in the log and in the journal."""
        was = "stored" if kept.created else "changed" if request.replace else "already stored"
        fields = about(
            "submit", uid=principal.uid, tenant=principal.tenant, connection=principal.connection, hash=kept.hash,
            name=request.name, engine=kept.engine, outcome=was,
        )  # fmt: skip
        said = principal.uid, kept.hash[:HASH_SHOWN], kept.engine, was
        _log.info("uid %d submitted program %s for %s, %s", *said, extra=fields)
        self._journal.note(
            Entry(
                at=time.time(), kind="submit", uid=principal.uid, tenant=principal.tenant, hash=kept.hash,
                name=request.name, engine=kept.engine, outcome=was,
            )
        )  # fmt: skip


class _Storing:
    """A program that a thread writes to disk while it is checked, and publishes when the check has found no error."""

    def __init__(
        self,
        store: Store,
        threads: StoreThreads,
        collector: Collector,
        principal: Principal,
        start_check: Callable[[OnArtifact], StartedCheck],
        stage: Callable[[], Staged],
        publish: Callable[[Staged, Artifact], Kept],
        on_kept: Callable[[Kept], None],
    ) -> None:
        """`on_kept`: called on the loop as soon as the program is stored."""
        self._store = store
        self._threads = threads
        self._collector = collector
        self._principal = principal
        self._start_check = start_check
        self._check: StartedCheck | None = None
        self._stage_with = stage
        self._who = Who(uid=principal.uid, tenant=principal.tenant)
        self._publish_with = publish
        self._on_kept: Callable[[Kept], None] | None = on_kept
        self._staged: Staged | None = None
        self._kept: Kept | None = None
        self._artifact: Artifact | None = None
        """Set if the check has ended without an error."""
        self._started: StartedCall | None = None
        self._checked = Lock()
        """Locked until the check has ended."""
        self._checked.acquire()

    def begin(self) -> None:
        """Start the check. Then start to write the program, unless no thread is free or the check was refused."""
        self._check = self._start_check(self._note_artifact)
        if not self._check.has_ended:
            self._started = self._threads.start_write(self._principal, self._write_and_publish, self._tell_kept)

    def _note_artifact(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self._end_check()

    def _end_check(self) -> None:
        """Tell the thread that the check has ended."""
        if self._checked.locked():
            self._checked.release()

    def _write_and_publish(self) -> None:
        """Write the program. Publish it in the same thread if the check ends soon, because a second one takes time."""
        self._write()
        if self._checked.acquire(timeout=_CHECK_WAIT_S) and self._artifact is not None:
            self._publish(self._artifact)

    def _write(self) -> Staged:
        if self._staged is None:
            self._staged = self._collector.store(self._who, self._stage_with)
        return self._staged

    def _publish(self, artifact: Artifact) -> None:
        staged = self._write()
        self._kept = self._collector.store(self._who, lambda: self._publish_with(staged, artifact))

    def _tell_kept(self) -> None:
        on_kept = self._on_kept
        if self._kept is not None and on_kept is not None:
            self._on_kept = None
            on_kept(self._kept)

    async def finish(self) -> Kept:
        """Return once the program is checked and published. Raises RequestError."""
        assert self._check is not None
        artifact = await self._check.artifact()
        self._note_artifact(artifact)
        await self._end_thread()
        if self._kept is None:
            await self._threads.write(self._principal, lambda: self._publish(artifact))
            self._tell_kept()
        assert self._kept is not None
        return self._kept

    async def _end_thread(self) -> None:
        """Wait for the thread. Raises its error."""
        started, self._started = self._started, None
        if started is not None:
            await started.wait()

    async def end(self) -> None:
        """Discard the program, unless it was published."""
        self._end_check()
        try:
            await self._end_thread()
        except RequestError:
            pass  # the check's error matters, or the client has been told
        except Exception:
            _log.exception("a program could not be written")
        staged = self._staged
        if staged is not None and self._kept is None:
            # If the disk hangs or no thread can start, the next start of the daemon removes it.
            with trio.move_on_after(_DISCARD_S, shield=True), suppress(RuntimeError):
                await trio.to_thread.run_sync(lambda: self._store.discard(staged), abandon_on_cancel=True)
