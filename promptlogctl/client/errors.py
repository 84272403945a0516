"""Errors of the connection and of requests. Every error of this package is a PromptlogError."""

from __future__ import annotations

from promptlogd.wire.messages import Error


class PromptlogError(Exception):
    """Root of this package's errors."""


class NoDaemon(PromptlogError):
    """Nobody answers on the socket, or the path can't be used for one. `mend`: what to do about it."""

    def __init__(self, socket: str, why: str, mend: str | None = None, *, also: str | None = None) -> None:
        """`also`: the socket of another daemon that is there."""
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
    """The process that answers on the default socket belongs to another user, who would see what is sent."""

    def __init__(self, socket: str, uid: int) -> None:
        message = f"the daemon at {socket} runs as uid {uid}, which is neither root nor you; nothing was sent. "
        super().__init__(f"{message}To use it anyway, pass --socket {socket} or set PROMPTLOG_SOCKET")
        self.socket = socket
        self.uid = uid


class ConnectionLost(PromptlogError):
    """The daemon went away, or wrote what is no reply, before it answered."""


class RequestRefused(PromptlogError):
    """The daemon answered with an `error`. `code` and `detail` as in the protocol."""

    def __init__(self, error: Error) -> None:
        self.code = error.code
        self.message = error.message
        self.detail = error.detail or {}
        super().__init__(with_place(error.message, self.detail.get("line"), self.detail.get("column")))


def with_place(message: str, line: object, column: object) -> str:
    """Return a message with the place in the program behind it, if the place is known."""
    return message if line is None or column is None else f"{message} (line {line}, column {column})"
