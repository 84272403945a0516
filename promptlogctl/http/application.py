"""The ASGI application: which path leads where."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import resources

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from promptlogctl.client import AsyncClient, PromptlogError
from promptlogctl.http.backend import Backend
from promptlogctl.http.guard import Guard
from promptlogctl.http.page import Page
from promptlogctl.http.problems import Problem, of_error
from promptlogctl.http.programs import Programs
from promptlogctl.http.runs import Runs
from promptlogctl.http.settings import Settings, settings_of

_READY_S = 2.0

Endpoint = Callable[[Request], Awaitable[ASGIApp]]


class Application:
    """The HTTP API as an ASGI application. `close` it in the end if it is mounted, since it sees no lifespan then."""

    def __init__(self, settings: Settings) -> None:
        """It connects to the daemon at its first request, and again when the daemon was restarted."""
        self._backend = backend = Backend(settings)
        runs, programs, page, health = Runs(backend), Programs(backend), Page(), _Health(settings)
        self.routes: Sequence[BaseRoute] = [
            _route("/run/{program}", {"GET": runs.get, "POST": runs.post}),
            _route("/exec", {"POST": runs.exec}),
            _route("/submit", {"POST": programs.submit}),
            _route("/programs", {"GET": programs.list}),
            _route("/programs/{program}", {"GET": programs.show, "DELETE": programs.remove}),
            _route("/healthz", {"GET": health.alive}),
            _route("/readyz", {"GET": health.ready}),
            _route("/openapi.json", {"GET": _openapi}),
            _route("/", {"GET": page.index}),
            _route("/static/{path:path}", {"GET": page.static}),
        ]
        starlette = Starlette(
            routes=self.routes,
            exception_handlers={HTTPException: _handle_http, ClientDisconnect: _handle_disconnect},
            lifespan=self._lifespan,
        )
        starlette.router.redirect_slashes = False
        self._guarded = Guard(starlette, settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._guarded(scope, receive, send)

    def close(self) -> None:
        """Close the connections to the daemon."""
        self._backend.close()

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        self.close()


def make_app(settings: Settings) -> Application:
    """Return an application with these settings, to mount or to serve."""
    return Application(settings)


class ByEnvironment:
    """An application with the settings that the environment has at its first use."""

    def __init__(self) -> None:
        self._application: Application | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan. Raises TokenError."""
        if self._application is None:
            self._application = make_app(settings_of())
        await self._application(scope, receive, send)


def _route(path: str, endpoints: Mapping[str, Endpoint]) -> BaseRoute:
    """Return a route. HEAD is not served, since it would run a program. OPTIONS lists the methods."""
    allow = ", ".join([*endpoints, "OPTIONS"])

    async def endpoint(request: Request) -> ASGIApp:
        found = endpoints.get(request.method)
        if found is not None:
            return await found(request)
        if request.method == "OPTIONS":
            return Response(None, 204, {"allow": allow})
        raise Problem(
            405, "bad_method", f"{request.method} is not served here; there is: {allow}", headers={"allow": allow}
        )

    class Dispatch:
        """Every method: else Starlette answers some of them, in its own words."""

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            try:
                response = await endpoint(Request(scope, receive, send))
            except Problem as problem:
                response = problem
            except PromptlogError as error:
                response = of_error(error)
            await response(scope, receive, send)

    return Route(path, Dispatch(), include_in_schema=False)


class _Health:
    """`/healthz` and `/readyz`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def alive(self, request: Request) -> Response:
        """This process answers."""
        return _status("alive")

    async def ready(self, request: Request) -> Response:
        """The daemon answers as well."""
        with anyio.move_on_after(_READY_S):
            async with AsyncClient(self._settings.socket) as client:
                pong = await client.ping()
                return _status("ready", version=pong.version)
        raise Problem(503, "no_daemon", f"the daemon did not answer within {_READY_S:g} s")


def _status(status: str, **more: str) -> Response:
    body = msgspec.json.encode({"status": status, **more})
    return Response(body, 200, {"cache-control": "no-store"}, "application/json")


async def _openapi(request: Request) -> Response:
    return Response(openapi_text(), 200, {"cache-control": "no-cache"}, "application/json")


def openapi_text() -> str:
    """Return the OpenAPI document that is part of the package. `make docs` writes it."""
    return (resources.files("promptlogctl.http") / "openapi.json").read_text("utf-8")


async def _handle_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = "there is nothing at this path" if error.status_code == 404 else str(error.detail)
    code = "no_path" if error.status_code == 404 else "bad_request"
    return Problem(error.status_code, code, detail, headers=dict(error.headers or {})).response()


async def _handle_disconnect(request: Request, error: Exception) -> Response:
    return Response(None, 499)
