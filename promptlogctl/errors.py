"""What a client can meet. Every error of this package is a PromptlogError."""

from __future__ import annotations

from typing import TYPE_CHECKING

from promptlogd.wire.messages import Error

if TYPE_CHECKING:
    from promptlogctl.result import RunResult
    from sandbox.outcome import Outcome


class PromptlogError(Exception):
    """Root of this package's errors."""


class NoDaemon(PromptlogError):
    """Nobody answers on the socket."""

    def __init__(self, socket: str, why: str) -> None:
        super().__init__(f"no promptlogd answers on {socket} ({why}); start one with: promptlogd --socket {socket}")
        self.socket = socket
        self.why = why


class UntrustedDaemon(PromptlogError):
    """The process that answers on the default socket belongs to another user, who would see what is sent."""

    def __init__(self, socket: str, uid: int) -> None:
        message = f"the daemon at {socket} runs as uid {uid}, which is neither root nor you; nothing was sent. "
        super().__init__(f"{message}To use it anyway, pass --socket {socket} or set PROMPTLOG_SOCKET")
        self.socket = socket
        self.uid = uid


class NotStarted(NoDaemon):
    """The private daemon of `--spawn` did not start."""

    def __init__(self, socket: str, why: str) -> None:
        PromptlogError.__init__(self, f"the private daemon did not start: {why}")
        self.socket = socket
        self.why = why


class ConnectionLost(PromptlogError):
    """The daemon went away, or wrote what is no reply, before it answered."""


def _place(said: object) -> str:
    """Return where it was, of an outcome or an error's `detail` that says it."""
    line, column = (
        said.get(name) if isinstance(said, dict) else getattr(said, name, None) for name in ("line", "column")
    )
    return f" (line {line}, column {column})" if line is not None and column is not None else ""


class RequestRefused(PromptlogError):
    """The daemon answered with an `error`. `code` and `detail` as in the protocol."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.message + _place(error.detail))
        self.code = error.code
        self.message = error.message
        self.detail = error.detail or {}


class ProgramFailed(PromptlogError):
    """A run's value was asked for, and its outcome was not `ok`."""

    def __init__(self, result: RunResult) -> None:
        super().__init__(result.describe() + _place(result.outcome))
        self.result = result
        self.outcome: Outcome = result.outcome
