"""run: find or take the program, give it its turn in a cell, tell how it ended."""

from __future__ import annotations

import hashlib
import logging

import msgspec
import trio

from promptlogd.client import Client
from promptlogd.config import LimitsError
from promptlogd.handlers.references import StoreErrors, check_size, utf8_bytes
from promptlogd.handlers.submit import SMALL_BYTES, check, chosen, unchecked, wrap
from promptlogd.services import RequestError, Services
from promptlogd.store import Program, StoreFailed
from promptlogd.wire.messages import Finished, Log, Run
from sandbox.cells import Job, Trial
from sandbox.cells.job import Engine, Language
from sandbox.engines.replies import WRAPPER_VERSIONS, Refused, Wrapped
from sandbox.limits import Limits
from sandbox.outcome import Cancelled, LogLine

_log = logging.getLogger(__name__)
SOURCE_NAMES: dict[Language, str] = {"javascript": "program.js", "typescript": "program.ts"}
"""What stacks call a program; its own name is its hash."""


async def handle(request: Run, services: Services, client: Client) -> Finished:
    """Run a program once. Raises RequestError where it could not be tried."""
    job, hash, stored = await _job(request, services, client)
    on_log = None
    if request.stream_logs:

        def on_log(line: LogLine) -> None:
            client.send(Log(id=request.id, level=line.level, text=line.text))

    fresh = (request.isolation or services.config.pool.isolation) == "jail"
    trial = Trial()
    with client.runs[request.id] as scope:
        # Above that it is checked apart, as at submit, and not on the run's own CPU time.
        if job.kind == "source" and len(job.code) > SMALL_BYTES:
            await check(services, client, job.code, trial, job.engine, job.language)
            if isinstance(trial.checked, Wrapped):
                job = msgspec.structs.replace(job, kind="run", code=trial.checked.code)
            elif not isinstance(trial.checked, Refused):
                raise unchecked(trial, services.config.limits.check_cpu_ms)
        if trial.outcome is None:
            await services.execute(job, trial, client=client, fresh=fresh, on_log=on_log)
    if scope.cancelled_caught:
        trial.outcome = Cancelled()
    if trial.outcome is None:
        raise RequestError("internal", "the run ended without an outcome")
    if stored:
        services.store.record_run(hash)
    services.runs[str(trial.outcome.__struct_config__.tag)] += 1
    return Finished(
        id=request.id,
        hash=hash,
        outcome=trial.outcome,
        logs=trial.logs,
        logs_truncated=trial.logs_truncated,
        usage=trial.usage,
    )


async def _job(request: Run, services: Services, client: Client) -> tuple[Job, str, bool]:
    if request.host_functions:
        raise RequestError("unsupported", "host functions are not supported by this version")
    if (request.hash is None) == (request.source is None):
        raise RequestError("bad_request", "give either `hash` or `source`")
    if request.hash is not None and request.language is not None:
        raise RequestError("bad_request", "`language` is for a `source`; a kept program has its own")
    bounds = services.config.limits
    prompt, env = request.prompt, str(bytes(request.env), "utf-8") or "{}"
    check_size("prompt", utf8_bytes(prompt), bounds.prompt_kb * 1024)
    check_size("env", utf8_bytes(env), bounds.env_kb * 1024)
    if request.source is not None:
        source = request.source.encode()
        check_size("source", len(source), bounds.source_kb * 1024)
        engine, language = chosen(services, request.engine, request.language)
        job = Job(
            kind="source", code=source, engine=engine, language=language, limits=_limits(request, services, engine)
        )
        hash, stored = hashlib.sha256(source).hexdigest(), False
    else:
        assert request.hash is not None
        with StoreErrors():
            hash = services.store.resolve(request.hash)
            program = services.store.load(hash)
        own, language = program.engine, program.language
        engine, stored = request.engine or own, True
        limits = _limits(request, services, engine)
        if engine != own:
            # What is stored is wrapped for its own engine.
            engine, language = chosen(services, engine, language)
            job = Job(kind="source", code=program.source, engine=engine, language=language, limits=limits)
        else:
            code = program.wrapped
            if code is None or program.wrapper != WRAPPER_VERSIONS[engine]:
                code = await _wrap_again(services, client, program)
            job = Job(kind="run", code=code, engine=engine, language=language, limits=limits)
    name = SOURCE_NAMES[language]
    return msgspec.structs.replace(job, prompt=prompt, env=env, source_name=name), hash, stored


def _limits(request: Run, services: Services, engine: Engine) -> Limits:
    try:
        return services.config.limits_for(request.limits, engine)
    except LimitsError as error:
        detail: dict[str, str | int | float | list[str] | None] = {"field": error.field, "limit": error.bound}
        raise RequestError("bad_request", str(error), detail) from None


async def _wrap_again(services: Services, client: Client, program: Program) -> bytes:
    code = await wrap(services, client, program.source, program.engine, program.language)
    version = WRAPPER_VERSIONS[program.engine]
    try:
        await trio.to_thread.run_sync(lambda: services.store.rewrap(program.hash, code, wrapper=version))
    except StoreFailed as error:
        _log.error("%s; program %s is checked again at its next run", error, program.hash)
    return code
