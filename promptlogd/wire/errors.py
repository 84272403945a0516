"""Errors in received bytes. Every error of this package is a WireError."""

from __future__ import annotations

from promptlogd.wire.messages import ErrorCode, Id


class WireError(Exception):
    """Root of this package's errors."""


class ProtocolError(WireError):
    """The stream cannot be decoded any further. Send the reason, then close the connection."""

    def __init__(self, message: str, *, code: ErrorCode = "bad_request") -> None:
        super().__init__(message)
        self.message = message
        self.code: ErrorCode = code


class BadMessage(WireError):
    """One message is invalid, but its id is readable and the stream continues. Reply with an error."""

    def __init__(
        self, id: Id, message: str, *, code: ErrorCode = "bad_request", detail: dict[str, int] | None = None
    ) -> None:
        super().__init__(f"request {id!r}: {message}")
        self.id = id
        self.message = message
        self.code: ErrorCode = code
        self.detail = detail


def too_large(what: str, size: int, most: int) -> tuple[str, dict[str, int]]:
    """Return the message and the detail of an error for an input that is too large. Sizes are in bytes."""
    return f"the {what} is {size} bytes, the maximum is {most}", {"size": size, "limit": most}
