"""`from promptlogctl.client import Client, AsyncClient`: the clients, what they give and raise, and how runs end."""

from promptlogctl.asynchronous import AsyncClient
from promptlogctl.blocking import Client, PendingRun
from promptlogctl.errors import (
    ConnectionLost,
    NoDaemon,
    ProgramFailed,
    PromptlogError,
    RequestRefused,
    UntrustedDaemon,
)
from promptlogctl.result import RunResult, Submission
from promptlogd.wire.messages import LimitsAsked
from sandbox.outcome import (
    BadResult,
    Cancelled,
    CpuLimit,
    Crashed,
    LogLine,
    MemoryLimit,
    Ok,
    Outcome,
    OutputLimit,
    ProgramException,
    ProgramSyntaxError,
    Usage,
    WallLimit,
)

__all__ = [
    "AsyncClient",
    "BadResult",
    "Cancelled",
    "Client",
    "ConnectionLost",
    "CpuLimit",
    "Crashed",
    "LimitsAsked",
    "LogLine",
    "MemoryLimit",
    "NoDaemon",
    "Ok",
    "Outcome",
    "OutputLimit",
    "PendingRun",
    "ProgramException",
    "ProgramFailed",
    "ProgramSyntaxError",
    "PromptlogError",
    "RequestRefused",
    "RunResult",
    "Submission",
    "UntrustedDaemon",
    "Usage",
    "WallLimit",
]
