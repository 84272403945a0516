"""run: find or take the program, have it run, reply how it ended."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec
import trio

from promptlogd.checks import SMALL_BYTES, Checks, Unparsed
from promptlogd.config import Config, LimitsError
from promptlogd.handlers.references import StoreErrors, check_size, utf8_bytes
from promptlogd.principal import Principal
from promptlogd.refusal import RequestError
from promptlogd.runs import Runs
from promptlogd.sink import Sink
from promptlogd.store import Store, StoreError
from promptlogd.wire.messages import Finished, Log, Run
from sandbox.cells.job import Job, Result
from sandbox.engines import ENGINES
from sandbox.limits import Limits
from sandbox.outcome import Cancelled, LogLine, Usage
from sandbox.program import Artifact, Engine, Program
from sandbox.protocol.events import Checked
from sandbox.protocol.frames import Task

_log = logging.getLogger(__name__)
_NO_USAGE = Usage(cpu_ms=0.0, wall_ms=0.0, peak_memory_bytes=0)


class RunHandler:
    """Handles `run`."""

    def __init__(self, store: Store, runs: Runs, checks: Checks, config: Config, outcomes: Counter[str]) -> None:
        """`outcomes`: counts finished runs by outcome."""
        self._store = store
        self._checks = checks
        self._config = config
        self._defaults: dict[Engine, Limits] = {}
        """Limits of runs that ask for none."""
        self.runs = runs
        self.outcomes = outcomes
        self.isolation = config.pool.isolation
        self.record_run = store.record_run

    def start(self, principal: Principal, request: Run, sink: Sink) -> None:
        """Run a program once. Raises RequestError if it could not be tried."""
        self._refuse(request)
        program, stored = self._find(request)
        if program.engine not in ENGINES:
            why = f"this promptlogd does not have the program's engine, {program.engine!r}"
            raise RequestError("unsupported", why)
        engine = request.engine or program.engine
        if engine != program.engine:
            engine, _ = self._checks.choose(engine, program.language)
        job = Job(
            task=Task.CHECK_AND_RUN,
            source=program.source,
            engine=engine,
            language=program.language,
            prompt=request.prompt,
            env=str(bytes(request.env), "utf-8") or "{}",
            limits=self._limits(request, engine),
            source_name=program.entry,
        )
        run = _Run(self, principal, request, sink, program.hash, stored=stored)
        if sink.cancelled:
            run.end_unbegun()
            return
        if stored and engine == program.engine:
            build = ENGINES[engine].build
            with StoreErrors():
                artifact = self._store.artifact(program.hash, engine, build)
            if artifact is None:
                run.begin_later(lambda: self._made_again(program, job, principal))
            else:
                run.begin(msgspec.structs.replace(job, task=Task.RUN, artifact=artifact))
        elif len(job.source) > SMALL_BYTES:
            # It is checked apart, as at submit, and not on the run's own CPU time.
            run.begin_later(lambda: self._checked(job, principal))
        else:
            run.begin(job)

    def _refuse(self, request: Run) -> None:
        if request.host_functions:
            raise RequestError("unsupported", "host functions are not supported by this version")
        if (request.hash is None) == (request.source is None):
            raise RequestError("bad_request", "give either `hash` or `source`")
        if request.hash is not None and request.language is not None:
            raise RequestError("bad_request", "`language` is for a `source`; a kept program has its own")
        bounds = self._config.limits
        check_size("prompt", utf8_bytes(request.prompt), bounds.prompt_kb * 1024)
        check_size("env", len(bytes(request.env)), bounds.env_kb * 1024)

    def _find(self, request: Run) -> tuple[Program, bool]:
        """Return the program, and whether it is kept. Raises RequestError."""
        if request.source is not None:
            source = request.source.encode()
            check_size("source", len(source), self._config.limits.source_kb * 1024)
            engine, language = self._checks.choose(request.engine, request.language)
            return Program.of_text(source, language=language, engine=engine), False
        assert request.hash is not None
        with StoreErrors():
            return self._store.load(self._store.resolve(request.hash)), True

    def _limits(self, request: Run, engine: Engine) -> Limits:
        default = self._defaults.get(engine)
        if request.limits is None and default is not None:
            return default
        try:
            limits = self._config.limits_for(request.limits, engine)
        except LimitsError as error:
            raise RequestError("bad_request", str(error), {"field": error.field, "limit": error.bound}) from None
        if request.limits is None:
            self._defaults[engine] = limits
        return limits

    async def _made_again(self, program: Program, job: Job, principal: Principal) -> Job | Unparsed:
        """Check a kept program again whose artifact is missing, or of another build."""
        artifact = await self._checks.artifact(program.source, program.engine, program.language, principal)
        build = ENGINES[program.engine].build
        try:
            await trio.to_thread.run_sync(
                lambda: self._store.put_artifact(program.hash, program.engine, build, artifact)
            )
        except StoreError as error:
            _log.error("%s; program %s is checked again at its next run", error, program.hash)
        return msgspec.structs.replace(job, task=Task.RUN, artifact=artifact)

    async def _checked(self, job: Job, principal: Principal) -> Job | Unparsed:
        checked = await self._checks.check(job.source, job.engine, job.language, principal)
        if isinstance(checked, Artifact):
            return msgspec.structs.replace(job, task=Task.RUN, artifact=checked)
        return checked


class _Run:
    """One `run` request on its way."""

    def __init__(
        self, handler: RunHandler, principal: Principal, request: Run, sink: Sink, hash: str, *, stored: bool
    ) -> None:
        self._handler = handler
        self._principal = principal
        self._request = request
        self._sink = sink
        self._hash = hash
        self._stored = stored

    def begin(self, job: Job) -> None:
        """Have the job run."""
        request, sink = self._request, self._sink
        pending = self._handler.runs.start(
            job,
            self._principal,
            self._ended,
            fresh=(request.isolation or self._handler.isolation) == "jail",
            on_log=self._log if request.stream_logs else None,
            room=sink,
        )
        sink.when_cancelled(pending.cancel)

    def end_unbegun(self) -> None:
        """Reply that it was cancelled before it began."""
        self._reply(Result(outcome=Cancelled(), usage=_NO_USAGE))

    def begin_later(self, check: Callable[[], Awaitable[Job | Unparsed]]) -> None:
        """Have the program checked first, in a task; then have it run, unless it does not parse."""
        scope = trio.CancelScope()
        self._sink.when_cancelled(scope.cancel)

        async def work() -> None:
            with scope:
                match await check():
                    case Unparsed(error=error, usage=usage):
                        self._reply(Result(outcome=error, usage=usage))
                        return
                    case Job() as job if not scope.cancel_called:
                        self.begin(job)
                        return
                    case _:
                        pass  # it was cancelled as the check ended
            if scope.cancel_called:
                self.end_unbegun()

        self._sink.spawn(work)

    def _log(self, line: LogLine) -> None:
        self._sink.log(Log(id=self._request.id, level=line.level, text=line.text))

    def _ended(self, result: Result | RequestError) -> None:
        if isinstance(result, RequestError):
            self._sink.refuse(result)
        else:
            self._reply(result)

    def _reply(self, result: Result) -> None:
        outcome = result.outcome
        assert not isinstance(outcome, Checked)  # a run is no check
        if self._stored:
            self._handler.record_run(self._hash)
        self._handler.outcomes[str(outcome.__struct_config__.tag)] += 1
        self._sink.reply(
            Finished(
                id=self._request.id,
                hash=self._hash,
                outcome=outcome,
                logs=result.logs,
                logs_truncated=result.logs_truncated,
                usage=result.usage,
            )
        )
