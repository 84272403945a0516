"""Endpoints for stored programs: `/submit` and `/programs`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from promptlogctl.client import RequestRefused
from promptlogctl.http.aliases import through_alias
from promptlogctl.http.backend import Backend, Make
from promptlogctl.http.conditional import etag_of, unless_known
from promptlogctl.http.guard import caller_of
from promptlogctl.http.json_body import json_body
from promptlogctl.http.problems import Problem
from promptlogctl.http.query import query_of
from promptlogctl.http.schemas import ListAnswer, ProgramAnswer, RemovedAnswer, SubmitAnswer, SubmitBody
from promptlogd.wire.messages import Id, List, Listed, Remove, Removed, Show, Shown, Submit, Submitted

_R = TypeVar("_R")
_submit_body = msgspec.json.Decoder(SubmitBody)
_MOST_LISTED = 1000


class Programs:
    """Stores, lists, describes and removes programs."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def submit(self, request: Request) -> Response:
        """Store a program. Moving a name that is on another program requires the right `manage`."""
        caller = caller_of(request.scope)
        caller.require("submit")
        query_of(request)
        body = await json_body(request, _submit_body)

        def make(id: Id, tenant: str | None, manage: bool) -> Submit:
            return Submit(
                id=id,
                tenant=None if tenant is None else caller.owner,
                manage=manage,
                source=body.code,
                name=body.name,
                move=caller.has("manage"),
                engine=body.engine,
                language=body.language,
                visibility=body.visibility,
            )

        try:
            reply = await self._backend.ask(caller, make, Submitted)
        except RequestRefused as refused:
            if caller.has("manage") or "on" not in refused.detail:
                raise
            detail = f"{refused.message}; moving a name requires the right 'manage'"
            raise Problem(403, "forbidden", detail, on=refused.detail["on"]) from None
        url = f"{request.scope.get('root_path', '')}/run/{reply.hash}"
        return _json(SubmitAnswer(hash=reply.hash, url=url, moved_from=reply.moved_from))

    async def list(self, request: Request) -> Response:
        """List one page of programs, newest first."""
        caller = caller_of(request.scope)
        caller.require("submit")
        query = query_of(request, "after", "limit")
        after, limit = query.get("after"), query.get("limit") or "100"
        if not limit.isascii() or not limit.isdecimal() or len(limit) > 4 or not 1 <= int(limit) <= _MOST_LISTED:
            raise Problem(400, "bad_request", f"`limit` must be a number from 1 to {_MOST_LISTED}")

        def make(id: Id, tenant: str | None, manage: bool) -> List:
            return List(id=id, tenant=tenant, manage=manage, limit=int(limit), after=after)

        reply = await self._backend.ask(caller, make, Listed)
        return _json(ListAnswer(programs=reply.programs, next=reply.next))

    async def show(self, request: Request) -> Response:
        """Describe a program; with `code=1`, include its text."""
        caller = caller_of(request.scope)
        caller.require("submit")
        code = query_of(request, "code").get("code") in ("1", "true")

        def show(reference: str) -> Make:
            return lambda id, tenant, manage: Show(id=id, tenant=tenant, manage=manage, hash=reference, source=code)

        shown = await self._of_alias(request, show, Shown)
        answer = ProgramAnswer(
            hash=shown.hash,
            size=shown.size,
            created_at=shown.created_at,
            engine=shown.engine,
            language=shown.language,
            runs=shown.runs,
            last_run_at=shown.last_run_at,
            names=shown.names,
            history=shown.history,
            code=shown.source,
        )
        body = msgspec.json.encode(answer)
        return unless_known(request, body, etag_of(body), "application/json")

    async def remove(self, request: Request) -> Response:
        """Remove a program and its names."""
        caller_of(request.scope).require("manage")
        query_of(request)

        def remove(reference: str) -> Make:
            return lambda id, tenant, manage: Remove(id=id, tenant=tenant, manage=manage, hash=reference)

        reply = await self._of_alias(request, remove, Removed, again=False)
        return _json(RemovedAnswer(hash=reply.hash, names=reply.names))

    async def _of_alias(
        self,
        request: Request,
        make: Callable[[str], Make],
        kind: type[_R],
        *,
        again: bool = True,
    ) -> _R:
        """Send a request about the program in the path."""
        caller = caller_of(request.scope)
        return await through_alias(
            request.path_params["program"],
            lambda reference: self._backend.ask(caller, make(reference), kind, again=again),
        )


def _json(answer: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(answer), 200, {"cache-control": "no-store"}, "application/json")
