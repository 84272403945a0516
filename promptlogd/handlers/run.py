"""run: find the program, run it, reply with the outcome.

More than 300 lines, because all ways to find the program of a run are here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
import trio

from promptlogd.checks import SMALL_BYTES, Checks, Unparsed, check_size
from promptlogd.config import LimitsError
from promptlogd.decoder import Decoder, DecoderFailed
from promptlogd.handlers.references import utf8_bytes
from promptlogd.handlers.rights import Rights
from promptlogd.handlers.store_threads import StoreThreads
from promptlogd.journal import Journal, run_entry
from promptlogd.log_fields import about
from promptlogd.log_rate import HASH_SHOWN
from promptlogd.principal import Principal
from promptlogd.refusal import RequestError
from promptlogd.run_totals import RunTotals
from promptlogd.runs import Runs
from promptlogd.settings import Settings
from promptlogd.sink import Sink
from promptlogd.store import Store, Viewer, is_hash
from promptlogd.wire.messages import Finished, Log, Run
from sandbox.cells.job import Job, Result
from sandbox.engines import ENGINES
from sandbox.engines.host.engine_host import EngineHost
from sandbox.limits import Limits
from sandbox.outcome import Cancelled, LogLine, Outcome, Usage
from sandbox.program import Artifact, Engine, Program
from sandbox.protocol.events import Checked, Value
from sandbox.protocol.frames import Task

_log = logging.getLogger(__name__)
_HASH_S = 5.0
"""Time limit for hashing a large source of a run that is cancelled at the same time."""

_Found = tuple[Program, Artifact | None, Engine]
"""A program, its artifact if there is one for the engine, and the engine of the run."""

_NO_USAGE = Usage(cpu_ms=0.0, wall_ms=0.0, peak_memory_bytes=0)


class RunHandler:
    """Handles `run`."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        threads: StoreThreads,
        runs: Runs,
        checks: Checks,
        hosts: Mapping[Engine, EngineHost],
        settings: Settings,
        totals: RunTotals,
        decoder: Decoder,
    ) -> None:
        self.decoder = decoder
        self._store = store
        self.journal = journal
        self.kept_texts = frozenset(settings.config.journal.keep)
        self.kept_text_bytes = settings.config.journal.keep_kb * 1024
        self._threads = threads
        self._checks = checks
        self.hosts = hosts
        self._settings = settings
        self._rights = Rights(settings)
        self._defaults: dict[Engine, Limits] = {}
        """Limits of runs that ask for none."""
        settings.on_change(lambda _: self._defaults.clear())
        self.runs = runs
        self.totals = totals
        self.isolation = settings.config.pool.isolation

    def start(self, principal: Principal, request: Run, sink: Sink) -> None:
        """Run a program once. Raises RequestError if the request is refused."""
        self._rights.require(principal, "exec" if request.hash is None else "run")
        self._refuse(request)
        if not sink.cancelled:
            self.runs.quotas.begin(principal)
        if request.source is not None and len(request.source) > SMALL_BYTES:
            run = _Run(self, principal, request, sink, "", stored=False)
            if sink.cancelled:
                run.end_unbegun()
                return
            run.begin_later(lambda: self._large(run, request, principal))
            return
        stored = request.hash is not None
        found = self._recall(request, principal) if stored else self._unstored(request)
        if found is None:
            run = _Run(self, principal, request, sink, request.hash or "", stored=False)
            if sink.cancelled:
                run.end_unbegun()
                return
            run.begin_later(lambda: self._read(run, request, principal))
            return
        program, artifact, engine = found
        run = _Run(self, principal, request, sink, program.hash, stored=stored)
        run.kept_for = program.engine if stored else None
        if sink.cancelled:
            run.end_unbegun()
            return
        job = self._job(request, program, artifact, engine, principal)
        if self._is_checked_apart(job):
            run.begin_later(lambda: self._checked(job, principal))
        else:
            run.begin(job)

    def _job(
        self, request: Run, program: Program, artifact: Artifact | None, engine: Engine, principal: Principal
    ) -> Job:
        """Return the job of a run. Raises RequestError if the request is invalid."""
        return Job(
            task=Task.CHECK_AND_RUN if artifact is None else Task.RUN,
            source=program.source,
            artifact=artifact,
            engine=engine,
            language=program.language,
            prompt=request.prompt,
            env=str(memoryview(request.env), "utf-8") or "{}",
            limits=self._limits(request, engine, principal),
            source_name=program.entry,
        )

    def _engine(self, request: Run, program: Program) -> Engine:
        """Return the engine of a run. Raises RequestError if it is unknown or cannot run the program."""
        if program.engine not in ENGINES:
            why = f"this promptlogd does not have the program's engine, {program.engine!r}"
            raise RequestError("unsupported", why)
        if request.engine is None or request.engine == program.engine:
            self._checks.refuse_disabled(program.engine)
            return program.engine
        return self._checks.choose(request.engine, program.language)[0]

    def _is_checked_apart(self, job: Job) -> bool:
        """Whether the source is checked by a separate job, as for a submit, and not within the run's CPU limit."""
        return job.task is Task.CHECK_AND_RUN and len(job.source) > SMALL_BYTES

    async def _large(self, run: _Run, request: Run, principal: Principal) -> Job | Unparsed:
        """Hash a large source in a thread, and check it in a separate job, not within the run's CPU limit.

        Hashing takes up to 5 ms for each MiB. hashlib releases the interpreter's lock.
        """
        # Shielded, because the reply to a cancelled run has the hash, too.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _HASH_S):
            program = await trio.to_thread.run_sync(self._of_source, request)
        run.hash = program.hash
        engine = self._engine(request, program)
        return await self._checked(self._job(request, program, None, engine, principal), principal)

    async def _checked(self, job: Job, principal: Principal) -> Job | Unparsed:
        checked = await self._checks.check(job.source, job.engine, job.language, principal)
        if isinstance(checked, Artifact):
            return msgspec.structs.replace(job, task=Task.RUN, artifact=checked)
        return checked

    def _refuse(self, request: Run) -> None:
        if request.host_functions:
            raise RequestError("unsupported", "host functions are not supported by this version")
        if (request.hash is None) == (request.source is None):
            raise RequestError("bad_request", "give either `hash` or `source`")
        if request.hash is not None and request.language is not None:
            raise RequestError("bad_request", "`language` is only for a `source`; a stored program has its own")
        bounds = self._settings.config.limits
        check_size("prompt", utf8_bytes(request.prompt), bounds.prompt_kb * 1024)
        check_size("env", len(memoryview(request.env)), bounds.env_kb * 1024)

    def _unstored(self, request: Run) -> _Found:
        """Return the program of a request with a source. Raises RequestError."""
        program = self._of_source(request)
        return program, None, self._engine(request, program)

    def _recall(self, request: Run, principal: Principal) -> _Found | None:
        """Return a stored program, its artifact if its own engine runs it, and the engine of the run.

        None if the program or the artifact is not in memory. Raises RequestError.
        """
        assert request.hash is not None
        program = self._store.recall(request.hash, lambda: self._rights.viewer(principal))
        if program is None:
            return None
        engine = self._engine(request, program)
        if engine != program.engine:
            return program, None, engine
        artifact = self._store.recall_artifact(program.hash, engine, self.hosts[engine].artifact_build)
        return None if artifact is None else (program, artifact, engine)

    async def _read(self, run: _Run, request: Run, principal: Principal) -> Job | Unparsed:
        """Read a stored program from the disk, and check it if necessary. Raises RequestError."""
        viewer = self._rights.viewer(principal)
        program, artifact, engine = await self._threads.read(principal, lambda: self._load(request, viewer))
        run.found(program)
        job = self._job(request, program, artifact, engine, principal)
        if job.task is Task.RUN:
            return job
        if job.engine == program.engine:
            return await self._check_again(program, job, principal)
        return await self._checked(job, principal) if self._is_checked_apart(job) else job

    def _load(self, request: Run, viewer: Viewer) -> _Found:
        """Like `_recall`, but read from the disk. The artifact is None if it is missing."""
        assert request.hash is not None
        program = self._store.load(self._store.resolve(request.hash, viewer), viewer)
        engine = self._engine(request, program)
        if engine != program.engine:
            return program, None, engine
        return program, self._store.artifact(program.hash, engine, self.hosts[engine].artifact_build), engine

    def _of_source(self, request: Run) -> Program:
        """Return the program for the source in a request. Raises RequestError. Thread-safe."""
        assert request.source is not None
        return self._checks.program(request.source, request.engine, request.language)

    def _limits(self, request: Run, engine: Engine, principal: Principal) -> Limits:
        maxima = self.runs.quotas.maxima(principal)
        default = self._defaults.get(engine)
        if request.limits is None and default is not None and not maxima:
            return default
        try:
            limits = self._settings.config.limits_for(request.limits, engine, maxima=maxima)
        except LimitsError as error:
            raise RequestError("bad_request", str(error), {"field": error.field, "limit": error.bound}) from None
        if request.limits is None and not maxima:
            self._defaults[engine] = limits
        return limits

    async def _check_again(self, program: Program, job: Job, principal: Principal) -> Job | Unparsed:
        """Check a stored program whose artifact is missing or of another build, and store the new artifact."""
        artifact = await self._checks.artifact(program.source, program.engine, program.language, principal)
        await self.keep(principal, program.hash, program.engine, artifact)
        return msgspec.structs.replace(job, task=Task.RUN, artifact=artifact)

    def record_run(self, hash: str, principal: Principal) -> None:
        """Count a finished run of a stored program."""
        self._store.record_run(hash, self._rights.viewer(principal))

    async def keep(self, principal: Principal, hash: str, engine: Engine, artifact: Artifact) -> None:
        """Replace the stored artifact. A failure is only logged, because runs do not need the artifact."""
        build = self.hosts[engine].artifact_build
        try:
            await self._threads.write(principal, lambda: self._store.put_artifact(hash, engine, build, artifact))
        except RequestError as error:
            _log.error("the artifact of program %s could not be stored: %s", hash, error.message)


class _Run:
    """One `run` request in progress."""

    def __init__(
        self, handler: RunHandler, principal: Principal, request: Run, sink: Sink, hash: str, *, stored: bool
    ) -> None:
        self._handler = handler
        self._principal = principal
        self._request = request
        self._sink = sink
        self.hash = hash
        """Hash of the program. For a large source it is set later."""
        self._stored = stored
        self._engine: Engine | None = None
        """The engine that runs the program, once known."""
        self.kept_for: Engine | None = None
        """The engine of a stored program, for which the store has an artifact."""
        self._artifact: Artifact | None = None
        """Artifact of the job, once known."""
        self._limits: Limits | None = None
        """Limits of the job, once it has begun."""
        self._streamed = 0
        """Number of console lines that were sent before the result."""
        self._kept_lines: list[LogLine] = []
        """The first of these lines, for the journal."""
        self._kept_left = handler.kept_text_bytes if "console" in handler.kept_texts else -1
        """Number of characters that the journal still keeps. Below 0: none."""

    def found(self, program: Program) -> None:
        """Note the stored program. Until then, `hash` is the reference that the client sent."""
        self.hash, self.kept_for, self._stored = program.hash, program.engine, True

    def begin(self, job: Job) -> None:
        """Start the job."""
        request, sink = self._request, self._sink
        self._engine, self._artifact, self._limits = job.engine, job.artifact, job.limits
        pending = self._handler.runs.start(
            job,
            self._principal,
            self._ended,
            fresh=(request.isolation or self._handler.isolation) == "jail",
            on_lines=self._stream if request.stream_logs else None,
            room=sink,
        )
        sink.when_cancelled(pending.cancel)

    def end_unbegun(self) -> None:
        """Reply that the run was cancelled before it started."""
        self._reply(Result(outcome=Cancelled(), usage=_NO_USAGE))

    def begin_later(self, make_job: Callable[[], Awaitable[Job | Unparsed]]) -> None:
        """Create the job in a task, then start it, unless the program has a syntax error."""
        scope = trio.CancelScope()
        self._sink.when_cancelled(scope.cancel)

        async def work() -> None:
            with scope:
                match await make_job():
                    case Unparsed(error=error, usage=usage, engine=engine):
                        self._engine = engine
                        self._reply(Result(outcome=error, usage=usage))
                        return
                    case Job() as job if not scope.cancel_called:
                        self.begin(job)
                        return
                    case _:
                        pass  # cancelled just as `make_job` ended
            if scope.cancel_called:
                self.end_unbegun()

        self._sink.spawn(work)

    def _stream(self, lines: Sequence[LogLine]) -> None:
        id = self._request.id
        self._streamed += len(lines)
        for line in lines:
            if self._kept_left < 0:
                break
            self._kept_lines.append(LogLine(level=line.level, text=line.text[: self._kept_left + 1]))
            self._kept_left -= len(line.text) + 1
        self._sink.log([Log(id=id, level=line.level, text=line.text) for line in lines])

    def _ended(self, result: Result | RequestError) -> None:
        if isinstance(result, RequestError):
            self._sink.refuse(result)
        elif result.artifact_failed and self.kept_for == self._engine:
            self._sink.spawn(lambda: self._drop_code(result))
        elif isinstance(result.outcome, Value):
            json = result.outcome.json
            self._sink.spawn(lambda: self._read(result, json))
        else:
            self._reply(result)

    async def _drop_code(self, result: Result) -> None:
        """Replace the stored artifact by one without code, so that the next run uses the source."""
        assert self._artifact is not None
        assert self._engine is not None
        artifact = msgspec.structs.replace(self._artifact, code=None)
        await self._handler.keep(self._principal, self.hash, self._engine, artifact)
        self._reply(result)

    async def _read(self, result: Result, json: bytes | memoryview) -> None:
        """Have the decoder check a large result. The run has already returned its cell and its slot."""
        try:
            outcome = await self._handler.decoder.value(self._principal.uid, json)
        except DecoderFailed as error:
            raise RequestError("internal", str(error)) from None
        self._reply(msgspec.structs.replace(result, outcome=outcome))

    def _note(self, kind: str, usage: Usage) -> None:
        """Log the outcome of a run without a result."""
        # Nothing from the program is logged, because it may contain parts of the prompt.
        # Before the program is found, the hash is what the client has sent.
        known = is_hash(self.hash)
        program = f"program {self.hash[:HASH_SHOWN]}" if known else "an unknown program"
        who = self._principal
        said = who.uid, program, usage.cpu_ms
        fields = about(
            "run", uid=who.uid, tenant=who.tenant, connection=who.connection, hash=self.hash if known else None,
            engine=self._engine, outcome=kind, cpu_ms=usage.cpu_ms,
        )  # fmt: skip
        if kind == "crashed":  # a separate statement, which has its own rate limit
            _log.warning("uid %d: a run of %s crashed, after %.1f ms of CPU", *said, extra=fields)
        else:
            _log.info("uid %d: a run of %s, after %.1f ms of CPU, ended as %s", *said, kind, extra=fields)

    def _reply(self, result: Result) -> None:
        outcome = result.outcome
        assert not isinstance(outcome, Checked | Value)  # a run is not a check, and its result was decoded
        try:
            self._sink.reply(  # first, because the client waits for it
                Finished(
                    id=self._request.id,
                    hash=self.hash,
                    outcome=outcome,
                    logs=result.logs,
                    logs_truncated=result.logs_truncated,
                    usage=result.usage,
                    engine_version=self._handler.hosts[self._engine].version if self._engine else "",
                    limits=self._limits,
                )
            )
        finally:
            self._count(result, outcome)

    def _count(self, result: Result, outcome: Outcome) -> None:
        """Count the run, and note it in the journal and, without a result, in the log."""
        if self._stored:
            self._handler.record_run(self.hash, self._principal)
        kind = str(outcome.__struct_config__.tag)
        self._handler.totals.note(self._engine, kind, result.usage)
        self._handler.journal.note(
            run_entry(
                self._principal,
                self._request,
                hash=self.hash,
                engine=self._engine,
                outcome=outcome,
                usage=result.usage,
                lines=[*self._kept_lines, *result.logs],
                line_count=self._streamed + len(result.logs),
                keep=self._handler.kept_texts,
                keep_bytes=self._handler.kept_text_bytes,
            )
        )
        if kind != "ok":
            self._note(kind, result.usage)
