"""The connections to the daemon, and the tenant of each request."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import anyio
from starlette.types import Receive, Scope

from promptlogctl.client import AsyncClient, OnLog, PendingReply, RequestRefused
from promptlogctl.http.guard import Caller
from promptlogctl.http.problems import Problem
from promptlogctl.http.settings import Settings
from promptlogd.wire.messages import Finished, Id, Request

_log = logging.getLogger("promptlogctl.http")
_R = TypeVar("_R")

DAEMON_CONNECTIONS = 16
"""Maximum number of connections to the daemon. Each carries 100 requests; a new one opens when the others are full."""

IN_FLIGHT = 64
"""Maximum number of concurrent requests of one tenant. Further ones get 429, so that one tenant can't use all
capacity."""

WATCH = "promptlog.watch"
"""Key in the scope of a Watch, if the server has one."""

_WATCH_AFTER_S = 0.010
"""Without a Watch, the application waits for `http.disconnect` only after this time, because that wait costs as much as
a short run."""

_ANSWER_S = 120.0
"""Time limit for the daemon's reply. A run takes at most 30 s, and its time in the queue is bounded, so only a hanging
daemon takes longer."""

Make = Callable[[Id, str | None, bool], Request]
"""Returns the request for an id, a tenant, and whether the tenant has the right to manage."""

Watch = Callable[[Callable[[], None]], bool]
"""Registers a function that the server calls when the HTTP client disconnects. Returns False, and registers nothing, if
the server has not received the whole request."""


class ClientGone(Exception):
    """The HTTP client disconnected before its response."""


class Backend:
    """Sends requests to the daemon on behalf of tenants, over shared connections."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clients: list[AsyncClient] = []
        self._in_flight: dict[str, int] = {}
        """Number of requests by tenant."""
        self._names_tenants = True
        """Whether the daemon accepts tenant names from this process."""

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()
        self._clients.clear()

    async def ask(self, caller: Caller, make: Make, kind: type[_R], *, again: bool = True) -> _R:
        """Send a request and return its reply. `again`: it may be sent twice. Raises PromptlogError and Problem."""
        self._take_place(caller.tenant)
        try:
            with anyio.move_on_after(_ANSWER_S):
                while True:
                    tenant = self._tenant(caller)
                    try:
                        return await self._client().ask(_made(make, caller, tenant), kind, again=again)
                    except RequestRefused as refused:
                        self._raise_unless_tenant(refused, tenant)
        finally:
            self._leave_place(caller.tenant)
        raise _no_answer()

    async def run(
        self, caller: Caller, make: Make, scope: Scope, receive: Receive, on_log: OnLog | None = None
    ) -> Finished:
        """Run a program for an HTTP request and return the reply.

        If the HTTP client disconnects, the run is cancelled. Raises ClientGone, PromptlogError and Problem.
        """
        self._take_place(caller.tenant)
        try:
            while True:
                tenant = self._tenant(caller)
                pending = await self._client().send(_made(make, caller, tenant), on_log, checked=True)
                try:
                    watch: Watch | None = scope.get(WATCH)
                    if watch is None or not watch(pending.abandon):
                        return await _finished(pending, receive)
                    reply = await pending.reply_within(_ANSWER_S, Finished)
                    if reply is not None:
                        return reply
                    raise ClientGone if pending.is_abandoned else _no_answer()
                except RequestRefused as refused:
                    self._raise_unless_tenant(refused, tenant)
                finally:
                    pending.close()
        finally:
            self._leave_place(caller.tenant)

    def _take_place(self, tenant: str) -> None:
        """Count a request of a tenant. Raises Problem if there are too many."""
        count = self._in_flight.get(tenant, 0)
        if count >= IN_FLIGHT:
            raise Problem(429, "busy", f"this client already has {IN_FLIGHT} requests in flight", limit=IN_FLIGHT)
        self._in_flight[tenant] = count + 1

    def _leave_place(self, tenant: str) -> None:
        count = self._in_flight[tenant]
        if count > 1:
            self._in_flight[tenant] = count - 1
        else:
            del self._in_flight[tenant]

    def _client(self) -> AsyncClient:
        """Return the first connection with free capacity. Raises Problem if there is none."""
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
        """Re-raise the error, unless it only refuses the tenant. Then stop naming tenants until this process ends."""
        if tenant is None or refused.code != "forbidden" or refused.detail.get("field") != "tenant":
            raise refused
        if self._settings.tokens is not None:  # without tenants, all tokens would own the same programs
            raise Problem(
                503, "no_tenants", "the daemon does not accept tenants from this server: add its user to server.fronts"
            )
        self._names_tenants = False
        _log.warning(
            "the daemon does not accept tenant names from this process, so all HTTP clients count as one tenant; "
            "add this user's id to server.fronts in the daemon's configuration"
        )


def _made(make: Make, caller: Caller, tenant: str | None) -> Callable[[Id], Request]:
    """Return what makes the request for an id, for a tenant, and with the right to manage if the caller has it."""
    manage = tenant is not None and caller.has("manage")
    return lambda id: make(id, tenant, manage)


async def _finished(pending: PendingReply, receive: Receive) -> Finished:
    """Wait for the end of a run without a Watch. Raises ClientGone if the HTTP client disconnects first, and
    Problem."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

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
