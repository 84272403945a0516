"""The daemon behind the HTTP API: a few connections, and the tenant of each request."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import anyio

from promptlogctl.client import AsyncClient, OnLog, PendingReply, RequestRefused
from promptlogctl.http.guard import Caller
from promptlogctl.http.problems import Problem
from promptlogctl.http.settings import Settings
from promptlogd.wire.messages import Finished, Id, Request

_log = logging.getLogger("promptlogctl.http")
_R = TypeVar("_R")

DAEMON_CONNECTIONS = 16
"""Connections to the daemon. Each takes 100 requests; a new one opens when the others are full."""

IN_FLIGHT = 64
"""Requests of one tenant at once. Further ones are answered with 429, so that one tenant can't take all places."""

_WATCH_AFTER_S = 0.010
"""A run that takes longer than this is cancelled when its HTTP client leaves. Shorter ones are not worth a watch."""

_ANSWER_S = 120.0
"""A run lasts 30 s at most, and waits in the daemon's queue for a time that it bounds. Only a daemon that hangs takes
longer."""

Make = Callable[[Id, str | None], Request]
"""Given a request's id and tenant, returns the request."""


class ClientGone(Exception):
    """The HTTP client left before its answer was there."""


class Backend:
    """Sends requests to the daemon, for one tenant each, over a few shared connections."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clients: list[AsyncClient] = []
        self._in_flight: Counter[str] = Counter()
        self._names_tenants = True
        """Whether the daemon lets this process name tenants."""

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()
        self._clients.clear()

    async def ask(self, caller: Caller, make: Make, kind: type[_R], *, again: bool = True) -> _R:
        """Send a request, and return its reply. `again`: it may be done twice. Raises PromptlogError and Problem."""
        with self._place(caller.tenant), anyio.move_on_after(_ANSWER_S):
            while True:
                tenant = self._tenant(caller)
                try:
                    return await self._client().ask(lambda id, tenant=tenant: make(id, tenant), kind, again=again)  # type: ignore[misc]
                except RequestRefused as refused:
                    self._raise_unless_tenant(refused, tenant)
        raise _no_answer()

    async def run(
        self, caller: Caller, make: Make, gone: Callable[[], Awaitable[None]], on_log: OnLog | None = None
    ) -> Finished:
        """Run a program, and return how the run ended.

        `gone`: waits until the HTTP client has left; then the run is cancelled. Raises ClientGone, PromptlogError and
        Problem.
        """
        with self._place(caller.tenant):
            while True:
                tenant = self._tenant(caller)
                pending = await self._client().send(lambda id, tenant=tenant: make(id, tenant), on_log)  # type: ignore[misc]
                try:
                    return await _finished(pending, gone)
                except RequestRefused as refused:
                    self._raise_unless_tenant(refused, tenant)
                finally:
                    pending.close()

    @contextmanager
    def _place(self, tenant: str) -> Iterator[None]:
        """Count a request of a tenant. Raises Problem if there are too many."""
        if self._in_flight[tenant] >= IN_FLIGHT:
            raise Problem(429, "busy", f"{IN_FLIGHT} requests of this client are in flight already", limit=IN_FLIGHT)
        self._in_flight[tenant] += 1
        try:
            yield
        finally:
            self._in_flight[tenant] -= 1
            if not self._in_flight[tenant]:
                del self._in_flight[tenant]

    def _client(self) -> AsyncClient:
        """Return the first connection with a place. Raises Problem if there is none."""
        for client in self._clients:
            if client.has_place:
                return client
        if len(self._clients) >= DAEMON_CONNECTIONS:
            raise Problem(429, "busy", "all connections to the daemon are full")
        client = AsyncClient(self._settings.socket)
        self._clients.append(client)
        return client

    def _tenant(self, caller: Caller) -> str | None:
        return caller.tenant if self._names_tenants else None

    def _raise_unless_tenant(self, refused: RequestRefused, tenant: str | None) -> None:
        """Raise the refusal again, unless it refuses the tenant alone. Then name no tenants until this process ends."""
        if tenant is None or refused.code != "forbidden" or refused.detail.get("field") != "tenant":
            raise refused
        self._names_tenants = False
        _log.warning(
            "the daemon does not let this process name tenants, so all HTTP clients share one turn; "
            "add this user's id to server.fronts in the daemon's configuration"
        )


async def _finished(pending: PendingReply, gone: Callable[[], Awaitable[None]]) -> Finished:
    """Wait for the end of a run. Raises ClientGone if the HTTP client leaves first."""
    at_once = await pending.reply_within(_WATCH_AFTER_S, Finished)
    if at_once is not None:
        return at_once
    with anyio.move_on_after(_ANSWER_S):
        reply = await pending.reply_unless(gone, Finished)
        if reply is None:
            raise ClientGone
        return reply
    raise _no_answer()


def _no_answer() -> Problem:
    return Problem(504, "no_answer", f"the daemon did not answer within {_ANSWER_S:g} s")
