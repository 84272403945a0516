"""submit: check and wrap a source in a cell, then keep it."""

from __future__ import annotations

import hashlib

import msgspec
import trio

from promptlogd.client import Client
from promptlogd.handlers.references import StoreErrors, check_size
from promptlogd.services import RequestError, Services
from promptlogd.store import Staged, Store, StoreFailed, Submission
from promptlogd.wire.messages import Submit, Submitted
from sandbox.cells import Job, Trial
from sandbox.cells.job import Engine, Language
from sandbox.engines.replies import WRAPPER_VERSIONS, Refused, Wrapped
from sandbox.outcome import CpuLimit, Crashed, MemoryLimit, WallLimit, describe

SMALL_BYTES = 64 * 1024
"""A source whose check takes a fraction of a run's CPU time, three parses of it."""

_DISCARD_S = 5.0


async def handle(request: Submit, services: Services, client: Client) -> Submitted:
    """Keep a program. Raises RequestError, with the place in `detail` if it does not parse."""
    source = request.source.encode()
    check_size("source", len(source), services.config.limits.source_kb * 1024)
    engine, language = chosen(services, request.engine, request.language)
    store = services.store
    if request.engine or request.language:
        with StoreErrors():
            store.refuse_another(hashlib.sha256(source).hexdigest(), request.engine, request.language)
    staging = _Staging(store, source, client.uid, engine, language)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(staging.run)
            try:
                wrapped = await wrap(services, client, source, engine, language)
            except RequestError as error:
                staging.refused = error
        with StoreErrors():
            staged = staging.result()
            submission = Submission(
                staged=staged,
                wrapped=wrapped,
                wrapper=WRAPPER_VERSIONS[engine],
                name=request.name,
                engine=request.engine,
                language=request.language,
            )
            hash, created = await trio.to_thread.run_sync(store.keep, submission)
            fact = store.fact(hash)
        staging.kept = True
        services.kept.set()
    finally:
        with trio.move_on_after(_DISCARD_S, shield=True):
            await staging.end()
    return Submitted(id=request.id, hash=hash, created=created, engine=fact.engine if fact else engine)


class _Staging:
    """The source on its way to the disk, while a cell looks at it: the disk takes as long as the check."""

    def __init__(self, store: Store, source: bytes, uid: int, engine: Engine, language: Language) -> None:
        self._store = store
        self._engine: Engine = engine
        self._language: Language = language
        self._source = source
        self._uid = uid
        self._staged: Staged | None = None
        self._failed: StoreFailed | None = None
        self.refused: RequestError | None = None
        self.kept = False

    async def run(self) -> None:
        try:
            self._staged = await trio.to_thread.run_sync(
                lambda: self._store.stage(self._source, uid=self._uid, engine=self._engine, language=self._language)
            )
        except StoreFailed as error:
            self._failed = error

    def result(self) -> Staged:
        """Return what was staged. Raises what stood in the way: the program's fault first, then the disk's."""
        if self.refused is not None:
            raise self.refused
        if self._failed is not None:
            raise self._failed
        assert self._staged is not None
        return self._staged

    async def end(self) -> None:
        """Discard what was staged, unless it was kept."""
        staged = self._staged
        if staged is not None and not self.kept:
            await trio.to_thread.run_sync(lambda: self._store.discard(staged))


def chosen(services: Services, engine: Engine | None, language: Language | None) -> tuple[Engine, Language]:
    """Return the engine and the language of a source. Raises RequestError for a pair that is none."""
    language = language or "javascript"
    if language == "typescript" and engine == "quickjs":
        raise RequestError("bad_request", "TypeScript needs the engine deno; leave `engine` out")
    return engine or ("deno" if language == "typescript" else services.config.engines.default), language


async def check(
    services: Services, client: Client, source: bytes, trial: Trial, engine: Engine, language: Language
) -> None:
    """Check and wrap a source, in a cell: user bytes are parsed nowhere else. Raises RequestError.

    A small one is tried in a child that waits with the default limits: to fork one with others takes longer than the
    check.
    """
    bounds = services.config.limits
    cpu_ms = bounds.check_cpu_ms
    wall_ms = max(2000, 4 * cpu_ms)
    limits = msgspec.structs.replace(services.config.default_limits(engine), wall_ms=wall_ms)
    job = Job(kind="check", code=source, engine=engine, language=language, limits=limits)
    if engine == "quickjs" and len(source) <= SMALL_BYTES and limits.cpu_ms < cpu_ms:
        first = Trial()
        await services.execute(job, first, client=client)
        if not isinstance(first.outcome, CpuLimit):
            trial.outcome, trial.checked, trial.usage = first.outcome, first.checked, first.usage
            return
    job = msgspec.structs.replace(job, limits=msgspec.structs.replace(limits, cpu_ms=cpu_ms))
    await services.execute(job, trial, client=client)


async def wrap(services: Services, client: Client, source: bytes, engine: Engine, language: Language) -> bytes:
    """Return the code that the engine runs. Raises RequestError."""
    trial = Trial()
    await check(services, client, source, trial, engine, language)
    if isinstance(trial.checked, Wrapped):
        return trial.checked.code
    if isinstance(trial.checked, Refused):
        error = trial.checked.error
        raise RequestError(
            "bad_request",
            f"syntax error: {error.message}",
            {"syntax_error": error.message, "line": error.line, "column": error.column},
        )
    raise unchecked(trial, services.config.limits.check_cpu_ms)


def unchecked(trial: Trial, cpu_ms: int) -> RequestError:
    """Return why a program could not be checked: neither a program, nor found to be none."""
    match trial.outcome:
        case CpuLimit() | WallLimit():
            return RequestError("too_large", f"checking the program took more than {cpu_ms} ms of CPU time")
        case MemoryLimit():
            return RequestError("too_large", "checking the program took more memory than a run has")
        case Crashed(signal="SIGSEGV" | "SIGABRT" | "SIGTRAP" | "SIGSYS" | "SIGILL" as signal):
            return RequestError("too_large", f"the engine did not survive parsing the program ({signal})")
        case outcome:
            why = "" if outcome is None else f": {describe(outcome)}"
            return RequestError("internal", f"the program could not be checked{why}")
