"""The exception for a refused request. Handlers raise it, and the client receives it as an `error` reply."""

from __future__ import annotations

from promptlogd.wire.messages import ErrorCode

Detail = dict[str, str | int | float | list[str] | None]


class RequestError(Exception):
    """The request is refused. The client receives an `error` reply with this code."""

    def __init__(self, code: ErrorCode, message: str, detail: Detail | None = None) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message
        self.detail = detail
