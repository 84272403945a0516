"""submit: check and wrap a source in a cell, then keep it."""

from __future__ import annotations

import msgspec
import trio

from promptlogd.client import Client
from promptlogd.handlers.references import check_size, store_errors
from promptlogd.services import RequestError, Services
from promptlogd.wire.messages import Submit, Submitted
from sandbox.cell import Job, Trial
from sandbox.engines.quickjs.replies import WRAPPER_VERSION, Refused, Wrapped
from sandbox.outcome import CpuLimit, MemoryLimit, WallLimit

SMALL_BYTES = 64 * 1024
"""A source whose check takes a fraction of a run's CPU time, three parses of it."""


async def handle(request: Submit, services: Services, client: Client) -> Submitted:
    """Keep a program. Raises RequestError, with the place in `detail` if it does not parse."""
    source = request.source.encode()
    check_size("source", len(source), services.config.limits.source_kb * 1024)
    wrapped = await wrap(services, client, source)
    with store_errors():
        hash, created = await trio.to_thread.run_sync(
            lambda: services.store.submit(source, wrapped, wrapper=WRAPPER_VERSION, name=request.name, uid=client.uid)
        )
    return Submitted(id=request.id, hash=hash, created=created)


async def check(services: Services, client: Client, source: bytes, trial: Trial) -> None:
    """Check and wrap a source, in a cell: user bytes are parsed nowhere else. Raises RequestError.

    A small one is tried in a child that waits with the default limits: to fork one with others takes longer than the
    check.
    """
    bounds = services.config.limits
    cpu_ms = bounds.check_cpu_ms
    wall_ms = max(2000, 4 * cpu_ms)
    limits = msgspec.structs.replace(bounds.default.limits(), wall_ms=wall_ms)
    if len(source) <= SMALL_BYTES and limits.cpu_ms < cpu_ms:
        first = Trial()
        await services.execute(Job(kind="check", code=source, limits=limits), first, client=client)
        if not isinstance(first.outcome, CpuLimit):
            trial.outcome, trial.checked, trial.usage = first.outcome, first.checked, first.usage
            return
    limits = msgspec.structs.replace(limits, cpu_ms=cpu_ms)
    await services.execute(Job(kind="check", code=source, limits=limits), trial, client=client)


async def wrap(services: Services, client: Client, source: bytes) -> bytes:
    """Return the code that the engine runs. Raises RequestError."""
    cpu_ms = services.config.limits.check_cpu_ms
    trial = Trial()
    await check(services, client, source, trial)
    match trial.checked, trial.outcome:
        case Wrapped(code=code), _:
            return code
        case Refused(error=error), _:
            raise RequestError(
                "bad_request",
                f"syntax error: {error.message}",
                {"syntax_error": error.message, "line": error.line, "column": error.column},
            )
        case _, CpuLimit() | WallLimit():
            raise RequestError("too_large", f"checking the program took more than {cpu_ms} ms of CPU time")
        case _, MemoryLimit():
            raise RequestError("too_large", "checking the program took more memory than a run has")
        case _, outcome:
            raise RequestError("internal", f"the program could not be checked: {outcome}")
