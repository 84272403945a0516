"""The client library and the command line of promptlog."""

from promptlogctl.asynchronous import AsyncClient
from promptlogctl.blocking import Client, PendingRun
from promptlogctl.errors import ConnectionLost, NoDaemon, ProgramFailed, PromptlogError, RequestRefused
from promptlogctl.result import RunResult, Submission

__all__ = [
    "AsyncClient",
    "Client",
    "ConnectionLost",
    "NoDaemon",
    "PendingRun",
    "ProgramFailed",
    "PromptlogError",
    "RequestRefused",
    "RunResult",
    "Submission",
]
