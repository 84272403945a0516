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
        self.delay_s = 0.0
        """Time to wait before the client is told. The request counts as in progress until then."""


BUSY_MS = 1000
"""`retry_after_ms` where the daemon cannot estimate when it has capacity again."""


def busy(message: str, retry_after_ms: int = BUSY_MS) -> RequestError:
    """Return the error for a lack of capacity."""
    return RequestError("busy", message, {"retry_after_ms": retry_after_ms})
