"""Error responses: problem details (RFC 9457), and the status code of each error."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from math import ceil
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from promptlogctl.client import (
    ConnectionLost,
    NoDaemon,
    ProgramSyntaxError,
    PromptlogError,
    RequestRefused,
    UntrustedDaemon,
)
from sandbox.outcome import describe

MEDIA_TYPE = "application/problem+json"

RETRY_AFTER_S = 1
"""Value of `Retry-After` if the daemon gives none. Runs take milliseconds, and a daemon restarts within a second."""

STATUSES = {
    400: "The request target, the Host, the body or a value in it is malformed.",
    401: "The token is missing or unknown.",
    403: "The token lacks the right (`on`: the program with the name), the Host is not ours, or another site asks.",
    404: "There is no such program.",
    408: "The request did not arrive in time.",
    409: "The hash prefix matches several programs. `matches` has some of them.",
    413: "The body, the program, the prompt or `env` is too large.",
    415: "The body is not JSON, or Content-Type is not application/json.",
    422: "The program has a syntax error, at `line` and `column`.",
    429: "Busy, or a quota of this client is used up (`code` is `quota`). `Retry-After` says when to try again.",
    431: "The request target and the headers are too large.",
    502: "The daemon failed, the connection to it was lost, or the engine crashed.",
    503: "No daemon answers, or it is stopping. `Retry-After` says when to try again.",
    504: "The run reached its limit of CPU or wall time, or the daemon did not answer in time.",
    507: "The run reached its memory limit, or its result is too large.",
}
"""Descriptions of the status codes, for the OpenAPI document."""

_STATUS_OF_CODE = {
    "bad_request": 400,
    "not_found": 404,
    "ambiguous": 409,
    "too_large": 413,
    "busy": 429,
    "quota": 429,
    "forbidden": 403,
    "shutting_down": 503,
    "unsupported": 400,
    "internal": 502,
}
_STATUS_OF_OUTCOME = {
    "syntax_error": 422,
    "cpu_limit": 504,
    "wall_limit": 504,
    "memory_limit": 507,
    "output_limit": 507,
    "crashed": 502,
    "cancelled": 503,
}


class Problem(Exception):
    """An error that becomes a response with problem details."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        """`code`: machine-readable. `more`: further members of the body."""
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.more = more
        self.headers = dict(headers or {})
        if status in (429, 503):
            after_ms = more.get("retry_after_ms")
            after_s = ceil(after_ms / 1000) if isinstance(after_ms, int | float) else RETRY_AFTER_S
            self.headers.setdefault("retry-after", str(max(1, after_s)))

    def last_response(self) -> bytes:
        """Return the whole response, for a connection that the server then closes."""
        body = self.body()
        head = f"HTTP/1.1 {self.status} {self.code}\r\ncontent-type: application/problem+json\r\n"
        return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body

    def body(self) -> bytes:
        """Return the problem details. `error` repeats the detail, for clients that read only this member."""
        members = {
            "type": f"urn:promptlog:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "error": self.detail,
        }
        return msgspec.json.encode(
            {**members, **{name: value for name, value in self.more.items() if value is not None}}
        )

    def response(self) -> Response:
        """Return the response for this problem."""
        return Response(self.body(), self.status, {"cache-control": "no-store", **self.headers}, MEDIA_TYPE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response for this problem."""
        await self.response()(scope, receive, send)


def of_outcome(kind: str, message: str, **more: Any) -> Problem:
    """Return the problem for an outcome that is neither `ok` nor the program's own error."""
    return Problem(_STATUS_OF_OUTCOME[kind], kind, message, **more)


def of_error(error: PromptlogError) -> Problem:
    """Return the problem for an error of the client library."""
    match error:
        case RequestRefused(code="bad_request", detail={"syntax_error": message, **place}):
            text = describe(ProgramSyntaxError(message=str(message)))
            return Problem(422, "syntax_error", text, line=place.get("line"), column=place.get("column"))
        case RequestRefused():
            return Problem(_STATUS_OF_CODE.get(error.code, 502), error.code, error.message, **_members(error.detail))
        case NoDaemon() | UntrustedDaemon():
            return Problem(503, "no_daemon", "no promptlogd answers")
        case ConnectionLost():
            return Problem(502, "connection_lost", "the connection to the daemon was lost before its reply")
        case _:
            return Problem(502, "internal", str(error))


def _members(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Return an error's detail as members, without those that would hide the problem's own."""
    own = {"type", "title", "status", "detail", "code", "error", "headers"}
    return {name: value for name, value in detail.items() if name not in own}
