"""The ASGI application: maps paths to endpoints."""

from __future__ import annotations

import gc
import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from importlib import resources

import anyio
import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from promptlogctl.client import AsyncClient, PromptlogError
from promptlogctl.http.backend import Backend
from promptlogctl.http.guard import Guard, own_path
from promptlogctl.http.page import Page
from promptlogctl.http.problems import Problem, of_error
from promptlogctl.http.programs import Programs
from promptlogctl.http.runs import Runs
from promptlogctl.http.settings import Settings, settings_from_environment

_READY_S = 2.0
"""Time limit for the daemon's reply to `/readyz`."""

_READY_AGAIN_S = 0.5
"""Time for which the daemon's reply is reused."""

Endpoint = Callable[[Request], Awaitable[ASGIApp]]


class Application:
    """The HTTP API as an ASGI application. A mounted application receives no lifespan events: call `close` yourself."""

    def __init__(self, settings: Settings) -> None:
        """The application connects to the daemon at its first request, and reconnects after the daemon has
        restarted."""
        self._backend = backend = Backend(settings)
        self._health = health = _Health(settings)
        runs, programs, page = Runs(backend), Programs(backend), Page()
        self.routes: Mapping[str, Mapping[str, Endpoint]] = {
            "/run/{program}": {"GET": runs.get, "POST": runs.post},  # no HEAD: it would run the program
            "/exec": {"POST": runs.exec},
            "/submit": {"POST": programs.submit},
            "/programs": _readable(programs.list),
            "/programs/{program}": {**_readable(programs.show), "DELETE": programs.remove},
            "/healthz": _readable(health.alive),
            "/readyz": _readable(health.ready),
            "/openapi.json": _readable(_openapi),
            "/": _readable(page.index),
            "/static/{path}": _readable(page.static),
        }
        """Endpoints by path and method. A component in braces is variable; `{path}` is the rest of the path."""
        self._below = {
            path.partition("{")[0]: (path.partition("{")[2][:-1], endpoints)
            for path, endpoints in self.routes.items()
            if "{" in path
        }
        """Variables and endpoints by the part of the path before the variable."""
        self._guarded = Guard(self._dispatch, settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await receive()
            # Exclude the current objects, which stay, from garbage collection.
            gc.collect()
            gc.freeze()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.close()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await self._guarded(scope, receive, send)

    def close(self) -> None:
        """Close the connections to the daemon."""
        self._backend.close()
        self._health.close()

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._endpoint(scope)(Request(scope, receive, send))
        except Problem as problem:
            answer = problem
        except PromptlogError as error:
            answer = of_error(error)
        except ClientDisconnect:
            return
        await answer(scope, receive, send)

    def _endpoint(self, scope: Scope) -> Endpoint:
        """Return the endpoint of a request. Raises Problem."""
        path, method = own_path(scope), scope["method"]
        endpoints = self.routes.get(path)
        if endpoints is None or "{" in path:  # a client may send `/run/{program}` literally
            name, value, endpoints = self._find(path)
            scope["path_params"] = {name: value}
        endpoint = endpoints.get(method)
        if endpoint is not None:
            return endpoint
        allow = ", ".join([*endpoints, "OPTIONS"])
        if method == "OPTIONS":
            return _options(allow)
        raise Problem(405, "bad_method", f"{method} is not supported here; allowed: {allow}", headers={"allow": allow})

    def _find(self, path: str) -> tuple[str, str, Mapping[str, Endpoint]]:
        """Return the name and the value of a path's variable part, and its endpoints. Raises Problem."""
        end = path.find("/", 1) + 1
        found, value = self._below.get(path[:end]), path[end:]
        if found is None or not value or ("/" in value and found[0] != "path"):
            raise Problem(404, "no_path", "there is nothing at this path")
        name, endpoints = found
        return name, value, endpoints


def application_from_environment() -> Application:
    """Return an application with settings from environment variables. Raises TokenError."""
    return Application(settings_from_environment())


class EnvironmentApplication:
    """An application that reads its settings from environment variables at its first request."""

    def __init__(self) -> None:
        self._application: Application | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan. Raises TokenError."""
        if self._application is None:
            self._application = application_from_environment()
        await self._application(scope, receive, send)


class _Health:
    """`/healthz` and `/readyz`."""

    def __init__(self, settings: Settings) -> None:
        self._client = AsyncClient(settings.socket)
        self._checking = anyio.Lock()
        self._checked_at = -math.inf
        self._version: str | None = None
        """Version of the daemon, if it answered at the last check."""

    def close(self) -> None:
        """Close the connection to the daemon."""
        self._client.close()

    async def alive(self, request: Request) -> Response:
        """Handle `/healthz`: this process answers."""
        return _status("alive")

    async def ready(self, request: Request) -> Response:
        """Handle `/readyz`: the daemon answers as well. Concurrent requests share one check."""
        async with self._checking:
            if anyio.current_time() - self._checked_at > _READY_AGAIN_S:
                self._version = None
                with anyio.move_on_after(_READY_S), suppress(PromptlogError):
                    self._version = (await self._client.ping()).version
                self._checked_at = anyio.current_time()
            version = self._version
        if version is None:
            raise Problem(503, "no_daemon", "no promptlogd answers")
        return _status("ready", version=version)


def _readable(endpoint: Endpoint) -> dict[str, Endpoint]:
    """Return the methods of an endpoint that changes nothing and runs nothing."""
    return {"GET": endpoint, "HEAD": endpoint}


def _options(allow: str) -> Endpoint:
    async def options(request: Request) -> Response:
        return Response(None, 204, {"allow": allow})

    return options


def _status(status: str, **more: str) -> Response:
    body = msgspec.json.encode({"status": status, **more})
    return Response(body, 200, {"cache-control": "no-store"}, "application/json")


async def _openapi(request: Request) -> Response:
    return Response(openapi_text(), 200, {"cache-control": "no-cache"}, "application/json")


def openapi_text() -> str:
    """Return the OpenAPI document of the package. `make docs` generates it."""
    return (resources.files("promptlogctl.http") / "openapi.json").read_text("utf-8")
