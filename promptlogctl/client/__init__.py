"""`from promptlogctl.client import Client, AsyncClient`: the clients, their results and errors, and the outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from promptlogctl.client.blocking import Client, PendingRun
from promptlogctl.client.errors import ConnectionLost, NoDaemon, PromptlogError, RequestRefused, UntrustedDaemon
from promptlogctl.client.pending_reply import PendingReply
from promptlogctl.client.request import OnLog, RunOptions, SourceOptions, SubmitOptions
from promptlogctl.client.result import ProgramFailed, RunResult, Submission
from promptlogd.wire.messages import (
    DamagedPart,
    Engine,
    EngineStats,
    ErrorCode,
    Histogram,
    Isolation,
    JournalEntry,
    JournalSum,
    LimitsAsked,
    StatsReply,
    Visibility,
)
from sandbox.limits import Limits
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
from sandbox.program import Language

if TYPE_CHECKING:
    from promptlogctl.client.asynchronous import AsyncClient

__all__ = [
    "AsyncClient",
    "BadResult",
    "Cancelled",
    "Client",
    "ConnectionLost",
    "CpuLimit",
    "Crashed",
    "DamagedPart",
    "Engine",
    "EngineStats",
    "ErrorCode",
    "Histogram",
    "Isolation",
    "JournalEntry",
    "JournalSum",
    "Language",
    "Limits",
    "LimitsAsked",
    "LogLine",
    "MemoryLimit",
    "NoDaemon",
    "Ok",
    "OnLog",
    "Outcome",
    "OutputLimit",
    "PendingReply",
    "PendingRun",
    "ProgramException",
    "ProgramFailed",
    "ProgramSyntaxError",
    "PromptlogError",
    "RequestRefused",
    "RunOptions",
    "RunResult",
    "SourceOptions",
    "StatsReply",
    "Submission",
    "SubmitOptions",
    "UntrustedDaemon",
    "Usage",
    "Visibility",
    "WallLimit",
]


def __getattr__(name: str) -> Any:
    """Import AsyncClient when it is first used, because asyncio and anyio take longer to import than all else."""
    if name == "AsyncClient":
        from promptlogctl.client.asynchronous import AsyncClient

        globals()[name] = AsyncClient
        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
