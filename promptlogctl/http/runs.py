"""Endpoints that run programs (`/run/{program}` and `/exec`), and the HTTP response for each outcome."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Sequence
from functools import cache

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from promptlogctl.client import BadResult, Language, Ok, OnLog, ProgramException, RunResult
from promptlogctl.http.aliases import through_alias
from promptlogctl.http.backend import Backend, ClientGone
from promptlogctl.http.events import EventStream
from promptlogctl.http.guard import caller_of
from promptlogctl.http.json_body import json_body
from promptlogctl.http.problems import of_outcome
from promptlogctl.http.query import query_of
from promptlogctl.http.schemas import ErrorAnswer, ExecBody, RunBody
from promptlogd.wire.messages import Finished, Id, Run
from sandbox.outcome import describe

WHOLE_TYPE = "application/vnd.promptlog+json"
EVENTS_TYPE = "text/event-stream"

_CLIENT_GONE = 499
"""Status for logs only, because the client has disconnected."""

_Headers = Sequence[tuple[bytes, bytes]]

_run_body = msgspec.json.Decoder(RunBody)
_exec_body = msgspec.json.Decoder(ExecBody)
_NOTHING = RunBody()


class Runs:
    """Runs programs."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def get(self, request: Request) -> Awaitable[ASGIApp]:
        """Run a stored program with the `prompt` in the query."""
        caller_of(request.scope).require("run")
        query = query_of(request, "prompt", "engine")
        prompt, engine = query.get("prompt", ""), query.get("engine")
        body = _NOTHING if not prompt and engine is None else RunBody(prompt=prompt, engine=engine)
        return self._answer(request, body, request.path_params["program"])

    async def post(self, request: Request) -> ASGIApp:
        """Run a stored program with the options in the body."""
        caller_of(request.scope).require("run")
        query_of(request)
        return await self._answer(request, await json_body(request, _run_body), request.path_params["program"])

    async def exec(self, request: Request) -> ASGIApp:
        """Run the program in the body without storing it."""
        caller_of(request.scope).require("exec")
        query_of(request)
        body = await json_body(request, _exec_body)
        return await self._answer(request, body, None, code=body.code, language=body.language)

    async def _answer(
        self,
        request: Request,
        body: RunBody,
        program: str | None,
        *,
        code: str | None = None,
        language: Language | None = None,
    ) -> ASGIApp:
        accept = _accepted(request)
        caller = caller_of(request.scope)

        def run_one(reference: str | None, on_log: OnLog | None) -> Awaitable[Finished]:
            def make(id: Id, tenant: str | None, manage: bool) -> Run:
                return Run(
                    id=id,
                    tenant=tenant,
                    manage=manage,
                    hash=reference,
                    source=code,
                    language=language,
                    prompt=body.prompt,
                    env=body.env,
                    engine=body.engine,
                    isolation=body.isolation,
                    limits=body.limits,
                    stream_logs=on_log is not None,
                )

            return self._backend.run(caller, make, request.scope, request.receive, on_log)

        def run(on_log: OnLog | None = None) -> Awaitable[Finished]:
            if program is None:
                return run_one(None, on_log)
            return through_alias(program, lambda reference: run_one(reference, on_log))

        if EVENTS_TYPE in accept:
            return EventStream(run)
        try:
            return answer_of(await run(), whole=WHOLE_TYPE in accept)
        except ClientGone:
            return Response(None, _CLIENT_GONE)


class _Answer:
    """A JSON response. Starlette's own is slower, and most requests end here."""

    def __init__(self, body: bytes, status: int, headers: _Headers, media_type: bytes) -> None:
        self._body = body
        self._start = {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-length", b"%d" % len(body)), (b"content-type", media_type), *headers],
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        await send(self._start)
        await send({"type": "http.response.body", "body": self._body})


def answer_of(reply: Finished, *, whole: bool) -> ASGIApp:
    """Return the response for the result of a run. Raises Problem for outcomes other than ok and the program's own
    error."""
    headers = _headers_of(reply)
    if whole:
        return _Answer(msgspec.json.encode(RunResult.of(reply)), 200, headers, WHOLE_TYPE.encode())
    outcome = reply.outcome
    match outcome:
        case Ok():
            return _Answer(bytes(outcome.value), 200, headers, b"application/json")
        case ProgramException() | BadResult():
            return _Answer(msgspec.json.encode(ErrorAnswer(error=outcome.message)), 500, headers, b"application/json")
    place = {name: getattr(outcome, name, None) for name in ("line", "column")}
    texts = {name.decode(): value.decode("latin-1") for name, value in headers}
    raise of_outcome(texts["promptlog-outcome"], describe(outcome), headers=texts, **place)


def _headers_of(reply: Finished) -> _Headers:
    """Return the headers of every run's response."""
    usage = reply.usage
    return [
        (b"cache-control", b"no-store"),
        (b"promptlog-outcome", _name_of(type(reply.outcome))),
        (b"promptlog-hash", reply.hash.encode()),
        (b"promptlog-engine", reply.engine_version.encode("latin-1")),
        (b"promptlog-cpu-ms", b"%.3f" % usage.cpu_ms),
        (b"promptlog-wall-ms", b"%.3f" % usage.wall_ms),
        (b"promptlog-peak-memory-bytes", b"%d" % usage.peak_memory_bytes),
    ]


@cache
def _name_of(outcome: type[msgspec.Struct]) -> bytes:
    return str(outcome.__struct_config__.tag).encode()


def _accepted(request: Request) -> set[str]:
    """Return the media types in an Accept header that are not refused by `q=0`."""
    found: set[str] = set()
    accept = b"*/*"
    for name, value in request.scope["headers"]:
        if name == b"accept":
            accept = value
            break
    if accept == b"*/*":
        return found
    for part in accept.decode("latin-1").lower().split(","):
        media_type, *parameters = (word.strip() for word in part.split(";"))
        if not any(re.fullmatch(r"q=0(\.0*)?", parameter) for parameter in parameters):
            found.add(media_type)
    return found
