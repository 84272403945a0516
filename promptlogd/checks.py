"""Turns a submitted source into an artifact. A source is parsed only in a cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from promptlogd.principal import Principal
from promptlogd.refusal import RequestError
from promptlogd.runs import AwaitedRun, Runs
from promptlogd.settings import Settings
from promptlogd.wire.errors import too_large
from sandbox.cells.job import Job, Result
from sandbox.engines import ENGINES
from sandbox.engines.host.engine_host import EngineHost
from sandbox.outcome import CpuLimit, Crashed, MemoryLimit, Outcome, ProgramSyntaxError, Usage, WallLimit, describe
from sandbox.program import Artifact, Engine, Language, Program
from sandbox.protocol.events import Checked, Value
from sandbox.protocol.frames import Task

SMALL_BYTES = 64 * 1024
"""Checking a source of up to this size (three parses) takes a fraction of a run's CPU limit."""

OnArtifact = Callable[[Artifact], None]


def check_size(what: str, size: int, most: int) -> None:
    """Refuse an input that is too large. Sizes in bytes. Raises RequestError."""
    if size > most:
        message, detail = too_large(what, size, most)
        raise RequestError("too_large", message, {**detail})


class Unparsed(msgspec.Struct, frozen=True, kw_only=True):
    """A text that is not a program, and the usage of its check."""

    error: ProgramSyntaxError
    usage: Usage
    engine: Engine


class Checks:
    """Checks sources, within the CPU limit for checks (`limits.check_cpu_ms`)."""

    def __init__(self, runs: Runs, hosts: Mapping[Engine, EngineHost], settings: Settings) -> None:
        self._runs = runs
        self._hosts = hosts
        self._settings = settings

    def program(self, text: str, engine: Engine | None, language: Language | None) -> Program:
        """Return the program for the source in a request. Raises RequestError. Thread-safe.

        Hashing takes up to 5 ms for each MiB: call this in a thread for more than SMALL_BYTES.
        """
        source = text.encode()
        check_size("source", len(source), self._settings.config.limits.source_kb * 1024)
        engine, language = self.choose(engine, language)
        return Program.of_text(source, language=language, engine=engine)

    def choose(self, engine: Engine | None, language: Language | None) -> tuple[Engine, Language]:
        """Return the engine and the language of a source. Raises RequestError for a pair that does not exist."""
        language = language or "javascript"
        if engine is not None and engine not in ENGINES:
            known = ", ".join(map(repr, ENGINES))
            raise RequestError("bad_request", f"`engine` is {engine!r}; the engines are: {known}")
        able = [name for name, spec in ENGINES.items() if language in spec.languages]
        if engine is not None and engine not in able:
            name = {"typescript": "TypeScript", "javascript": "JavaScript"}[language]
            raise RequestError("bad_request", f"{name} needs the engine {able[0]}; leave `engine` out")
        default = self._settings.config.engines.default
        chosen = engine or (default if default in able else able[0])
        self.refuse_disabled(chosen)
        return chosen, language

    def refuse_disabled(self, engine: Engine) -> None:
        """Raise RequestError for an engine that the configuration disables."""
        if engine in self._settings.config.engines.disabled:
            raise RequestError(
                "unsupported",
                f"the engine {engine} is disabled on this daemon; to enable it, remove it from engines.disabled in the "
                "configuration and restart promptlogd",
                {"disabled": engine},
            )

    async def artifact(self, source: bytes, engine: Engine, language: Language, principal: Principal) -> Artifact:
        """Return the artifact of a program. Raises RequestError; for a syntax error, with its position."""
        return await self.start(source, engine, language, principal).artifact()

    def artifact_build(self, engine: Engine) -> str:
        """Return the current artifact build of an engine."""
        return self._hosts[engine].artifact_build

    async def check(
        self, source: bytes, engine: Engine, language: Language, principal: Principal
    ) -> Artifact | Unparsed:
        """Check a source in a cell. Raises RequestError if it could not be checked."""
        return await self.start(source, engine, language, principal).result()

    def start(
        self,
        source: bytes,
        engine: Engine,
        language: Language,
        principal: Principal,
        on_artifact: OnArtifact | None = None,
    ) -> StartedCheck:
        """Start to check a source in a cell. Then await `artifact` or `result`.

        `on_artifact` is called with the artifact as soon as a cell has answered, unless making it takes long.
        """
        cpu_ms = self._settings.config.limits.check_cpu_ms
        default = self._settings.config.default_limits(engine)
        job = Job(
            task=Task.CHECK,
            source=source,
            artifact_bytes=self._hosts[engine].artifact_bytes(source),
            engine=engine,
            language=language,
            limits=msgspec.structs.replace(default, cpu_ms=cpu_ms, wall_ms=max(2000, 4 * cpu_ms)),
        )
        first_cpu_ms = cpu_ms
        if ENGINES[engine].forks and len(source) <= SMALL_BYTES and default.cpu_ms < cpu_ms:
            # First use a blank process with the default limits: forking one with other limits takes longer than a
            # check.
            first_cpu_ms = default.cpu_ms
        return StartedCheck(self._runs, self._hosts[engine], job, first_cpu_ms, principal, on_artifact)


class StartedCheck:
    """A check that has started. One task awaits its result."""

    def __init__(
        self,
        runs: Runs,
        host: EngineHost,
        job: Job,
        first_cpu_ms: int,
        principal: Principal,
        on_artifact: OnArtifact | None,
    ) -> None:
        """`first_cpu_ms`: CPU limit of the first run. If the check needs more, `job` is run as well."""
        self._runs = runs
        self._host = host
        self._job = job
        self._principal = principal
        self._on_artifact = on_artifact
        self._artifact: Artifact | None = None
        self._may_repeat = first_cpu_ms < job.limits.cpu_ms
        if self._may_repeat:
            limits = msgspec.structs.replace(job.limits, cpu_ms=first_cpu_ms)
            job = msgspec.structs.replace(job, limits=limits)
        self._first = AwaitedRun(runs, job, principal, self._ended)

    @property
    def has_ended(self) -> bool:
        """Whether the first run has ended, or was refused."""
        return self._first.has_ended

    def _ended(self, result: Result) -> None:
        """If that is quick, make the artifact from the first run's answer, and pass it on."""
        on_artifact, self._on_artifact = self._on_artifact, None
        if isinstance(result.outcome, Checked) and not self._must_repeat(result):
            self._artifact = self._host.artifact_at_once(self._job.language, result.outcome)
            if self._artifact is not None and on_artifact is not None:
                on_artifact(self._artifact)

    def _must_repeat(self, result: Result) -> bool:
        """Whether the first run lacked CPU time."""
        return self._may_repeat and (isinstance(result.outcome, CpuLimit) or _lacks_code(result, self._job))

    async def artifact(self) -> Artifact:
        """Return the artifact of the program. Raises RequestError; for a syntax error, with its position."""
        checked = await self.result()
        if isinstance(checked, Artifact):
            return checked
        error = checked.error
        raise RequestError(
            "bad_request",
            describe(error),
            {"syntax_error": error.message, "line": error.line, "column": error.column},
        )

    async def result(self) -> Artifact | Unparsed:
        """Return the artifact, or the syntax error. Raises RequestError if the source could not be checked.

        Cancellation ends the check.
        """
        try:
            result = await self._first.result()
        finally:
            self._on_artifact = None  # otherwise a reference cycle may keep the source
        if self._artifact is not None:
            return self._artifact
        if self._must_repeat(result):
            result = await self._runs.finish(self._job, self._principal)
        job = self._job
        match result.outcome:
            case ProgramSyntaxError() as error:
                return Unparsed(error=error, usage=result.usage, engine=job.engine)
            case Checked() as checked:
                artifact = await self._host.artifact(job.source, job.language, checked)
                if artifact is None:
                    raise _unchecked(Crashed(message="the engine's answer to the check is invalid"), job)
                return artifact
            case outcome:
                assert not isinstance(outcome, Value)  # a check returns none
                raise _unchecked(outcome, job)


def _unchecked(outcome: Outcome, job: Job) -> RequestError:
    """Return the error for a source whose check gave no answer."""
    match outcome:
        case CpuLimit() | WallLimit():
            cpu_ms = job.limits.cpu_ms
            return RequestError("too_large", f"checking the program took more than {cpu_ms} ms of CPU time")
        case MemoryLimit():
            return RequestError("too_large", "checking the program took more memory than a run has")
        case Crashed(signal="SIGSEGV" | "SIGABRT" | "SIGTRAP" | "SIGSYS" | "SIGILL" as signal):
            return RequestError("too_large", f"the engine did not survive parsing the program ({signal})")
        case _:
            return RequestError("internal", f"the program could not be checked: {describe(outcome)}")


def _lacks_code(result: Result, job: Job) -> bool:
    """Whether a check returned no code, but could with more CPU time. Then the check is repeated."""
    return isinstance(result.outcome, Checked) and result.outcome.code is None and job.artifact_bytes > 0
