"""`from promptlogctl.client import Client, AsyncClient`."""

from promptlogctl.asynchronous import AsyncClient
from promptlogctl.blocking import Client, PendingRun
from promptlogctl.result import RunResult, Submission

__all__ = ["AsyncClient", "Client", "PendingRun", "RunResult", "Submission"]
