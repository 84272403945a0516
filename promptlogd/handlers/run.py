"""run: find or take the program, give it its turn in a cell, tell how it ended."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec
import trio

from promptlogd.client import Client
from promptlogd.config import LimitsError
from promptlogd.handlers.references import check_size, store_errors, utf8_bytes
from promptlogd.handlers.submit import SMALL_BYTES, check, wrap
from promptlogd.services import RequestError, Services
from promptlogd.wire.messages import Finished, Log, Run
from sandbox.cell import Job, Trial
from sandbox.engines.quickjs.replies import WRAPPER_VERSION, Wrapped
from sandbox.limits import Limits
from sandbox.outcome import Cancelled, LogLine

SOURCE_NAME = "program.js"
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
            await check(services, client, job.code, trial)
            if isinstance(trial.checked, Wrapped):
                job = msgspec.structs.replace(job, kind="run", code=trial.checked.code)
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
    if request.engine == "deno":
        raise RequestError("unsupported", "the engine deno is not supported by this version; leave `engine` out")
    if (request.hash is None) == (request.source is None):
        raise RequestError("bad_request", "give either `hash` or `source`")
    bounds = services.config.limits
    prompt, env = request.prompt, str(bytes(request.env), "utf-8") or "{}"
    check_size("prompt", utf8_bytes(prompt), bounds.prompt_kb * 1024)
    check_size("env", utf8_bytes(env), bounds.env_kb * 1024)
    try:
        limits = services.config.limits_for(request.limits)
    except LimitsError as error:
        detail: dict[str, str | int | float | list[str] | None] = {"field": error.field, "limit": error.bound}
        raise RequestError("bad_request", str(error), detail) from None
    if request.source is not None:
        source = request.source.encode()
        check_size("source", len(source), bounds.source_kb * 1024)
        return _make("source", source, prompt, env, limits), hashlib.sha256(source).hexdigest(), False
    assert request.hash is not None
    with store_errors():
        hash = services.store.resolve(request.hash)
        program = services.store.load(hash)
    wrapped = program.wrapped
    if wrapped is None or program.wrapper != WRAPPER_VERSION:
        wrapped = await wrap(services, client, program.source)
        code = wrapped
        with store_errors():
            await trio.to_thread.run_sync(lambda: services.store.rewrap(hash, code, wrapper=WRAPPER_VERSION))
    return _make("run", wrapped, prompt, env, limits), hash, True


def _make(kind: Literal["run", "source"], code: bytes, prompt: str, env: str, limits: Limits) -> Job:
    return Job(kind=kind, code=code, prompt=prompt, env=env, limits=limits, source_name=SOURCE_NAME)
