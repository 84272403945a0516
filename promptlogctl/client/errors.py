"""Errors of the connection and of requests. Every error of this package is a PromptlogError."""

from __future__ import annotations

from promptlogd.wire.messages import Error


class PromptlogError(Exception):
    """Root of this package's errors."""


class NoDaemon(PromptlogError):
    """No daemon answers on the socket, or the path cannot be a socket's. `mend`: what to do."""

    def __init__(self, socket: str, why: str, mend: str | None = None, *, also: str | None = None) -> None:
        """`also`: the existing socket of another daemon."""
        if mend is None:
            mend = f"start one with: promptlogd --socket {socket}"
            mend += "" if also is None else f"; or use the system's daemon: --socket {also}"
            super().__init__(f"no promptlogd answers on {socket} ({why}); {mend}")
        else:
            super().__init__(f"can't connect to {socket}: {why}; {mend}")
        self.socket = socket
        self.why = why
        self.mend = mend


class UntrustedDaemon(PromptlogError):
    """The process that answers on the default socket belongs to another user, who could read the request."""

    def __init__(self, socket: str, uid: int) -> None:
        message = f"the daemon at {socket} runs as uid {uid}, which is neither root nor you; nothing was sent. "
        super().__init__(f"{message}To use it anyway, pass --socket {socket} or set PROMPTLOG_SOCKET")
        self.socket = socket
        self.uid = uid


class ConnectionLost(PromptlogError):
    """The connection was lost before the reply, or the daemon sent an invalid reply."""


class RequestRefused(PromptlogError):
    """The daemon replied with an `error`. `code` and `detail` are as in the protocol.

    `retry_after_s`: of `busy` and `quota`: time after which it is worth trying again. None otherwise.
    """

    def __init__(self, error: Error) -> None:
        self.code = error.code
        self.message = error.message
        self.detail = error.detail or {}
        retry_after_ms = self.detail.get("retry_after_ms")
        self.retry_after_s = retry_after_ms / 1000 if isinstance(retry_after_ms, int | float) else None
        super().__init__(with_place(error.message, self.detail.get("line"), self.detail.get("column")))


def with_place(message: str, line: object, column: object) -> str:
    """Append the position in the program to a message, if it is known."""
    return message if line is None or column is None else f"{message} (line {line}, column {column})"
