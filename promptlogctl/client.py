"""`from promptlogctl.client import Client, AsyncClient`."""

from promptlogctl.asynchronous import AsyncClient
from promptlogctl.blocking import Client, PendingRun
from promptlogctl.errors import ConnectionLost, NoDaemon, ProgramFailed, PromptlogError, RequestRefused
from promptlogctl.result import RunResult, Submission
from promptlogd.wire.messages import LimitsAsked

__all__ = [
    "AsyncClient",
    "Client",
    "ConnectionLost",
    "LimitsAsked",
    "NoDaemon",
    "PendingRun",
    "ProgramFailed",
    "PromptlogError",
    "RequestRefused",
    "RunResult",
    "Submission",
]
