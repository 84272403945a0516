"""Why a request can't be tried: what handlers and what they work with raise, and the wire's `error` tells."""

from __future__ import annotations

from promptlogd.wire.messages import ErrorCode

Detail = dict[str, str | int | float | list[str] | None]


class RequestError(Exception):
    """The request can't be tried. It becomes an `error` reply with this code."""

    def __init__(self, code: ErrorCode, message: str, detail: Detail | None = None) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message
        self.detail = detail
